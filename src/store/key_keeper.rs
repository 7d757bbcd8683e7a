//! Keeps one node's keys for one purpose as nodes have agreed: reads what is stored once a second, and writes what
//! the agreement says. Whatever happens to the store, the node goes on with what it knows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::key_agreement::{KeyAgreement, KeyPlan, StoredSet};
use super::key_set::SharedKeySet;
use super::seal::SealError;
use super::{ItemKind, StoreError, VersionedStore};
use crate::config::model::Secret;
use crate::quota::failure_reports::FailureReports;

/// How often the store is read.
const POLL: Duration = Duration::from_secs(1);

/// The name of the items: there is one of each kind.
pub const KEYS_ITEM: &str = "fleet";

/// The part of the store that has the keys.
pub const KEYS_SCOPE: &str = "keys";

/// The size of a key, in bytes.
const KEY_BYTES: usize = 32;

/// What is known of the shared keys for one purpose.
#[derive(Debug, Clone, Default)]
pub struct SharedKeyState {
    /// The latest set; `None` if this node has never read one.
    pub set: Option<SharedKeySet>,
    /// Whether the store was asked already.
    pub was_asked: bool,
    /// Why the store cannot be used; `None` if it can.
    pub trouble: Option<Arc<str>>,
}

/// Why the keys cannot be brought up to date.
#[derive(Debug, thiserror::Error)]
enum SharedKeysError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the stored keys have a form that this version of tidegate does not know")]
    Form,
    #[error("the system has no random bytes")]
    Random,
}

/// Keeps the keys for one purpose.
#[derive(Debug)]
pub struct SharedKeyKeeper<S> {
    store: Arc<S>,
    kind: ItemKind,
    agreement: KeyAgreement,
    state: watch::Sender<SharedKeyState>,
    reports: Arc<FailureReports>,
}

impl<S: VersionedStore> SharedKeyKeeper<S> {
    /// `node` distinguishes this process from all others. What is known so far is in `state`.
    pub fn new(
        store: Arc<S>,
        kind: ItemKind,
        node: &str,
        plan: KeyPlan,
        state: watch::Sender<SharedKeyState>,
    ) -> Self {
        let known = state.borrow().set.clone();
        Self {
            store,
            kind,
            agreement: KeyAgreement::new(node, plan, known),
            state,
            reports: Arc::default(),
        }
    }

    /// Works until it is stopped.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let begun = Instant::now();
        loop {
            let round = async {
                let result = self.poll(begun).await;
                self.note(result.err().as_ref());
                // Not all nodes at the same moment.
                sleep(POLL.mul_f64(fastrand::f64().mul_add(0.2, 0.9))).await;
            };
            tokio::select! {
                () = round => {}
                _ = stop.wait_for(|is_stopped| *is_stopped) => break,
            }
        }
    }

    async fn poll(&mut self, begun: Instant) -> Result<(), SharedKeysError> {
        let (revision, stored) = match self.store.load(self.kind, KEYS_ITEM).await? {
            None => (None, StoredSet::Absent),
            Some(item) => {
                let json = Zeroizing::new(item.content);
                let set = SharedKeySet::parse(&json).ok_or(SharedKeysError::Form)?;
                (Some(item.revision), StoredSet::Present(set))
            }
        };
        let Some(set) = self.agreement.step(begun.elapsed(), stored, new_key)? else {
            return Ok(());
        };
        let json = set.to_json();
        let is_written = match revision {
            Some(revision) => {
                let replaced = self.store.replace(self.kind, KEYS_ITEM, revision, json);
                replaced.await?
            }
            None => self.store.create(self.kind, KEYS_ITEM, json).await?,
        };
        if is_written {
            self.agreement.written(begun.elapsed(), set);
        }
        Ok(())
    }

    /// Publishes what is known now, and reports once that the store cannot be used, or can be used again.
    fn note(&mut self, error: Option<&SharedKeysError>) {
        let keys = self.kind.folder();
        let trouble: Option<Arc<str>> = error.map(|error| error.to_string().into());
        let before = self.state.borrow().clone();
        let known = self.agreement.known();
        if let (None, Some(_)) = (&trouble, &before.trouble) {
            tracing::info!(keys, "shared keys can be read and written again");
        }
        if let Some(trouble) = trouble
            .as_ref()
            .filter(|now| before.trouble.as_ref() != Some(now))
        {
            // It may change between two causes again and again.
            let unreported = self.reports.admit(trouble, std::time::Instant::now());
            if let Some(unreported) = unreported {
                report(keys, error, known.is_some(), unreported);
            }
        }
        let keys_of = |set: Option<&SharedKeySet>| set.map(SharedKeySet::keys);
        if keys_of(known) != keys_of(before.set.as_ref()) {
            let version = known.map(|set| set.version);
            let is_current = known.is_some_and(|set| set.current.is_some());
            tracing::info!(
                keys,
                version,
                is_current,
                is_maker = self.agreement.is_maker(),
                "shared keys applied"
            );
        }
        let now = SharedKeyState {
            set: known.cloned(),
            was_asked: true,
            trouble,
        };
        self.state.send_if_modified(|state| {
            let is_news = state.set != now.set
                || state.was_asked != now.was_asked
                || state.trouble != now.trouble;
            *state = now;
            is_news
        });
    }
}

fn report(keys: &str, error: Option<&SharedKeysError>, is_known: bool, unreported: u64) {
    let Some(error) = error else {
        return;
    };
    let instead = match is_known {
        true => "those that are known",
        false => "keys of its own",
    };
    match error {
        SharedKeysError::Store(StoreError::Sealed {
            error: SealError::OtherSecret,
            ..
        }) => tracing::error!(
            keys,
            %error,
            hint = "all nodes need the same `store.secret_file`; during a change of it, both secrets",
            instead,
            unreported,
            "keys are not shared: this node has another secret than the others"
        ),
        _ => tracing::warn!(
            keys,
            %error,
            instead,
            unreported,
            "shared keys cannot be read or written; this process goes on without"
        ),
    }
}

fn new_key() -> Result<Secret, SharedKeysError> {
    let mut secret = Zeroizing::new(vec![0; KEY_BYTES]);
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| SharedKeysError::Random)?;
    Ok(Secret::new(secret))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::seal::sealer;
    use super::super::sealed_store::SealedStore;
    use super::super::versioned_folder::VersionedFolder;
    use super::*;

    const KIND: ItemKind = ItemKind::TicketKeys;

    /// Times that a test can wait for.
    const PLAN: KeyPlan = KeyPlan {
        rotate_after: Duration::from_secs(60 * 60),
        keep_for: Duration::from_secs(60 * 60),
        spread: Duration::from_millis(10),
        beat: Duration::from_millis(10),
        expiry: Duration::from_millis(2500),
    };

    struct Node {
        state: watch::Receiver<SharedKeyState>,
        stop: watch::Sender<bool>,
        work: tokio::task::JoinHandle<()>,
    }

    fn node(folder: &Path, name: &str, secret: u8) -> Node {
        let sealer = sealer(&[secret], "keys");
        let store = Arc::new(SealedStore::new(VersionedFolder::new(folder), sealer));
        let sender = watch::Sender::new(SharedKeyState::default());
        let state = sender.subscribe();
        let (stop, stopped) = watch::channel(false);
        let keeper = SharedKeyKeeper::new(store, KIND, name, PLAN, sender);
        Node {
            state,
            stop,
            work: tokio::runtime::Handle::current().spawn(keeper.run(stopped)),
        }
    }

    impl Node {
        async fn until(&mut self, reached: impl Fn(&SharedKeyState) -> bool) -> SharedKeyState {
            let reached = self.state.wait_for(|state| reached(state));
            let reached = tokio::time::timeout(Duration::from_secs(60), reached).await;
            reached.expect("in time").unwrap().clone()
        }
    }

    fn has_current(state: &SharedKeyState) -> bool {
        state.set.as_ref().is_some_and(|set| set.current.is_some())
    }

    #[tokio::test]
    async fn nodes_agree_and_another_one_takes_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = node(folder.path(), "first", 1);
        first.until(|state| state.set.is_some()).await;
        let mut second = node(folder.path(), "second", 1);
        let one = first.until(has_current).await.set.unwrap();
        let other = second.until(has_current).await.set.unwrap();
        assert_eq!(one.keys(), other.keys());
        assert_eq!(&*other.maker, "first");
        first.stop.send(true).unwrap();
        first.work.await.unwrap();
        let is_taken = |state: &SharedKeyState| {
            state
                .set
                .as_ref()
                .is_some_and(|set| &*set.maker == "second")
        };
        let taken = second.until(is_taken).await.set.unwrap();
        assert_eq!(taken.keys(), other.keys());
        assert!(taken.version > other.version);
    }

    #[tokio::test]
    async fn with_another_secret_nothing_is_shared_and_nothing_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = node(folder.path(), "first", 1);
        first.until(has_current).await;
        let mut other = node(folder.path(), "other", 2);
        let state = other.until(|state| state.was_asked).await;
        let trouble = state.trouble.unwrap();
        assert!(trouble.contains("`store.secret_file`"), "{trouble}");
        assert_eq!(state.set, None);
        // The first one goes on, so the other one has not written.
        let before = first.state.borrow().set.clone().unwrap();
        let goes_on = |state: &SharedKeyState| {
            state
                .set
                .as_ref()
                .is_some_and(|set| set.version > before.version + 1)
        };
        let after = first.until(goes_on).await;
        assert_eq!(&*after.set.unwrap().maker, "first");
    }

    #[tokio::test]
    async fn without_its_store_a_node_goes_on_with_what_it_knows() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = node(folder.path(), "first", 1);
        let known = node.until(has_current).await.set.unwrap();
        let items = folder.path().join("ticket-keys");
        std::fs::rename(&items, folder.path().join("gone")).unwrap();
        std::fs::write(&items, "a file").unwrap();
        let state = node.until(|state| state.trouble.is_some()).await;
        assert_eq!(state.set.unwrap().keys(), known.keys());
        // The store has lost everything: it gets the keys back.
        std::fs::remove_file(&items).unwrap();
        let state = node.until(|state| state.trouble.is_none()).await;
        assert_eq!(state.set.unwrap().keys(), known.keys());
        assert!(items.is_dir());
    }
}
