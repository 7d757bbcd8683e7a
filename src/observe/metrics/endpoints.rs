//! Metrics of endpoints: load, health, failed connects, retries, free source ports.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::MetricSources;
use super::gathered::{Gathered, labelled, open, sum};
use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::histogram::{HistogramSum, LATENCY_SECONDS};
use crate::observe::labels::ConnectFailure;
use crate::observe::series::EndpointSeries;
use crate::snapshot::Snapshot;
use crate::tunnel::ended::Ended;
use crate::upstream::endpoint::EndpointState;
use crate::upstream::group::Member;
use crate::upstream::health::{CheckOutcome, HealthCounts, HealthStatus};

pub(super) fn write_endpoints(
    metrics: &mut Exposition,
    gathered: &Gathered,
    MetricSources {
        snapshot, excess, ..
    }: MetricSources<'_>,
) {
    let endpoints = gathered.by_endpoint();
    let upstreams = snapshot.upstreams();
    let states: Vec<_> = upstreams.iter().flat_map(|it| it.endpoints()).collect();
    let configured: BTreeMap<[&str; 2], usize> = states
        .iter()
        .map(|state| ([&*state.upstream, &*state.label], state.in_flight()))
        .collect();
    let labels = |endpoint| labelled(["upstream", "endpoint"], endpoint);
    let help = "Live tunnels of an endpoint.";
    metrics.family("tidegate_endpoint_tunnels", MetricKind::Gauge, help);
    for (endpoint, series) in &endpoints {
        let ended = |series: &EndpointSeries| {
            Ended::ALL
                .iter()
                .map(|reason| series.ended.at(*reason as usize).get())
                .sum()
        };
        metrics.sample(
            &labels(*endpoint),
            open(series, |series| series.opened.get(), ended),
        );
    }
    for endpoint in configured
        .keys()
        .filter(|endpoint| !endpoints.contains_key(*endpoint))
    {
        metrics.sample(&labels(*endpoint), 0);
    }
    let help = "Load of an endpoint as the balancer counts it: tunnels, handshakes and requests in progress.";
    metrics.family("tidegate_endpoint_in_flight", MetricKind::Gauge, help);
    for (endpoint, in_flight) in &configured {
        metrics.sample(&labels(*endpoint), in_flight);
    }
    let help = "Requests waiting in the queue because every endpoint is at its limit.";
    metrics.family("tidegate_upstream_waiting", MetricKind::Gauge, help);
    for upstream in upstreams {
        metrics.sample(&[("upstream", &upstream.name)], upstream.waiting());
    }
    write_excess(metrics, excess);
    write_drains(metrics, snapshot);
    write_reports(metrics, snapshot);
    write_health(metrics, &states);
    write_attempts(metrics, gathered);
}

fn write_excess(metrics: &mut Exposition, excess: &[(Arc<str>, usize)]) {
    let help = "Tunnels above the endpoints' share that `rebalance` is to move.";
    metrics.family("tidegate_rebalance_excess", MetricKind::Gauge, help);
    for (upstream, excess) in excess {
        metrics.sample(&[("upstream", upstream)], excess);
    }
}

fn write_drains(metrics: &mut Exposition, snapshot: &Snapshot) {
    let help =
        "1 while an endpoint is drained by the configuration, an operator or its own report.";
    metrics.family("tidegate_endpoint_drained", MetricKind::Gauge, help);
    for upstream in snapshot.upstreams() {
        for member in upstream.members() {
            let labels = [
                ("upstream", &*upstream.name),
                ("endpoint", &*member.state.label),
            ];
            metrics.sample(&labels, u8::from(!member.is_undrained()));
        }
    }
}

fn labels_of(member: &Member) -> [(&'static str, &str); 2] {
    [
        ("upstream", &member.state.upstream),
        ("endpoint", &member.state.label),
    ]
}

fn write_reports(metrics: &mut Exposition, snapshot: &Snapshot) {
    let upstreams = snapshot.upstreams().iter();
    let reporting = upstreams.filter(|upstream| upstream.picking().reports.is_some());
    let members: Vec<Member> = reporting.flat_map(|it| it.members()).collect();
    let help = "Tunnels of an endpoint over all proxies, by its own report, while that is valid.";
    metrics.family(
        "tidegate_endpoint_reported_tunnels",
        MetricKind::Gauge,
        help,
    );
    for member in &members {
        if let Some(total) = member.report.and_then(|report| report.total) {
            metrics.sample(&labels_of(member), total.tunnels);
        }
    }
    let help = "Reports of an endpoint about its load, by result.";
    metrics.family("tidegate_endpoint_reports_total", MetricKind::Counter, help);
    for member in &members {
        let [upstream, endpoint] = labels_of(member);
        for (result, total) in member.state.report.counts() {
            metrics.sample(&[upstream, endpoint, ("result", result)], total);
        }
    }
}

fn write_health(metrics: &mut Exposition, endpoints: &[Arc<EndpointState>]) {
    let now = Instant::now();
    let conditions: BTreeMap<[&str; 2], (bool, bool, HealthCounts)> = endpoints
        .iter()
        .map(|state| {
            let health = state.health(now, |health| {
                let is_up = health.status(now) == HealthStatus::Up;
                (is_up, health.is_ejected(now), health.counts())
            });
            ([&*state.upstream, &*state.label], health)
        })
        .collect();
    let labels = |endpoint| labelled(["upstream", "endpoint"], endpoint);
    let help = "1 if an endpoint is in rotation, as far as health checks and ejection decide.";
    metrics.family("tidegate_endpoint_up", MetricKind::Gauge, help);
    for (endpoint, (is_up, ..)) in &conditions {
        metrics.sample(&labels(*endpoint), u8::from(*is_up));
    }
    let help = "1 while an endpoint is ejected because sessions failed.";
    metrics.family("tidegate_endpoint_ejected", MetricKind::Gauge, help);
    for (endpoint, (_, is_ejected, _)) in &conditions {
        metrics.sample(&labels(*endpoint), u8::from(*is_ejected));
    }
    let help =
        "1 if the latest connection to an endpoint failed; it is asked last for ten seconds.";
    metrics.family("tidegate_endpoint_unreachable", MetricKind::Gauge, help);
    let unreached: BTreeMap<[&str; 2], bool> = endpoints
        .iter()
        .map(|state| {
            let labels = [&*state.upstream, &*state.label];
            (labels, state.unreached().is_some())
        })
        .collect();
    for (endpoint, is_unreached) in &unreached {
        metrics.sample(&labels(*endpoint), u8::from(*is_unreached));
    }
    let help = "Health checks of endpoints, by result.";
    metrics.family("tidegate_checks_total", MetricKind::Counter, help);
    for (endpoint, (.., tally)) in &conditions {
        let [upstream, endpoint] = labels(*endpoint);
        for (checked, total) in CheckOutcome::ALL.iter().zip(tally.checks) {
            metrics.sample(&[upstream, endpoint, ("result", checked.token())], total);
        }
    }
    let help = "Ejections of an endpoint because sessions failed.";
    metrics.family(
        "tidegate_endpoint_ejections_total",
        MetricKind::Counter,
        help,
    );
    for (endpoint, (.., tally)) in &conditions {
        metrics.sample(&labels(*endpoint), tally.ejections);
    }
}

pub(super) fn write_attempts(metrics: &mut Exposition, gathered: &Gathered) {
    let endpoints = gathered.by_endpoint();
    let labels = |endpoint| labelled(["upstream", "endpoint"], endpoint);
    let help =
        "Time to open a connection to an endpoint, TLS included, for attempts that succeeded.";
    metrics.family("tidegate_connect_seconds", MetricKind::Histogram, help);
    for ([upstream], series) in &gathered.by_upstream() {
        let histograms = series.iter().map(|it| &it.connect_seconds);
        metrics.histogram(
            &[("upstream", upstream)],
            &HistogramSum::of(&LATENCY_SECONDS, histograms),
        );
    }
    let help = "Failed attempts to connect to endpoints, by reason.";
    metrics.family("tidegate_connect_failures_total", MetricKind::Counter, help);
    for (endpoint, series) in &endpoints {
        let [upstream, endpoint] = labels(*endpoint);
        for reason in ConnectFailure::ALL {
            let total = sum(series, |it| it.connect_failures.at(*reason as usize).get());
            metrics.sample(&[upstream, endpoint, ("reason", reason.token())], total);
        }
    }
    let help =
        "Requests retried on another endpoint because of this one's response, or the lack of one.";
    metrics.family("tidegate_retries_total", MetricKind::Counter, help);
    for (endpoint, series) in &endpoints {
        let total = sum(series, |series| series.retried.get());
        metrics.sample(&labels(*endpoint), total);
    }
    let help =
        "Requests not retried because a fifth of the upstream's requests were retries already.";
    metrics.family("tidegate_retries_refused_total", MetricKind::Counter, help);
    for (endpoint, series) in &endpoints {
        let total = sum(series, |series| series.retries_refused.get());
        metrics.sample(&labels(*endpoint), total);
    }
}

pub(super) fn write_lookups(metrics: &mut Exposition, sources: MetricSources<'_>) {
    let help =
        "Lookups of endpoints' names, and of endpoints by dns, srv and kubernetes, by result.";
    metrics.family("tidegate_lookups_total", MetricKind::Counter, help);
    for (kind, counters) in [
        ("name", sources.connector.lookups()),
        ("discovery", sources.discovery),
    ] {
        for (result, total) in counters.by_result() {
            metrics.sample(&[("kind", kind), ("result", result)], total);
        }
    }
    let asked = sources.snapshot.upstreams().iter();
    let asked: Vec<_> = asked
        .filter(|upstream| upstream.settings.discovery.is_asked())
        .collect();
    let help = "When the source of an upstream's endpoints has last responded, in seconds since the Unix epoch; 0 if it never has.";
    metrics.family(
        "tidegate_discovery_last_success_timestamp_seconds",
        MetricKind::Gauge,
        help,
    );
    for upstream in &asked {
        let at = upstream.discovery_record().last_success();
        metrics.sample(&[("upstream", &upstream.name)], at.unwrap_or_default());
    }
    let help = "Failed attempts to find the endpoints of an upstream by dns, srv or kubernetes.";
    metrics.family(
        "tidegate_discovery_failures_total",
        MetricKind::Counter,
        help,
    );
    for upstream in &asked {
        let total = upstream.discovery_record().failures();
        metrics.sample(&[("upstream", &upstream.name)], total);
    }
    let help = "Names of endpoints whose latest lookup failed.";
    metrics.family("tidegate_names_unresolved", MetricKind::Gauge, help);
    metrics.sample(&[], sources.connector.unresolved_names());
}

pub(super) fn write_ports(metrics: &mut Exposition, sources: MetricSources<'_>) {
    let help = "Further connections possible from a local address to an endpoint.";
    metrics.family("tidegate_source_ports_free", MetricKind::Gauge, help);
    for upstream in sources.snapshot.upstreams() {
        for ports in sources.connector.sources().of(upstream) {
            let source = match ports.source {
                Some(source) => source.to_string(),
                None => "default".into(),
            };
            let names = ["upstream", "endpoint", "source"];
            let labels = labelled(names, [&upstream.name, &ports.endpoint.label, &source]);
            metrics.sample(&labels, ports.free);
        }
    }
}
