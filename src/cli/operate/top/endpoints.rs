//! The endpoints of all upstreams as rows, and what goes to each per second.

use std::collections::{BTreeMap, VecDeque};

use tidegate::admin::api::upstreams::{EndpointInfo, EndpointStatus, UpstreamInfo};
use tidegate::tunnel::ended::Ended;

use crate::cli::operate::live::reading::Reading;
use crate::cli::table::short;

/// The time over which rates are shown, in milliseconds.
const RATE_WINDOW: u64 = 5000;

/// An endpoint as it is shown.
#[derive(Debug, Clone)]
pub(super) struct EndpointRow {
    pub(super) upstream: String,
    pub(super) address: String,
    pub(super) name: Option<String>,
    pub(super) status: EndpointStatus,
    /// The state in words.
    pub(super) state: String,
    pub(super) tunnels: u64,
    /// Its tunnels as a part of the mean of the upstream.
    pub(super) share: Option<f64>,
    /// What goes to it and comes from it, if two readings are there.
    pub(super) rates: Option<TrafficRates>,
    /// Tunnels that it has reset.
    pub(super) resets: u64,
    /// Why it is not up, or its latest error.
    pub(super) why: String,
}

/// Messages and bytes per second, in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct TrafficRates {
    pub(super) messages: f64,
    pub(super) bytes: f64,
}

/// The order of endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum EndpointSort {
    /// Those out of rotation first, then as configured.
    #[default]
    State,
    /// As configured.
    Upstream,
    Tunnels,
    Rate,
    Resets,
}

impl EndpointSort {
    pub(super) fn next(self) -> Self {
        match self {
            Self::State => Self::Upstream,
            Self::Upstream => Self::Tunnels,
            Self::Tunnels => Self::Rate,
            Self::Rate => Self::Resets,
            Self::Resets => Self::State,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Upstream => "upstream",
            Self::Tunnels => "tunnels",
            Self::Rate => "messages",
            Self::Resets => "resets",
        }
    }
}

impl EndpointRow {
    fn new(
        upstream: &UpstreamInfo,
        endpoint: &EndpointInfo,
        mean: f64,
        rates: Option<TrafficRates>,
    ) -> Self {
        let state = match (endpoint.state, endpoint.slow_start) {
            (EndpointStatus::Up, Some(_)) => "slow start",
            (EndpointStatus::DrainedByConfig, _) => "drained",
            (state, _) => state.token(),
        };
        let resets = endpoint.ended.get(Ended::UpstreamReset.token());
        Self {
            upstream: upstream.name.clone(),
            address: endpoint.endpoint.clone(),
            name: endpoint.name.clone(),
            status: endpoint.state,
            state: state.to_owned(),
            tunnels: endpoint.tunnels,
            share: (mean > 0.0).then(|| endpoint.tunnels as f64 / mean),
            rates,
            resets: resets.copied().unwrap_or_default(),
            why: why(endpoint),
        }
    }

    /// Its name, or its address.
    pub(super) fn label(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.address)
    }

    /// What distinguishes it from the others.
    pub(super) fn key(&self) -> String {
        format!("{}\n{}", self.upstream, self.address)
    }

    /// Whether it has one of these words in what identifies it.
    fn has(&self, word: &str) -> bool {
        let name = self.name.as_deref().unwrap_or_default();
        let texts = [&*self.upstream, &*self.address, name, &*self.state];
        texts.iter().any(|text| text.to_lowercase().contains(word))
    }

    /// How soon it is to be looked at: the lower, the sooner.
    fn urgency(&self) -> u8 {
        match self.status {
            EndpointStatus::Down | EndpointStatus::Ejected => 0,
            EndpointStatus::Unreachable => 1,
            EndpointStatus::Full => 2,
            EndpointStatus::Drained | EndpointStatus::DrainedByConfig => 3,
            EndpointStatus::Up => 4,
        }
    }
}

/// Why it is not up, and for how long; how far its slow start is; or the latest error.
fn why(endpoint: &EndpointInfo) -> String {
    let mut parts = Vec::new();
    parts.extend(endpoint.why.clone());
    if let Some(seconds) = endpoint.down_seconds {
        parts.push(format!("for {}", short(seconds)));
    }
    if let Some(seconds) = endpoint.back_in_seconds {
        parts.push(format!("asked again in {}", short(seconds)));
    }
    if let Some(part) = endpoint.slow_start {
        parts.push(format!("gets {:.0} % of its share", part * 100.0));
    }
    if parts.is_empty() {
        let latest = endpoint.check_error.as_ref();
        let latest = latest.or(endpoint.connect_error.as_ref());
        parts.extend(latest.map(|error| format!("latest error: {error}")));
    }
    parts.join(", ")
}

/// All endpoints that have every word of `filter`, in this order.
pub(super) fn rows(
    reading: &Reading,
    rates: &RateTracker,
    sort: EndpointSort,
    filter: &str,
) -> Vec<EndpointRow> {
    let mut rows: Vec<EndpointRow> = Vec::new();
    for upstream in &reading.upstreams {
        let sum: u64 = upstream.endpoints.iter().map(|it| it.tunnels).sum();
        let mean = sum as f64 / upstream.endpoints.len().max(1) as f64;
        let endpoints = upstream.endpoints.iter().map(|endpoint| {
            let rates = rates.of_endpoint(&upstream.name, &endpoint.endpoint);
            EndpointRow::new(upstream, endpoint, mean, rates)
        });
        rows.extend(endpoints);
    }
    let filter = filter.to_lowercase();
    rows.retain(|row| filter.split_whitespace().all(|word| row.has(word)));
    let messages = |row: &EndpointRow| row.rates.unwrap_or_default().messages;
    // Stable: equals stay as configured.
    match sort {
        EndpointSort::State => rows.sort_by_key(EndpointRow::urgency),
        EndpointSort::Upstream => {}
        EndpointSort::Tunnels => rows.sort_by_key(|row| std::cmp::Reverse(row.tunnels)),
        EndpointSort::Rate => rows.sort_by(|one, two| messages(two).total_cmp(&messages(one))),
        EndpointSort::Resets => rows.sort_by_key(|row| std::cmp::Reverse(row.resets)),
    }
    rows
}

/// Counts at one time.
#[derive(Debug, Default)]
struct TrafficSums {
    at: u64,
    handshakes: u64,
    /// Messages and bytes by upstream and endpoint.
    endpoints: BTreeMap<(String, String), (u64, u64)>,
}

impl TrafficSums {
    fn of(reading: &Reading, at: u64) -> Self {
        let mut endpoints: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for link in &reading.traffic.links {
            let key = (link.upstream.clone(), link.endpoint.clone());
            let (messages, bytes) = endpoints.entry(key).or_default();
            *messages += link.messages();
            *bytes += link.bytes();
        }
        Self {
            at,
            handshakes: reading.handshakes(),
            endpoints,
        }
    }
}

/// The counts of the last seconds, and the rates that follow from them.
#[derive(Debug, Default)]
pub(super) struct RateTracker {
    sums: VecDeque<TrafficSums>,
}

impl RateTracker {
    /// Adds a reading; `continues` is whether its process is that of the previous one.
    pub(super) fn add(&mut self, reading: &Reading, now: u64, continues: bool) {
        if !continues {
            self.sums.clear();
        }
        self.sums.push_back(TrafficSums::of(reading, now));
        // One that is older than the window stays, so that there are always two to compare.
        while self.sums.len() > 2
            && self
                .sums
                .get(1)
                .is_some_and(|it| now.saturating_sub(it.at) >= RATE_WINDOW)
        {
            self.sums.pop_front();
        }
    }

    /// The first and the last counts, and the seconds between them.
    fn ends(&self) -> Option<(&TrafficSums, &TrafficSums, f64)> {
        let (first, last) = (self.sums.front()?, self.sums.back()?);
        let elapsed = last.at.saturating_sub(first.at);
        (elapsed > 0).then_some((first, last, elapsed as f64 / 1e3))
    }

    fn of_endpoint(&self, upstream: &str, endpoint: &str) -> Option<TrafficRates> {
        let (first, last, seconds) = self.ends()?;
        let key = (upstream.to_owned(), endpoint.to_owned());
        let counts = |sums: &TrafficSums| sums.endpoints.get(&key).copied().unwrap_or_default();
        Some(rates(counts(first), counts(last), seconds))
    }

    /// Handshakes per second, and the traffic of all endpoints.
    pub(super) fn of_all(&self) -> Option<(f64, TrafficRates)> {
        let (first, last, seconds) = self.ends()?;
        let handshakes = last.handshakes.saturating_sub(first.handshakes) as f64 / seconds;
        let each = last.endpoints.iter().map(|(key, counts)| {
            let earlier = first.endpoints.get(key).copied().unwrap_or_default();
            rates(earlier, *counts, seconds)
        });
        let sum = each.fold(TrafficRates::default(), |sum, it| TrafficRates {
            messages: sum.messages + it.messages,
            bytes: sum.bytes + it.bytes,
        });
        Some((handshakes, sum))
    }
}

fn rates(first: (u64, u64), last: (u64, u64), seconds: f64) -> TrafficRates {
    TrafficRates {
        messages: last.0.saturating_sub(first.0) as f64 / seconds,
        bytes: last.1.saturating_sub(first.1) as f64 / seconds,
    }
}
