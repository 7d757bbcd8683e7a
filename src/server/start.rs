//! The start of the process: first everything that can fail, then the listeners, and then the
//! announcement that it accepts connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::admin_servers::{AdminServers, AdminSockets};
use super::blocking::blocking;
use super::certificates::ExpiryWarnings;
use super::errors::StartError;
use super::file_watch::FileWatch;
use super::key_sharing::{KeySharing, KeySharingConfig};
use super::listeners::{ListenerParts, Listeners};
use super::process::Process;
use super::reload::{Reloader, ReloaderParts, log_warnings};
use super::shared_parts::Base;
use super::signals::Signals;
use super::takeover::Takeover;
use super::watchdog::ServiceNotifier;
use super::{Exit, fleet_load, health, limits, memory, route_probes};
use crate::admin::generations::OlderGeneration;
use crate::auth::key_keepers::KeyKeepers;
use crate::config::model::Config;
use crate::config::{self, Loaded};
use crate::displace::{evict, rebalance};
use crate::fleet::membership::{Membership, ProcessStart};
use crate::handover::identity::{Identity, shown};
use crate::handover::link::Link;
use crate::handover::successor::{Inheritance, LeavingPredecessor, Predecessor};
use crate::net::tls;
use crate::observe::log::start::{self as logging, Logging};
use crate::quota::shared::SharedLimits;
use crate::session::Shared;
use crate::systemd::{self, passed_sockets::PassedSockets};
use crate::traces::exporter::SpanExporter;
use crate::upstream::registry::Registry;
use crate::vital::{self, vital};

/// Maximum number of blocking threads, for files and the steps of a handover.
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
    /// Runs the process to its end.
    pub(super) fn run(self, predecessor: &mut Option<Predecessor>) -> Result<Exit, StartError> {
        let loaded = config::load(self.path).map_err(StartError::Config)?;
        let logging = logging::start(loaded.config.server.log)?;
        log_warnings(&loaded.warnings);
        let control = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let exit = control.block_on(vital("control", async {
            let process = Process::start(self, &loaded, &logging, predecessor).await?;
            Ok(process.serve().await)
        }));
        // Without waiting for threads that hang in a call of the system.
        control.shutdown_background();
        exit
    }
}

/// What the predecessor hands over, or what there is without one.
fn inherit(
    predecessor: &mut Option<Predecessor>,
    passed: PassedSockets,
) -> Result<Inheritance, StartError> {
    match predecessor {
        Some(predecessor) => predecessor.inherit().map_err(StartError::Succession),
        None => Ok(Inheritance::without_predecessor(passed)),
    }
}

/// The base of the process, with the state of the predecessor.
async fn base(
    config: &Config,
    inheritance: &mut Inheritance,
    has_predecessor: bool,
) -> Result<Base, StartError> {
    let registry = inheritance.upstreams.take().map(Registry::from_predecessor);
    let registry = registry.unwrap_or_default();
    let limits = SharedLimits::new(std::mem::take(&mut inheritance.limits));
    let base = Base::build(config, registry, limits, has_predecessor).await?;
    if let Some(revocations) = inheritance.revocations.take() {
        base.shared.revocations.take_over(revocations);
    }
    Ok(base)
}

/// What listeners serve with.
fn serving(base: &Base) -> ListenerParts<'_> {
    ListenerParts {
        workers: &base.workers,
        managed: &base.shared.managed,
        admission: &base.admission,
    }
}

/// Those who keep the keys of issuers; they do nothing yet.
fn key_keepers(shared: &Shared) -> KeyKeepers {
    let connector = shared.connector.clone();
    KeyKeepers::new(Handle::current(), connector, &shared.services)
}

/// The keys that nodes share, as far as the store can be read now.
async fn key_sharing(base: &Base, config: &Config, inheritance: &mut Inheritance) -> KeySharing {
    let stores = base.keepers.stores();
    let handed = std::mem::take(&mut inheritance.shared_keys);
    let mut key_sharing = KeySharing::new(Handle::current(), stores, handed);
    base.shared.fleet.keys.show(key_sharing.watched());
    key_sharing.apply(KeySharingConfig::of(config).as_ref());
    key_sharing.first().await;
    key_sharing
}

/// What sends spans; it does nothing yet.
fn span_exporter(shared: &Shared) -> SpanExporter {
    let connector = shared.connector.clone();
    SpanExporter::new(
        Handle::current(),
        connector,
        &shared.services,
        &shared.spans,
    )
}

/// This node in its fleet, where it is not listed yet. Another node with its name is in the way, unless this process
/// takes over from one that has the name.
async fn membership(
    base: &Base,
    config: &Config,
    inheritance: &mut Inheritance,
    has_predecessor: bool,
) -> Result<Membership, StartError> {
    let (shared, stores) = (&base.shared, base.keepers.stores());
    let start = ProcessStart {
        instance: inheritance.fleet_instance.take(),
        generation: inheritance.generation,
        started: shown(shared.process.began().time()).into(),
    };
    let membership = Membership::new(
        shared.connector.clone(),
        &shared.services,
        &shared.fleet,
        stores,
        start,
    );
    if !has_predecessor {
        membership.check_name(config).await?;
    }
    Ok(membership)
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
        // First: a signal during a slow start waits for its end, instead of killing the process.
        let mut signals = Signals::install()?;
        let mut inheritance = inherit(predecessor, start.passed)?;
        let base = base(config, &mut inheritance, predecessor.is_some()).await?;
        let follows = predecessor.is_some();
        let membership = membership(&base, config, &mut inheritance, follows).await?;
        let mut key_sharing = key_sharing(&base, config, &mut inheritance).await;
        flush_logs_on_panic(&base.shared, logging);
        signals.set_access_log(&base.shared.access_log);
        let files = FileWatch::new();
        let (view, orders) = base.view(loaded, logging, inheritance.generation);
        let older = inheritance.older();
        let admin_tls = tls::admin(config.admin.tls.as_ref())?;
        let places = &loaded.bind_places;
        let admin_sockets = AdminSockets::open(&config.admin, &mut inheritance.listeners.sockets)
            .map_err(|error| error.located(places))?;
        let (passed, inherited) = (inheritance.passed, inheritance.listeners);
        let (shared, workers) = (&base.shared, &base.workers);
        let serving = serving(&base);
        let mut listeners = Listeners::new(serving, base.descriptors, passed, inherited);
        key_sharing.use_keys(&shared.snapshot.load(), &mut listeners);
        // Binds everything but accepts nothing: the predecessor still serves the same addresses.
        let plan = listeners.plan(&config.listeners);
        let plan = plan.map_err(|error| error.located(places))?;
        prepared(predecessor).await?;
        let memory = memory::start(shared, &view.workers);
        // Nothing fails from here on: the predecessor has given its permission.
        let parts = ReloaderParts {
            shared: Arc::clone(shared),
            listeners,
            lookups: base.lookups,
            admin_tls,
        };
        let reloader = Reloader::start(start.path, loaded, parts, plan).await;
        let mut process = Self {
            reloader,
            workers: Arc::clone(workers),
            process_status: Arc::clone(&view.shared.process),
            admin: AdminServers::new(admin_sockets, Arc::clone(&view)),
            orders,
            certificate_changes: base.keepers.changes(),
            keepers: base.keepers,
            key_keepers: key_keepers(shared),
            span_exporter: span_exporter(shared),
            membership,
            key_sharing,
            trials: JoinSet::new(),
            revoking: JoinSet::new(),
            expiry_warnings: ExpiryWarnings::default(),
            signals,
            file_watch: files,
            program: start.program,
            upgrade: None,
            rejected: None,
            takeover: None,
            stops_with_predecessor: false,
            notifier: None,
            _health_checks: health::start(shared),
            probes: Some(route_probes::start(shared)),
            evict: Some(evict::start(view.displacer())),
            _rebalance: rebalance::start(view.displacer()),
            _memory: memory,
        };
        // Only after listeners have counted open descriptors: a process that is not dumpable cannot read
        // its own `/proc/self/fd`.
        if !config.server.core_dumps {
            limits::forbid_core_dumps();
        }
        process.publish_first().await;
        process.take_over(predecessor.take(), older).await;
        Ok(process)
    }

    /// Reports to the predecessor that this process accepts connections; without one, begins at once.
    pub(super) async fn take_over(
        &mut self,
        predecessor: Option<Predecessor>,
        older: Vec<(Identity, Link)>,
    ) {
        let mut takeover = Takeover::start(predecessor, older);
        let is_settling = takeover.predecessor.is_some();
        if self.reloader.listeners().leaves_sockets() {
            takeover.ask_to_leave().await;
        }
        self.takeover = Some(takeover);
        if !is_settling {
            self.begin().await;
        }
    }

    /// Has the predecessor leave now, and begins.
    pub(super) async fn end_settling(&mut self) {
        if let Some(takeover) = &mut self.takeover {
            takeover.ask_to_leave().await;
            self.stops_with_predecessor |= takeover.is_over().await;
            self.begin().await;
        }
    }

    /// The predecessor, if there was one, has left: announces that this process is the service.
    pub(super) async fn begin(&mut self) {
        let Some(takeover) = self.takeover.take() else {
            return;
        };
        let mut older = takeover.older;
        let predecessor = takeover.predecessor;
        older.extend(predecessor.and_then(LeavingPredecessor::into_older));
        // Only now does systemd listen to this process.
        systemd::unmute();
        self.reloader.listeners().own();
        self.admin.open();
        // Not before: until then, the predecessor keeps them.
        self.keep_certificates();
        let view = Arc::clone(self.admin.view());
        self.membership.publish(fleet_load::source(&view));
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
    async fn publish_first(&mut self) {
        // At once: this process may get clients while its predecessor has not left.
        self.ask_services();
        self.admin.publish(&mut self.reloader);
        self.publish_certificates();
        self.watch_files().await;
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
    let (waiting, answered) = blocking(move || {
        let answered = waiting.prepared();
        (waiting, answered)
    })
    .await;
    *predecessor = Some(waiting);
    answered.map_err(StartError::Succession)
}
