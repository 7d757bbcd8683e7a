//! The running process: its parts, and the loop that reacts to signals, orders and changed files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::admin_servers::AdminServers;
use super::certificates::ExpiryWarnings;
use super::errors::ReloadError;
use super::file_watch::FileWatch;
use super::fingerprint::Fingerprint;
use super::key_sharing::KeySharing;
use super::reload::{ReloadOutcome, Reloader, Source};
use super::signals::{Signal, Signals};
use super::takeover::Takeover;
use super::upgrade_stage::{Upgrade, next_step};
use super::watchdog::{self, ServiceNotifier};
use super::{Exit, health, route_probes, worker_mailbox};
use crate::acme::AcmeKeepers;
use crate::admin::command::ControlCommand;
use crate::auth::key_keepers::KeyKeepers;
use crate::config::model::WatchedFiles;
use crate::config::sources::SourceText;
use crate::config::{Loaded, input_file};
use crate::displace::periodic::PeriodicTask;
use crate::displace::revoke;
use crate::fleet::membership::Membership;
use crate::observe::counters;
use crate::observe::process::ProcessStatus;
use crate::systemd;
use crate::traces::exporter::SpanExporter;

/// How often state about client addresses that no longer matter is dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// How long a reload of changed files is retried before its failure is final: a certificate that does not
/// match its key may be half of a change.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The time between these attempts.
const SETTLE_INTERVAL: Duration = Duration::from_millis(250);

/// Everything that runs, as owned by the control runtime.
pub(super) struct Process {
    pub(super) reloader: Reloader,
    pub(super) workers: Arc<[worker_mailbox::WorkerHandle]>,
    /// What metrics show of the process itself.
    pub(super) process_status: Arc<ProcessStatus>,
    pub(super) admin: AdminServers,
    /// Orders from operators.
    pub(super) orders: mpsc::Receiver<ControlCommand>,
    /// Those who obtain and renew certificates.
    pub(super) keepers: AcmeKeepers,
    pub(super) key_keepers: KeyKeepers,
    pub(super) span_exporter: SpanExporter,
    pub(super) membership: Membership,
    pub(super) key_sharing: KeySharing,
    pub(super) certificate_changes: watch::Receiver<u64>,
    /// Orders at staging that operators wait for.
    pub(super) trials: JoinSet<()>,
    /// Searches for tunnels whose client certificates were revoked.
    pub(super) revoking: JoinSet<()>,
    pub(super) expiry_warnings: ExpiryWarnings,
    pub(super) signals: Signals,
    pub(super) file_watch: FileWatch,
    /// Changed files with which a reload failed.
    pub(super) rejected: Option<RejectedFiles>,
    /// The path of the program, for an upgrade.
    pub(super) program: PathBuf,
    /// The upgrade in progress.
    pub(super) upgrade: Option<Upgrade>,
    /// The process that this one replaces, until it has left.
    pub(super) takeover: Option<Takeover>,
    /// The predecessor was asked to stop before it had left.
    pub(super) stops_with_predecessor: bool,
    /// `None` while another process speaks for the service.
    pub(super) notifier: Option<ServiceNotifier>,
    pub(super) _health_checks: health::HealthCheckTask,
    /// `None` once this process drains.
    pub(super) probes: Option<route_probes::RouteProbeTask>,
    pub(super) evict: Option<PeriodicTask>,
    pub(super) _rebalance: PeriodicTask,
    pub(super) _memory: PeriodicTask,
}

/// Changed files with which a reload failed, and what the log says about it.
#[derive(Debug)]
pub(super) struct RejectedFiles {
    contents: Fingerprint,
    lines: Vec<String>,
}

impl Process {
    /// Handles events until a signal to stop, or until a successor accepts connections; then drains.
    pub(super) async fn serve(mut self) -> Exit {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        // One event at a time: a reload, an order and a step of an upgrade never run beside one another, so that
        // none sees listeners or a snapshot half changed.
        loop {
            let mut handed_over = None;
            tokio::select! {
                signal = self.signals.next() => {
                    // Whatever it changes, the predecessor would not know of it.
                    self.end_settling().await;
                    match signal {
                        Signal::Reload => handed_over = self.reload_or_pass_on().await,
                        Signal::Upgrade => self.begin_upgrade(None, None),
                        Signal::Stop => return self.stop_all().await,
                    }
                }
                step = next_step(&mut self.upgrade) => handed_over = self.advance(step).await,
                stops = Takeover::left(&mut self.takeover) => {
                    self.stops_with_predecessor = stops;
                    self.begin().await;
                }
                Some(order) = self.orders.recv() => self.execute(order).await,
                Ok(()) = self.certificate_changes.changed() => self.publish_certificates(),
                () = self.key_sharing.changed() => self.apply_shared_keys(),
                _ = sweep.tick() => self.sweep(),
                // The new process of an upgrade reads the files by itself.
                () = self.file_watch.look(), if self.upgrade.is_none() => self.compare_files().await,
            }
            if let Some(handed_over) = handed_over {
                return self.drain_for_successor(handed_over, false).await;
            }
            if self.stops_with_predecessor {
                // The service manager may send this process the same signal: that is not a second one.
                self.signals.expect_stop();
                return self.stop().await;
            }
        }
    }

    /// Applies files that have changed.
    async fn compare_files(&mut self) {
        let endpoint_files = match self.reloader.server().watch {
            WatchedFiles::Off => Vec::new(),
            WatchedFiles::Certificates | WatchedFiles::All => self.reloader.endpoint_files(),
        };
        let watched = self.watched();
        let read = self.reloader.files().run(move || {
            let contents = endpoint_files.into_iter().map(|path| {
                let contents = input_file::read(&path);
                (path, contents)
            });
            let contents: Vec<_> = contents.collect();
            (contents, watched.fingerprint())
        });
        let read = tokio::select! {
            read = read => read.ok(),
            () = self.signals.stop_comes() => None,
        };
        let Some((endpoint_files, now)) = read else {
            return;
        };
        // Endpoint files first: they are applied by themselves, without a reload.
        if self.reloader.apply_endpoint_files(endpoint_files) {
            // Links may lead to other folders now.
            self.watch_files().await;
        }
        // An event may be a touch or a read: only different contents are a reason to reload.
        if now != self.watched_fingerprint() {
            self.end_settling().await;
            self.reload_changed(now).await;
        } else {
            self.files_are_in_effect().await;
        }
    }

    /// The watched files have the contents in effect: a failure with others does not matter any more.
    async fn files_are_in_effect(&mut self) {
        // Where the configuration file is not watched, it may be what an operator's reload has failed with.
        let all = self.reloader.server().watch == WatchedFiles::All;
        let was_rejected = self.rejected.take().is_some();
        if (was_rejected || all) && self.process_status.forget_reload_problems() {
            tracing::info!(
                "the files are as in effect again; the reload that failed is not needed"
            );
            // A folder may have been replaced.
            self.watch_files().await;
            systemd::status(&self.status());
        }
    }

    /// Reloads because the watched files have these contents. Where that has failed before, it is tried again,
    /// because they may name a file that is not watched yet; but the same failure is reported once.
    async fn reload_changed(&mut self, contents: Fingerprint) {
        let known = self.rejected.take();
        let known = known.filter(|known| known.contents == contents);
        let settle = match known {
            Some(_) => Duration::ZERO,
            None => {
                systemd::reloading();
                self.reloader.reopen_logs();
                SETTLE_TIMEOUT
            }
        };
        let result = self.try_reload(self.watched_source(), settle).await;
        let renewed = self.renew_files(&result, &contents).await;
        let failures = renewed.iter().chain([&result]);
        let lines: Vec<String> = failures.flat_map(error_lines).collect();
        let is_applied = matches!(renewed, Some(Ok(_)));
        if let Some(known) = known.filter(|known| !is_applied && lines == known.lines) {
            for line in &known.lines {
                tracing::debug!(
                    error = line,
                    "reload failed again; no file has changed since"
                );
            }
            self.rejected = Some(known);
            return;
        }
        if let Some(renewed) = renewed {
            self.reloaded(&renewed).await;
        }
        self.reloaded(&result).await;
        self.rejected = result.is_err().then_some(RejectedFiles { contents, lines });
    }

    /// Applies files that the texts in effect name, such as certificates, if they have changed and these texts stay.
    async fn renew_files(
        &mut self,
        result: &Result<ReloadOutcome, ReloadError>,
        contents: &Fingerprint,
    ) -> Option<Result<ReloadOutcome, ReloadError>> {
        let keeps_texts = matches!(
            result,
            Err(ReloadError::LostFiles(_) | ReloadError::Config(_))
        );
        let is_other = self.watched_source() != Source::Effective;
        if !keeps_texts || !is_other || !self.is_renewed(contents) {
            return None;
        }
        let renewed = self.try_reload(Source::Effective, Duration::ZERO).await;
        // One mistake, such as a certificate without its key, is reported once.
        let says_more = renewed.is_ok() || error_lines(&renewed) != error_lines(result);
        says_more.then_some(renewed)
    }

    /// Whether files that the texts in effect name differ from those in effect.
    fn is_renewed(&self, contents: &Fingerprint) -> bool {
        let loaded = self.reloader.loaded();
        let texts: HashSet<&Path> = loaded.sources.all().map(SourceText::path).collect();
        let mut known = self.reloader.fingerprint().iter();
        known.any(|(path, hash)| {
            let now = contents.get(path);
            !texts.contains(path.as_path()) && now.is_some_and(|now| now != hash)
        })
    }

    /// Stops this process, and the one of an upgrade in progress.
    async fn stop_all(mut self) -> Exit {
        match self.stop_upgrade().await {
            Some(handed_over) => self.drain_for_successor(handed_over, true).await,
            None => self.stop().await,
        }
    }

    /// Drops state that no longer matters.
    fn sweep(&mut self) {
        self.reloader.listeners().sweep();
        self.reloader.snapshot().shared_limits().sweep();
        let counters = self.workers.iter().map(|it| Arc::clone(&it.counters));
        let counters: Vec<_> = counters.collect();
        counters::sweep(&counters, &self.reloader.snapshot());
        self.warn_of_expiry();
    }

    /// Reloads; retries a failure for as long as `settle`, until the files fit together.
    pub(super) async fn reload(&mut self, from: Source, settle: Duration) {
        // systemd waits for `ready` after this, whatever the result is.
        systemd::reloading();
        self.reloader.reopen_logs();
        let result = self.try_reload(from, settle).await;
        self.reloaded(&result).await;
    }

    async fn try_reload(
        &mut self,
        from: Source,
        settle: Duration,
    ) -> Result<ReloadOutcome, ReloadError> {
        let deadline = tokio::time::Instant::now() + settle;
        loop {
            let result = match self.load(from).await {
                Ok(loaded) => self.apply(loaded).await,
                Err(error) => Err(error),
            };
            let is_final = matches!(result, Ok(_) | Err(ReloadError::Stopping));
            if is_final || tokio::time::Instant::now() >= deadline {
                return result;
            }
            tokio::time::sleep(SETTLE_INTERVAL).await;
        }
    }

    /// Applies a configuration, after its stored certificates were read: the first client of a new listener must
    /// find them.
    async fn apply(&mut self, loaded: Loaded) -> Result<ReloadOutcome, ReloadError> {
        let managed = loaded.config.managed_certificates();
        tokio::select! {
            // What cannot be read is reported, and served as soon as it can be read.
            _ = self.keepers.load(&managed) => {}
            () = self.signals.stop_comes() => return Err(ReloadError::Stopping),
        }
        let result = self.reloader.apply(loaded).await;
        if result.is_err() {
            // Those that only this configuration has are forgotten again.
            self.keep_certificates();
        }
        result
    }

    /// From now on, issuers, the collector of spans and the store are used as the configuration in effect says.
    pub(super) fn ask_services(&mut self) {
        let snapshot = self.reloader.snapshot();
        self.key_keepers.apply(&snapshot.issuer_keys());
        self.span_exporter.apply(snapshot.traces.as_ref());
        self.membership.apply(self.reloader.fleet());
        self.key_sharing.apply(self.reloader.key_sharing());
    }

    /// Reads and checks the configuration again, unless this process is asked to stop first.
    ///
    /// # Errors
    /// [`ReloadError`].
    pub(super) async fn load(&mut self, from: Source) -> Result<Loaded, ReloadError> {
        tokio::select! {
            loaded = self.reloader.load(from) => loaded,
            () = self.signals.stop_comes() => Err(ReloadError::Stopping),
        }
    }

    /// Where a reload after a change of files reads the configuration: from the configuration file only if
    /// that is watched as well.
    fn watched_source(&self) -> Source {
        match self.reloader.server().watch {
            WatchedFiles::All => Source::ChangedFile,
            WatchedFiles::Certificates | WatchedFiles::Off => Source::Effective,
        }
    }

    /// Publishes the result of a reload: in the log, metrics, the admin interface and to systemd.
    pub(super) async fn reloaded(&mut self, result: &Result<ReloadOutcome, ReloadError>) {
        // The latest result counts. If changed files have failed, the caller notes them.
        self.rejected = None;
        let fault = result.as_ref().err().map(ReloadError::lines);
        self.process_status.count_reload(fault.unwrap_or_default());
        if result.is_ok() {
            self.ask_services();
            self.keep_certificates();
            self.end_revoked();
        }
        match result {
            Ok(ReloadOutcome::Everything) => {
                let included = self.reloader.loaded().sources.included().len();
                let included = (included > 0).then_some(included);
                tracing::info!(included, "configuration reloaded");
            }
            Ok(ReloadOutcome::Certificates) => tracing::info!("certificates reloaded"),
            Err(error) => report_failure(error),
        }
        self.admin.publish(&mut self.reloader);
        self.watch_files().await;
        systemd::ready(&self.status());
    }

    /// Ends the tunnels of client certificates that a reload has revoked.
    fn end_revoked(&mut self) {
        // Finished tasks stay in the set until they are joined.
        while self.revoking.try_join_next().is_some() {}
        for (listener, certificates) in self.reloader.listeners().take_revoked() {
            let displacer = self.admin.view().displacer();
            let ending = revoke::end_revoked(displacer, listener, certificates);
            self.revoking.spawn(ending);
        }
    }

    /// The status line for the service manager.
    pub(super) fn status(&self) -> String {
        watchdog::status_line(self.admin.view())
    }
}

fn error_lines(result: &Result<ReloadOutcome, ReloadError>) -> Vec<String> {
    let error = result.as_ref().err();
    error.map(ReloadError::lines).unwrap_or_default()
}

fn report_failure(error: &ReloadError) {
    for line in error.lines() {
        tracing::error!(
            error = line,
            "reload failed; the previous configuration stays in effect"
        );
    }
}
