//! Makes of readings what the page shows: rates, problems since when, what is under way, and what has happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::json;
use tidegate::admin::api::upstreams::{EndpointInfo, EndpointStatus};
use tidegate::admin::closing::JobInfo;

use super::history::{EventKind, HistoryPoint, PageEvent, Sample};
use crate::cli::operate::live::LiveTime;
use crate::cli::operate::live::older::OlderReading;
use crate::cli::operate::live::problems::{Problem, ProblemLevel, problems};
use crate::cli::operate::live::progress::{Progress, ProgressTracker};
use crate::cli::operate::live::rates::RateTracker;
use crate::cli::operate::live::reading::Reading;

/// How far back `recent` looks, in milliseconds.
const RECENT: u64 = 5 * 60 * 1000;

/// The time between two of the counts that `recent` compares with, in milliseconds.
const COUNT_INTERVAL: u64 = 10_000;

/// Counts since the start, by reason.
type ReasonCounts = BTreeMap<String, u64>;

/// What earlier readings have left.
#[derive(Debug)]
pub(super) struct Digest {
    /// The latest reading, and when it was made.
    latest: Option<(Reading, LiveTime)>,
    /// When each problem was first seen, and what it was last, by its subject.
    since: BTreeMap<String, (u64, String)>,
    progress: ProgressTracker,
    under_way: Vec<Progress>,
    /// From one reading to the next.
    rates: RateTracker,
    /// Rejections and ends at earlier times.
    counts: VecDeque<(LiveTime, ReasonCounts, ReasonCounts)>,
}

impl Digest {
    pub(super) fn new() -> Self {
        Self {
            latest: None,
            since: BTreeMap::new(),
            progress: ProgressTracker::default(),
            under_way: Vec::new(),
            rates: RateTracker::new(0),
            counts: VecDeque::new(),
        }
    }

    /// What the latest reading knows of each process.
    pub(super) fn processes(&self) -> Vec<OlderReading> {
        let latest = self.latest.as_ref();
        latest.map_or_else(Vec::new, |(reading, _)| reading.processes())
    }

    /// What a reading at `now`, or its failure, adds.
    pub(super) fn next(&mut self, read: Result<Reading, String>, now: LiveTime) -> Sample {
        match read {
            Ok(reading) => self.reached(reading, now),
            Err(why) => self.unreached(&why, now),
        }
    }

    fn unreached(&mut self, why: &str, now: LiveTime) -> Sample {
        let mut events = Vec::new();
        let mut found = vec![Problem::unreached(why)];
        // What was wrong is not over only because it cannot be seen.
        if let Some((reading, at)) = &self.latest {
            found.extend(problems(reading, at.at));
        }
        let found = self.dated(found, now.at, &mut events);
        let point = HistoryPoint {
            time: now,
            ..HistoryPoint::default()
        };
        let state = self.state(false, &found, now);
        Sample {
            point,
            events,
            state,
        }
    }

    fn reached(&mut self, reading: Reading, now: LiveTime) -> Sample {
        let mut events = Vec::new();
        let found = self.dated(problems(&reading, now.at), now.at, &mut events);
        let mut point = HistoryPoint {
            time: now,
            tunnels: Some(reading.tunnels()),
            ..HistoryPoint::default()
        };
        let before = self.latest.as_ref().map(|(before, _)| before);
        let continues = before.is_some_and(|before| reading.continues(before));
        self.rates.add(&reading, now, continues);
        if let Some(rates) = self.rates.rates() {
            let rounded = |rate: f64| Some((rate * 10.0).round() / 10.0);
            point.handshakes = rounded(rates.handshakes);
            point.messages = rounded(rates.traffic.messages);
            point.bytes = rounded(rates.traffic.bytes);
        }
        if let Some(before) = before {
            let event = |(kind, text)| PageEvent {
                at: now.at,
                kind,
                text,
            };
            events.extend(changes(before, &reading).into_iter().map(event));
            if !reading.is_of_same_process(before) {
                self.counts.clear();
            }
        }
        self.under_way = self.progress.look(&reading, now);
        self.count(&reading, now);
        self.latest = Some((reading, now));
        let state = self.state(true, &found, now);
        Sample {
            point,
            events,
            state,
        }
    }

    /// Problems with the time since when they are there; notes which are new and which are over.
    fn dated(
        &mut self,
        mut found: Vec<Problem>,
        now: u64,
        events: &mut Vec<PageEvent>,
    ) -> Vec<Problem> {
        let mut since = BTreeMap::new();
        for problem in &mut found {
            let first_seen = self.since.get(&problem.subject).map(|(at, _)| *at);
            if first_seen.is_none() {
                events.push(PageEvent {
                    at: now,
                    kind: EventKind::Bad,
                    text: problem.what.clone(),
                });
            }
            let seen = first_seen.unwrap_or(now);
            problem.since = problem.since.min(seen);
            since.insert(problem.subject.clone(), (seen, problem.what.clone()));
        }
        for (subject, (_, what)) in &self.since {
            if !since.contains_key(subject) {
                events.push(PageEvent {
                    at: now,
                    kind: EventKind::Good,
                    text: format!("over: {what}"),
                });
            }
        }
        self.since = since;
        found
    }

    fn count(&mut self, reading: &Reading, now: LiveTime) {
        let is_due = |at: LiveTime| now.since(at) >= COUNT_INTERVAL;
        if self.counts.back().is_none_or(|(at, ..)| is_due(*at)) {
            let (rejections, ended) = (&reading.traffic.rejections, &reading.traffic.ended);
            self.counts
                .push_back((now, rejections.clone(), ended.clone()));
        }
        let is_old = |at: LiveTime| now.since(at) > RECENT;
        while self.counts.front().is_some_and(|(at, ..)| is_old(*at)) {
            self.counts.pop_front();
        }
    }

    /// The state as JSON in one line: what was read, unchanged, and what follows from it.
    fn state(&self, reachable: bool, problems: &[Problem], now: LiveTime) -> String {
        let worst = problems.first().map(|it| it.level);
        let mut derived = json!({
            "at": now.at,
            "running": now.running,
            "reachable": reachable,
            "health": match worst {
                None => "good",
                Some(ProblemLevel::Warning) => "warning",
                Some(ProblemLevel::Critical) => "critical",
            },
            "problems": problems,
            "progress": self.under_way,
        });
        let Some((reading, _)) = &self.latest else {
            return derived.to_string();
        };
        if let Some((at, rejections, ended)) = self.counts.front() {
            derived["recent"] = json!({
                "since": at.at,
                "rejections": growth(rejections, &reading.traffic.rejections),
                "ended": growth(ended, &reading.traffic.ended),
            });
        }
        let derived = derived.to_string();
        let open = derived.strip_suffix('}').unwrap_or_default();
        format!("{open},{}}}", reading.members)
    }
}

/// What has been added since, without what has not grown.
fn growth(before: &ReasonCounts, now: &ReasonCounts) -> ReasonCounts {
    let grown = now.iter().map(|(reason, count)| {
        let before = before.get(reason).copied().unwrap_or_default();
        (reason.clone(), count.saturating_sub(before))
    });
    grown.filter(|(_, count)| *count > 0).collect()
}

/// What has happened between two readings, apart from problems.
fn changes(before: &Reading, now: &Reading) -> Vec<(EventKind, String)> {
    let mut changes = changes_of_processes(before, now);
    let mut note = |kind, text: String| changes.push((kind, text));
    let (old, new) = (&before.status, &now.status);
    if !now.is_of_same_process(before) {
        let text = format!(
            "process {} serves now (generation {})",
            new.pid, new.generation
        );
        note(EventKind::Note, text);
    } else if new.reloads > old.reloads {
        note(EventKind::Good, "configuration reloaded".to_owned());
    }
    for (upstream, endpoint, was) in endpoints_of_both(before, now) {
        let name = endpoint.name.as_deref().unwrap_or(&endpoint.endpoint);
        match was {
            None => note(
                EventKind::Note,
                format!("endpoint {name} was added to {upstream}"),
            ),
            Some(was) if was != endpoint.state => {
                let kind = match endpoint.state {
                    EndpointStatus::Up => EventKind::Good,
                    state if state.is_drained() => EventKind::Note,
                    _ => EventKind::Bad,
                };
                let why = endpoint.why.as_ref().map(|why| format!(" ({why})"));
                let (state, why) = (endpoint.state.token(), why.unwrap_or_default());
                note(
                    kind,
                    format!("endpoint {name} of {upstream} is {state}{why}"),
                );
            }
            Some(_) => {}
        }
    }
    changes
}

/// Jobs that have begun or are over, and processes that have ended. After an upgrade, a job goes on in the process
/// that it was begun in.
fn changes_of_processes(before: &Reading, now: &Reading) -> Vec<(EventKind, String)> {
    let mut changes = Vec::new();
    let of = |generation: u64| match generation == now.status.generation {
        true => String::new(),
        false => format!(" of generation {generation}"),
    };
    let earlier = numbered(before);
    let later = numbered(now);
    for ((pid, number), (generation, job)) in &later {
        if !earlier.contains_key(&(*pid, *number)) {
            let (of, tunnels) = (of(*generation), job.tunnels);
            let text = format!(
                "job {number}{of} begins to close {tunnels} tunnels: {}",
                job.description
            );
            changes.push((EventKind::Note, text));
        }
    }
    let processes: BTreeSet<u32> = now.jobs().map(|(_, pid, _)| pid).collect();
    for ((pid, number), (generation, job)) in &earlier {
        // The jobs of a process end with it.
        if processes.contains(pid) && !later.contains_key(&(*pid, *number)) {
            let text = format!(
                "job {number}{} is over: {}",
                of(*generation),
                job.description
            );
            changes.push((EventKind::Good, text));
        }
    }
    for older in &before.older {
        let identity = &older.info.identity;
        if !processes.contains(&identity.pid) {
            let text = format!(
                "generation {} has ended (process {})",
                identity.generation, identity.pid
            );
            changes.push((EventKind::Good, text));
        }
    }
    changes
}

/// The jobs of all processes by process and number, with the generation of each.
fn numbered(reading: &Reading) -> BTreeMap<(u32, u64), (u64, &JobInfo)> {
    let jobs = reading.jobs().flat_map(|(generation, pid, jobs)| {
        let jobs = jobs.iter();
        jobs.map(move |job| ((pid, job.job), (generation, job)))
    });
    jobs.collect()
}

/// Each endpoint of now, its upstream, and its state before.
fn endpoints_of_both<'a>(
    before: &'a Reading,
    now: &'a Reading,
) -> impl Iterator<Item = (&'a str, &'a EndpointInfo, Option<EndpointStatus>)> {
    let earlier = before.upstreams.iter().flat_map(|upstream| {
        let endpoints = upstream.endpoints.iter();
        endpoints.map(|it| ((&*upstream.name, &*it.endpoint), it.state))
    });
    let earlier: BTreeMap<(&str, &str), EndpointStatus> = earlier.collect();
    now.upstreams.iter().flat_map(move |upstream| {
        let with_state = |it: &'a EndpointInfo| {
            let was = earlier.get(&(&*upstream.name, &*it.endpoint)).copied();
            (&*upstream.name, it, was)
        };
        upstream
            .endpoints
            .iter()
            .map(with_state)
            .collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cli::operate::live::reading::samples::{job, older, reading};

    fn time(at: u64, running: u64) -> LiveTime {
        LiveTime { at, running }
    }

    fn texts(sample: &Sample) -> Vec<&str> {
        sample.events.iter().map(|it| &*it.text).collect()
    }

    #[test]
    fn tunnels_and_rates_are_those_of_all_processes_also_when_the_date_is_set_back() {
        let mut digest = Digest::new();
        digest.next(Ok(reading(1, 100)), time(9_000_000, 0));
        let mut upgraded = reading(2, 5);
        upgraded.older = vec![older(1, 115)];
        let sample = digest.next(Ok(upgraded), time(1_000_000, 2000));
        assert_eq!(sample.point.tunnels, Some(18));
        assert_eq!(sample.point.messages, Some(10.0));
        assert_eq!(texts(&sample), ["process 42 serves now (generation 2)"]);
        let state: Value = serde_json::from_str(&sample.state).unwrap();
        assert_eq!(state["at"], 1_000_000);
        assert_eq!(state["running"], 2000);
        assert_eq!(state["progress"][0]["left"], 9);
        let sample = digest.next(Ok(reading(2, 5)), time(1_001_000, 3000));
        assert_eq!(sample.point.tunnels, Some(9));
        assert_eq!(texts(&sample), ["generation 1 has ended (process 41)"]);
    }

    #[test]
    fn a_job_that_goes_on_in_an_older_process_is_not_over() {
        let mut digest = Digest::new();
        let mut before = reading(1, 0);
        before.status.jobs = vec![job(1, 2)];
        let first = digest.next(Ok(before), time(0, 0));
        assert!(texts(&first).iter().all(|text| !text.starts_with("job")));
        let mut upgraded = reading(2, 0);
        upgraded.older = vec![older(1, 0)];
        upgraded.older[0].info.jobs = vec![job(1, 4)];
        let sample = digest.next(Ok(upgraded.clone()), time(0, 1000));
        assert_eq!(texts(&sample), ["process 42 serves now (generation 2)"]);
        let state: Value = serde_json::from_str(&sample.state).unwrap();
        let name = "job 1 of generation 1 closes: tunnels of endpoint a";
        assert_eq!(state["progress"][1]["name"], name);
        // One of the new process has the same number.
        upgraded.status.jobs = vec![job(1, 0)];
        upgraded.older[0].info.jobs.clear();
        let sample = digest.next(Ok(upgraded), time(0, 2000));
        let expected = [
            "job 1 begins to close 10 tunnels: tunnels of endpoint a",
            "job 1 of generation 1 is over: tunnels of endpoint a",
        ];
        assert_eq!(texts(&sample), expected);
    }
}
