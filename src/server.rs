//! The process: start, reload, stop.
//!
//! The control runtime lives on the thread that calls [`run`]: signals, reloads, file watching and
//! name resolution. Workers accept connections and carry the data.

mod acceptor;
mod discovery;
mod health;
mod limits;
mod listeners;
mod mailbox;
mod reload;
mod signals;
mod watch;
mod worker;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use self::discovery::Lookups;
use self::listeners::{ListenError, Listeners};
use self::mailbox::Message;
use self::reload::{Parts, ReloadError, Reloaded, Reloader, fingerprint};
use self::signals::{Signal, Signals};
use self::watch::FileWatch;
use crate::admin::ask::{Asked, Workers};
use crate::admin::http::Server;
use crate::admin::public::{Public, View};
use crate::config::model::{Admin, Bind, Shutdown, Watch};
use crate::config::{self, Report};
use crate::net::admission::Admission;
use crate::observe::counters::Totals;
use crate::observe::logging::{self, Logging};
use crate::observe::metrics;
use crate::observe::recorder::TargetError;
use crate::session::Shared;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::systemd;
use crate::tunnel::ended::Ended;
use crate::upstream::connect::Resolver;

/// Threads that may wait for the system at once, for names and files.
const BLOCKING_THREADS: usize = 4;

/// How often client addresses of which there is nothing to remember are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// What is left to ended tunnels to have their last bytes taken.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A file that does not fit another may be half of a change: how long the other half may take.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

/// How often it is looked at meanwhile.
const SETTLE_STEP: Duration = Duration::from_millis(250);

/// Why the process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has mistakes.
    #[error("{}", .0.one_line())]
    Config(Report),
    /// A listener cannot run.
    #[error("{0}")]
    Listen(String),
    /// An upstream cannot be set up.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// There is nowhere to log to.
    #[error(transparent)]
    AccessLog(#[from] TargetError),
    /// Operators cannot connect.
    #[error("admin: cannot listen on `{0}`: {1}")]
    Admin(Bind, #[source] io::Error),
    /// The system has no thread, event queue or signal handler for us.
    #[error("the system refused: {0}")]
    System(#[from] io::Error),
}

impl From<ListenError> for StartError {
    fn from(error: ListenError) -> Self {
        Self::Listen(error.to_string())
    }
}

/// How the process stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// In order: listeners first, then requests, then tunnels.
    Graceful,
    /// At once, because a second signal asked for it.
    Forced,
}

/// A process that serves.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<(Arc<str>, String)>,
}

impl Running {
    /// Listener and address of every open socket; a port of 0 has become a real one.
    pub fn addresses(&self) -> &[(Arc<str>, String)] {
        &self.addresses
    }
}

/// Serves what the file at `path` says until a signal stops it; calls `ready` when it serves.
///
/// # Errors
/// [`StartError`]; nothing was served then.
pub fn run(path: &Path, ready: impl FnOnce(&Running)) -> Result<Exit, StartError> {
    let loaded = config::load(path).map_err(StartError::Config)?;
    let logging = logging::start(loaded.config.server.log)?;
    log_warnings(&loaded.warnings);
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    control.block_on(async {
        let mut process = Process::start(path, &loaded.config, &logging).await?;
        ready(&Running {
            addresses: process.reloader.listeners().addresses(),
        });
        Ok(process.serve().await)
    })
}

fn log_warnings(warnings: &Report) {
    for warning in warnings.lines() {
        tracing::warn!("{warning}");
    }
}

/// Everything that runs, as the control runtime sees it.
struct Process {
    reloader: Reloader,
    workers: Arc<[mailbox::Handle]>,
    /// What metrics tell of it.
    counted: Arc<metrics::Process>,
    /// Where metrics are served.
    _public: Option<Server>,
    signals: Signals,
    files: FileWatch,
    _checks: health::Checks,
}

impl Process {
    async fn start(
        path: &Path,
        config: &config::model::Config,
        logging: &Logging,
    ) -> Result<Self, StartError> {
        let signals = Signals::install()?;
        let descriptors = limits::raise_descriptors();
        let shared = Arc::new(Shared::new(
            Snapshot::new(config, None)?,
            Resolver::new(Handle::current()),
        ));
        let mut lookups = Lookups::new(Handle::current(), Arc::clone(&shared));
        lookups.begin(&config.upstreams).await;
        let admission = Arc::<Admission>::default();
        let workers: Result<Vec<_>, _> = (0..config.server.workers.get())
            .map(|number| worker::start(number, &shared, &admission))
            .collect();
        let workers: Arc<[mailbox::Handle]> = workers?.into();
        let files = FileWatch::new();
        let target = shared.access_log.open(&config.server.access_log)?;
        shared.access_log.set(target);
        let counted = Arc::<metrics::Process>::default();
        let view = Arc::new(View {
            workers: askable(&workers),
            shared: Arc::clone(&shared),
            admission: Arc::clone(&admission),
            process: Arc::clone(&counted),
            log_dropped: Arc::clone(logging.dropped()),
            scraping: tokio::sync::Mutex::default(),
        });
        let public = serve_metrics(&config.admin, &view)?;
        let listeners = Listeners::new(Arc::clone(&workers), Arc::clone(&admission), descriptors);
        let parts = Parts {
            shared: Arc::clone(&shared),
            listeners,
            lookups,
        };
        let reloader = Reloader::start(path, config, parts).await?;
        counted.certificates.store(reloader.expiries());
        // Only now: afterwards we cannot count our own descriptors any more.
        if !config.server.core_dumps {
            limits::forbid_core_dumps();
        }
        let mut process = Self {
            reloader,
            workers,
            counted,
            _public: public,
            signals,
            files,
            _checks: health::start(&shared),
        };
        process.watch_files();
        process.reloader.known().settle();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            workers = process.workers.len(),
            connections_most = admission.most(),
            "ready"
        );
        systemd::ready(&process.status());
        Ok(process)
    }

    /// Reloads as asked until asked to stop, then stops.
    async fn serve(mut self) -> Exit {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                signal = self.signals.next() => match signal {
                    Signal::Reload => self.reload(Duration::ZERO).await,
                    Signal::Stop => break,
                },
                _ = sweep.tick() => self.sweep(),
                () = self.files.look() => {
                    self.take_endpoints();
                    if fingerprint(self.watched().iter()) != self.taken_of_watched() {
                        self.reload(SETTLES_WITHIN).await;
                    }
                }
            }
        }
        self.stop().await
    }

    /// Forgets what need not be remembered.
    fn sweep(&mut self) {
        self.reloader.listeners().sweep();
        for worker in self.workers.iter() {
            worker.counters.sweep(&self.reloader.snapshot());
        }
    }

    /// Takes what files of endpoints hold now: that is no reason to take the rest of the
    /// configuration, too.
    fn take_endpoints(&mut self) {
        if self.reloader.server().watch != Watch::Off && self.reloader.take_endpoints() {
            // What the files are links to may be elsewhere now.
            self.watch_files();
        }
    }

    /// Reloads; a failure is final once files have had time to settle.
    async fn reload(&mut self, settle: Duration) {
        systemd::reloading();
        self.reloader.reopen_logs();
        let deadline = tokio::time::Instant::now() + settle;
        let result = loop {
            let result = self.reloader.reload().await;
            if result.is_ok() || tokio::time::Instant::now() >= deadline {
                break result;
            }
            tokio::time::sleep(SETTLE_STEP).await;
        };
        self.counted.reloaded(result.is_ok());
        self.counted.certificates.store(self.reloader.expiries());
        match result {
            Ok(Reloaded::Everything) => tracing::info!("reloaded"),
            Ok(Reloaded::Certificates) => tracing::info!("certificates reloaded"),
            Err(error) => report_failure(&error),
        }
        self.watch_files();
        systemd::ready(&self.status());
    }

    /// Listeners first, then requests, then tunnels, as far as the time allows.
    async fn stop(mut self) -> Exit {
        let Shutdown { grace, delay, .. } = self.reloader.server().shutdown;
        let mut signals = std::mem::replace(&mut self.signals, Signals::none());
        tracing::info!(tunnels = self.totals().tunnels_open, ?grace, "draining");
        self.counted.drain();
        systemd::stopping("draining");
        let exit = tokio::select! {
            () = self.drain(delay, grace) => Exit::Graceful,
            () = signals.stop() => Exit::Forced,
        };
        let totals = self.totals();
        tracing::info!(
            connections = totals.connections,
            requests = totals.requests,
            rejections = totals.rejections,
            tunnels = totals.tunnels,
            forced = exit == Exit::Forced,
            "stopped"
        );
        self.reloader.flush_logs();
        exit
    }

    async fn drain(&mut self, delay: Duration, grace: Duration) {
        tokio::time::sleep(delay).await;
        self.reloader.listeners().stop().await;
        let mut done = Vec::with_capacity(self.workers.len());
        for worker in self.workers.iter() {
            let (sender, receiver) = oneshot::channel();
            // A worker that is gone has nothing left to finish.
            if worker.mailbox.send(Message::Finish(sender)).await.is_ok() {
                done.push(receiver);
            }
        }
        let mut all = std::pin::pin!(async {
            for receiver in done {
                let _ = receiver.await;
            }
        });
        if tokio::time::timeout(grace, &mut all).await.is_ok() {
            return;
        }
        self.tell_all(|| Message::EndTunnels(Ended::Shutdown)).await;
        if tokio::time::timeout(LAST_WORDS, &mut all).await.is_ok() {
            return;
        }
        self.tell_all(|| Message::CutTunnels).await;
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            tracing::warn!("some requests did not finish in time");
        }
    }

    async fn tell_all(&self, message: impl Fn() -> Message) {
        for worker in self.workers.iter() {
            // A worker that is gone has nothing to be told.
            let _ = worker.mailbox.send(message()).await;
        }
    }

    /// The files whose changes apply by themselves.
    fn watched(&self) -> Vec<std::path::PathBuf> {
        let mut files: Vec<_> = self.reloader.taken().keys().cloned().collect();
        files.retain(|file| match self.reloader.server().watch {
            Watch::Off => false,
            Watch::Certificates => file != self.reloader.path(),
            Watch::All => true,
        });
        files
    }

    fn taken_of_watched(&self) -> reload::Fingerprint {
        let watched = self.watched();
        let taken = self.reloader.taken();
        watched
            .into_iter()
            .filter_map(|file| {
                taken
                    .get_key_value(&file)
                    .map(|(file, hash)| (file.clone(), *hash))
            })
            .collect()
    }

    fn watch_files(&mut self) {
        let watched = self.watched();
        self.files.set(&watched);
    }

    fn totals(&self) -> Totals {
        Totals::of(self.workers.iter().map(|worker| &*worker.counters))
    }

    fn status(&mut self) -> String {
        let (routes, endpoints) = self.reloader.counts();
        let sockets = self.reloader.listeners().addresses().len();
        format!("listening on {sockets} addresses, {routes} routes, {endpoints} endpoints")
    }
}

fn askable(workers: &[mailbox::Handle]) -> Workers {
    let asked = workers.iter().map(|worker| Asked {
        questions: worker.questions.clone(),
        counters: Arc::clone(&worker.counters),
    });
    Workers::new(asked.collect())
}

fn serve_metrics(admin: &Admin, view: &Arc<View>) -> Result<Option<Server>, StartError> {
    let Some(bind) = &admin.metrics_bind else {
        return Ok(None);
    };
    let server = Server::start(bind, Public(Arc::clone(view)))
        .map_err(|error| StartError::Admin(bind.clone(), error))?;
    tracing::info!(address = server.address, "serving metrics");
    Ok(Some(server))
}

fn report_failure(error: &ReloadError) {
    let ReloadError::Config(report) = error else {
        tracing::error!(%error, "reload failed");
        return;
    };
    for line in report.lines() {
        tracing::error!(error = line, "reload failed");
    }
}
