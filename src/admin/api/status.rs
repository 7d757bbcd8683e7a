//! How the process is.

use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::generations::GenerationCounts;
use crate::admin::view::View;
use crate::displace::jobs::Job;
use crate::handover::identity::{Identity, shown};
use crate::observe::counters::Totals;

/// How the process is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusInfo {
    /// Of tidegate.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// How many upgrades came before it: 1 if it was started by itself.
    pub generation: u64,
    /// `serving`, or `draining` once a stop has begun.
    pub state: String,
    /// When it began.
    pub started: String,
    /// Seconds since.
    pub uptime_seconds: u64,
    /// The configuration file.
    pub config: String,
    /// When what runs was taken from it.
    pub config_loaded: String,
    /// What is probably not meant so in it.
    pub config_warnings: Vec<String>,
    /// Keys that say something else than at the start, and wait for the next one.
    pub needs_restart: Vec<String>,
    /// Reloads that were taken.
    pub reloads: u64,
    /// Reloads that failed: what ran before went on.
    pub failed_reloads: u64,
    /// What was wrong with the last reload; empty if it was taken.
    pub reload_errors: Vec<String>,
    /// Data-plane threads.
    pub workers: usize,
    /// Connections of clients, tunnels included.
    pub connections: usize,
    /// Those that descriptors carry.
    pub max_connections: usize,
    /// Live tunnels.
    pub tunnels: u64,
    /// Tunnels opened since the start.
    pub tunnels_opened: u64,
    /// Plain requests answered since the start.
    pub requests: u64,
    /// Requests refused since the start.
    pub rejections: u64,
    /// Lines of the log that were dropped.
    pub log_dropped: u64,
    /// Records of the access log that were dropped.
    pub access_log_dropped: u64,
    /// Endpoints, and those of them that take something new.
    pub endpoints: usize,
    /// See there.
    pub endpoints_up: usize,
    /// Certificates of listeners.
    pub certificates: Vec<CertificateInfo>,
    /// What is being closed at a pace.
    pub jobs: Vec<JobInfo>,
    /// This process, and those that it has succeeded and that still drain: the youngest first.
    pub generations: Vec<GenerationInfo>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GenerationInfo {
    /// Which it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// Its connections, tunnels included, as of a moment ago.
    pub connections: usize,
    /// Its live tunnels, likewise.
    pub tunnels: u64,
}

/// A certificate of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateInfo {
    /// The listener.
    pub listener: String,
    /// Its file.
    pub file: String,
    /// When it expires.
    pub expires: String,
    /// Days until then; less than 0 if it has.
    pub days_left: i64,
}

/// How far tunnels that are closed at a pace are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobInfo {
    /// The number that the job was given.
    pub job: u64,
    /// Whose tunnels it closes, for people.
    pub description: String,
    /// As what they end.
    pub reason: String,
    /// Tunnels that it is to close.
    pub tunnels: usize,
    /// Those of them that it has come to.
    pub done: usize,
    /// Those that were still there, and were closed.
    pub closed: usize,
}

impl JobInfo {
    /// Of `job`.
    pub fn of(job: &Job) -> Self {
        Self {
            job: job.number,
            description: job.description.clone(),
            reason: job.ended.token().to_owned(),
            tunnels: job.tunnels,
            done: job.done(),
            closed: job.closed(),
        }
    }
}

/// How the process is now.
pub fn status(view: &View) -> StatusInfo {
    let counters = view.workers.counters();
    let totals = Totals::of(counters.iter().map(|each| &**each));
    let (reloads, failed_reloads) = view.process.reloads();
    let taken = view.loaded.load();
    let began = view.process.began();
    let (endpoints_up, endpoints) = view.endpoints_up();
    let draining = view.process.is_draining();
    StatusInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        generation: view.generation,
        state: if draining { "draining" } else { "serving" }.to_owned(),
        started: shown(began.time()),
        uptime_seconds: began.elapsed().as_secs(),
        config: taken.files.first().cloned().unwrap_or_default(),
        config_loaded: shown(taken.at),
        config_warnings: taken.warnings.clone(),
        needs_restart: taken
            .needs_restart
            .iter()
            .map(|it| (*it).to_owned())
            .collect(),
        reloads,
        failed_reloads,
        reload_errors: view.process.fault().to_vec(),
        workers: view.workers.len(),
        connections: view.admission.open(),
        max_connections: view.admission.limit(),
        tunnels: totals.tunnels_open,
        tunnels_opened: totals.tunnels,
        requests: totals.requests,
        rejections: totals.rejections,
        log_dropped: view.log_dropped.get(),
        access_log_dropped: view.shared.access_log.dropped(),
        endpoints,
        endpoints_up,
        certificates: certificates(view),
        jobs: view
            .jobs
            .running()
            .iter()
            .map(|job| JobInfo::of(job))
            .collect(),
        generations: generations(view, totals.tunnels_open),
    }
}

fn generations(view: &View, tunnels: u64) -> Vec<GenerationInfo> {
    let own = GenerationInfo {
        identity: view.identity(),
        connections: view.admission.open(),
        tunnels,
    };
    let older = view.generations.all().into_iter().rev();
    let older = older.map(|it| {
        let GenerationCounts {
            tunnels,
            connections,
        } = it.glance();
        GenerationInfo {
            identity: it.identity.clone(),
            connections,
            tunnels,
        }
    });
    std::iter::once(own).chain(older).collect()
}

fn certificates(view: &View) -> Vec<CertificateInfo> {
    const DAY: i64 = 24 * 60 * 60;
    let now = SystemTime::now();
    let expiries = view.process.certificates.load();
    let certificates = expiries.iter().map(|expiry| CertificateInfo {
        listener: expiry.listener.to_string(),
        file: expiry.file.clone(),
        expires: shown(expiry.not_after),
        days_left: seconds_until(expiry.not_after, now).div_euclid(DAY),
    });
    certificates.collect()
}

fn seconds_until(time: SystemTime, now: SystemTime) -> i64 {
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(now) {
        Ok(left) => seconds(left),
        Err(passed) => -seconds(passed.duration()),
    }
}
