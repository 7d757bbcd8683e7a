//! The beginning of the process: everything that can fail first, then listeners, and then the word that
//! it serves.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::discovery::Lookups;
use super::listeners::Listeners;
use super::manager::Manager;
use super::operators::{self, Doors, Operators};
use super::reload::{Parts, Reloader};
use super::signals::Signals;
use super::succession::{Inheritance, Predecessor};
use super::watch::FileWatch;
use super::{
    BLOCKING_THREADS, Exit, Process, Running, StartError, health, limits, log_warnings, mailbox,
    worker,
};
use crate::admin::generations::Generations;
use crate::admin::order::{ORDERS, Order};
use crate::admin::view::View;
use crate::config::model::Config;
use crate::config::{self, Loaded};
use crate::displace::jobs::Jobs;
use crate::displace::workers::{Asked, Workers};
use crate::displace::{evict, rebalance};
use crate::net::admission::Admission;
use crate::observe::logging::{self, Logging};
use crate::observe::process::ProcessStatus;
use crate::session::Shared;
use crate::snapshot::Snapshot;
use crate::systemd::{self, passed::PassedSockets};
use crate::upstream::connect::Connector;
use crate::upstream::registry::Known;

/// What a process is started with.
pub(super) struct Start<'a> {
    /// The configuration file.
    pub(super) path: &'a Path,
    /// Before anybody puts another one in its place.
    pub(super) program: PathBuf,
    /// What the service manager passes.
    pub(super) passed: PassedSockets,
}

impl Start<'_> {
    /// Serves; calls `ready` when it does.
    pub(super) fn run(
        self,
        predecessor: &mut Option<Predecessor>,
        ready: impl FnOnce(&Running),
    ) -> Result<Exit, StartError> {
        let loaded = config::load(self.path).map_err(StartError::Config)?;
        let logging = logging::start(loaded.config.server.log)?;
        log_warnings(&loaded.warnings);
        let control = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        control.block_on(async {
            let mut process = Process::start(self, &loaded, &logging, predecessor).await?;
            ready(&Running {
                addresses: process.reloader.listeners().addresses(),
            });
            Ok(process.serve().await)
        })
    }
}

/// Where the program was started from: under the name that was given, which may lead to another file by
/// the time of an upgrade, if it leads here now.
pub(super) fn program() -> io::Result<PathBuf> {
    let resolved = std::env::current_exe()?;
    let given = std::env::args_os().next().map(PathBuf::from);
    let candidates = given.into_iter().flat_map(|given| {
        let is_name = given.components().count() == 1;
        let path = std::env::var_os("PATH").filter(|_| is_name);
        let folders: Vec<PathBuf> = path.iter().flat_map(std::env::split_paths).collect();
        let found = folders.into_iter().map({
            let given = given.clone();
            move |folder| folder.join(&given)
        });
        found.chain((!is_name).then_some(given))
    });
    let is_it = |path: &PathBuf| path.canonicalize().is_ok_and(|it| it == resolved);
    let mut candidates = candidates.filter(is_it);
    let found = candidates.next().map(std::path::absolute).transpose()?;
    Ok(found.unwrap_or(resolved))
}

/// What everything else stands on.
struct Ground {
    shared: Arc<Shared>,
    workers: Arc<[mailbox::Handle]>,
    admission: Arc<Admission>,
    lookups: Lookups,
    /// That the process may have.
    descriptors: u64,
}

impl Ground {
    async fn lay(config: &Config, known: Known) -> Result<Self, StartError> {
        let descriptors = limits::raise_descriptors();
        let shared = Arc::new(Shared::new(
            Snapshot::first(config, Arc::new(known))?,
            Connector::new(Handle::current()),
        ));
        let mut lookups = Lookups::new(Handle::current(), Arc::clone(&shared));
        lookups.begin(&config.upstreams).await;
        let admission = Arc::<Admission>::default();
        let workers: Result<Vec<_>, _> = (0..config.server.workers.get())
            .map(|number| worker::start(number, &shared, &admission))
            .collect();
        let target = shared.access_log.open(&config.server.access_log)?;
        shared.access_log.set(target);
        Ok(Self {
            shared,
            workers: workers?.into(),
            admission,
            lookups,
            descriptors,
        })
    }

    /// What operators see of it, and where their orders are heard.
    fn view(
        &self,
        loaded: &Loaded,
        logging: &Logging,
        generation: u64,
    ) -> (Arc<View>, mpsc::Receiver<Order>) {
        let (ordering, orders) = mpsc::channel(ORDERS);
        let workers = Arc::new(askable(&self.workers));
        let view = View {
            jobs: Arc::new(Jobs::new(Arc::clone(&workers))),
            workers,
            shared: Arc::clone(&self.shared),
            admission: Arc::clone(&self.admission),
            process: Arc::<ProcessStatus>::default(),
            log_dropped: Arc::clone(logging.dropped()),
            scraping: tokio::sync::Mutex::default(),
            measuring: tokio::sync::Mutex::default(),
            taken: ArcSwap::from_pointee(operators::taken(loaded)),
            listening: ArcSwap::default(),
            token: ArcSwapOption::empty(),
            orders: ordering,
            generation,
            generations: Arc::<Generations>::default(),
            handing_over: AtomicBool::new(false),
        };
        (Arc::new(view), orders)
    }
}

fn askable(workers: &[mailbox::Handle]) -> Workers {
    let asked = workers.iter().map(|worker| Asked {
        questions: worker.questions.clone(),
        counters: Arc::clone(&worker.counters),
    });
    Workers::new(asked.collect())
}

impl Process {
    /// Begins to serve.
    ///
    /// # Errors
    /// [`StartError`]; then nothing was served.
    async fn start(
        start: Start<'_>,
        loaded: &Loaded,
        logging: &Logging,
        predecessor: &mut Option<Predecessor>,
    ) -> Result<Self, StartError> {
        let config = &loaded.config;
        let mut inheritance = match predecessor {
            Some(predecessor) => predecessor.inherit()?,
            None => Inheritance::of_nobody(start.passed),
        };
        let signals = Signals::install()?;
        let known = inheritance.upstreams.take().map(Known::taken_over);
        let ground = Ground::lay(config, known.unwrap_or_default()).await?;
        let files = FileWatch::new();
        let (view, orders) = ground.view(loaded, logging, inheritance.generation);
        let mut older = inheritance.older();
        let doors = Doors::open(&config.admin, &mut inheritance.before.sockets)?;
        let Ground {
            shared,
            workers,
            admission,
            lookups,
            descriptors,
        } = ground;
        let (passed, before) = (inheritance.passed, inheritance.before);
        let mut listeners = Listeners::new(&workers, &admission, descriptors, passed, before);
        let plan = listeners.plan(&config.listeners)?;
        if let Some(predecessor) = predecessor {
            predecessor.prepared().await?;
        }
        // From here on nothing fails.
        let parts = Parts {
            shared: Arc::clone(&shared),
            listeners,
            lookups,
        };
        let reloader = Reloader::start(start.path, loaded, parts, plan).await;
        let mut process = Self {
            reloader,
            workers,
            counted: Arc::clone(&view.process),
            operators: Operators::serve(doors, Arc::clone(&view)),
            orders,
            signals,
            files,
            program: start.program,
            manager: None,
            _checks: health::start(&shared),
            evict: Some(evict::start(view.displacer())),
            _rebalance: rebalance::start(view.displacer()),
        };
        // Only now: afterwards we cannot count our own descriptors any more.
        if !config.server.core_dumps {
            limits::forbid_core_dumps();
        }
        process.settle();
        if let Some(predecessor) = predecessor.take() {
            older.extend(predecessor.serving().await);
            process.reloader.listeners().keep();
        }
        process.manager = Some(Manager::start(&view));
        view.generations.follow(&view.shared, older);
        tracing::info!(
            generation = view.generation,
            version = env!("CARGO_PKG_VERSION"),
            workers = process.workers.len(),
            connections_most = admission.most(),
            "ready"
        );
        systemd::ready(&process.status());
        Ok(process)
    }

    /// The first configuration is taken.
    fn settle(&mut self) {
        self.operators.tell(&mut self.reloader);
        self.counted.certificates.store(self.reloader.expiries());
        self.watch_files();
        self.reloader.known().settle();
    }
}
