//! Looks after one certificate: waits until it is due, orders it, stores it, serves it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::CertificateIdentifier;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::account::stored_session;
use super::attempt::AttemptRecord;
use super::authority::Authority;
use super::cell::CertificateCell;
use super::counters::{OrderCounters, OrderResult};
use super::errors::AcmeError;
use super::lease::LeaseCandidate;
use super::order::{ObtainedCertificate, OrderPlan};
use super::persistent::without_panic;
use super::problem::one_line;
use super::renewal::{MAX_STEP, RenewalWindow, pause, window_poll};
use super::status::OrderFailureStatus;
use crate::quota::failure_reports::FailureReports;
use crate::store::{ItemKind, ItemStore};

/// How long an order may take, besides the propagation of DNS records.
const ORDER_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// How long to wait before looking again, while another node orders.
const OTHER_ORDERS: Duration = Duration::from_secs(2);

/// What all keepers of the process share.
#[derive(Debug, Clone, Default)]
pub(super) struct KeeperParts {
    pub(super) counters: Arc<OrderCounters>,
    pub(super) reports: Arc<FailureReports>,
}

/// Looks after one certificate.
pub(super) struct CertificateKeeper<S> {
    authority: Arc<Authority<S>>,
    cell: Arc<CertificateCell>,
    parts: KeeperParts,
    candidate: LeaseCandidate,
    /// This certificate's own choice where any moment is as good as another.
    seed: u64,
    /// The attempts that have failed since the last success.
    failures: u32,
    /// Until then nothing is ordered.
    paused_until: Instant,
    /// Whether the latest attempt has failed because of the folder.
    lacked_folder: bool,
    /// The record of the latest attempt that is already considered.
    known: Option<AttemptRecord>,
    window: Option<RenewalWindow>,
    /// The certificate that the window is for.
    window_of: Option<CertificateIdentifier<'static>>,
    /// When the authority is asked for the window.
    window_due: Instant,
}

/// Waits until there is no work any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _ = stop.wait_for(|is_stopped| *is_stopped).await;
}

impl<S: ItemStore> CertificateKeeper<S> {
    pub(super) fn new(
        authority: Arc<Authority<S>>,
        cell: Arc<CertificateCell>,
        parts: KeeperParts,
    ) -> Self {
        let now = Instant::now();
        Self {
            candidate: LeaseCandidate::new(&authority.parts.node, &cell.item),
            authority,
            cell,
            parts,
            seed: fastrand::u64(..),
            failures: 0,
            paused_until: now,
            lacked_folder: false,
            known: None,
            window: None,
            window_of: None,
            window_due: now,
        }
    }

    /// Works until it is stopped, and closes what is open then.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        self.recall().await;
        loop {
            tokio::select! {
                () = self.ask_window() => {}
                () = stopped(&mut stop) => break,
            }
            if self.cell.take_returned() && self.lacked_folder {
                self.paused_until = Instant::now();
            }
            let wait = self.due_in();
            self.cell.plan(SystemTime::now().checked_add(wait));
            if wait.is_zero() {
                let rest = self.attempt(&mut stop).await;
                if rest.is_zero() {
                    continue;
                }
                self.pass(rest, &mut stop).await;
            } else {
                // In short steps: the clock may jump.
                self.pass(wait.min(MAX_STEP), &mut stop).await;
            }
            if *stop.borrow() || stop.has_changed().is_err() {
                break;
            }
        }
        self.cell.plan(None);
    }

    async fn pass(&self, time: Duration, stop: &mut watch::Receiver<bool>) {
        tokio::select! {
            () = sleep(time) => {}
            () = self.cell.wake.notified() => {}
            () = stopped(stop) => {}
        }
    }

    /// How long nothing is to be ordered.
    fn due_in(&self) -> Duration {
        if self.cell.is_forced() {
            return Duration::ZERO;
        }
        let pause = self.paused_until.saturating_duration_since(Instant::now());
        self.renewal_in().max(pause)
    }

    /// How long the certificate needs no renewal.
    fn renewal_in(&self) -> Duration {
        let config = &self.authority.config;
        let Some(facts) = self.cell.facts() else {
            return Duration::ZERO;
        };
        if !facts.fits(config) {
            return Duration::ZERO;
        }
        let renewal = facts.life.renewal(self.window, self.seed);
        renewal
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }

    /// Considers the latest attempt of any node, or of this one before it was restarted.
    async fn recall(&mut self) {
        let json = match self
            .authority
            .store
            .read(ItemKind::Attempt, &self.cell.item)
            .await
        {
            Ok(Some(json)) => json,
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "latest attempt for a certificate not read");
                return;
            }
        };
        let record = serde_json::from_slice::<AttemptRecord>(&json).ok();
        let directory = &*self.authority.config.directory;
        let record = record.filter(|record| record.is_about(directory));
        // A record counts once: its pause has passed by our clock, whatever the wall clock says.
        let Some(record) = record.filter(|record| self.known.as_ref() != Some(record)) else {
            return;
        };
        self.failures = record.failures;
        let left = record.left(SystemTime::now());
        // After a success there is a certificate; if it is lost, there is nothing to wait for.
        let is_lost = record.failures == 0 && self.cell.facts().is_none();
        let left = if is_lost { Duration::ZERO } else { left };
        self.paused_until = Instant::now() + left;
        self.cell.note_failure(failure_of(&record));
        self.known = Some(record);
    }

    /// Asks the authority when to renew, if that is due.
    async fn ask_window(&mut self) {
        let facts = self.cell.facts();
        let facts = facts.filter(|facts| *facts.directory == *self.authority.config.directory);
        let Some(identifier) = facts.and_then(|facts| facts.identifier) else {
            return;
        };
        if self.window_of.as_ref() != Some(&identifier) {
            // The window of the certificate before is long over.
            self.window = None;
            self.window_of = Some(identifier.clone());
        } else if Instant::now() < self.window_due {
            return;
        }
        let asked = match stored_session(&self.authority).await {
            Ok(Some(session)) => session.account.renewal_info(&identifier).await.ok(),
            Ok(None) | Err(_) => None,
        };
        let retry_after = asked
            .as_ref()
            .map_or(Duration::ZERO, |(_, retry_after)| *retry_after);
        self.window_due = Instant::now() + window_poll(retry_after);
        // If it does not answer, what it has said before is as good as anything.
        if let Some((info, _)) = asked {
            let window = RenewalWindow {
                start: info.suggested_window.start.into(),
                end: info.suggested_window.end.into(),
            };
            if self.window != Some(window) {
                let explanation = info.explanation_url.as_deref().map(one_line);
                tracing::debug!(
                    certificate = &*self.cell.id,
                    ?window,
                    explanation,
                    "renewal window of a certificate"
                );
            }
            self.window = Some(window);
        }
    }

    /// Orders, if no other node does. Returns how long to wait before looking again.
    async fn attempt(&mut self, stop: &mut watch::Receiver<bool>) -> Duration {
        let authority = Arc::clone(&self.authority);
        let lease = match self.candidate.acquire(&authority.store).await {
            Ok(Some(lease)) => lease,
            Ok(None) => return OTHER_ORDERS,
            Err(error) => {
                self.fail(&error.into()).await;
                return Duration::ZERO;
            }
        };
        // Another node may have ordered since.
        let _ = self.cell.load_or_report(&authority.store).await;
        self.recall().await;
        if self.due_in().is_zero() {
            self.cell.begin_order();
            let outcome = tokio::select! {
                outcome = without_panic(&self.cell.id, self.order()) => outcome,
                () = lease.keep(&authority.store) => Err(AcmeError::LeaseLost),
                () = stopped(stop) => Err(AcmeError::Suspended),
            };
            authority.close(&self.cell.item).await;
            match outcome {
                Ok(obtained) => self.succeed(obtained).await,
                Err(AcmeError::Suspended) => self.end_order(),
                Err(error) => self.fail(&error).await,
            }
        }
        lease.release(&authority.store).await;
        Duration::ZERO
    }

    async fn order(&self) -> Result<ObtainedCertificate, AcmeError> {
        let authority = &*self.authority;
        // It is never closed.
        let _permit = authority.parts.orders.acquire().await;
        authority.clear(&self.cell.item).await?;
        let facts = self.cell.facts();
        let served_key = facts.as_ref().map(|facts| Arc::clone(&facts.public_key));
        let replaced = facts.filter(|facts| *facts.directory == *authority.config.directory);
        let mut plan = OrderPlan {
            authority,
            names: &self.cell.certificate.names,
            item: &self.cell.item,
            replaces: replaced.and_then(|facts| facts.identifier),
            served_key,
            attempt: usize::try_from(self.failures).unwrap_or(usize::MAX),
            is_trial: false,
        };
        match within_limit(authority, plan.run()).await {
            // A node that was too slow to see the challenge, or a way that is blocked, does not count as a failure yet.
            Err(AcmeError::Validation(error)) if self.failures == 0 => {
                tracing::info!(
                    certificate = &*self.cell.id,
                    error,
                    "validation failed; it is tried once more"
                );
                authority.close(&self.cell.item).await;
                plan.attempt += 1;
                within_limit(authority, plan.run()).await
            }
            result => result,
        }
    }

    /// Stores and serves a new certificate.
    async fn succeed(&mut self, obtained: ObtainedCertificate) {
        let (store, item) = (&self.authority.store, &self.cell.item);
        let life = obtained.issued.facts.life;
        let stored = store
            .write(ItemKind::Certificate, item, obtained.form.to_vec())
            .await;
        let issuer = obtained.issued.served.issuer.clone();
        self.cell.serve(obtained.issued, obtained.form);
        tracing::info!(
            certificate = &*self.cell.id,
            issuer = &*issuer,
            not_after = %humantime::format_rfc3339_seconds(life.not_after),
            challenge = obtained.challenge.map(tracing::field::display),
            "certificate issued"
        );
        match stored {
            // Until then, a process that is killed gets the same certificate again. If it stays for longer, the next order
            // recognizes it by its key.
            Ok(()) => {
                let _ = store.remove(ItemKind::Order, item).await;
            }
            Err(error) => {
                tracing::error!(certificate = &*self.cell.id, %error, "new certificate not stored; this process serves it, and stores it as soon as it can");
                self.cell.compare_again();
            }
        }
        self.parts.counters.count(OrderResult::Issued);
        self.failures = 0;
        let rest = life.rest(self.window);
        self.pause_for(rest, None).await;
        self.cell.end_order(None);
    }

    async fn fail(&mut self, error: &AcmeError) {
        self.parts.counters.count(error.result());
        let kind = error.kind();
        self.failures = self.failures.saturating_add(1);
        self.lacked_folder = matches!(error, AcmeError::Store(_));
        let rest = pause(
            self.failures,
            kind,
            self.seed.wrapping_add(self.failures.into()),
        );
        let cause = format!("{}: {error}", self.cell.id);
        if let Some(unreported) = self.parts.reports.admit(&cause, std::time::Instant::now()) {
            let next = SystemTime::now()
                .checked_add(rest)
                .map(humantime::format_rfc3339_seconds);
            tracing::warn!(
                certificate = &*self.cell.id,
                %error,
                hint = error.hint(),
                failures = self.failures,
                next_attempt = next.map(tracing::field::display),
                unreported,
                "certificate not issued"
            );
        }
        match error {
            AcmeError::LeaseLost => self.paused_until = Instant::now() + rest,
            _ => self.pause_for(rest, Some(error.to_string())).await,
        }
        self.end_order();
    }

    fn end_order(&self) {
        let failure = self.known.as_ref().and_then(failure_of);
        self.cell.end_order(failure);
    }

    /// Orders nothing for this time, nor do others.
    async fn pause_for(&mut self, rest: Duration, error: Option<String>) {
        self.paused_until = Instant::now() + rest;
        let record = AttemptRecord::new(
            self.failures,
            error,
            rest,
            &self.authority.config.directory,
            SystemTime::now(),
        );
        // It has strings and numbers, which can always be written.
        let json = serde_json::to_vec(&record).unwrap_or_default();
        self.known = Some(record);
        let written = self
            .authority
            .store
            .write(ItemKind::Attempt, &self.cell.item, json)
            .await;
        if let Err(error) = written {
            tracing::debug!(%error, "attempt for a certificate not noted");
        }
    }
}

fn failure_of(record: &AttemptRecord) -> Option<OrderFailureStatus> {
    Some(OrderFailureStatus {
        error: record.error.as_deref()?.into(),
        at: record.ended(),
        in_a_row: record.failures,
    })
}

/// Runs an order for as long as one may take.
pub(super) async fn within_limit<S, T>(
    authority: &Authority<S>,
    order: impl Future<Output = Result<T, AcmeError>>,
) -> Result<T, AcmeError> {
    let propagation = authority
        .config
        .dns
        .as_ref()
        .map(|publisher| publisher.propagation);
    let limit = ORDER_TIMEOUT.saturating_add(propagation.unwrap_or_default());
    match timeout(limit, order).await {
        Ok(result) => result,
        Err(_) => Err(AcmeError::Unreachable(format!(
            "the order has not ended within {}",
            humantime::format_duration(limit)
        ))),
    }
}
