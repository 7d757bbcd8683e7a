//! What happens per second, over all processes: the difference of two readings by the time between them.

use std::collections::{BTreeMap, VecDeque};

use tidegate::admin::api::traffic::TrafficInfo;

use super::LiveTime;
use super::reading::Reading;

/// Messages and bytes per second, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::cli::operate) struct TrafficRates {
    pub(in crate::cli::operate) messages: f64,
    pub(in crate::cli::operate) bytes: f64,
}

impl TrafficRates {
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

/// Everything that happens per second.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::cli::operate) struct LiveRates {
    /// Handshakes, whatever their outcome.
    pub(in crate::cli::operate) handshakes: f64,
    /// The traffic of all endpoints.
    pub(in crate::cli::operate) traffic: TrafficRates,
    endpoints: BTreeMap<(String, String), TrafficRates>,
}

impl LiveRates {
    pub(in crate::cli::operate) fn of_endpoint(
        &self,
        upstream: &str,
        endpoint: &str,
    ) -> TrafficRates {
        let key = (upstream.to_owned(), endpoint.to_owned());
        self.endpoints.get(&key).copied().unwrap_or_default()
    }
}

/// Listener, route, upstream and endpoint.
type LinkName = [String; 4];

/// What a process has counted since its start.
#[derive(Debug, Default)]
struct ProcessCounts {
    handshakes: u64,
    /// Messages and bytes.
    links: BTreeMap<LinkName, (u64, u64)>,
}

impl ProcessCounts {
    fn of(traffic: &TrafficInfo) -> Self {
        let links = traffic.links.iter().map(|link| {
            let names = [&link.listener, &link.route, &link.upstream, &link.endpoint];
            (names.map(String::clone), (link.messages(), link.bytes()))
        });
        Self {
            handshakes: traffic.handshakes.values().sum(),
            links: links.collect(),
        }
    }
}

/// What all processes had counted at one moment.
#[derive(Debug)]
struct LiveCounts {
    at: LiveTime,
    /// The generation that served then.
    serving: u64,
    processes: BTreeMap<u64, ProcessCounts>,
}

impl LiveCounts {
    fn of(reading: &Reading, at: LiveTime) -> Self {
        let serving = reading.status.generation;
        let older = reading.older.iter().filter_map(|it| {
            let counts = ProcessCounts::of(it.traffic.as_ref()?);
            Some((it.generation(), counts))
        });
        let mut processes: BTreeMap<_, _> = older.collect();
        processes.insert(serving, ProcessCounts::of(&reading.traffic));
        Self {
            at,
            serving,
            processes,
        }
    }

    /// What was added per second since `before`; `None` if no time has passed.
    fn rates_since(&self, before: &Self) -> Option<LiveRates> {
        let elapsed = self.at.since(before.at);
        let seconds = (elapsed > 0).then_some(elapsed as f64 / 1e3)?;
        let nothing = ProcessCounts::default();
        let mut rates = LiveRates::default();
        for (generation, counts) in &self.processes {
            let earlier = match before.processes.get(generation) {
                Some(earlier) => earlier,
                // It has started since then.
                None if *generation > before.serving => &nothing,
                // It has not responded then: how much of its counts is new is not known.
                None => continue,
            };
            let handshakes = counts.handshakes.saturating_sub(earlier.handshakes);
            rates.handshakes += handshakes as f64 / seconds;
            for (names, (messages, bytes)) in &counts.links {
                let before = earlier.links.get(names).copied().unwrap_or_default();
                let link = TrafficRates {
                    messages: messages.saturating_sub(before.0) as f64 / seconds,
                    bytes: bytes.saturating_sub(before.1) as f64 / seconds,
                };
                let [_, _, upstream, endpoint] = names;
                let endpoint = rates.endpoints.entry((upstream.clone(), endpoint.clone()));
                endpoint.or_default().add(link);
                rates.traffic.add(link);
            }
        }
        Some(rates)
    }
}

/// The counts of the last seconds, and the rates that follow from them.
#[derive(Debug)]
pub(in crate::cli::operate) struct RateTracker {
    /// In milliseconds.
    window: u64,
    counts: VecDeque<LiveCounts>,
    rates: Option<LiveRates>,
}

impl RateTracker {
    /// Measures over this many milliseconds; over the time between two readings, if that is longer.
    pub(in crate::cli::operate) fn new(window: u64) -> Self {
        Self {
            window,
            counts: VecDeque::new(),
            rates: None,
        }
    }

    /// Adds a reading; `continues` is whether its processes go on with the counts of the previous one.
    pub(in crate::cli::operate) fn add(
        &mut self,
        reading: &Reading,
        now: LiveTime,
        continues: bool,
    ) {
        if !continues {
            self.counts.clear();
        }
        self.counts.push_back(LiveCounts::of(reading, now));
        // One that is older than the window stays, so that there are always two to compare.
        let is_old = |it: &LiveCounts| now.since(it.at) >= self.window;
        while self.counts.len() > 2 && self.counts.get(1).is_some_and(is_old) {
            self.counts.pop_front();
        }
        let ends = self.counts.front().zip(self.counts.back());
        self.rates = ends.and_then(|(first, last)| last.rates_since(first));
    }

    /// The rates of now; `None` until there are two readings.
    pub(in crate::cli::operate) fn rates(&self) -> Option<&LiveRates> {
        self.rates.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::operate::live::reading::samples::{older, reading};

    fn time(at: u64, running: u64) -> LiveTime {
        LiveTime { at, running }
    }

    fn messages(tracker: &RateTracker) -> f64 {
        tracker.rates().unwrap().traffic.messages
    }

    #[test]
    fn a_date_that_is_set_back_changes_no_rate() {
        let mut tracker = RateTracker::new(5000);
        let hour = 3_600_000;
        tracker.add(&reading(2, 0), time(2 * hour, 0), false);
        assert_eq!(tracker.rates(), None);
        tracker.add(&reading(2, 20), time(hour, 2000), true);
        assert_eq!(messages(&tracker), 10.0);
        tracker.add(&reading(2, 40), time(3 * hour, 4000), true);
        assert_eq!(messages(&tracker), 10.0);
        // What is older than the window no longer counts.
        tracker.add(&reading(2, 40), time(0, 9000), true);
        assert_eq!(messages(&tracker), 0.0);
        assert_eq!(
            tracker.rates().unwrap().of_endpoint("chat", "none").bytes,
            0.0
        );
    }

    #[test]
    fn rates_go_on_over_an_upgrade() {
        let mut tracker = RateTracker::new(0);
        tracker.add(&reading(1, 100), time(0, 0), false);
        // The process that served is the older one now, and a new one has begun from nothing.
        let mut upgraded = reading(2, 7);
        upgraded.older = vec![older(1, 103)];
        tracker.add(&upgraded, time(0, 1000), true);
        assert_eq!(messages(&tracker), 10.0);
        let endpoint = tracker
            .rates()
            .unwrap()
            .of_endpoint("chat", "10.0.0.1:9000");
        assert_eq!((endpoint.messages, endpoint.bytes), (10.0, 1000.0));
        // Of one that has not responded before, nothing is known to be new.
        upgraded.older.push(older(0, 50_000));
        tracker.add(&upgraded, time(0, 2000), true);
        assert_eq!(messages(&tracker), 0.0);
        // The older one has ended.
        tracker.add(&reading(2, 9), time(0, 3000), true);
        assert_eq!(messages(&tracker), 2.0);
    }
}
