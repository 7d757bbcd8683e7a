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
mod manager;
mod operators;
mod reload;
mod signals;
mod start;
mod stop;
mod succession;
mod upgrade;
mod watch;
mod worker;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use self::listeners::{ListenError, SteerError};
use self::manager::Manager;
use self::operators::Operators;
use self::reload::{ReloadError, Reloaded, Reloader, Source, fingerprint};
use self::signals::{Signal, Signals};
use self::start::Start;
use self::succession::Predecessor;
use self::upgrade::Succeeded;
use self::watch::FileWatch;
use crate::admin::fault::Fault;
use crate::admin::order::{self, Order, Steer};
use crate::admin::plan::{self, Guard, Plan};
use crate::config::model::{Bind, Watch};
use crate::config::{Loaded, Report};
use crate::displace::live::Live;
use crate::displace::periodic::PeriodicTask;
use crate::observe::process::ProcessStatus;
use crate::observe::recorder::TargetError;
use crate::snapshot::SnapshotError;
use crate::systemd::{self, passed::PassedSockets};

/// Threads that may wait for the system at once, for names and files.
const BLOCKING_THREADS: usize = 4;

/// How often client addresses of which there is nothing to remember are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

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
    /// It was to succeed another process, and that does not hand over.
    #[error("the process before does not hand over: {0}")]
    Succession(#[source] io::Error),
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
    let program = start::program()?;
    let mut predecessor = Predecessor::find()?;
    let started = Start {
        path,
        program,
        passed,
    };
    let result = started.run(&mut predecessor, ready);
    if let (Err(error), Some(predecessor)) = (&result, &predecessor) {
        predecessor.failed(error);
    }
    result
}

/// Does what may wait for the system somewhere else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
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
    counted: Arc<ProcessStatus>,
    operators: Operators,
    /// What operators order.
    orders: mpsc::Receiver<Order>,
    signals: Signals,
    files: FileWatch,
    /// Its program.
    program: PathBuf,
    /// `None` as long as that hears of another process.
    manager: Option<Manager>,
    _checks: health::Checks,
    evict: Option<PeriodicTask>,
    _rebalance: PeriodicTask,
}

impl Process {
    /// Reloads as asked until asked to stop, or succeeded by another process; then stops.
    async fn serve(mut self) -> Exit {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            let mut succeeded = None;
            tokio::select! {
                signal = self.signals.next() => match signal {
                    Signal::Reload => self.reload(Source::File, Duration::ZERO).await,
                    Signal::Upgrade => succeeded = self.upgrade(None).await.ok(),
                    Signal::Stop => return self.stop().await,
                },
                Some(order) = self.orders.recv() => succeeded = self.obey(order).await,
                _ = sweep.tick() => self.sweep(),
                () = self.files.look() => {
                    self.take_endpoints();
                    if fingerprint(self.watched().iter()) != self.taken_of_watched() {
                        self.reload(self.watched_source(), SETTLES_WITHIN).await;
                    }
                }
            }
            if let Some(Succeeded { link, .. }) = succeeded {
                return self.retire(link).await;
            }
        }
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
    async fn obey(&mut self, order: Order) -> Option<Succeeded> {
        match order {
            Order::Plan(done) => {
                let loaded = self.reloader.load(Source::File).await;
                let planned = loaded.map(|loaded| self.plan(&loaded));
                let _ = done.send(planned.map_err(|error| not_taken(&error)));
            }
            Order::Reload(guard, done) => {
                let _ = done.send(self.reload_if(guard).await);
            }
            // Whoever has been told that it takes too long must not be surprised.
            Order::Listener(_, done) if done.is_closed() => {}
            Order::Upgrade(_, done) if done.is_closed() => {}
            Order::Listener(steer, done) => {
                let _ = done.send(self.steer_listener(&steer).await);
            }
            Order::Upgrade(binary, done) => {
                let upgraded = self.upgrade(binary).await;
                let answer = upgraded.as_ref().map(|it| it.by.clone());
                let _ = done.send(answer.map_err(Clone::clone));
                return upgraded.ok();
            }
        }
        None
    }

    /// Takes a listener out, or puts it back.
    async fn steer_listener(&mut self, steer: &Steer) -> Result<(), Fault> {
        let Steer {
            listener,
            is_drained,
        } = steer;
        let listeners = self.reloader.listeners();
        let done = match is_drained {
            true => listeners.drain_one(listener).await,
            false => listeners.undrain_one(listener).await,
        };
        done.map_err(|error| match error {
            SteerError::Unknown { .. } => Fault::unknown(error.to_string()),
            SteerError::Passed(_) => Fault::conflict(error.to_string()),
            SteerError::Listen(_) => Fault::conflict(format!("it stays out: {error}")),
        })?;
        match is_drained {
            true => tracing::info!(listener, "listener drained by an operator"),
            false => tracing::info!(listener, "listener put back by an operator"),
        }
        self.operators.tell(&mut self.reloader);
        Ok(())
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
        let waiting = taken.waiting();
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
            at_next_start: &self.reloader.at_next_start(&loaded.config),
        };
        plan::plan(loaded, files, &running)
    }

    /// The files whose changes apply by themselves.
    fn watched(&self) -> Vec<PathBuf> {
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

    /// How it goes, for the service manager.
    fn status(&self) -> String {
        manager::line(self.operators.view())
    }
}

fn report_failure(error: &ReloadError) {
    for line in error.lines() {
        tracing::error!(error = line, "reload failed");
    }
}

fn not_taken(error: &ReloadError) -> Fault {
    Fault::conflict("the configuration is not taken; what ran before runs on").with(error.lines())
}
