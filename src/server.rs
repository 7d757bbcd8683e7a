//! The process: start, reload, stop.
//!
//! The control runtime lives on the thread that calls [`run`]: signals, reloads, file watching and
//! name resolution. Workers accept connections and carry the data.

mod acceptor;
mod aftermath;
mod discovery;
mod health;
mod limits;
mod listeners;
mod mailbox;
mod manager;
mod operators;
mod reload;
mod signals;
mod watch;
mod worker;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use self::discovery::Lookups;
use self::listeners::{ListenError, Listeners};
use self::mailbox::Message;
use self::manager::Manager;
use self::operators::Operators;
use self::reload::{Parts, ReloadError, Reloaded, Reloader, Source, fingerprint};
use self::signals::{Signal, Signals};
use self::watch::FileWatch;
use crate::admin::api::fault::Fault;
use crate::admin::ask::{Asked, Workers};
use crate::admin::jobs::{self, Closing, Job, Jobs, Speed};
use crate::admin::order::{self, Order};
use crate::admin::plan::{self, Guard, Live, Plan};
use crate::admin::view::View;
use crate::config::model::{Bind, Order as Which, Pace, Shutdown, Watch};
use crate::config::{self, Loaded, Report};
use crate::net::admission::Admission;
use crate::observe::counters::Totals;
use crate::observe::logging::{self, Logging};
use crate::observe::metrics;
use crate::observe::recorder::TargetError;
use crate::session::Shared;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::systemd::{self, passed::PassedSockets};
use crate::tunnel::ended::{Ended, Words};
use crate::upstream::connect::Resolver;

/// Threads that may wait for the system at once, for names and files.
const BLOCKING_THREADS: usize = 4;

/// How often client addresses of which there is nothing to remember are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// What is left to ended tunnels to have their last bytes taken.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The share of the grace over which tunnels are closed; the rest is for their last words.
const CLOSING_SHARE: f64 = 0.9;

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
    // Before there is any other thread.
    let passed = PassedSockets::take();
    let loaded = config::load(path).map_err(StartError::Config)?;
    let logging = logging::start(loaded.config.server.log)?;
    log_warnings(&loaded.warnings);
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    control.block_on(async {
        let mut process = Process::start(path, &loaded, &logging, passed).await?;
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
    operators: Operators,
    /// What operators order.
    orders: mpsc::Receiver<Order>,
    signals: Signals,
    files: FileWatch,
    _manager: Manager,
    _checks: health::Checks,
    aftermath: Option<aftermath::Looking>,
}

impl Process {
    async fn start(
        path: &Path,
        loaded: &Loaded,
        logging: &Logging,
        passed: PassedSockets,
    ) -> Result<Self, StartError> {
        let config = &loaded.config;
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
        let (ordering, orders) = operators::orders();
        let view = Arc::new(View {
            workers: askable(&workers),
            shared: Arc::clone(&shared),
            admission: Arc::clone(&admission),
            process: Arc::clone(&counted),
            log_dropped: Arc::clone(logging.dropped()),
            scraping: tokio::sync::Mutex::default(),
            measuring: tokio::sync::Mutex::default(),
            taken: ArcSwap::from_pointee(operators::taken(loaded)),
            listening: ArcSwap::default(),
            token: ArcSwapOption::empty(),
            orders: ordering,
            jobs: Jobs::default(),
        });
        let operators = Operators::serve(&config.admin, Arc::clone(&view))?;
        let parts = Parts {
            shared: Arc::clone(&shared),
            listeners: Listeners::new(&workers, &admission, descriptors, passed),
            lookups,
        };
        let mut reloader = Reloader::start(path, loaded, parts).await?;
        operators.tell(&mut reloader);
        counted.certificates.store(reloader.expiries());
        // Only now: afterwards we cannot count our own descriptors any more.
        if !config.server.core_dumps {
            limits::forbid_core_dumps();
        }
        let mut process = Self {
            reloader,
            workers,
            counted,
            operators,
            orders,
            signals,
            files,
            _manager: Manager::start(&view),
            _checks: health::start(&shared),
            aftermath: Some(aftermath::start(&view)),
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
                    Signal::Reload => self.reload(Source::File, Duration::ZERO).await,
                    Signal::Stop => break,
                },
                Some(order) = self.orders.recv() => self.obey(order).await,
                _ = sweep.tick() => self.sweep(),
                () = self.files.look() => {
                    self.take_endpoints();
                    if fingerprint(self.watched().iter()) != self.taken_of_watched() {
                        self.reload(self.watched_source(), SETTLES_WITHIN).await;
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
    async fn reload(&mut self, from: Source, settle: Duration) {
        systemd::reloading();
        self.reloader.reopen_logs();
        let deadline = tokio::time::Instant::now() + settle;
        let result = loop {
            let result = self.reloader.reload(from).await;
            if result.is_ok() || tokio::time::Instant::now() >= deadline {
                break result;
            }
            tokio::time::sleep(SETTLE_STEP).await;
        };
        self.reloaded(&result);
    }

    /// Files that changed apply by themselves; the configuration file only where it is watched, too.
    fn watched_source(&self) -> Source {
        match self.reloader.server().watch {
            Watch::All => Source::File,
            Watch::Certificates | Watch::Off => Source::Taken,
        }
    }

    /// Tells what came of a reload.
    fn reloaded(&mut self, result: &Result<Reloaded, ReloadError>) {
        let fault = result.as_ref().err().map(ReloadError::lines);
        self.counted.reloaded(fault.unwrap_or_default());
        self.counted.certificates.store(self.reloader.expiries());
        match result {
            Ok(Reloaded::Everything) => tracing::info!("reloaded"),
            Ok(Reloaded::Certificates) => tracing::info!("certificates reloaded"),
            Err(error) => report_failure(error),
        }
        self.operators.tell(&mut self.reloader);
        self.watch_files();
        systemd::ready(&self.status());
    }

    /// Does what an operator orders. Whoever ordered it may have stopped waiting.
    async fn obey(&mut self, order: Order) {
        match order {
            Order::Plan(done) => {
                let loaded = self.reloader.load(Source::File).await;
                let planned = loaded.map(|loaded| self.plan(&loaded));
                let _ = done.send(planned.map_err(|error| not_taken(&error)));
            }
            Order::Reload(guard, done) => {
                let _ = done.send(self.reload_if(guard).await);
            }
        }
    }

    /// Reloads, if that displaces no more tunnels than it may.
    async fn reload_if(&mut self, guard: Guard) -> Result<order::Reloaded, Fault> {
        systemd::reloading();
        self.reloader.reopen_logs();
        let result = match self.reloader.load(Source::File).await {
            Ok(loaded) => {
                if let Err(fault) = guard.check(&self.plan(&loaded)) {
                    tracing::warn!(error = %fault, "reload refused");
                    systemd::ready(&self.status());
                    return Err(fault);
                }
                self.reloader.take(loaded, Source::File).await
            }
            Err(error) => Err(error),
        };
        self.reloaded(&result);
        let done = result.map_err(|error| not_taken(&error))?;
        let taken = self.reloader.taken_whole();
        let waiting = taken.at_next_start.iter();
        let waiting =
            waiting.map(|it| format!("a change of `{it}` takes effect at the next start"));
        Ok(order::Reloaded {
            certificates_only: done == Reloaded::Certificates,
            warnings: taken.warnings.iter().cloned().chain(waiting).collect(),
        })
    }

    fn plan(&self, loaded: &Loaded) -> Plan {
        let counters = self
            .workers
            .iter()
            .map(|worker| Arc::clone(&worker.counters));
        let live = Live::of(&counters.collect::<Vec<_>>());
        let files = self.reloader.changed_files(&loaded.config);
        let running = plan::Running {
            source: &self.reloader.taken_whole().source,
            snapshot: &self.reloader.snapshot(),
            live: &live,
        };
        plan::plan(loaded, files, &running)
    }

    /// Listeners first, then requests, then tunnels, as far as the time allows.
    async fn stop(mut self) -> Exit {
        let shutdown = self.reloader.server().shutdown;
        let grace = shutdown.grace;
        let mut signals = std::mem::replace(&mut self.signals, Signals::none());
        tracing::info!(tunnels = self.totals().tunnels_open, ?grace, "draining");
        // Whoever waits for one is told that there is none any more.
        self.orders.close();
        while self.orders.try_recv().is_ok() {}
        self.counted.drain();
        systemd::stopping("draining");
        let exit = tokio::select! {
            () = self.drain(shutdown) => Exit::Graceful,
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

    async fn drain(&mut self, shutdown: Shutdown) {
        let Shutdown { grace, delay, .. } = shutdown;
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
        let closing = self.close_evenly(shutdown).await;
        let mut all = std::pin::pin!(async {
            for receiver in done {
                let _ = receiver.await;
            }
        });
        if tokio::time::timeout(grace, &mut all).await.is_ok() {
            return;
        }
        // Those that came too late for that, and those that could not be told yet.
        closing.iter().for_each(|job| job.stop());
        self.tell_all(|| Message::EndTunnels(Ended::Shutdown)).await;
        if tokio::time::timeout(LAST_WORDS, &mut all).await.is_ok() {
            return;
        }
        self.tell_all(|| Message::CutTunnels).await;
        if tokio::time::timeout(LAST_WORDS, all).await.is_err() {
            tracing::warn!("some requests did not finish in time");
        }
    }

    /// Begins to close the tunnels that there are, spread over the time that they have: clients that
    /// come back then do not all do so at once.
    async fn close_evenly(&mut self, shutdown: Shutdown) -> Option<Arc<Job>> {
        // What endpoints do meanwhile no longer matters.
        self.aftermath = None;
        let view = self.operators.view();
        let chosen = jobs::choose(view, &Arc::default(), Which::Random)
            .await
            .ok()?;
        let closing = Closing {
            what: "all tunnels".to_owned(),
            speed: Speed::Paced(Pace::Over(shutdown.grace.mul_f64(CLOSING_SHARE))),
            words: Words {
                code: shutdown.close_code,
                ..Words::of(Ended::Shutdown)
            },
        };
        view.jobs.begin(view, chosen, closing).ok()
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

    /// How it goes, for the service manager.
    fn status(&self) -> String {
        manager::line(self.operators.view())
    }
}

fn askable(workers: &[mailbox::Handle]) -> Workers {
    let asked = workers.iter().map(|worker| Asked {
        questions: worker.questions.clone(),
        counters: Arc::clone(&worker.counters),
    });
    Workers::new(asked.collect())
}

fn report_failure(error: &ReloadError) {
    for line in error.lines() {
        tracing::error!(error = line, "reload failed");
    }
}

fn not_taken(error: &ReloadError) -> Fault {
    Fault::conflict("the configuration is not taken; what ran before runs on").with(error.lines())
}
