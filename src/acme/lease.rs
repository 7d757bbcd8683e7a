//! Who of several nodes orders a certificate: the one that has its lease.
//!
//! A lease is an item of the store that its holder changes every few seconds. No clocks are compared: another node
//! takes a lease over after it has seen the same content for long enough by its own. Then it waits until the
//! holder, if that was only slow, has noticed, and looks whether the lease is still its own.
//!
//! A lease that cannot be opened, because its holder has another secret, is another node's like any other: its revision
//! changes with each beat.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::store::{ItemKind, ItemStore, StoreError};

/// How often the holder changes the item.
const BEAT: Duration = Duration::from_secs(5);

/// How long others see the same content before they take the lease over.
const EXPIRY: Duration = Duration::from_secs(30);

/// How long the holder may fail to reach the store before it gives up: less than [`EXPIRY`].
const MAX_SILENCE: Duration = Duration::from_secs(20);

/// How long a node waits after it has taken a lease over.
const SETTLING: Duration = Duration::from_secs(3);

/// A node that would like to have the lease of one certificate.
#[derive(Debug)]
pub(super) struct LeaseCandidate {
    node: Arc<str>,
    name: Box<str>,
    /// What another holder has written, and since when it has been the same.
    seen: Option<(SeenLease, Instant)>,
}

/// What another holder has written.
#[derive(Debug, PartialEq, Eq)]
enum SeenLease {
    Content(Vec<u8>),
    /// It cannot be opened.
    Sealed(u128),
}

/// The lease of one certificate.
#[derive(Debug)]
pub(super) struct OrderLease {
    node: Arc<str>,
    name: Box<str>,
}

impl LeaseCandidate {
    /// `node` distinguishes this process from all others, also from those before it.
    pub(super) fn new(node: &Arc<str>, name: &str) -> Self {
        Self {
            node: Arc::clone(node),
            name: name.into(),
            seen: None,
        }
    }

    /// The lease, if no other node has it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn acquire(
        &mut self,
        store: &impl ItemStore,
    ) -> Result<Option<OrderLease>, StoreError> {
        let lease = OrderLease {
            node: Arc::clone(&self.node),
            name: self.name.clone(),
        };
        if store
            .create(ItemKind::Lock, &self.name, lease.content(0))
            .await?
        {
            self.seen = None;
            return Ok(Some(lease));
        }
        let Some(found) = SeenLease::read(store, &self.name).await? else {
            // It was released a moment ago: next time.
            return Ok(None);
        };
        let now = Instant::now();
        match &self.seen {
            Some((seen, since)) if *seen == found => {
                if now.duration_since(*since) < EXPIRY {
                    return Ok(None);
                }
            }
            _ => {
                self.seen = Some((found, now));
                return Ok(None);
            }
        }
        self.seen = None;
        store
            .write(ItemKind::Lock, &self.name, lease.content(0))
            .await?;
        sleep(SETTLING).await;
        let is_own = lease.is_own(store).await?;
        Ok(is_own.then_some(lease))
    }
}

impl SeenLease {
    /// The lease that is stored now; `None` if nothing is.
    async fn read(store: &impl ItemStore, name: &str) -> Result<Option<Self>, StoreError> {
        match store.read(ItemKind::Lock, name).await {
            Err(error) if error.is_sealed() => {
                let listed = store.list(ItemKind::Lock).await?;
                let found = listed.iter().find(|item| *item.name == *name);
                Ok(found.map(|item| Self::Sealed(item.revision)))
            }
            read => Ok(read?.map(Self::Content)),
        }
    }
}

impl OrderLease {
    fn content(&self, beat: u64) -> Vec<u8> {
        format!("{} {beat}\n", self.node).into_bytes()
    }

    async fn is_own(&self, store: &impl ItemStore) -> Result<bool, StoreError> {
        let content = match store.read(ItemKind::Lock, &self.name).await {
            // We have not sealed it.
            Err(error) if error.is_sealed() => return Ok(false),
            read => read?.unwrap_or_default(),
        };
        let written = content.split(|byte| *byte == b' ').next();
        Ok(written == Some(self.node.as_bytes()))
    }

    /// Keeps the lease until it is lost: another node has it, or the store cannot be reached for too long.
    pub(super) async fn keep(&self, store: &impl ItemStore) {
        let mut kept = Instant::now();
        for beat in 1.. {
            sleep(BEAT).await;
            match self.beat(store, beat).await {
                Ok(true) => kept = Instant::now(),
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(%error, "lease of a certificate not renewed");
                    if kept.elapsed() >= MAX_SILENCE {
                        return;
                    }
                }
            }
        }
    }

    async fn beat(&self, store: &impl ItemStore, beat: u64) -> Result<bool, StoreError> {
        let is_own = self.is_own(store).await?;
        if is_own {
            let content = self.content(beat);
            store.write(ItemKind::Lock, &self.name, content).await?;
        }
        Ok(is_own)
    }

    /// Gives the lease back. If that fails, others take it over later.
    pub(super) async fn release(self, store: &impl ItemStore) {
        let released = match self.is_own(store).await {
            Ok(true) => store.remove(ItemKind::Lock, &self.name).await,
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = released {
            tracing::debug!(%error, "lease of a certificate not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::time::{advance, pause};

    use super::*;
    use crate::store::folder::FolderStore;
    use crate::store::seal::sealer;
    use crate::store::sealed_store::SealedStore;
    use crate::store::versioned_folder::VersionedFolder;

    /// Time that moves only when the test says so, although threads of the stores are awaited.
    struct HeldClock {
        _release: mpsc::SyncSender<()>,
    }

    fn hold_clock() -> HeldClock {
        pause();
        let (release, released) = mpsc::sync_channel::<()>(0);
        // The runtime does not advance time by itself while blocking work runs.
        drop(tokio::task::spawn_blocking(move || released.recv()));
        HeldClock { _release: release }
    }

    /// Runs `work` while time passes, a second each time it has nothing to do at the moment.
    async fn while_time_passes<T>(work: impl Future<Output = T>) -> T {
        let passing = async {
            loop {
                tokio::task::yield_now().await;
                std::thread::sleep(Duration::from_millis(2));
                advance(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            result = work => result,
            () = passing => unreachable!(),
        }
    }

    struct Node<S = FolderStore> {
        store: S,
        candidate: LeaseCandidate,
    }

    impl Node {
        fn new(state: &std::path::Path, name: &str) -> Self {
            Self::with(FolderStore::patient(state, "ca"), name)
        }
    }

    impl Node<SealedStore<VersionedFolder>> {
        fn sealing(folder: &std::path::Path, name: &str, fills: &[u8]) -> Self {
            let sealer = sealer(fills, "acme/ca");
            Self::with(
                SealedStore::new(VersionedFolder::patient(folder), sealer),
                name,
            )
        }
    }

    impl<S: ItemStore> Node<S> {
        fn with(store: S, name: &str) -> Self {
            Self {
                store,
                candidate: LeaseCandidate::new(&name.into(), "a.example.com"),
            }
        }

        async fn acquire(&mut self) -> Option<OrderLease> {
            while_time_passes(self.candidate.acquire(&self.store))
                .await
                .unwrap()
        }
    }

    #[tokio::test]
    async fn one_node_has_the_lease_until_it_gives_it_back() {
        let state = tempfile::tempdir().unwrap();
        let [mut first, mut second] = ["first", "second"].map(|name| Node::new(state.path(), name));
        let _clock = hold_clock();
        let lease = first.acquire().await.unwrap();
        assert!(second.acquire().await.is_none());
        while_time_passes(lease.release(&first.store)).await;
        let lease = second.acquire().await.unwrap();
        assert!(first.acquire().await.is_none());
        drop(lease);
    }

    #[tokio::test]
    async fn a_lease_is_taken_over_only_if_its_holder_is_silent() {
        let state = tempfile::tempdir().unwrap();
        let [mut first, mut second] = ["first", "second"].map(|name| Node::new(state.path(), name));
        let _clock = hold_clock();
        let lease = first.acquire().await.unwrap();
        // As long as the holder changes the item, the lease is its own, for hours.
        for _ in 0..10 {
            assert!(second.acquire().await.is_none());
            while_time_passes(async {
                assert!(lease.beat(&first.store, fastrand::u64(..)).await.unwrap())
            })
            .await;
            advance(EXPIRY - BEAT).await;
        }
        // Now it is killed.
        assert!(second.acquire().await.is_none());
        advance(EXPIRY - BEAT).await;
        assert!(second.acquire().await.is_none());
        advance(BEAT).await;
        let taken = second.acquire().await.expect("the lease of a dead node");
        // If it was only slow, it notices, and takes nothing back.
        while_time_passes(lease.keep(&first.store)).await;
        while_time_passes(lease.release(&first.store)).await;
        assert!(
            while_time_passes(taken.is_own(&second.store))
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn a_lease_that_cannot_be_opened_is_taken_over_in_the_same_way() {
        let folder = tempfile::tempdir().unwrap();
        let mut old = Node::sealing(folder.path(), "old", &[1]);
        let mut new = Node::sealing(folder.path(), "new", &[2]);
        let _clock = hold_clock();
        let lease = old.acquire().await.unwrap();
        // The check is sealed again; the lease is not.
        let changing = Node::sealing(folder.path(), "changing", &[2, 1]);
        let checked = changing.store.write(ItemKind::Attempt, "a", Vec::new());
        while_time_passes(checked).await.unwrap();
        for _ in 0..3 {
            assert!(new.acquire().await.is_none());
            // Its holder lives: it has the check from before.
            while_time_passes(async {
                assert!(lease.beat(&old.store, fastrand::u64(..)).await.unwrap());
            })
            .await;
            advance(EXPIRY - BEAT).await;
        }
        assert!(new.acquire().await.is_none());
        advance(EXPIRY).await;
        let taken = new.acquire().await.expect("the lease of a dead node");
        let is_own = async { taken.is_own(&new.store).await };
        assert!(while_time_passes(is_own).await.unwrap());
        // The holder from before notices, and removes nothing.
        while_time_passes(lease.keep(&old.store)).await;
        while_time_passes(lease.release(&old.store)).await;
        let is_own = async { taken.is_own(&new.store).await };
        assert!(while_time_passes(is_own).await.unwrap());
    }

    #[tokio::test]
    async fn a_node_with_another_secret_than_the_others_takes_no_lease_over() {
        let folder = tempfile::tempdir().unwrap();
        let mut node = Node::sealing(folder.path(), "node", &[1]);
        let mut stranger = Node::sealing(folder.path(), "stranger", &[2]);
        let _clock = hold_clock();
        drop(node.acquire().await.unwrap());
        for _ in 0..3 {
            let acquired = stranger.candidate.acquire(&stranger.store);
            let error = while_time_passes(acquired).await.unwrap_err();
            assert!(error.is_sealed(), "{error}");
            advance(EXPIRY).await;
        }
    }

    #[tokio::test]
    async fn of_two_that_take_over_at_once_one_gets_it() {
        let state = tempfile::tempdir().unwrap();
        let mut dead = Node::new(state.path(), "dead");
        let [mut first, mut second] = ["first", "second"].map(|name| Node::new(state.path(), name));
        let _clock = hold_clock();
        drop(dead.acquire().await.unwrap());
        assert!(first.acquire().await.is_none());
        assert!(second.acquire().await.is_none());
        advance(EXPIRY).await;
        let both = async {
            tokio::join!(
                first.candidate.acquire(&first.store),
                second.candidate.acquire(&second.store)
            )
        };
        let (first, second) = while_time_passes(both).await;
        let count = usize::from(first.unwrap().is_some()) + usize::from(second.unwrap().is_some());
        assert_eq!(count, 1);
    }

    #[tokio::test]
    async fn a_holder_without_its_store_gives_up() {
        let state = tempfile::tempdir().unwrap();
        let mut node = Node::new(state.path(), "first");
        let _clock = hold_clock();
        let lease = node.acquire().await.unwrap();
        let locks = state.path().join("ca/locks");
        std::fs::remove_dir_all(&locks).unwrap();
        std::fs::write(&locks, "a file").unwrap();
        let begin = Instant::now();
        while_time_passes(lease.keep(&node.store)).await;
        assert!(begin.elapsed() < EXPIRY);
    }
}
