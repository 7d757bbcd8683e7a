//! Makes of readings what the page shows: rates, problems since when, what is under way, and what has happened.

use std::collections::{BTreeMap, VecDeque};

use serde_json::json;
use tidegate::admin::api::upstreams::{EndpointInfo, EndpointStatus};

use super::history::{EventKind, HistoryPoint, PageEvent, Sample};
use crate::cli::operate::live::problems::{Problem, ProblemLevel, problems};
use crate::cli::operate::live::progress::{Progress, ProgressTracker};
use crate::cli::operate::live::reading::Reading;

/// How far back `recent` looks, in milliseconds.
const RECENT: u64 = 5 * 60 * 1000;

/// The time between two of the counts that `recent` compares with, in milliseconds.
const COUNT_INTERVAL: u64 = 10_000;

/// Counts since the start, by reason.
type ReasonCounts = BTreeMap<String, u64>;

/// What earlier readings have left.
#[derive(Debug, Default)]
pub(super) struct Digest {
    /// The latest reading, and when it was made.
    latest: Option<(Reading, u64)>,
    /// When each problem was first seen, and what it was last, by its subject.
    since: BTreeMap<String, (u64, String)>,
    progress: ProgressTracker,
    under_way: Vec<Progress>,
    /// Rejections and ends at earlier times.
    counts: VecDeque<(u64, ReasonCounts, ReasonCounts)>,
}

impl Digest {
    /// What a reading at `now`, or its failure, adds.
    pub(super) fn next(&mut self, read: Result<Reading, String>, now: u64) -> Sample {
        match read {
            Ok(reading) => self.reached(reading, now),
            Err(why) => self.unreached(&why, now),
        }
    }

    fn unreached(&mut self, why: &str, now: u64) -> Sample {
        let mut events = Vec::new();
        let mut found = vec![Problem::unreached(why)];
        // What was wrong is not over only because it cannot be seen.
        if let Some((reading, at)) = &self.latest {
            found.extend(problems(reading, *at));
        }
        let found = self.dated(found, now, &mut events);
        let point = HistoryPoint {
            at: now,
            ..HistoryPoint::default()
        };
        let state = self.state(false, &found, now);
        Sample {
            point,
            events,
            state,
        }
    }

    fn reached(&mut self, reading: Reading, now: u64) -> Sample {
        let mut events = Vec::new();
        let found = self.dated(problems(&reading, now), now, &mut events);
        let mut point = HistoryPoint {
            at: now,
            tunnels: Some(reading.status.tunnels),
            ..HistoryPoint::default()
        };
        if let Some((before, at)) = &self.latest {
            let event = |(kind, text)| PageEvent {
                at: now,
                kind,
                text,
            };
            events.extend(changes(before, &reading).into_iter().map(event));
            if reading.is_of_same_process(before) {
                let seconds = now.saturating_sub(*at).max(1) as f64 / 1e3;
                let rate = |count: u64| Some((count as f64 / seconds * 10.0).round() / 10.0);
                let (messages, bytes) = reading.carried_since(before);
                point.handshakes = rate(reading.handshakes().saturating_sub(before.handshakes()));
                point.messages = rate(messages);
                point.bytes = rate(bytes);
            } else {
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

    fn count(&mut self, reading: &Reading, now: u64) {
        let is_due = |at: u64| now.saturating_sub(at) >= COUNT_INTERVAL;
        if self.counts.back().is_none_or(|(at, ..)| is_due(*at)) {
            let ended = reading.traffic.ended.clone();
            self.counts.push_back((now, reading.rejections(), ended));
        }
        let is_old = |at: u64| now.saturating_sub(at) > RECENT;
        while self.counts.front().is_some_and(|(at, ..)| is_old(*at)) {
            self.counts.pop_front();
        }
    }

    /// The state as JSON in one line: what was read, unchanged, and what follows from it.
    fn state(&self, reachable: bool, problems: &[Problem], now: u64) -> String {
        let worst = problems.first().map(|it| it.level);
        let mut derived = json!({
            "at": now,
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
                "since": at,
                "rejections": growth(rejections, &reading.rejections()),
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
    let mut changes = Vec::new();
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
    for job in &new.jobs {
        if !old.jobs.iter().any(|it| it.job == job.job) {
            let text = format!(
                "job {} begins to close {} tunnels: {}",
                job.job, job.tunnels, job.description
            );
            note(EventKind::Note, text);
        }
    }
    for job in &old.jobs {
        if !new.jobs.iter().any(|it| it.job == job.job) {
            note(
                EventKind::Good,
                format!("job {} is over: {}", job.job, job.description),
            );
        }
    }
    for generation in old.generations.iter().skip(1) {
        let identity = &generation.identity;
        if !new
            .generations
            .iter()
            .any(|it| it.identity.pid == identity.pid)
        {
            let text = format!(
                "generation {} has ended (process {})",
                identity.generation, identity.pid
            );
            note(EventKind::Good, text);
        }
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
                    EndpointStatus::Drained | EndpointStatus::DrainedByConfig => EventKind::Note,
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
