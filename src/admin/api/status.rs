//! The status of the process.

use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fleet::{self, SharedKeyInfo};
use super::limits::{self, LimitSummary};
use super::probes::{self, ProbeInfo};
use super::services::{self, ServiceInfo};
use crate::admin::closing::{DisplacedInfo, JobInfo, displaced};
use crate::admin::generations::GenerationReport;
use crate::admin::view::View;
use crate::displace::live_tunnels::LiveTunnels;
use crate::handover::identity::{Identity, shown};
use crate::observe::counters::Totals;

/// The status of the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusInfo {
    /// Version of tidegate.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Number of this process in the sequence of upgrades; 1 if it was not started by an upgrade.
    pub generation: u64,
    /// `serving`, or `draining` once a stop has begun or a successor has taken over.
    pub state: String,
    /// When a process that drains ends what is left; absent with `drain = "off"`, and while it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ends: Option<String>,
    /// When the process started.
    pub started: String,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// Path of the configuration file.
    pub config: String,
    /// When the running configuration was loaded.
    #[serde(alias = "config_taken")] // of version 0.1.0
    pub config_loaded: String,
    /// Warnings about the configuration: what is valid but probably not intended.
    pub config_warnings: Vec<String>,
    /// Keys that have changed since the start and require a restart to take effect.
    #[serde(alias = "at_next_start")] // of version 0.1.0
    pub needs_restart: Vec<String>,
    /// Reloads that were applied.
    pub reloads: u64,
    /// Reloads that failed; the previous configuration stayed in effect.
    pub failed_reloads: u64,
    /// Errors of the last reload; empty if it succeeded, or if the watched files are as in effect again.
    #[serde(alias = "reload_fault")] // of version 0.1.0
    pub reload_errors: Vec<String>,
    /// Worker threads.
    pub workers: usize,
    /// Open client connections, tunnels included.
    pub connections: usize,
    /// Maximum number of client connections, as the file descriptor limit allows.
    #[serde(alias = "connections_most")] // of version 0.1.0
    pub max_connections: usize,
    /// Live tunnels.
    pub tunnels: u64,
    /// Streams: plain requests that have lasted longer than three seconds.
    #[serde(default)]
    pub streams: u64,
    /// Tunnels opened since the start.
    pub tunnels_opened: u64,
    /// Plain HTTP requests since the start.
    pub requests: u64,
    /// Requests rejected since the start.
    pub rejections: u64,
    /// Log lines dropped since the start.
    pub log_dropped: u64,
    /// Access log records dropped since the start.
    pub access_log_dropped: u64,
    /// Endpoints of all upstreams.
    pub endpoints: usize,
    /// Endpoints that accept new sessions.
    pub endpoints_up: usize,
    /// Certificates of listeners and of the admin interface.
    pub certificates: Vec<CertificateInfo>,
    /// What is wrong with certificates: those that expire soon, or could not be obtained.
    #[serde(default)]
    pub certificate_problems: Vec<String>,
    /// The services that tidegate depends on, such as certificate authorities, and how requests to them went.
    #[serde(default)]
    pub services: Vec<ServiceInfo>,
    /// What is wrong with the store of the fleet, or with the name of this node in it.
    #[serde(default)]
    pub fleet_problems: Vec<String>,
    /// The keys in use that nodes share; empty if this node shares no keys.
    #[serde(default)]
    pub shared_keys: Vec<SharedKeyInfo>,
    /// The latest probe of each route that has `probe`.
    #[serde(default)]
    pub probes: Vec<ProbeInfo>,
    /// The limits that routes share.
    #[serde(default)]
    pub limits: Vec<LimitSummary>,
    /// Jobs that close tunnels at a pace.
    pub jobs: Vec<JobInfo>,
    /// Listeners, routes and endpoints that were removed while they had tunnels.
    #[serde(default)]
    pub displaced: Vec<DisplacedInfo>,
    /// This process, then older generations that still drain, the youngest first.
    pub generations: Vec<GenerationInfo>,
}

/// A generation: a process in the sequence of upgrades.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GenerationInfo {
    /// Which process it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// When it ends what is left; absent with `drain = "off"`, and for a process that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ends: Option<String>,
    /// Its open client connections, tunnels included; up to a second old.
    pub connections: usize,
    /// Its live tunnels; up to a second old.
    pub tunnels: u64,
    /// Its streams; up to a second old.
    #[serde(default)]
    pub streams: u64,
    /// Its jobs that close tunnels at a pace; up to a second old.
    #[serde(default)]
    pub jobs: Vec<JobInfo>,
    /// What was removed from its configuration while it had tunnels; up to a second old.
    #[serde(default)]
    pub displaced: Vec<DisplacedInfo>,
}

/// A certificate of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateInfo {
    /// The listener that uses it; `admin.tls` for that of the admin interface.
    pub listener: String,
    /// Path of its file; of a certificate that tidegate obtains, the authority and the names.
    pub file: String,
    /// When it expires.
    pub expires: String,
    /// Days until it expires; negative if it has expired.
    pub days_left: i64,
}

fn displaced_now(view: &View) -> Vec<DisplacedInfo> {
    let listening = view.listening.load();
    let is_listener = |name: &str| listening.iter().any(|it| *it.name == *name);
    let live = LiveTunnels::of(&view.workers.counters());
    displaced(&view.shared.snapshot.load(), is_listener, &live)
}

/// The status of the process now.
pub fn status(view: &View) -> StatusInfo {
    let counters = view.workers.counters();
    let totals = Totals::of(counters.iter().map(|each| &**each));
    let (reloads, failed_reloads) = view.shared.process.reloads();
    let loaded = view.loaded.load();
    let began = view.shared.process.began();
    let (endpoints_up, endpoints) = view.endpoints_up();
    let draining = view.shared.process.is_draining();
    let jobs: Vec<JobInfo> = view
        .jobs
        .running()
        .iter()
        .map(|it| JobInfo::of(it))
        .collect();
    let displaced = displaced_now(view);
    let drain_ends = view.shared.process.drain_end().map(shown);
    StatusInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        generation: view.generation,
        state: if draining { "draining" } else { "serving" }.to_owned(),
        drain_ends: drain_ends.clone(),
        started: shown(began.time()),
        uptime_seconds: began.elapsed().as_secs(),
        config: loaded.files.first().cloned().unwrap_or_default(),
        config_loaded: shown(loaded.at),
        config_warnings: loaded.warnings.clone(),
        needs_restart: loaded
            .needs_restart
            .iter()
            .map(|it| (*it).to_owned())
            .collect(),
        reloads,
        failed_reloads,
        reload_errors: view.shared.process.reload_problems().to_vec(),
        workers: view.workers.len(),
        connections: view.admission.open(),
        max_connections: view.admission.limit(),
        tunnels: totals.tunnels_open,
        streams: totals.streams_open,
        tunnels_opened: totals.tunnels,
        requests: totals.requests,
        rejections: totals.rejections,
        log_dropped: view.log_dropped.get(),
        access_log_dropped: view.shared.access_log.dropped(),
        endpoints,
        endpoints_up,
        certificates: certificates(view),
        certificate_problems: certificate_problems(view),
        services: services::services(view),
        fleet_problems: fleet::problems(view),
        shared_keys: fleet::keys(view),
        probes: probes::probes(view),
        limits: limits::summaries(view),
        jobs: jobs.clone(),
        displaced: displaced.clone(),
        generations: generations(
            view,
            GenerationReport {
                tunnels: totals.tunnels_open,
                streams: totals.streams_open,
                connections: view.admission.open(),
                drain_ends,
                jobs,
                displaced,
            },
        ),
    }
}

fn generations(view: &View, own: GenerationReport) -> Vec<GenerationInfo> {
    let info = |identity: Identity, report: GenerationReport| GenerationInfo {
        identity,
        drain_ends: report.drain_ends,
        connections: report.connections,
        tunnels: report.tunnels,
        streams: report.streams,
        jobs: report.jobs,
        displaced: report.displaced,
    };
    let older = view.generations.all().into_iter().rev();
    let older = older.map(|it| info(it.identity.clone(), it.report()));
    std::iter::once(info(view.identity(), own))
        .chain(older)
        .collect()
}

/// The certificates that are served. Those that only stand in for others are left out.
fn certificates(view: &View) -> Vec<CertificateInfo> {
    const DAY: i64 = 24 * 60 * 60;
    let now = SystemTime::now();
    let states = view.shared.process.certificates.load();
    let certificates = states.iter().filter_map(|state| {
        let served = state.served.as_ref().filter(|it| !it.is_self_signed)?;
        Some(CertificateInfo {
            listener: state.listener.to_string(),
            file: state.source.label().to_string(),
            expires: shown(served.not_after),
            days_left: seconds_until(served.not_after, now).div_euclid(DAY),
        })
    });
    certificates.collect()
}

/// What is wrong with certificates: a sentence for each that needs attention.
fn certificate_problems(view: &View) -> Vec<String> {
    let now = SystemTime::now();
    let states = view.shared.process.certificates.load();
    let mut problems: Vec<String> = Vec::new();
    for problem in states.iter().filter_map(|state| state.problem(now)) {
        // Listeners may share a certificate.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems
}

fn seconds_until(time: SystemTime, now: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(now) {
        Ok(left) => seconds(left),
        Err(passed) => -seconds(passed.duration()),
    }
}
