//! Upstreams and their endpoints: which are in rotation, and why any is not.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::view::View;
use crate::config::model::{Balance, Discovery, EndpointPhase};
use crate::displace::live_tunnels::{EndCounts, LiveTunnels};
use crate::displace::rebalance::excess::Excess;
use crate::upstream::group::{Member, Upstream};
use crate::upstream::health::{CheckOutcome, HealthStatus};

/// An upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpstreamInfo {
    /// The name of the upstream.
    pub name: String,
    /// The balancing policy.
    pub balance: String,
    /// Where its endpoints come from: `listed`, `dns`, `srv`, `kubernetes` or `file`.
    pub discovery: String,
    /// Why the latest attempt to find its endpoints failed. The last known ones stay in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_error: Option<String>,
    /// Seconds since the source of its endpoints has last responded; absent if it never has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovered_seconds: Option<u64>,
    /// Sessions in the queue, which wait for an endpoint below its limit.
    pub waiting: usize,
    /// Live tunnels, including those to removed endpoints.
    pub tunnels: u64,
    /// Tunnels above the share of their endpoint, if `rebalance` is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<RebalanceInfo>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointInfo>,
}

/// Tunnels that endpoints have above their share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RebalanceInfo {
    /// Whether `rebalance` is a dry run, which moves nothing.
    pub dry_run: bool,
    /// Tunnels above the share of their endpoint, including those that are too young to be moved.
    pub excess: usize,
    /// Whether nothing is moved for now because an endpoint is in its slow start.
    pub waits_for_slow_start: bool,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointInfo {
    /// The address of the endpoint.
    pub endpoint: String,
    /// The name of the endpoint, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it gets new sessions.
    pub state: EndpointStatus,
    /// Why the state is not `up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Seconds since it went down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_seconds: Option<u64>,
    /// Seconds until its ejection ends, or until it is no longer asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_in_seconds: Option<u64>,
    /// Error of the latest health check, even if the endpoint does not count as down yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(alias = "check_fault")] // of version 0.1.0
    pub check_error: Option<String>,
    /// Error of the latest connection to it, if that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_error: Option<String>,
    /// Its weight, as configured or as set by an operator.
    pub weight: u32,
    /// Whether an operator has set the weight; the next reload restores the configured one.
    #[serde(alias = "weight_is_set")] // of version 0.1.0
    pub weight_overridden: bool,
    /// Whether it is a backup, used only while no other endpoint is available.
    pub backup: bool,
    /// Its limit of sessions at once, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tunnels: Option<usize>,
    /// Sessions in flight: handshakes, tunnels and plain HTTP requests.
    pub in_flight: usize,
    /// Sessions in flight in older generations; included in `in_flight`.
    #[serde(default)]
    pub in_flight_older: usize,
    /// Live tunnels.
    pub tunnels: u64,
    /// Tunnels that have ended since the start, by reason.
    pub ended: EndCounts,
    /// Health checks passed since the start.
    pub checks_passed: u64,
    /// Health checks failed since the start.
    pub checks_failed: u64,
    /// Ejections since the start.
    pub ejections: u64,
    /// During its slow start, the part of its share that it gets, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<f64>,
    /// What it reports of its load, if `reports` is configured and it has reported lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportInfo>,
}

/// What an endpoint reports of its load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReportInfo {
    /// Its tunnels, over all proxies and other clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<u32>,
    /// The maximum of those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
    /// The factor of its configured weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Whether it is to get nothing new.
    pub drain: bool,
    /// Seconds since the report.
    pub age_seconds: u64,
}

/// Whether an endpoint gets new sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointStatus {
    /// It is in rotation.
    Up,
    /// Out of rotation: its health checks fail.
    Down,
    /// Out of rotation for a while: sessions have failed on it.
    Ejected,
    /// Asked only if no other endpoint has room, for a short time: the latest connection failed.
    Unreachable,
    /// Out of rotation: an operator has drained it.
    Drained,
    /// Out of rotation: the configuration drains it.
    #[serde(rename = "drained-by-config")]
    DrainedByConfig,
    /// Out of rotation: discovery reports that it will end soon. Sticky clients may return while it serves.
    Terminating,
    /// Out of rotation: discovery reports that it does not serve, or has just lost it.
    #[serde(rename = "not-ready")]
    NotReady,
    /// Out of rotation: its own report drains it.
    #[serde(rename = "drained-by-report")]
    DrainedByReport,
    /// It has reached `max_tunnels`, or the maximum that it reports, and gets a new session when one ends.
    Full,
}

impl EndpointStatus {
    /// The token in JSON and in tables.
    pub fn token(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
            Self::Unreachable => "unreachable",
            Self::Drained => "drained",
            Self::DrainedByConfig => "drained-by-config",
            Self::Terminating => "terminating",
            Self::NotReady => "not-ready",
            Self::DrainedByReport => "drained-by-report",
            Self::Full => "full",
        }
    }

    /// Whether an operator, the configuration or discovery drains it. Then it is out of rotation on purpose.
    pub fn is_drained(self) -> bool {
        matches!(
            self,
            Self::Drained | Self::DrainedByConfig | Self::DrainedByReport | Self::Terminating
        )
    }
}

impl EndpointInfo {
    /// Whether it accepts new sessions.
    pub fn takes_new(&self) -> bool {
        let reports_none = self
            .report
            .as_ref()
            .is_some_and(|report| report.weight == Some(0.0));
        let is_weightless = self.weight == 0 || (reports_none && !self.weight_overridden);
        self.state == EndpointStatus::Up && !is_weightless
    }
}

/// All upstreams.
pub fn upstreams(view: &View, live: &LiveTunnels) -> Vec<UpstreamInfo> {
    let snapshot = view.shared.snapshot.load();
    let upstreams = snapshot.upstreams().iter();
    upstreams.map(|it| upstream(it, live)).collect()
}

/// One upstream as it is now.
pub fn upstream(upstream: &Upstream, live: &LiveTunnels) -> UpstreamInfo {
    let now = Instant::now();
    let endpoint = |member: &Member| EndpointInfo::of(upstream, member, live, now);
    let record = upstream.discovery_record();
    UpstreamInfo {
        name: upstream.name.to_string(),
        balance: balance(&upstream.picking().balance).to_owned(),
        discovery: match &upstream.settings.discovery {
            Discovery::Listed => "listed",
            Discovery::Dns { .. } => "dns",
            Discovery::Srv { .. } => "srv",
            Discovery::File(_) => "file",
            Discovery::Kubernetes(_) => "kubernetes",
        }
        .to_owned(),
        discovery_error: record.failure().map(Into::into),
        discovered_seconds: record
            .last_success()
            .map(|at| unix_now().saturating_sub(at)),
        waiting: upstream.waiting(),
        tunnels: live.of_upstream(&upstream.name),
        rebalance: rebalance(upstream),
        endpoints: upstream.members().iter().map(endpoint).collect(),
    }
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
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

impl ReportInfo {
    fn of(member: &Member, now: Instant) -> Option<Self> {
        // A member has a report only where reports count.
        member.report?;
        let (report, age) = member.state.report.shown(now)?;
        Some(Self {
            tunnels: report.total.map(|total| total.tunnels),
            max: report.max,
            weight: report.weight_hundredths.map(|it| f64::from(it) / 100.0),
            drain: report.is_draining,
            age_seconds: age.as_secs(),
        })
    }
}

impl EndpointInfo {
    pub(super) fn of(group: &Upstream, member: &Member, live: &LiveTunnels, now: Instant) -> Self {
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
                    let why = format!("health checks fail: {why}");
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
                name: member.name.as_deref().map(Into::into),
                state,
                why,
                down_seconds: down,
                back_in_seconds: back,
                check_error: health.fault().map(Into::into),
                connect_error: None,
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
                slow_start: None,
                report: ReportInfo::of(member, now),
            }
        });
        shown.refine(member, now);
        if shown.state == EndpointStatus::Up {
            shown.slow_start = group
                .slow_start(endpoint, now)
                .map(|it| (f64::from(it) * 100.0).round() / 100.0);
        }
        shown
    }

    fn refine_phase(&mut self, phase: EndpointPhase) {
        let (state, why) = match phase {
            EndpointPhase::Ready => return,
            EndpointPhase::Terminating => (
                EndpointStatus::Terminating,
                "Kubernetes ends it soon: gets only sessions with a sticky cookie",
            ),
            EndpointPhase::TerminatingNotReady => (
                EndpointStatus::Terminating,
                "Kubernetes ends it soon, and it is not ready: gets nothing new",
            ),
            EndpointPhase::NotReady => (EndpointStatus::NotReady, "Kubernetes reports: not ready"),
            EndpointPhase::Unlisted => (
                EndpointStatus::NotReady,
                "in no EndpointSlice any more: removed soon, unless it moves to another one",
            ),
        };
        self.state = state;
        self.why = Some(why.to_owned());
    }

    /// Adds what keeps sessions away from it apart from health.
    fn refine(&mut self, member: &Member, now: Instant) {
        let failure = member.state.unreached();
        self.connect_error = failure.as_ref().map(|failure| failure.why.to_string());
        let asked_last = failure.filter(|failure| failure.is_asked_last(now));
        if member.state.is_drained() {
            self.state = EndpointStatus::Drained;
            self.why = Some("drained by an operator".to_owned());
        } else if member.is_drained {
            self.state = EndpointStatus::DrainedByConfig;
            self.why = Some("`drain = true` in the configuration".to_owned());
        } else if member.is_drained_by_report() {
            self.state = EndpointStatus::DrainedByReport;
            self.why = Some("drained by its own report".to_owned());
        } else {
            self.refine_phase(member.phase);
        }
        if self.state != EndpointStatus::Up {
            return;
        }
        if let Some(failure) = asked_last {
            self.state = EndpointStatus::Unreachable;
            self.why = Some(format!("asked last: {}", failure.why));
            let until = failure.asked_last_until;
            let left = until.map(|until| until.saturating_duration_since(now));
            self.back_in_seconds = left.map(|left| left.as_secs());
        } else if member
            .max_in_flight
            .is_some_and(|most| self.in_flight >= most)
        {
            self.state = EndpointStatus::Full;
            self.why = Some("`max_tunnels` reached".to_owned());
        } else if member.is_full_by_report() {
            self.state = EndpointStatus::Full;
            self.why = Some("the maximum that it reports is reached".to_owned());
        } else if member.weight == 0 {
            self.why = Some("weight 0: gets only sessions with a sticky cookie".to_owned());
        } else if member.pick_weight == 0 {
            let why = "it reports weight 0: gets only sessions with a sticky cookie";
            self.why = Some(why.to_owned());
        } else if let Some(error) = member.state.resolve_error() {
            self.why = Some(format!("name not resolved: {error}"));
        }
    }
}
