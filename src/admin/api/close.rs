//! Closing live tunnels, at once or at a pace.

use std::ops::RangeInclusive;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{credentials, endpoints};
use crate::admin::closing::JobInfo;
use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::config::model::{CloseOrder, ClosePace};
use crate::displace::jobs::{self, JobSpec, Speed};
use crate::displace::tunnel_filter::{HumanDuration, TunnelFilter};
use crate::tunnel::ended::{CloseMessage, Ended};

/// The slowest and the fastest pace of closing tunnels, in tunnels per second.
pub const RATES: RangeInclusive<f64> = 0.1..=1e6;

/// Which tunnels to close, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseRequest {
    /// The tunnels to close. An empty filter selects all tunnels, and needs `all`.
    #[serde(default)]
    pub filter: TunnelFilter,
    /// Confirms that all tunnels are to be closed.
    #[serde(default)]
    pub all: bool,
    /// Only count them, and close none.
    #[serde(default)]
    pub dry_run: bool,
    /// Tunnels to close per second. Without this and `over`, all are closed at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// Close them evenly over this time: `2m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<HumanDuration>,
    /// Which to close first; default: `oldest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<ClosingOrder>,
    /// Code of the Close frame that clients get: 1000 to 1003, 1007 to 1014 or 3000 to 4999; default:
    /// 1008 (policy violation) if the filter has `id` or `client`, otherwise 1012 (service restart).
    /// Endpoints get 1001.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Reason text in that Close frame, at most 123 bytes; default: `drain` with code 1012, otherwise `killed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl CloseRequest {
    /// With the code and the reason that apply if it has none: a process of another version may have other
    /// defaults.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        let code = self.close_code();
        self.reason = Some(self.close_reason().to_owned());
        self.code = Some(code);
        self
    }

    fn close_code(&self) -> u16 {
        self.code.unwrap_or_else(|| default_code(&self.filter))
    }

    fn close_reason(&self) -> &str {
        let default = match Some(self.close_code()) == Ended::Drain.close_code() {
            true => Ended::Drain,
            false => Ended::Killed,
        };
        self.reason.as_deref().unwrap_or(default.token())
    }
}

/// Which tunnels are closed first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClosingOrder {
    /// The oldest first.
    #[default]
    Oldest,
    /// In random order.
    Random,
}

impl From<ClosingOrder> for CloseOrder {
    fn from(first: ClosingOrder) -> Self {
        match first {
            ClosingOrder::Oldest => Self::Oldest,
            ClosingOrder::Random => Self::Random,
        }
    }
}

/// Which tunnels were or will be closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CloseResponse {
    /// Live tunnels that the filter matched.
    pub matched: usize,
    /// Tunnels that were closed, if they were closed at once.
    pub closed: usize,
    /// Code of the Close frame that clients get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// The job that closes them at a pace; `/v1/status` shows its progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobInfo>,
}

/// Closes the tunnels that match, or only counts them.
///
/// # Errors
/// [`ApiError`].
pub async fn close(view: &Arc<View>, close: CloseRequest) -> Result<CloseResponse, ApiError> {
    let words = words(&close)?;
    if close.filter.is_everything() && !close.all {
        return Err(ApiError::bad_request(
            "an empty filter selects all tunnels; confirm that with `all` (--all)",
        ));
    }
    let speed = speed(&close)?;
    let mut filter = close.filter.clone();
    endpoints::resolve_name(view, &mut filter)?;
    credentials::resolve_subject(view, &mut filter);
    let filter = Arc::new(filter);
    let order = close.order.unwrap_or_default();
    let chosen = jobs::choose(&view.workers, &filter, order.into(), words.ended).await?;
    let mut response = CloseResponse {
        matched: chosen.len(),
        closed: 0,
        code: Some(words.code),
        job: None,
    };
    if chosen.is_empty() {
        check_names(view, &filter)?;
    }
    if close.dry_run || chosen.is_empty() {
        return Ok(response);
    }
    let (code, reason) = (words.code, words.reason.clone());
    let description = filter.to_string();
    let closing = JobSpec {
        description,
        speed,
        words,
    };
    let job = view.jobs.begin(chosen, closing)?;
    tracing::info!(
        job = job.number,
        tunnels = response.matched,
        filter = job.description,
        per_second = close.per_second,
        over = close
            .over
            .map(|over| tracing::field::display(humantime::format_duration(over.0))),
        code,
        reason = &*reason,
        "operator started closing tunnels"
    );
    if speed == Speed::AtOnce {
        // The job continues even if the operator disconnects.
        job.finished().await;
        response.closed = job.closed();
    } else {
        response.job = Some(JobInfo::of(&job));
    }
    Ok(response)
}

/// How fast the tunnels are to be closed.
fn speed(close: &CloseRequest) -> Result<Speed, ApiError> {
    let speed = match (close.per_second, close.over) {
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request(
                "set `per_second` (--rate) or `over`, not both",
            ));
        }
        (Some(rate), None) => Speed::Paced(ClosePace::PerSecond(rate)),
        (None, Some(over)) => Speed::Paced(ClosePace::Over(over.0)),
        (None, None) => Speed::AtOnce,
    };
    if close.per_second.is_some_and(|rate| !RATES.contains(&rate)) {
        return Err(ApiError::bad_request(format!(
            "`per_second` (--rate) must be from {} to {}",
            RATES.start(),
            RATES.end()
        )));
    }
    Ok(speed)
}

/// Refuses a filter that matched nothing because a name in it does not exist: that is a typing error.
fn check_names(view: &View, filter: &TunnelFilter) -> Result<(), ApiError> {
    let snapshot = view.shared.snapshot.load();
    if let Some(name) = filter.route.as_deref().filter(|it| !snapshot.has_route(it)) {
        let names = snapshot.routes().iter().map(|it| &*it.settings.name);
        return Err(ApiError::unknown("route", name, names));
    }
    let has_upstream = |name: &str| snapshot.upstream(name).is_some();
    if let Some(name) = filter.upstream.as_deref().filter(|it| !has_upstream(it)) {
        let names = snapshot.upstreams().iter().map(|it| &*it.name);
        return Err(ApiError::unknown("upstream", name, names));
    }
    let listening = view.listening.load();
    let has_listener = |name: &str| listening.iter().any(|it| *it.name == *name);
    if let Some(name) = filter.listener.as_deref().filter(|it| !has_listener(it)) {
        let names = listening.iter().map(|it| &*it.name);
        return Err(ApiError::unknown("listener", name, names));
    }
    let has_endpoint = |label: &str| {
        let mut upstreams = snapshot.upstreams().iter();
        upstreams.any(|it| it.endpoints().iter().any(|it| *it.label == *label))
    };
    match filter.endpoint.as_deref().filter(|it| !has_endpoint(it)) {
        Some(name) if has_upstream(name) => Err(ApiError::not_found(format!(
            "`{name}` is an upstream, not an endpoint: select it by `upstream` (--upstream)"
        ))),
        Some(name) => Err(ApiError::unknown_endpoint(name)),
        None => Ok(()),
    }
}

/// Which job to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopJobRequest {
    /// The number of the job.
    pub job: u64,
}

/// Stops a job: tunnels that it has not closed yet stay open.
///
/// # Errors
/// [`ApiError`].
pub fn stop(view: &View, stop: StopJobRequest) -> Result<JobInfo, ApiError> {
    let job = view.jobs.stop(stop.job);
    let job = job.ok_or_else(|| {
        ApiError::not_found(format!(
            "no job {} is running; `tidegate status` lists the jobs",
            stop.job
        ))
    })?;
    tracing::info!(
        job = job.number,
        closed = job.closed(),
        "operator stopped closing tunnels"
    );
    Ok(JobInfo::of(&job))
}

/// The code that clients get unless the operator chooses one. Those that are closed for where they lead are to
/// come back; a client that is closed for what it does is not invited to.
fn default_code(filter: &TunnelFilter) -> u16 {
    let ended = match filter.selects_clients() {
        true => Ended::Killed,
        false => Ended::Drain,
    };
    ended.close_code().unwrap_or_default()
}

fn words(close: &CloseRequest) -> Result<CloseMessage, ApiError> {
    let code = close.close_code();
    // RFC 6455 section 7.4: 1004 to 1006 and 1015 must not be sent, and 1016 to 2999 are reserved.
    let is_sendable = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !is_sendable {
        return Err(ApiError::bad_request(format!(
            "{code} is not a valid close code; use 1000 to 1003, 1007 to 1014 or 3000 to 4999"
        )));
    }
    let reason = close.close_reason();
    if reason.len() > CloseMessage::MAX_REASON_BYTES {
        let max = CloseMessage::MAX_REASON_BYTES;
        return Err(ApiError::bad_request(format!(
            "`reason` must have at most {max} bytes (RFC 6455)"
        )));
    }
    Ok(CloseMessage {
        ended: Ended::Killed,
        code,
        reason: reason.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str) -> CloseRequest {
        serde_json::from_str::<CloseRequest>(json)
            .unwrap()
            .with_defaults()
    }

    #[test]
    fn defaults_follow_the_filter_and_the_code() {
        for (json, code, reason) in [
            ("{\"all\": true}", 1012, "drain"),
            ("{\"filter\": {\"route\": \"chat\"}}", 1012, "drain"),
            ("{\"filter\": {\"client\": \"192.0.2.1\"}}", 1008, "killed"),
            (
                "{\"filter\": {\"client\": \"192.0.2.1\"}, \"code\": 1012}",
                1012,
                "drain",
            ),
            ("{\"all\": true, \"code\": 4001}", 4001, "killed"),
            (
                "{\"all\": true, \"reason\": \"maintenance\"}",
                1012,
                "maintenance",
            ),
        ] {
            let asked = asked(json);
            let given = (asked.code, asked.reason.as_deref());
            assert_eq!(given, (Some(code), Some(reason)), "{json}");
        }
    }
}
