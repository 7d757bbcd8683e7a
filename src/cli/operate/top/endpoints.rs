//! The endpoints of all upstreams as rows, and what goes to each per second.

use tidegate::admin::api::upstreams::{EndpointInfo, EndpointStatus, UpstreamInfo};
use tidegate::tunnel::ended::Ended;

use crate::cli::operate::live::rates::{LiveRates, TrafficRates};
use crate::cli::operate::live::reading::Reading;
use crate::cli::table::short;

/// An endpoint as it is shown.
#[derive(Debug, Clone)]
pub(super) struct EndpointRow {
    pub(super) upstream: String,
    pub(super) address: String,
    pub(super) name: Option<String>,
    pub(super) status: EndpointStatus,
    /// The state in words.
    pub(super) state: String,
    /// Its tunnels, in all processes.
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
        (endpoint, tunnels): (&EndpointInfo, u64),
        mean: f64,
        rates: Option<TrafficRates>,
    ) -> Self {
        let state = match (endpoint.state, endpoint.slow_start) {
            (EndpointStatus::Up, Some(_)) => "slow start",
            (EndpointStatus::DrainedByConfig | EndpointStatus::DrainedByReport, _) => "drained",
            (state, _) => state.token(),
        };
        let resets = endpoint.ended.get(Ended::UpstreamReset.token());
        Self {
            upstream: upstream.name.clone(),
            address: endpoint.endpoint.clone(),
            name: endpoint.name.clone(),
            status: endpoint.state,
            state: state.to_owned(),
            tunnels,
            share: (mean > 0.0).then(|| tunnels as f64 / mean),
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
            EndpointStatus::Full | EndpointStatus::NotReady => 2,
            EndpointStatus::Drained
            | EndpointStatus::DrainedByConfig
            | EndpointStatus::DrainedByReport
            | EndpointStatus::Terminating => 3,
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
    rates: Option<&LiveRates>,
    sort: EndpointSort,
    filter: &str,
) -> Vec<EndpointRow> {
    let mut rows: Vec<EndpointRow> = Vec::new();
    for upstream in &reading.upstreams {
        let endpoints = upstream.endpoints.iter();
        let counted = endpoints.map(|endpoint| {
            let older = reading.older_tunnels_of(&upstream.name, &endpoint.endpoint);
            (endpoint, endpoint.tunnels + older)
        });
        let counted: Vec<(&EndpointInfo, u64)> = counted.collect();
        let sum: u64 = counted.iter().map(|(_, tunnels)| tunnels).sum();
        let mean = sum as f64 / counted.len().max(1) as f64;
        rows.extend(counted.into_iter().map(|(endpoint, tunnels)| {
            let rates = rates.map(|it| it.of_endpoint(&upstream.name, &endpoint.endpoint));
            EndpointRow::new(upstream, (endpoint, tunnels), mean, rates)
        }));
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
