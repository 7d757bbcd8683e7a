//! What this process knows of one managed certificate, between its keeper, the scan of the folder, and operators.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use zeroize::Zeroizing;

use super::chain::{IssuedCertificate, IssuedFacts, stand_in};
use super::item_name::item_name;
use super::status::{CertificateStatus, OrderFailureStatus};
use crate::config::model::{ManagedCertificate, UntilIssued};
use crate::net::managed_certificates::{CertificateSlot, ServedCertificate};
use crate::store::{ItemKind, ItemStore, StoreError};

/// One managed certificate.
#[derive(Debug)]
pub(super) struct CertificateCell {
    pub(super) certificate: ManagedCertificate,
    pub(super) id: Arc<str>,
    /// The name of its items in the store.
    pub(super) item: Box<str>,
    /// Its keeper has something to look at.
    pub(super) wake: Notify,
    slot: Arc<CertificateSlot>,
    state: Mutex<CellState>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct CellState {
    /// What was issued, if it was.
    facts: Option<IssuedFacts>,
    /// The revision of what was read last.
    revision: Option<u128>,
    failure: Option<OrderFailureStatus>,
    next_attempt: Option<SystemTime>,
    is_ordering: bool,
    is_forced: bool,
    /// Why its folder cannot be used; `None` if it can.
    folder_error: Option<Arc<str>>,
    /// The folder can be used again, and its keeper does not know it yet.
    has_returned: bool,
}

impl CertificateCell {
    pub(super) fn new(
        certificate: ManagedCertificate,
        slot: Arc<CertificateSlot>,
        changes: watch::Sender<u64>,
    ) -> Self {
        Self {
            id: certificate.id(),
            item: item_name(&certificate),
            certificate,
            wake: Notify::new(),
            slot,
            state: Mutex::default(),
            changes,
        }
    }

    /// Serves what is stored, and reports it if that cannot be read.
    ///
    /// # Errors
    /// [`StoreError`], which is reported.
    pub(super) async fn load_or_report(&self, store: &impl ItemStore) -> Result<(), StoreError> {
        let loaded = self.load(store, None).await;
        loaded.inspect_err(|error| {
            tracing::warn!(certificate = &*self.id, %error, "stored certificate not read");
        })
    }

    /// Serves what is stored, or else what was issued for some of the names earlier.
    ///
    /// # Errors
    /// [`StoreError`], which is reported.
    pub(super) async fn load_any(&self, store: &impl ItemStore) -> Result<(), StoreError> {
        self.load_or_report(store).await?;
        self.serve_earlier(store).await;
        Ok(())
    }

    /// Serves what is stored, if it has changed. `revision` is that of the item, if the caller knows it.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be read.
    pub(super) async fn load(
        &self,
        store: &impl ItemStore,
        revision: Option<u128>,
    ) -> Result<(), StoreError> {
        let Some(form) = store.read(ItemKind::Certificate, &self.item).await? else {
            return Ok(());
        };
        let form = Zeroizing::new(form);
        match IssuedCertificate::parse(&form) {
            Ok(issued) => self.serve(issued),
            Err(error) => {
                tracing::warn!(
                    certificate = &*self.id,
                    error,
                    "stored certificate is not usable; it is ordered again"
                );
            }
        }
        // What cannot be used is not read again until it has changed.
        if revision.is_some() {
            self.state().revision = revision;
        }
        Ok(())
    }

    /// Serves what was issued for some of the names earlier, if nothing else is there: after a change of the list
    /// of names, clients of those that stay must not be refused until the new certificate is issued.
    async fn serve_earlier(&self, store: &impl ItemStore) {
        if self.slot.served().is_some_and(|it| !it.is_self_signed) {
            return;
        }
        let Ok(listed) = store.list(ItemKind::Certificate).await else {
            // What is read first reports it.
            return;
        };
        let mut newest: Option<ServedCertificate> = None;
        for item in listed {
            let read = store.read(ItemKind::Certificate, &item.name).await;
            let form = read.ok().flatten().map(Zeroizing::new);
            let issued = form.and_then(|form| IssuedCertificate::parse(&form).ok());
            let Some(issued) = issued.filter(|it| it.has_any(&self.certificate.names)) else {
                continue;
            };
            let end = newest
                .as_ref()
                .map_or_else(SystemTime::now, |it| it.not_after);
            if issued.served.not_after > end {
                newest = Some(issued.served);
            }
        }
        if let Some(newest) = newest {
            tracing::info!(
                certificate = &*self.id,
                "an earlier certificate for some of the names is served until this one is issued"
            );
            self.slot.set(newest);
            self.changed();
        }
    }

    /// Notes whether the folder can be used, and why not.
    pub(super) fn note_folder(&self, error: Option<&Arc<str>>) {
        let mut state = self.state();
        if state.folder_error.as_ref() == error {
            return;
        }
        state.folder_error = error.map(Arc::clone);
        state.has_returned = error.is_none();
        drop(state);
        self.changed();
        self.wake.notify_one();
    }

    /// Whether the folder can be used again since the last call.
    pub(super) fn take_returned(&self) -> bool {
        std::mem::take(&mut self.state().has_returned)
    }

    /// Whether this is another revision than the one that was read last.
    pub(super) fn is_news(&self, revision: u128) -> bool {
        self.state().revision != Some(revision)
    }

    /// Serves a certificate that was issued.
    pub(super) fn serve(&self, issued: IssuedCertificate) {
        let before = self.slot.served();
        let is_same =
            before.is_some_and(|before| before.certified.cert == issued.served.certified.cert);
        self.state().facts = Some(issued.facts);
        if !is_same {
            self.slot.set(issued.served);
            self.changed();
        }
        self.wake.notify_one();
    }

    /// Serves a self-signed certificate, if nothing is served and the configuration wants that.
    pub(super) fn stand_in(&self) {
        let is_wanted = self.certificate.authority.until_issued == UntilIssued::SelfSigned;
        if !is_wanted || self.slot.served().is_some() {
            return;
        }
        match stand_in(&self.certificate.names, SystemTime::now()) {
            Ok(served) => self.slot.set(served),
            Err(error) => {
                tracing::warn!(
                    certificate = &*self.id,
                    error,
                    "self-signed certificate not made"
                );
            }
        }
        self.changed();
    }

    /// What the renewal depends on; `None` if nothing usable was issued.
    pub(super) fn facts(&self) -> Option<IssuedFacts> {
        self.state().facts.clone()
    }

    /// Renews it without waiting until that is due.
    pub(super) fn force(&self) {
        self.state().is_forced = true;
        self.wake.notify_one();
    }

    pub(super) fn is_forced(&self) -> bool {
        self.state().is_forced
    }

    /// Notes when the next attempt is due. It is computed again and again: a second more or less changes nothing.
    pub(super) fn plan(&self, next_attempt: Option<SystemTime>) {
        let apart = |a: SystemTime, b: SystemTime| {
            let apart = a.duration_since(b).unwrap_or_else(|error| error.duration());
            apart > Duration::from_secs(1)
        };
        let mut state = self.state();
        let is_news = match (state.next_attempt, next_attempt) {
            (Some(before), Some(after)) => apart(before, after),
            (before, after) => before != after,
        };
        if is_news {
            state.next_attempt = next_attempt;
            drop(state);
            self.changed();
        }
    }

    pub(super) fn begin_order(&self) {
        self.state().is_ordering = true;
        self.changed();
    }

    /// Notes how an order has ended.
    pub(super) fn end_order(&self, failure: Option<OrderFailureStatus>) {
        let mut state = self.state();
        state.is_ordering = false;
        state.is_forced = false;
        state.failure = failure;
        drop(state);
        self.changed();
    }

    /// Notes how the latest attempt of any node has failed.
    pub(super) fn note_failure(&self, failure: Option<OrderFailureStatus>) {
        self.state().failure = failure;
        self.changed();
    }

    pub(super) fn status(&self) -> CertificateStatus {
        let state = self.state();
        CertificateStatus {
            id: Arc::clone(&self.id),
            names: self.certificate.names.clone(),
            authority: Arc::clone(&self.certificate.authority.name),
            served: self.slot.served(),
            failure: state.failure.clone(),
            folder_error: state.folder_error.clone(),
            next_attempt: state.next_attempt,
            is_ordering: state.is_ordering,
        }
    }

    fn changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }

    fn state(&self) -> MutexGuard<'_, CellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
