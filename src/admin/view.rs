//! The state of the process that the interface shows, and the queue of commands that change it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use tokio::sync::mpsc;

use super::command::ControlCommand;
use super::error::ApiError;
use super::generations::Generations;
use crate::acme::counters::OrderCounters;
use crate::config::model::AdminAccess;
use crate::config::sources::Sources;
use crate::displace::Displacer;
use crate::displace::jobs::Jobs;
use crate::displace::worker_queries::Workers;
use crate::handover::identity::{Identity, shown};
use crate::net::admission::Admission;
use crate::observe::counter::Counter;
use crate::quota::failure_reports::{FailureReports, RecurringTrouble};
use crate::session::Shared;

/// How long a reading of the traffic waits for workers: that of one that is late is as old as the last reading.
const TRAFFIC_TIMEOUT: Duration = Duration::from_secs(2);

/// What the interface shows and changes.
#[derive(Debug)]
pub struct View {
    /// The workers: what their tunnels and counters are.
    pub workers: Arc<Workers>,
    /// The configuration that they run.
    pub shared: Arc<Shared>,
    /// The limit on client connections, and how many there are.
    pub admission: Arc<Admission>,
    /// The orders for certificates so far.
    pub acme_orders: Arc<OrderCounters>,
    /// Log lines dropped so far.
    pub log_dropped: Arc<Counter>,
    /// Held while traffic is read: one reading at a time. Whether the log says that workers are too busy for it.
    pub scraping: tokio::sync::Mutex<RecurringTrouble>,
    /// Held while rates are measured: one at a time, because it remembers every tunnel meanwhile.
    pub measuring: tokio::sync::Mutex<()>,
    /// The configuration as loaded.
    pub loaded: ArcSwap<LoadedConfig>,
    /// The listeners, and their addresses.
    pub listening: ArcSwap<Vec<ListenerState>>,
    /// Who may do what over TCP.
    pub access: ArcSwap<AdminAccess>,
    /// TLS of the interface over TCP; `None` for plain text.
    pub tls: ArcSwapOption<ServerConfig>,
    /// The senders of refused requests that were logged lately.
    pub refused: FailureReports,
    /// The queue of commands that only the process itself can carry out.
    pub commands: mpsc::Sender<ControlCommand>,
    /// The jobs that close tunnels.
    pub jobs: Arc<Jobs>,
    /// The number of this process in the sequence of upgrades; 1 if it was not started by an upgrade.
    pub generation: u64,
    /// Older generations that still drain.
    pub generations: Arc<Generations>,
    /// Set while endpoint state is handed to a successor: a change made here would be lost.
    pub handing_over: AtomicBool,
}

impl View {
    /// Refuses a change that the process which is taking over would miss.
    ///
    /// # Errors
    /// [`ApiError`], while endpoint state is handed over.
    pub(super) fn check_stays(&self) -> Result<(), ApiError> {
        match self.handing_over.load(Ordering::Relaxed) {
            true => Err(ApiError::unavailable(
                "a new process is taking over and would miss this change; try again in a moment",
            )),
            false => Ok(()),
        }
    }

    /// Has the workers report what their tunnels carry. While the guard is held, no other reader has them do so:
    /// one reading at a time.
    pub async fn with_current_traffic(&self) -> tokio::sync::MutexGuard<'_, RecurringTrouble> {
        let mut trouble = self.scraping.lock().await;
        if self.workers.publish_traffic(TRAFFIC_TIMEOUT).await {
            trouble.is_over();
        } else if trouble.is_there(Instant::now()) {
            tracing::warn!(
                "worker too busy to report its tunnels' traffic; readers get older values"
            );
        }
        trouble
    }

    /// Which process this is.
    pub fn identity(&self) -> Identity {
        Identity {
            generation: self.generation,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: shown(self.shared.process.began().time()),
        }
    }

    /// What `evict` and `rebalance` need.
    pub fn displacer(&self) -> Displacer {
        Displacer {
            workers: Arc::clone(&self.workers),
            jobs: Arc::clone(&self.jobs),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Replaces the listeners that the interface shows.
    pub fn set_listening(&self, listening: Vec<ListenerState>) {
        let all_drained = !listening.is_empty() && listening.iter().all(|it| it.is_drained);
        self.shared.process.set_all_drained(all_drained);
        self.listening.store(Arc::new(listening));
    }

    /// How many endpoints accept new sessions, and how many there are.
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

/// A configuration as loaded.
pub struct LoadedConfig {
    /// Every file that was read, the configuration file first.
    pub files: Vec<String>,
    /// When it was loaded.
    pub at: SystemTime,
    /// The texts of the configuration file and of those that it includes, which may contain secrets.
    pub sources: Arc<Sources>,
    /// Warnings about it: what is valid but probably not intended.
    pub warnings: Vec<String>,
    /// Changed keys that require a restart.
    pub needs_restart: Vec<&'static str>,
}

impl LoadedConfig {
    /// A warning for each of those keys.
    pub fn restart_warnings(&self) -> impl Iterator<Item = String> {
        let keys = self.needs_restart.iter();
        keys.map(|key| format!("`{key}` has changed, but requires a restart to take effect"))
    }
}

/// Without the text of the file, which may contain secrets.
impl fmt::Debug for LoadedConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadedConfig")
            .field("files", &self.files)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// A configured listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerState {
    /// The name of the listener.
    pub name: Arc<str>,
    /// Its addresses, with real ports in place of 0; as configured while it is drained.
    pub addresses: Vec<String>,
    /// Whether it uses TLS.
    pub tls: bool,
    /// Whether it redirects plain HTTP requests to https.
    pub redirect_to_https: bool,
    /// Whether it limits the rate of WebSocket handshakes.
    pub limits_handshakes: bool,
    /// Whether it limits the rate of plain requests.
    pub limits_requests: bool,
    /// Whether an operator has drained it: then it has no open socket.
    pub is_drained: bool,
}
