//! The start of the process: first everything that can fail, then the listeners, and then the
//! announcement that it accepts connections.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::admin_servers::{AdminServers, AdminSockets};
use super::blocking::blocking;
use super::errors::StartError;
use super::file_watch::FileWatch;
use super::listeners::Listeners;
use super::process::Process;
use super::reload::{Reloader, ReloaderParts, log_warnings};
use super::shared_parts::Base;
use super::signals::Signals;
use super::watchdog::ServiceNotifier;
use super::{Exit, ServingProcess, health, limits};
use crate::admin::generations::OlderGeneration;
use crate::config::{self, Loaded};
use crate::displace::{evict, rebalance};
use crate::handover::identity::Identity;
use crate::handover::link::Link;
use crate::handover::successor::{Inheritance, Predecessor};
use crate::observe::log::start::{self as logging, Logging};
use crate::session::Shared;
use crate::systemd::{self, passed_sockets::PassedSockets};
use crate::upstream::registry::Registry;
use crate::vital::{self, vital};

/// Maximum number of blocking threads, for name resolution and files.
const BLOCKING_THREADS: usize = 4;

/// The inputs of a start.
pub(super) struct Startup<'a> {
    /// The configuration file.
    pub(super) path: &'a Path,
    /// The path of the program, found before another file can take its place.
    pub(super) program: PathBuf,
    /// Sockets that the service manager passed.
    pub(super) passed: PassedSockets,
}

impl Startup<'_> {
    /// Runs the process to its end; calls `ready` once it accepts connections.
    pub(super) fn run(
        self,
        predecessor: &mut Option<Predecessor>,
        ready: impl FnOnce(&ServingProcess),
    ) -> Result<Exit, StartError> {
        let loaded = config::load(self.path).map_err(StartError::Config)?;
        let logging = logging::start(loaded.config.server.log)?;
        log_warnings(&loaded.warnings);
        let control = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        control.block_on(vital("control", async {
            let mut process = Process::start(self, &loaded, &logging, predecessor).await?;
            ready(&ServingProcess {
                addresses: process.reloader.listeners().addresses(),
            });
            Ok(process.serve().await)
        }))
    }
}

impl Process {
    /// Starts the process.
    ///
    /// # Errors
    /// [`StartError`]: no connection was accepted.
    async fn start(
        start: Startup<'_>,
        loaded: &Loaded,
        logging: &Logging,
        predecessor: &mut Option<Predecessor>,
    ) -> Result<Self, StartError> {
        let config = &loaded.config;
        let mut inheritance = match predecessor {
            Some(predecessor) => predecessor.inherit().map_err(StartError::Succession)?,
            None => Inheritance::without_predecessor(start.passed),
        };
        // Early: a signal during a slow start waits for its end, instead of killing the process.
        let signals = Signals::install()?;
        let registry = inheritance.upstreams.take().map(Registry::from_predecessor);
        let base = Base::build(config, registry.unwrap_or_default()).await?;
        flush_logs_on_panic(&base.shared, logging);
        let files = FileWatch::new();
        let (view, orders) = base.view(loaded, logging, inheritance.generation);
        let older = inheritance.older();
        let admin_sockets = AdminSockets::open(&config.admin, &mut inheritance.listeners.sockets)?;
        let Base {
            shared,
            workers,
            admission,
            lookups,
            descriptors,
        } = base;
        let (passed, inherited) = (inheritance.passed, inheritance.listeners);
        let mut listeners = Listeners::new(&workers, &admission, descriptors, passed, inherited);
        // Binds everything but accepts nothing: the predecessor still serves the same addresses.
        let plan = listeners.plan(&config.listeners)?;
        prepared(predecessor).await?;
        // Nothing fails from here on: the predecessor has given its permission.
        let parts = ReloaderParts {
            shared: Arc::clone(&shared),
            listeners,
            lookups,
        };
        let reloader = Reloader::start(start.path, loaded, parts, plan).await;
        let mut process = Self {
            reloader,
            workers,
            process_status: Arc::clone(&view.process),
            admin: AdminServers::serve(admin_sockets, Arc::clone(&view)),
            orders,
            signals,
            file_watch: files,
            program: start.program,
            notifier: None,
            _health_checks: health::start(&shared),
            evict: Some(evict::start(view.displacer())),
            _rebalance: rebalance::start(view.displacer()),
        };
        // Only after listeners have counted open descriptors: a process that is not dumpable cannot read
        // its own `/proc/self/fd`.
        if !config.server.core_dumps {
            limits::forbid_core_dumps();
        }
        process.begin(predecessor.take(), older).await;
        Ok(process)
    }

    /// Takes over from the predecessor, if there is one, and announces that this process is the service.
    async fn begin(&mut self, predecessor: Option<Predecessor>, mut older: Vec<(Identity, Link)>) {
        self.settle();
        if let Some(predecessor) = predecessor {
            older.extend(take_over(predecessor).await);
            // Only now does systemd listen to this process.
            self.reloader.listeners().keep();
        }
        let view = Arc::clone(self.admin.view());
        // After the handover: until then the watchdog is the predecessor's.
        self.notifier = Some(ServiceNotifier::start(&view));
        let older = older.into_iter();
        let older = older.map(|(identity, link)| OlderGeneration::new(identity, link));
        view.generations.follow(&view.shared, older.collect());
        tracing::info!(
            generation = view.generation,
            version = env!("CARGO_PKG_VERSION"),
            workers = self.workers.len(),
            max_connections = view.admission.limit(),
            "ready"
        );
        systemd::ready(&self.status());
    }

    /// Publishes the first configuration, and watches its files.
    fn settle(&mut self) {
        self.admin.publish(&mut self.reloader);
        self.process_status
            .certificates
            .store(self.reloader.expiries());
        self.watch_files();
        self.reloader.registry().settle();
    }
}

/// A panic that ends the process must not take the last lines of the logs with it.
fn flush_logs_on_panic(shared: &Arc<Shared>, logging: &Logging) {
    let (shared, log) = (Arc::clone(shared), logging.lines().clone());
    vital::flush_logs_with(move || {
        shared.access_log.flush();
        log.flush();
    });
}

/// Everything that can fail is done: waits for the predecessor's permission to accept, if there is one.
async fn prepared(predecessor: &mut Option<Predecessor>) -> Result<(), StartError> {
    let Some(waiting) = predecessor.take() else {
        return Ok(());
    };
    let (waiting, answered) = step(waiting, Predecessor::prepared).await;
    *predecessor = Some(waiting);
    answered.map_err(StartError::Succession)
}

/// This process accepts connections: waits until the predecessor has stopped. From then on that is an
/// older generation; `None` if it is gone already.
async fn take_over(predecessor: Predecessor) -> Option<(Identity, Link)> {
    let (predecessor, answered) = step(predecessor, Predecessor::serving).await;
    if let Err(error) = answered {
        // Not fatal: this process accepts connections, and the predecessor is most likely gone.
        tracing::warn!(%error, "no confirmation from the previous process that it stopped accepting");
    }
    systemd::unmute();
    predecessor.into_older()
}

/// Takes one step of the handover on a blocking thread.
async fn step(
    predecessor: Predecessor,
    step: fn(&Predecessor) -> io::Result<()>,
) -> (Predecessor, io::Result<()>) {
    blocking(move || {
        let answered = step(&predecessor);
        (predecessor, answered)
    })
    .await
}
