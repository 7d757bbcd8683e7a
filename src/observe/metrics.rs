//! All metrics: gathered from the workers, summed, written. docs/metrics.md explains each.

mod endpoints;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::counters::{Counter, Counters};
use super::exposition::{Exposition, Format, Kind};
use super::histogram::{LONG, SHORT, Spread};
use super::process::{self, Began, timestamp};
use super::series::{
    CLOSE_CODES, Carriage, ListenerSeries, Outcome, RouteSeries, TLS, Turned, Way,
};
use crate::net::admission::Admission;
use crate::protocol::rejection::Rejection;
use crate::snapshot::Snapshot;
use crate::tunnel::ended::Ended;
use crate::tunnel::side::Side;
use crate::upstream::source;

/// What metrics tell of the process as a whole; written by the control runtime.
#[derive(Debug)]
pub struct Process {
    began: Began,
    reloads: Counter,
    failed_reloads: Counter,
    /// What was wrong with the last reload, if anything.
    fault: ArcSwap<Vec<String>>,
    /// Milliseconds of the Unix epoch.
    taken: Counter,
    draining: AtomicBool,
    /// The certificates of the listeners.
    pub certificates: ArcSwap<Vec<Expiry>>,
}

/// When a certificate expires.
#[derive(Debug, Clone)]
pub struct Expiry {
    /// Whose it is.
    pub listener: Arc<str>,
    /// The file it is in.
    pub file: String,
    /// When.
    pub not_after: SystemTime,
}

impl Default for Process {
    fn default() -> Self {
        let process = Self {
            began: Began::now(),
            reloads: Counter::default(),
            failed_reloads: Counter::default(),
            fault: ArcSwap::default(),
            taken: Counter::default(),
            draining: AtomicBool::new(false),
            certificates: ArcSwap::default(),
        };
        process
            .taken
            .set((timestamp(SystemTime::now()) * 1e3) as u64);
        process
    }
}

impl Process {
    /// It is stopping.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// When it began.
    pub fn began(&self) -> Began {
        self.began
    }

    /// Reloads that were taken, and those that failed.
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.get(), self.failed_reloads.get())
    }

    /// What was wrong with the last reload, line by line; nothing if it was taken.
    pub fn fault(&self) -> Arc<Vec<String>> {
        self.fault.load_full()
    }

    /// Counts a reload, and what was wrong with it.
    pub fn reloaded(&self, fault: Vec<String>) {
        let taken = fault.is_empty();
        self.fault.store(Arc::new(fault));
        if taken {
            self.reloads.add(1);
            self.taken.set((timestamp(SystemTime::now()) * 1e3) as u64);
        } else {
            self.failed_reloads.add(1);
        }
    }
}

/// Where metrics are gathered from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// Each worker's.
    pub workers: &'a [Arc<Counters>],
    /// The configuration as running.
    pub snapshot: &'a Snapshot,
    /// Where connections to endpoints come from.
    pub ports: &'a source::Sources,
    /// Connections of the process.
    pub admission: &'a Admission,
    /// The process.
    pub process: &'a Process,
    /// Lines of the log that were dropped.
    pub log_dropped: u64,
    /// Records of the access log, where that is one of its own.
    pub access_log_dropped: u64,
    /// Tunnels that are being closed one by one, those that are left, by reason.
    pub closing: &'a BTreeMap<&'static str, usize>,
    /// Live tunnels of each older generation.
    pub older: &'a [u64],
    /// What the endpoints of upstreams have above their share, where `rebalance` is to move it.
    pub excess: &'a [(Arc<str>, usize)],
    /// Listeners, and whether an operator has taken them out.
    pub drained: &'a [(Arc<str>, bool)],
}

/// Writes all of them.
pub fn write(sources: Sources<'_>, format: Format) -> String {
    let mut metrics = Exposition::new(format);
    let gathered = Gathered::from(sources.workers);
    of_process(&mut metrics, sources);
    of_listeners(&mut metrics, &gathered);
    of_drained(&mut metrics, sources.drained);
    of_requests(&mut metrics, &gathered);
    of_tunnels(&mut metrics, &gathered);
    of_traffic(&mut metrics, &gathered);
    endpoints::of_endpoints(&mut metrics, &gathered, sources);
    of_closing(&mut metrics, sources);
    of_older(&mut metrics, sources);
    of_ports(&mut metrics, sources);
    process::write(&mut metrics, sources.process.began);
    metrics.finish()
}

/// The series of all workers.
struct Gathered {
    listeners: Vec<Arc<ListenerSeries>>,
    routes: Vec<Arc<RouteSeries>>,
    ways: Vec<Arc<Way>>,
}

impl Gathered {
    fn from(workers: &[Arc<Counters>]) -> Self {
        Self {
            listeners: workers
                .iter()
                .flat_map(|each| each.listeners.all())
                .collect(),
            routes: workers.iter().flat_map(|each| each.routes()).collect(),
            ways: workers.iter().flat_map(|each| each.ways()).collect(),
        }
    }

    fn by_listener(&self) -> Groups<'_, ListenerSeries, 1> {
        groups(&self.listeners, |series| [&series.name])
    }

    fn by_listener_and_route(&self) -> Groups<'_, RouteSeries, 2> {
        groups(&self.routes, |series| [&series.listener, &series.route])
    }

    /// Without what came to no route.
    fn by_route(&self) -> Groups<'_, RouteSeries, 1> {
        let mut routes = groups(&self.routes, |series| [&*series.route]);
        routes.remove(&[""]);
        routes
    }

    fn by_way(&self) -> Groups<'_, Way, 3> {
        groups(&self.ways, |way| {
            [&way.route.route, &way.upstream, &way.endpoint]
        })
    }

    fn by_endpoint(&self) -> Groups<'_, Way, 2> {
        groups(&self.ways, |way| [&way.upstream, &way.endpoint])
    }

    fn by_upstream(&self) -> Groups<'_, Way, 1> {
        groups(&self.ways, |way| [&*way.upstream])
    }
}

/// Series with the same labels.
type Groups<'a, S, const N: usize> = BTreeMap<[&'a str; N], Vec<&'a S>>;

fn groups<'a, S, const N: usize>(
    series: &'a [Arc<S>],
    labels: impl Fn(&'a S) -> [&'a str; N],
) -> Groups<'a, S, N> {
    let mut groups = Groups::new();
    for each in series {
        groups.entry(labels(each)).or_default().push(&**each);
    }
    groups
}

fn sum<S>(series: &[&S], counter: impl Fn(&S) -> u64) -> u64 {
    series.iter().map(|each| counter(each)).sum()
}

/// What is open: that which has ended is read first, so that it is never less than nothing.
fn open<S>(series: &[&S], opened: impl Fn(&S) -> u64, ended: impl Fn(&S) -> u64) -> u64 {
    let ended = sum(series, ended);
    sum(series, opened).saturating_sub(ended)
}

fn labelled<'a, const N: usize>(
    names: [&'a str; N],
    values: [&'a str; N],
) -> [(&'a str, &'a str); N] {
    std::array::from_fn(|position| (names[position], values[position]))
}

fn of_process(metrics: &mut Exposition, sources: Sources<'_>) {
    let Sources {
        workers,
        admission,
        process,
        log_dropped,
        access_log_dropped,
        ..
    } = sources;
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    metrics.family(
        "tidegate_build_info",
        Kind::Gauge,
        "Which tidegate this is.",
    );
    metrics.sample(&version, 1);
    metrics.family("tidegate_workers", Kind::Gauge, "Data-plane threads.");
    metrics.sample(&[], workers.len());
    let help = "Tasks of the data-plane threads, once a second.";
    metrics.family("tidegate_tasks", Kind::Gauge, help);
    metrics.sample(&[], workers.iter().map(|it| it.tasks.get()).sum::<u64>());
    metrics.family("tidegate_draining", Kind::Gauge, "1 once a stop has begun.");
    metrics.sample(&[], u8::from(process.is_draining()));
    let help = "Connections of clients that file descriptors carry.";
    metrics.family("tidegate_connections_limit", Kind::Gauge, help);
    metrics.sample(&[], admission.most());
    let help = "Reloads, by what came of them.";
    metrics.family("tidegate_reloads_total", Kind::Counter, help);
    metrics.sample(&[("result", "taken")], process.reloads.get());
    metrics.sample(&[("result", "failed")], process.failed_reloads.get());
    let help = "1 if the last reload was taken, 0 if an older configuration still runs.";
    metrics.family("tidegate_last_reload_successful", Kind::Gauge, help);
    let successful = process.fault().is_empty();
    metrics.sample(&[], u8::from(successful));
    let help = "When the configuration was last taken, in seconds of the Unix epoch.";
    let name = "tidegate_last_reload_success_timestamp_seconds";
    metrics.family(name, Kind::Gauge, help);
    metrics.sample(&[], process.taken.get() as f64 / 1e3);
    let help = "When a listener's certificate expires, in seconds of the Unix epoch.";
    let name = "tidegate_certificate_expiry_timestamp_seconds";
    metrics.family(name, Kind::Gauge, help);
    for expiry in process.certificates.load().iter() {
        let labels = [
            ("listener", &*expiry.listener),
            ("certificate", &expiry.file),
        ];
        metrics.sample(&labels, timestamp(expiry.not_after));
    }
    let help = "Lines of the log that were dropped because nobody read them fast enough.";
    metrics.family("tidegate_log_dropped_total", Kind::Counter, help);
    metrics.sample(&[], log_dropped);
    let help = "Records of an access log of its own that were dropped for the same reason.";
    metrics.family("tidegate_access_log_dropped_total", Kind::Counter, help);
    metrics.sample(&[], access_log_dropped);
}

fn of_drained(metrics: &mut Exposition, drained: &[(Arc<str>, bool)]) {
    let help = "Whether an operator has taken a listener out: then it listens nowhere.";
    metrics.family("tidegate_listener_drained", Kind::Gauge, help);
    for (listener, is_drained) in drained {
        metrics.sample(&[("listener", listener)], u8::from(*is_drained));
    }
}

fn of_listeners(metrics: &mut Exposition, gathered: &Gathered) {
    let listeners = gathered.by_listener();
    let help = "Connections of clients, tunnels included.";
    metrics.family("tidegate_connections_open", Kind::Gauge, help);
    for ([listener], series) in &listeners {
        let open = open(series, |it| it.connections.get(), |it| it.closed.get());
        metrics.sample(&[("listener", listener)], open);
    }
    let help = "Connections that clients have opened.";
    metrics.family("tidegate_connections_total", Kind::Counter, help);
    for ([listener], series) in &listeners {
        let total = sum(series, |it| it.connections.get());
        metrics.sample(&[("listener", listener)], total);
    }
    let help = "Connections that were closed before there was a request, by reason.";
    metrics.family("tidegate_connections_refused_total", Kind::Counter, help);
    for ([listener], series) in &listeners {
        for turned in Turned::ALL {
            let total = sum(series, |it| it.turned.at(*turned as usize).get());
            let labels = [("listener", *listener), ("reason", turned.token())];
            metrics.sample(&labels, total);
        }
    }
    let help = "Connections closed because the client did not go on, to send or to read, in time.";
    metrics.family("tidegate_connections_expired_total", Kind::Counter, help);
    for ([listener], series) in &listeners {
        let total = sum(series, |it| it.expired.get());
        metrics.sample(&[("listener", listener)], total);
    }
    let help = "TLS handshakes of clients that succeeded.";
    metrics.family("tidegate_tls_handshakes_total", Kind::Counter, help);
    for ([listener], series) in &listeners {
        for (position, (version, resumed)) in TLS.iter().enumerate() {
            let total = sum(series, |it| it.tls.at(position).get());
            let resumed = if *resumed { "true" } else { "false" };
            if total > 0 {
                metrics.sample(
                    &[
                        ("listener", listener),
                        ("version", version),
                        ("resumed", resumed),
                    ],
                    total,
                );
            }
        }
    }
}

fn of_requests(metrics: &mut Exposition, gathered: &Gathered) {
    let routes = gathered.by_listener_and_route();
    let help = "WebSocket handshakes, by what they came to.";
    metrics.family("tidegate_handshakes_total", Kind::Counter, help);
    for ([listener, route], series) in &routes {
        for outcome in Outcome::ALL {
            let total = sum(series, |it| it.handshakes.at(*outcome as usize).get());
            metrics.sample(
                &[
                    ("listener", listener),
                    ("route", route),
                    ("outcome", outcome.token()),
                ],
                total,
            );
        }
    }
    let help = "Handshakes whose answer `handshake = \"lenient\"` has excused.";
    metrics.family("tidegate_handshakes_excused_total", Kind::Counter, help);
    for ([route], series) in &gathered.by_route() {
        let total = sum(series, |it| it.excused.get());
        metrics.sample(&[("route", route)], total);
    }
    let help = "From the request of a handshake to the 101.";
    metrics.family("tidegate_handshake_seconds", Kind::Histogram, help);
    for ([route], series) in &gathered.by_route() {
        let all = series.iter().map(|it| &it.handshake_seconds);
        metrics.histogram(&[("route", route)], &Spread::of(&SHORT, all));
    }
    let help = "Requests that we refused, handshakes and others, by reason.";
    metrics.family("tidegate_rejections_total", Kind::Counter, help);
    for ([listener, route], series) in &routes {
        for rejection in Rejection::ALL {
            let total = sum(series, |it| it.rejections.at(*rejection as usize).get());
            if total > 0 {
                let reason = rejection.token();
                metrics.sample(
                    &[("listener", listener), ("route", route), ("reason", reason)],
                    total,
                );
            }
        }
    }
    let help = "Requests answered in HTTP, by status: all but the handshakes that became tunnels.";
    metrics.family("tidegate_http_requests_total", Kind::Counter, help);
    for ([listener, route], series) in &routes {
        let mut statuses = BTreeMap::new();
        for (status, count) in series.iter().flat_map(|it| it.statuses()) {
            *statuses.entry(status).or_insert(0) += count;
        }
        for (status, count) in statuses {
            let status = status.to_string();
            let labels = [
                ("listener", *listener),
                ("route", *route),
                ("status", &status),
            ];
            metrics.sample(&labels, count);
        }
    }
}

fn of_tunnels(metrics: &mut Exposition, gathered: &Gathered) {
    let help = "Tunnels that are alive.";
    metrics.family("tidegate_tunnels_open", Kind::Gauge, help);
    let opened = |it: &RouteSeries| it.handshakes.at(Outcome::Opened as usize).get();
    for ([listener, route], series) in &gathered.by_listener_and_route() {
        if !route.is_empty() {
            let open = open(series, opened, |it| it.ended.get());
            metrics.sample(&[("listener", listener), ("route", route)], open);
        }
    }
    let routes = gathered.by_route();
    let help = "How long tunnels lived that have ended.";
    metrics.family("tidegate_tunnel_seconds", Kind::Histogram, help);
    for ([route], series) in &routes {
        let all = series.iter().map(|it| &it.tunnel_seconds);
        metrics.histogram(&[("route", route)], &Spread::of(&LONG, all));
    }
    let help = "How long sides took to answer our Pings.";
    metrics.family("tidegate_ping_rtt_seconds", Kind::Histogram, help);
    for ([route], series) in &routes {
        for side in [Side::Client, Side::Endpoint] {
            let all = series.iter().map(|it| it.ping_rtt(side));
            let labels = [("route", *route), ("side", side.name())];
            metrics.histogram(&labels, &Spread::of(&SHORT, all));
        }
    }
    let help = "The first Close frame of each tunnel that has ended, by its code and who sent it.";
    metrics.family("tidegate_close_codes_total", Kind::Counter, help);
    for ([route], series) in &routes {
        for (position, code) in CLOSE_CODES.iter().enumerate() {
            for side in [Side::Client, Side::Endpoint] {
                let total = sum(series, |it| it.closes_from(side).at(position).get());
                if total > 0 {
                    let labels = [("route", *route), ("code", *code), ("from", side.name())];
                    metrics.sample(&labels, total);
                }
            }
        }
    }
    let help = "Tunnels that have ended and carried something that is no WebSocket framing.";
    metrics.family("tidegate_tunnels_unframed_total", Kind::Counter, help);
    for ([route], series) in &routes {
        let total = sum(series, |it| it.unframed.get());
        metrics.sample(&[("route", route)], total);
    }
}

fn of_traffic(metrics: &mut Exposition, gathered: &Gathered) {
    let ways = gathered.by_way();
    let labels = |way| labelled(["route", "upstream", "endpoint"], way);
    let help = "Tunnels that have ended, by reason.";
    metrics.family("tidegate_tunnels_ended_total", Kind::Counter, help);
    for (way, series) in &ways {
        let [route, upstream, endpoint] = labels(*way);
        for ended in Ended::ALL {
            let total = sum(series, |it| it.ended.at(ended as usize).get());
            if total > 0 {
                metrics.sample(
                    &[route, upstream, endpoint, ("reason", ended.token())],
                    total,
                );
            }
        }
    }
    let both = [
        ("from_client", Side::Client),
        ("from_endpoint", Side::Endpoint),
    ];
    let mut carried = |name, help, of: fn(Side) -> Carriage| {
        metrics.family(name, Kind::Counter, help);
        for (way, series) in &ways {
            let [route, upstream, endpoint] = labels(*way);
            for (direction, side) in both {
                let total = sum(series, |it| it.carried.shown(of(side)));
                metrics.sample(
                    &[route, upstream, endpoint, ("direction", direction)],
                    total,
                );
            }
        }
    };
    let help = "Bytes that came through tunnels, live ones too.";
    carried("tidegate_tunnel_bytes_total", help, Carriage::Bytes);
    let help = "Messages that came through tunnels, live ones too.";
    carried("tidegate_tunnel_messages_total", help, Carriage::Messages);
}

fn of_closing(metrics: &mut Exposition, sources: Sources<'_>) {
    let help = "Tunnels that are being closed one by one: those that are left, by reason.";
    metrics.family("tidegate_closing_tunnels", Kind::Gauge, help);
    for (reason, left) in sources.closing {
        metrics.sample(&[("reason", reason)], *left);
    }
}

fn of_older(metrics: &mut Exposition, sources: Sources<'_>) {
    let help = "Processes that this one has succeeded and that still drain.";
    metrics.family("tidegate_older_generations", Kind::Gauge, help);
    metrics.sample(&[], sources.older.len());
    let help = "Live tunnels of the processes that this one has succeeded.";
    metrics.family("tidegate_older_tunnels", Kind::Gauge, help);
    metrics.sample(&[], sources.older.iter().sum::<u64>());
}

fn of_ports(metrics: &mut Exposition, sources: Sources<'_>) {
    let help = "Connections that there still could be to an endpoint from a local address.";
    metrics.family("tidegate_source_ports_free", Kind::Gauge, help);
    for upstream in sources.snapshot.upstreams() {
        for ports in sources.ports.of(upstream) {
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
