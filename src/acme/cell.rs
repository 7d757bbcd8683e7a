//! What this process knows of one managed certificate, between its keeper, the scan of the folder, and operators.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use zeroize::Zeroizing;

use super::chain::{IssuedCertificate, IssuedFacts, stand_in};
use super::item_name::item_name;
use super::precedence::Precedence;
use super::status::{CertificateStatus, OrderFailureStatus};
use crate::config::model::{ManagedCertificate, Secret, UntilIssued};
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
    /// What was issued and is served, if it was.
    issued: Option<IssuedState>,
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

/// What is served, and takes precedence over what is stored.
struct BetterCertificate {
    form: Secret,
    /// Whether it is written over what is stored.
    is_written: bool,
}

/// A certificate that was issued for exactly the names of this one.
#[derive(Debug)]
struct IssuedState {
    facts: IssuedFacts,
    /// Whether it is valid for all names.
    has_names: bool,
    /// As it is stored: the store may lose it.
    form: Secret,
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

    /// Serves what is stored, if it has changed, unless what is served is better. `revision` is that of the item, if
    /// the caller knows it.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be read, or the better one cannot be written.
    pub(super) async fn load(
        &self,
        store: &impl ItemStore,
        revision: Option<u128>,
    ) -> Result<(), StoreError> {
        let Some(form) = store.read(ItemKind::Certificate, &self.item).await? else {
            return self.put_back(store).await;
        };
        let form = Zeroizing::new(form);
        match IssuedCertificate::parse(&form) {
            Ok(issued) => match self.better_than(&issued) {
                None => self.serve(issued, form),
                Some(better) => self.keep(store, &issued, better).await?,
            },
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

    /// Puts back what is served, if the store has lost it: a node that starts would have no certificate.
    ///
    /// # Errors
    /// [`StoreError`]: it cannot be written.
    pub(super) async fn put_back(&self, store: &impl ItemStore) -> Result<(), StoreError> {
        let now = SystemTime::now();
        let form = {
            let state = self.state();
            let issued = state.issued.as_ref();
            let good = issued.filter(|it| self.precedence(&it.facts, it.has_names, now).is_good());
            good.map(|it| it.form.bytes().to_vec())
        };
        let Some(form) = form else {
            return Ok(());
        };
        let kind = ItemKind::Certificate;
        if store.create(kind, &self.item, form).await? {
            tracing::info!(
                certificate = &*self.id,
                "the store has lost the certificate; the one that is served is put back"
            );
        }
        Ok(())
    }

    /// What is served and takes precedence over this certificate, if it does.
    fn better_than(&self, stored: &IssuedCertificate) -> Option<BetterCertificate> {
        let now = SystemTime::now();
        let has_names = stored.missing(&self.certificate.names).is_none();
        let stored = self.precedence(&stored.facts, has_names, now);
        let state = self.state();
        let issued = state.issued.as_ref()?;
        let served = self.precedence(&issued.facts, issued.has_names, now);
        (served > stored).then(|| BetterCertificate {
            form: issued.form.clone(),
            is_written: served.is_later_than(stored),
        })
    }

    fn precedence(&self, facts: &IssuedFacts, has_names: bool, now: SystemTime) -> Precedence {
        Precedence::of(facts, has_names, &self.certificate.authority, now)
    }

    /// Serves on what is served, and writes it over what is stored if that is an earlier one.
    async fn keep(
        &self,
        store: &impl ItemStore,
        stored: &IssuedCertificate,
        better: BetterCertificate,
    ) -> Result<(), StoreError> {
        if better.is_written {
            let form = better.form.bytes().to_vec();
            store.write(ItemKind::Certificate, &self.item, form).await?;
        }
        // Not before: what cannot be written is tried again each second, and the scan reports that.
        let end = stored.facts.life.not_after;
        tracing::info!(
            certificate = &*self.id,
            stored_not_after = %humantime::format_rfc3339_seconds(end),
            is_replaced = better.is_written,
            "stored certificate ignored: the one that is served is better"
        );
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

    /// Compares what is stored with what is served once more, whether it has changed or not.
    pub(super) fn compare_again(&self) {
        self.state().revision = None;
    }

    /// Serves a certificate that was issued, and is stored in this form.
    pub(super) fn serve(&self, issued: IssuedCertificate, form: Zeroizing<Vec<u8>>) {
        let before = self.slot.served();
        let is_same =
            before.is_some_and(|before| before.certified.cert == issued.served.certified.cert);
        self.state().issued = Some(IssuedState {
            has_names: issued.missing(&self.certificate.names).is_none(),
            facts: issued.facts,
            form: Secret::new(form),
        });
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
        let state = self.state();
        state.issued.as_ref().map(|issued| issued.facts.clone())
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::testing::{certificate, issued_by, issued_form};
    use super::*;
    use crate::net::managed_certificates::ManagedCertificates;
    use crate::store::folder::FolderStore;

    const KIND: ItemKind = ItemKind::Certificate;

    const NAMES: &[&str] = &["a.example.com", "b.example.com"];

    /// A certificate that a node keeps, and the store.
    struct Node {
        cell: CertificateCell,
        store: FolderStore,
    }

    impl Node {
        /// A node that has just started.
        async fn start(folder: &Path) -> Self {
            let certificate = certificate(NAMES);
            let slot = ManagedCertificates::default().slot(&certificate.id());
            let node = Self {
                cell: CertificateCell::new(certificate, slot, watch::Sender::new(0)),
                store: FolderStore::new(folder, "ca"),
            };
            node.load().await;
            node
        }

        /// A node that serves this certificate, which is stored.
        async fn serving(folder: &Path, form: &[u8]) -> Self {
            let node = Self::start(folder).await;
            node.write(form).await;
            node.load().await;
            assert!(node.serves(form));
            node
        }

        async fn load(&self) {
            self.cell.load(&self.store, None).await.unwrap();
        }

        async fn write(&self, form: &[u8]) {
            let written = self.store.write(KIND, &self.cell.item, form.to_vec());
            written.await.unwrap();
        }

        async fn stored(&self) -> Option<Vec<u8>> {
            self.store.read(KIND, &self.cell.item).await.unwrap()
        }

        fn serves(&self, form: &[u8]) -> bool {
            let issued = IssuedCertificate::parse(form).unwrap();
            let served = self.cell.slot.served().unwrap();
            served.certified.cert == issued.served.certified.cert
        }
    }

    #[tokio::test]
    async fn an_earlier_certificate_in_the_store_is_neither_served_nor_left_there() {
        let served = issued_form(NAMES, -5, 60);
        // Of these, one has ended, and one even ends later.
        for (begin, end) in [(-95, -5), (-30, 30), (-30, 90)] {
            let folder = tempfile::tempdir().unwrap();
            let node = Node::serving(folder.path(), &served).await;
            node.write(&issued_form(NAMES, begin, end)).await;
            node.load().await;
            assert!(node.serves(&served), "{begin} to {end}");
            assert_eq!(node.stored().await.as_ref(), Some(&*served));
            assert!(node.cell.facts().unwrap().life.not_after > SystemTime::now());
        }
    }

    #[tokio::test]
    async fn a_later_certificate_in_the_store_is_served_also_if_it_ends_sooner() {
        let served = issued_form(NAMES, -30, 60);
        for (begin, end) in [(-1, 89), (-1, 5)] {
            let folder = tempfile::tempdir().unwrap();
            let node = Node::serving(folder.path(), &served).await;
            let stored = issued_form(NAMES, begin, end);
            node.write(&stored).await;
            node.load().await;
            assert!(node.serves(&stored), "{begin} to {end}");
        }
    }

    #[tokio::test]
    async fn what_is_not_valid_any_more_gives_way_to_what_is() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::serving(folder.path(), &issued_form(NAMES, -7, -1)).await;
        let longer = issued_form(NAMES, -30, 60);
        node.write(&longer).await;
        node.load().await;
        assert!(node.serves(&longer));
        // Nothing that has ended takes its place, even if it was issued later.
        let ended = issued_form(NAMES, -7, -1);
        node.write(&ended).await;
        node.load().await;
        assert!(node.serves(&longer));
        assert_eq!(node.stored().await.as_ref(), Some(&*ended));
    }

    #[tokio::test]
    async fn what_fits_the_configuration_takes_precedence_and_nodes_do_not_fight() {
        let other = |begin| issued_by("https://staging.invalid/dir", NAMES, begin, 60);
        let fewer = |begin| issued_form(&NAMES[..1], begin, 60);
        let fitting = |begin| issued_form(NAMES, begin, 60);
        for (served, stored) in [
            (other(-1), fitting(-5)),
            (fewer(-1), fitting(-5)),
            (fewer(-1), other(-5)),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let node = Node::serving(folder.path(), &served).await;
            node.write(&stored).await;
            node.load().await;
            assert!(node.serves(&stored));
            // A node with another configuration has written it: it would do that again and again.
            node.write(&served).await;
            node.load().await;
            assert!(node.serves(&stored));
            assert_eq!(node.stored().await.as_ref(), Some(&*served));
        }
    }

    #[tokio::test]
    async fn a_certificate_that_the_store_has_lost_is_put_back_while_it_is_good() {
        let good = issued_form(NAMES, -5, 60);
        for (form, is_put_back) in [
            (&good, true),
            (&issued_form(NAMES, -90, -1), false),
            (&issued_form(&NAMES[..1], -5, 60), false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let node = Node::serving(folder.path(), form).await;
            let removed = node.store.remove(KIND, &node.cell.item);
            removed.await.unwrap();
            node.cell.put_back(&node.store).await.unwrap();
            let stored = node.stored().await;
            assert_eq!(stored.as_ref() == Some(&**form), is_put_back);
            assert!(is_put_back || stored.is_none());
        }
        // A node that has nothing leaves the store as it is.
        let folder = tempfile::tempdir().unwrap();
        let node = Node::start(folder.path()).await;
        node.cell.put_back(&node.store).await.unwrap();
        assert_eq!(node.stored().await, None);
    }

    #[tokio::test]
    async fn what_could_not_be_stored_is_stored_as_soon_as_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let before = issued_form(NAMES, -60, 30);
        let node = Node::serving(folder.path(), &before).await;
        let scan = async || {
            let listed = node.store.list(KIND).await.unwrap();
            let revision = listed.first().unwrap().revision;
            if node.cell.is_news(revision) {
                node.cell.load(&node.store, Some(revision)).await.unwrap();
            }
        };
        scan().await;
        let renewed = issued_form(NAMES, -1, 89);
        let issued = IssuedCertificate::parse(&renewed).unwrap();
        node.cell.serve(issued, renewed.clone());
        scan().await;
        assert_eq!(node.stored().await.as_ref(), Some(&*before));
        node.cell.compare_again();
        scan().await;
        assert_eq!(node.stored().await.as_ref(), Some(&*renewed));
    }

    #[tokio::test]
    async fn a_node_that_starts_serves_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        // By a clock that is wrong, nothing may be valid.
        let ended = issued_form(NAMES, -90, -1);
        let node = Node::serving(folder.path(), &ended).await;
        let started = Node::start(folder.path()).await;
        assert!(started.serves(&ended) && node.serves(&ended));
    }

    #[test]
    fn the_key_is_not_shown() {
        let certificate = certificate(NAMES);
        let slot = ManagedCertificates::default().slot(&certificate.id());
        let cell = CertificateCell::new(certificate, slot, watch::Sender::new(0));
        let form = issued_form(NAMES, -5, 60);
        cell.serve(IssuedCertificate::parse(&form).unwrap(), form);
        let shown = format!("{cell:?}");
        assert!(
            shown.contains("form: Secret,") || shown.contains("form: Secret }"),
            "{shown}"
        );
    }
}
