//! The process as it runs: its parts, and the loop that keeps them up to date.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::admin_servers::AdminServers;
use super::errors::ReloadError;
use super::fingerprint::{Fingerprint, fingerprint};
use super::reload::{ReloadOutcome, Reloader, Source};
use super::signals::{Signal, Signals};
use super::watch::FileWatch;
use super::watchdog::{self, ServiceNotifier};
use super::{Exit, health, mailbox};
use crate::admin::command::ControlCommand;
use crate::config::model::WatchedFiles;
use crate::displace::periodic::PeriodicTask;
use crate::handover::predecessor::HandedOver;
use crate::observe::process::ProcessStatus;
use crate::systemd;

/// How often client addresses of which there is nothing to remember are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// A file that does not fit another may be half of a change: how long the other half may take.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is looked at meanwhile.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);

/// Everything that runs, as the control runtime sees it.
pub(super) struct Process {
    pub(super) reloader: Reloader,
    pub(super) workers: Arc<[mailbox::WorkerHandle]>,
    /// What metrics tell of it.
    pub(super) process_status: Arc<ProcessStatus>,
    pub(super) admin: AdminServers,
    /// What operators order.
    pub(super) orders: mpsc::Receiver<ControlCommand>,
    pub(super) signals: Signals,
    pub(super) file_watch: FileWatch,
    /// Its program.
    pub(super) program: PathBuf,
    /// `None` as long as that hears of another process.
    pub(super) notifier: Option<ServiceNotifier>,
    pub(super) _health_checks: health::HealthCheckTask,
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
                Some(order) = self.orders.recv() => succeeded = self.execute(order).await,
                _ = sweep.tick() => self.sweep(),
                () = self.file_watch.look() => {
                    self.apply_endpoint_files();
                    if fingerprint(self.watched().iter()) != self.watched_fingerprint() {
                        self.reload(self.watched_source(), SETTLE_TIMEOUT).await;
                    }
                }
            }
            if let Some(HandedOver { link, .. }) = succeeded {
                return self.drain_for_successor(link).await;
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
    fn apply_endpoint_files(&mut self) {
        if self.reloader.server().watch != WatchedFiles::Off && self.reloader.apply_endpoint_files()
        {
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
            tokio::time::sleep(SETTLE_INTERVAL).await;
        };
        self.reloaded(&result);
    }

    /// Files that changed apply by themselves; the configuration file only where it is watched, too.
    fn watched_source(&self) -> Source {
        match self.reloader.server().watch {
            WatchedFiles::All => Source::File,
            WatchedFiles::Certificates | WatchedFiles::Off => Source::Effective,
        }
    }

    /// Tells what came of a reload.
    pub(super) fn reloaded(&mut self, result: &Result<ReloadOutcome, ReloadError>) {
        let fault = result.as_ref().err().map(ReloadError::lines);
        self.process_status.reloaded(fault.unwrap_or_default());
        self.process_status
            .certificates
            .store(self.reloader.expiries());
        match result {
            Ok(ReloadOutcome::Everything) => tracing::info!("reloaded"),
            Ok(ReloadOutcome::Certificates) => tracing::info!("certificates reloaded"),
            Err(error) => report_failure(error),
        }
        self.admin.publish(&mut self.reloader);
        self.watch_files();
        systemd::ready(&self.status());
    }

    /// The files whose changes apply by themselves.
    fn watched(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self.reloader.fingerprint().keys().cloned().collect();
        files.retain(|file| match self.reloader.server().watch {
            WatchedFiles::Off => false,
            WatchedFiles::Certificates => file != self.reloader.path(),
            WatchedFiles::All => true,
        });
        files
    }

    fn watched_fingerprint(&self) -> Fingerprint {
        let watched = self.watched();
        let taken = self.reloader.fingerprint();
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
        self.file_watch.set(&watched);
    }

    /// How it goes, for the service manager.
    pub(super) fn status(&self) -> String {
        watchdog::status_line(self.admin.view())
    }
}

fn report_failure(error: &ReloadError) {
    for line in error.lines() {
        tracing::error!(error = line, "reload failed");
    }
}
