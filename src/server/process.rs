//! The process as it runs: its parts, and the loop that keeps them up to date.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::errors::ReloadError;
use super::fingerprint::{Fingerprint, fingerprint};
use super::manager::{self, Manager};
use super::operators::Operators;
use super::reload::{Reloaded, Reloader, Source};
use super::signals::{Signal, Signals};
use super::watch::FileWatch;
use super::{Exit, health, mailbox};
use crate::admin::order::Order;
use crate::config::model::Watch;
use crate::displace::periodic::PeriodicTask;
use crate::handover::predecessor::HandedOver;
use crate::observe::process::ProcessStatus;
use crate::systemd;

/// How often client addresses of which there is nothing to remember are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// A file that does not fit another may be half of a change: how long the other half may take.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

/// How often it is looked at meanwhile.
const SETTLE_STEP: Duration = Duration::from_millis(250);

/// Everything that runs, as the control runtime sees it.
pub(super) struct Process {
    pub(super) reloader: Reloader,
    pub(super) workers: Arc<[mailbox::Handle]>,
    /// What metrics tell of it.
    pub(super) counted: Arc<ProcessStatus>,
    pub(super) operators: Operators,
    /// What operators order.
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) signals: Signals,
    pub(super) files: FileWatch,
    /// Its program.
    pub(super) program: PathBuf,
    /// `None` as long as that hears of another process.
    pub(super) manager: Option<Manager>,
    pub(super) _checks: health::Checks,
    pub(super) evict: Option<PeriodicTask>,
    pub(super) _rebalance: PeriodicTask,
}

impl Process {
    /// Reloads as asked until asked to stop, or succeeded by another process; then stops.
    pub(super) async fn serve(mut self) -> Exit {
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
            if let Some(HandedOver { link, .. }) = succeeded {
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
    pub(super) async fn reload(&mut self, from: Source, settle: Duration) {
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
    pub(super) fn reloaded(&mut self, result: &Result<Reloaded, ReloadError>) {
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

    fn taken_of_watched(&self) -> Fingerprint {
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

    pub(super) fn watch_files(&mut self) {
        let watched = self.watched();
        self.files.set(&watched);
    }

    /// How it goes, for the service manager.
    pub(super) fn status(&self) -> String {
        manager::line(self.operators.view())
    }
}

fn report_failure(error: &ReloadError) {
    for line in error.lines() {
        tracing::error!(error = line, "reload failed");
    }
}
