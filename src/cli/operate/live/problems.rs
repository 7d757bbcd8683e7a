//! What is wrong, and what to do about it.

use serde::Serialize;
use tidegate::admin::api::upstreams::{EndpointInfo, EndpointStatus, UpstreamInfo};

use super::reading::Reading;

/// The share of the connection limit from which on connections are scarce.
const SCARCE: f64 = 0.9;

/// Endpoints that a problem names.
const NAMED: usize = 2;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli::operate) enum ProblemLevel {
    /// Clients are refused.
    Critical,
    /// It needs attention before clients notice.
    Warning,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::cli::operate) struct Problem {
    pub(in crate::cli::operate) level: ProblemLevel,
    /// What it is about: a problem with the same subject is the same problem.
    pub(in crate::cli::operate) subject: String,
    /// What is wrong.
    pub(in crate::cli::operate) what: String,
    /// What to do.
    pub(in crate::cli::operate) cure: String,
    /// Since when, in milliseconds since 1970.
    pub(in crate::cli::operate) since: u64,
}

impl Problem {
    fn new(level: ProblemLevel, subject: impl Into<String>, what: String, cure: &str) -> Self {
        Self {
            level,
            subject: subject.into(),
            what,
            cure: cure.to_owned(),
            since: u64::MAX,
        }
    }

    /// No tidegate responds.
    pub(in crate::cli::operate) fn unreached(why: &str) -> Self {
        let why = why.lines().next().unwrap_or_default();
        let why = why.strip_prefix("error: ").unwrap_or(why);
        let cure =
            "Check that the process runs, and read its log. The figures below are the last ones.";
        Self::new(ProblemLevel::Critical, "process", why.to_owned(), cure)
    }
}

/// Everything that is wrong at `now`, the worst first. Only those that the reading dates know since when.
pub(in crate::cli::operate) fn problems(reading: &Reading, now: u64) -> Vec<Problem> {
    let mut problems = of_process(reading);
    for upstream in &reading.upstreams {
        problems.extend(of_upstream(upstream, now));
    }
    problems.extend(of_dependencies(reading));
    problems.sort_by_key(|problem| problem.level);
    problems
}

fn of_process(reading: &Reading) -> Vec<Problem> {
    let status = &reading.status;
    let mut problems = Vec::new();
    if status.state == "draining" {
        let what = format!("process {} drains and takes no new connections", status.pid);
        let cure = "If no operator has stopped it, read its log. Its tunnels are closed at a pace.";
        problems.push(Problem::new(ProblemLevel::Critical, "draining", what, cure));
    }
    for listener in reading.listeners.iter().filter(|it| it.drained) {
        let what = format!("listener {} is drained", listener.name);
        let cure = "When the work is done: `tidegate undrain --listener NAME`.";
        let subject = format!("listener {}", listener.name);
        problems.push(Problem::new(ProblemLevel::Warning, subject, what, cure));
    }
    let (open, most) = (status.connections, status.max_connections);
    if open as f64 >= most as f64 * SCARCE {
        let what = format!("{open} of at most {most} connections are open");
        let cure = "Raise the descriptor limit of the service (LimitNOFILE), or add a node.";
        problems.push(Problem::new(
            ProblemLevel::Warning,
            "connections",
            what,
            cure,
        ));
    }
    if let Some(error) = status.reload_errors.first() {
        let what = format!("the last reload failed: {error}");
        let cure = "The previous configuration stays in effect. Correct the file, `tidegate check` it, and reload.";
        problems.push(Problem::new(ProblemLevel::Warning, "reload", what, cure));
    }
    if !status.needs_restart.is_empty() {
        let what = format!(
            "changed, but not in effect: {}",
            status.needs_restart.join(", ")
        );
        let cure = "These keys require a restart; `tidegate upgrade` makes one without dropping a connection.";
        problems.push(Problem::new(ProblemLevel::Warning, "restart", what, cure));
    }
    problems
}

fn of_upstream(upstream: &UpstreamInfo, now: u64) -> Option<Problem> {
    let endpoints = &upstream.endpoints;
    let name = &upstream.name;
    let is_out = |it: &&EndpointInfo| !it.state.is_drained() && it.state != EndpointStatus::Up;
    let out: Vec<&EndpointInfo> = endpoints.iter().filter(is_out).collect();
    let takes_new = endpoints
        .iter()
        .any(|it| it.takes_new() || it.state == EndpointStatus::Unreachable);
    let subject = format!("upstream {name}");
    if !takes_new {
        let what = match endpoints.len() {
            0 => format!("upstream {name} has no endpoint"),
            count => format!(
                "none of the {count} endpoints of upstream {name} takes new sessions{}",
                named(&out)
            ),
        };
        let cure = match are_full(&out) {
            true => "Raise `max_tunnels`, or add an endpoint: clients wait or get 503 meanwhile.",
            false => "Start its backends or put one back into service: clients get 503 meanwhile.",
        };
        let problem = Problem::new(ProblemLevel::Critical, subject, what, cure);
        return Some(Problem {
            since: since(&out, now),
            ..problem
        });
    }
    if let Some(error) = &upstream.discovery_error {
        let what =
            format!("the endpoints of upstream {name} cannot be brought up to date: {error}");
        let cure = "The last known endpoints stay in use. Check their source and the way to it.";
        return Some(Problem::new(ProblemLevel::Warning, subject, what, cure));
    }
    if out.is_empty() {
        return None;
    }
    let what = format!(
        "{} of {} endpoints of upstream {name} {} out of rotation{}",
        out.len(),
        endpoints.len(),
        if out.len() == 1 { "is" } else { "are" },
        named(&out)
    );
    let cure = match are_full(&out) {
        true => "Raise `max_tunnels`, or add an endpoint.",
        false => "Look at that backend; the others serve its clients.",
    };
    let problem = Problem::new(ProblemLevel::Warning, subject, what, cure);
    Some(Problem {
        since: since(&out, now),
        ..problem
    })
}

/// The first few endpoints, and why.
fn named(out: &[&EndpointInfo]) -> String {
    if out.is_empty() {
        return String::new();
    }
    let each = |it: &&EndpointInfo| {
        let name = it.name.as_deref().unwrap_or(&it.endpoint);
        match &it.why {
            Some(why) => format!("{name} is {} ({why})", it.state.token()),
            None => format!("{name} is {}", it.state.token()),
        }
    };
    let mut listed: Vec<String> = out.iter().take(NAMED).map(each).collect();
    if out.len() > NAMED {
        listed.push(format!("and {} more", out.len() - NAMED));
    }
    format!(": {}", listed.join(", "))
}

/// When the first of these went down, if that is known.
fn since(out: &[&EndpointInfo], now: u64) -> u64 {
    let longest = out.iter().filter_map(|it| it.down_seconds).max();
    longest.map_or(u64::MAX, |seconds| now.saturating_sub(seconds * 1000))
}

fn of_dependencies(reading: &Reading) -> Vec<Problem> {
    let status = &reading.status;
    let mut problems = Vec::new();
    for problem in &status.certificate_problems {
        let cure = "`tidegate certificates` shows why and what is planned.";
        problems.push(Problem::new(
            ProblemLevel::Warning,
            problem,
            problem.clone(),
            cure,
        ));
    }
    for service in &status.services {
        if let Some(error) = &service.last_error {
            let what = format!("the latest request to {} failed: {error}", service.service);
            let cure = "It is asked again by itself. Check that service and the way to it.";
            let subject = format!("service {}", service.service);
            problems.push(Problem::new(ProblemLevel::Warning, subject, what, cure));
        }
    }
    for probe in status.probes.iter().filter(|it| !it.ok) {
        let why = probe.error.as_deref().unwrap_or_default();
        let what = format!("the probe of route {} fails: {why}", probe.route);
        let cure = "`tidegate probe` shows which step of a connection fails.";
        let subject = format!("probe {}", probe.route);
        problems.push(Problem::new(ProblemLevel::Warning, subject, what, cure));
    }
    problems
}

/// Whether each of these has all the tunnels it may have.
fn are_full(endpoints: &[&EndpointInfo]) -> bool {
    let mut endpoints = endpoints.iter().peekable();
    endpoints.peek().is_some() && endpoints.all(|it| it.state == EndpointStatus::Full)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn upstream(endpoints: &[Value]) -> UpstreamInfo {
        let endpoint = |given: &Value| {
            let mut whole = json!({
                "endpoint": "10.0.0.1:9000", "state": "up", "weight": 1, "weight_overridden": false,
                "backup": false, "in_flight": 0, "tunnels": 0, "ended": {}, "checks_passed": 0,
                "checks_failed": 0, "ejections": 0,
            });
            for (name, value) in given.as_object().unwrap() {
                whole[name] = value.clone();
            }
            whole
        };
        let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
        serde_json::from_value(json!({
            "name": "chat", "balance": "random", "discovery": "listed", "waiting": 0, "tunnels": 0,
            "endpoints": endpoints,
        }))
        .unwrap()
    }

    #[test]
    fn an_upstream_is_as_bad_as_what_is_left_of_it() {
        let up = json!({});
        let down = json!({ "state": "down", "why": "refused", "down_seconds": 3 });
        let drained = json!({ "state": "drained" });
        let full = json!({ "state": "full" });
        let check = |endpoints: &[Value], expected: Option<(ProblemLevel, &str)>| {
            let found = of_upstream(&upstream(endpoints), 10_000);
            let seen = found.as_ref().map(|it| (it.level, &*it.what));
            assert_eq!(seen, expected);
            found
        };
        use ProblemLevel::{Critical, Warning};
        check(&[up.clone(), drained.clone()], None);
        let one =
            "1 of 2 endpoints of upstream chat is out of rotation: 10.0.0.1:9000 is down (refused)";
        let found = check(&[up.clone(), down.clone()], Some((Warning, one))).unwrap();
        assert_eq!(found.since, 7000);
        let two = "3 of 4 endpoints of upstream chat are out of rotation: 10.0.0.1:9000 is full, \
                   10.0.0.1:9000 is full, and 1 more";
        let found = check(
            &[full.clone(), full.clone(), full, up],
            Some((Warning, two)),
        )
        .unwrap();
        assert!(found.cure.contains("max_tunnels"), "{}", found.cure);
        let none = "none of the 2 endpoints of upstream chat takes new sessions: 10.0.0.1:9000 is down (refused)";
        check(&[down, drained], Some((Critical, none)));
        check(&[], Some((Critical, "upstream chat has no endpoint")));
    }
}
