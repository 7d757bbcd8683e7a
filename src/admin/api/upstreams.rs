//! Upstreams and their endpoints: who takes something new, and if not, why.

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::view::View;
use crate::config::model::{Balance, Discovery};
use crate::displace::live::{EndCounts, LiveTunnels};
use crate::displace::rebalance::excess::Excess;
use crate::upstream::group::{Member, Upstream};
use crate::upstream::health::{CheckOutcome, HealthStatus};

/// An upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamInfo {
    /// Its name.
    pub name: String,
    /// How endpoints are picked.
    pub balance: String,
    /// Where they come from: `listed`, `dns`, `srv`, `file`.
    pub discovery: String,
    /// Sessions that wait for an endpoint that is not full.
    pub waiting: usize,
    /// Live tunnels, those to endpoints that are gone included.
    pub tunnels: u64,
    /// What endpoints have above their share, where the configuration has it moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<RebalanceInfo>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointInfo>,
}

/// What endpoints have above their share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebalanceInfo {
    /// Whether it stays where it is.
    pub dry_run: bool,
    /// Tunnels to move, those included that are too young for that.
    pub excess: usize,
    /// An endpoint is in its slow start: nothing is moved before the end of that.
    pub waits_for_slow_start: bool,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointInfo {
    /// Its address.
    pub endpoint: String,
    /// What becomes of new sessions.
    pub state: EndpointStatus,
    /// Why that is not `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// For how long it has been down, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_seconds: Option<u64>,
    /// In how many seconds an ejection ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_in_seconds: Option<u64>,
    /// What the latest check found wrong, even if nothing has followed from it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_error: Option<String>,
    /// Its weight, an operator's if one has set it.
    pub weight: u32,
    /// Whether an operator has set it; the next reload forgets that.
    pub weight_overridden: bool,
    /// Whether it is for when the others cannot.
    pub backup: bool,
    /// Sessions that it may have at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tunnels: Option<usize>,
    /// Sessions that it has: handshakes, tunnels, plain requests.
    pub in_flight: usize,
    /// Those of them that older generations have.
    #[serde(default)]
    pub in_flight_older: usize,
    /// Live tunnels.
    pub tunnels: u64,
    /// Tunnels that have ended since the start, by reason.
    pub ended: EndCounts,
    /// Checks that it passed since the start.
    pub checks_passed: u64,
    /// Checks that it failed.
    pub checks_failed: u64,
    /// How often it was ejected.
    pub ejections: u64,
}

/// What becomes of new sessions at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointStatus {
    /// It gets its share.
    Up,
    /// Its checks fail: none.
    Down,
    /// Sessions have failed: none for a while.
    Ejected,
    /// An operator has drained it: none.
    Drained,
    /// The configuration drains it: none.
    #[serde(rename = "drained-by-config")]
    DrainedByConfig,
    /// It has as many as it may: none at the moment.
    Full,
}

impl EndpointStatus {
    /// Its name.
    pub fn token(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Drained => "drained",
            Self::DrainedByConfig => "drained-by-config",
            Self::Full => "full",
        }
    }
}

impl EndpointInfo {
    /// Whether it takes something new.
    pub fn takes_new(&self) -> bool {
        self.state == EndpointStatus::Up && self.weight > 0
    }
}

/// All of them.
pub fn upstreams(view: &View, live: &LiveTunnels) -> Vec<UpstreamInfo> {
    let snapshot = view.shared.snapshot.load();
    let upstreams = snapshot.upstreams().iter();
    upstreams.map(|it| upstream(it, live)).collect()
}

/// One of them, as it is now.
pub fn upstream(upstream: &Upstream, live: &LiveTunnels) -> UpstreamInfo {
    let now = Instant::now();
    let endpoint = |member: &Member| EndpointInfo::of(member, live, now);
    UpstreamInfo {
        name: upstream.name.to_string(),
        balance: balance(&upstream.picking().balance).to_owned(),
        discovery: match &upstream.settings.discovery {
            Discovery::Listed => "listed",
            Discovery::Dns { .. } => "dns",
            Discovery::Srv { .. } => "srv",
            Discovery::File(_) => "file",
        }
        .to_owned(),
        waiting: upstream.waiting(),
        tunnels: live.of_upstream(&upstream.name),
        rebalance: rebalance(upstream),
        endpoints: upstream.members().iter().map(endpoint).collect(),
    }
}

fn rebalance(upstream: &Upstream) -> Option<RebalanceInfo> {
    let (settings, excess) = (upstream.settings.rebalance?, Excess::of(upstream, 0)?);
    Some(RebalanceInfo {
        dry_run: settings.is_dry_run,
        excess: excess.total(),
        waits_for_slow_start: excess.is_warming,
    })
}

fn balance(balance: &Balance) -> &'static str {
    match balance {
        Balance::LeastConnections => "least_connections",
        Balance::RoundRobin => "round_robin",
        Balance::Random => "random",
        Balance::PowerOfTwo => "power_of_two",
        Balance::Hash(_) => "hash",
    }
}

impl EndpointInfo {
    pub(super) fn of(member: &Member, live: &LiveTunnels, now: Instant) -> Self {
        let endpoint = &member.state;
        let (upstream, label) = (&*endpoint.upstream, &*endpoint.label);
        let in_flight = endpoint.in_flight();
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs();
        let mut shown = endpoint.health(now, |health| {
            let tally = health.counts();
            let passed = tally.checks[CheckOutcome::Passed as usize];
            let (state, why, down, back) = match health.status(now) {
                HealthStatus::Up => (EndpointStatus::Up, None, None, None),
                HealthStatus::Down { since, why } => {
                    let why = format!("checks fail: {why}");
                    (
                        EndpointStatus::Down,
                        Some(why),
                        Some(seconds(since, now)),
                        None,
                    )
                }
                HealthStatus::Ejected { until, why } => {
                    let back = Some(seconds(now, until));
                    (EndpointStatus::Ejected, Some(why.to_string()), None, back)
                }
            };
            Self {
                endpoint: endpoint.label.to_string(),
                state,
                why,
                down_seconds: down,
                back_in_seconds: back,
                check_error: health.fault().map(Into::into),
                weight: member.weight,
                weight_overridden: endpoint.weight().is_some(),
                backup: member.is_backup,
                max_tunnels: member.max_in_flight,
                in_flight,
                in_flight_older: endpoint.older_generations(),
                tunnels: live.of_endpoint(upstream, label),
                ended: live.ended(upstream, label),
                checks_passed: passed,
                checks_failed: tally.checks.iter().sum::<u64>() - passed,
                ejections: tally.ejections,
            }
        });
        if endpoint.is_drained() {
            shown.state = EndpointStatus::Drained;
            shown.why = Some("drained by an operator".to_owned());
        } else if member.is_drained {
            shown.state = EndpointStatus::DrainedByConfig;
            shown.why = Some("`drain = true` in the configuration".to_owned());
        } else if shown.state == EndpointStatus::Up
            && member.max_in_flight.is_some_and(|most| in_flight >= most)
        {
            shown.state = EndpointStatus::Full;
            shown.why = Some("it has `max_tunnels`".to_owned());
        } else if shown.state == EndpointStatus::Up && member.weight == 0 {
            shown.why = Some("weight 0: only sticky cookies lead here".to_owned());
        }
        shown
    }
}
