//! Everything that there is to see of a running process, and the way to have it changed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc;

use super::command::ControlCommand;
use super::generations::Generations;
use crate::config::model::Secret;
use crate::displace::Displacer;
use crate::displace::jobs::Jobs;
use crate::displace::workers::Workers;
use crate::handover::identity::{Identity, shown};
use crate::net::admission::Admission;
use crate::observe::counter::Counter;
use crate::observe::process::ProcessStatus;
use crate::session::Shared;

/// Everything that there is to see.
#[derive(Debug)]
pub struct View {
    /// The data plane.
    pub workers: Arc<Workers>,
    /// What it runs.
    pub shared: Arc<Shared>,
    /// Connections of the process.
    pub admission: Arc<Admission>,
    /// The process.
    pub process: Arc<ProcessStatus>,
    /// Lines of the log that were dropped.
    pub log_dropped: Arc<Counter>,
    /// Scrapes come one after the other.
    pub scraping: tokio::sync::Mutex<()>,
    /// Rates are measured by one at a time.
    pub measuring: tokio::sync::Mutex<()>,
    /// The configuration, as it was taken.
    pub loaded: ArcSwap<LoadedConfig>,
    /// Where it listens.
    pub listening: ArcSwap<Vec<ListenerState>>,
    /// What changes over TCP need.
    pub token: ArcSwapOption<Secret>,
    /// Takes what only the process itself can do.
    pub commands: mpsc::Sender<ControlCommand>,
    /// What takes its time.
    pub jobs: Arc<Jobs>,
    /// How many upgrades came before: 1 for a process that was started by itself.
    pub generation: u64,
    /// The processes that this one has succeeded.
    pub generations: Arc<Generations>,
    /// What is known of endpoints is on its way to another process: a change here would be lost.
    pub handing_over: AtomicBool,
}

impl View {
    /// Which process this is.
    pub fn identity(&self) -> Identity {
        Identity {
            generation: self.generation,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: shown(self.process.began().time()),
        }
    }

    /// What closes tunnels for reasons that the process itself finds.
    pub fn displacer(&self) -> Displacer {
        Displacer {
            workers: Arc::clone(&self.workers),
            jobs: Arc::clone(&self.jobs),
            shared: Arc::clone(&self.shared),
            process: Arc::clone(&self.process),
        }
    }

    /// Whether operators have taken all listeners out.
    pub fn is_drained(&self) -> bool {
        let listening = self.listening.load();
        !listening.is_empty() && listening.iter().all(|it| it.is_drained)
    }

    /// How many endpoints take something new, and how many there are.
    pub fn endpoints_up(&self) -> (usize, usize) {
        let now = Instant::now();
        let snapshot = self.shared.snapshot.load();
        let upstreams = snapshot.upstreams().iter();
        let members = upstreams.flat_map(|upstream| upstream.members());
        members.fold((0, 0), |(up, all), member| {
            (up + usize::from(member.accepts_sessions(now)), all + 1)
        })
    }
}

/// A configuration, as it was taken.
pub struct LoadedConfig {
    /// Every file that was read, the configuration file first.
    pub files: Vec<String>,
    /// When.
    pub at: SystemTime,
    /// The configuration file, as it was read: it may have secrets in it.
    pub source: Arc<str>,
    /// What was probably not meant so.
    pub warnings: Vec<String>,
    /// Keys in it that take effect at the next start.
    pub needs_restart: Vec<&'static str>,
}

impl LoadedConfig {
    /// That these keys wait, a line each.
    pub fn waiting(&self) -> impl Iterator<Item = String> {
        let keys = self.needs_restart.iter();
        keys.map(|key| format!("a change of `{key}` takes effect at the next start"))
    }
}

/// Without the file, which may have secrets in it.
impl fmt::Debug for LoadedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedConfig")
            .field("files", &self.files)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// A listener that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerState {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens; a port of 0 has become a real one. As configured if it is drained.
    pub addresses: Vec<String>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether it sends plain requests to https.
    pub redirect_to_https: bool,
    /// Whether an operator has taken it out: then it listens nowhere.
    pub is_drained: bool,
}
