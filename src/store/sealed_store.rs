//! A store whose items are all sealed: not only those with keys, because an open challenge that another program
//! has written would let it obtain certificates for our names.
//!
//! The first node seals an item that all others must be able to open before they write anything, so that one with
//! another secret disturbs none of them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use super::seal::{OpenedContent, SealError, Sealer};
use super::{ItemKind, ItemRevision, ItemStore, StoreError, StoredItem, VersionedStore};

/// The name of the item that a node must be able to open before it writes.
const SEAL_ITEM: &str = "check";

/// A store of sealed items.
#[derive(Debug)]
pub struct SealedStore<S> {
    inner: S,
    sealer: Sealer,
    /// Whether the secret is known to be that of the other nodes.
    is_verified: AtomicBool,
    /// What was sealed again because the secret has changed. Each item once: nodes that do not have the same file
    /// yet would do it again and again in turn.
    resealed: Mutex<HashSet<(ItemKind, Box<str>)>>,
}

impl<S: VersionedStore> SealedStore<S> {
    /// The items of `inner`, opened and sealed by `sealer`.
    pub fn new(inner: S, sealer: Sealer) -> Self {
        Self {
            inner,
            sealer,
            is_verified: AtomicBool::new(false),
            resealed: Mutex::default(),
        }
    }

    /// Fails if other nodes have another secret.
    async fn verify(&self) -> Result<(), StoreError> {
        if self.is_verified.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.load(ItemKind::Seal, SEAL_ITEM).await?.is_none() {
            let sealed = self.sealed(ItemKind::Seal, SEAL_ITEM, Vec::new())?;
            let created = self.inner.create(ItemKind::Seal, SEAL_ITEM, sealed).await?;
            if !created {
                // Another node was faster.
                self.load(ItemKind::Seal, SEAL_ITEM).await?;
            }
        }
        self.is_verified.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn sealed(&self, kind: ItemKind, name: &str, content: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let content = Zeroizing::new(content);
        let sealed = self.sealer.seal(kind, name, &content);
        sealed.map_err(|error| StoreError::sealed(kind, name, error))
    }

    /// An item that is written rarely is sealed again with the first secret, so that the others can be removed.
    async fn reseal(&self, kind: ItemKind, name: &str, revision: u128, opened: &OpenedContent) {
        let is_rare = matches!(
            kind,
            ItemKind::Account | ItemKind::Certificate | ItemKind::Seal
        );
        if !is_rare || !opened.is_outdated || !self.is_first(kind, name) {
            return;
        }
        let Ok(sealed) = self.sealer.seal(kind, name, &opened.content) else {
            return;
        };
        if let Err(error) = self.inner.replace(kind, name, revision, sealed).await {
            tracing::debug!(%error, "item not sealed again");
        }
    }

    fn is_first(&self, kind: ItemKind, name: &str) -> bool {
        let mut resealed = self.resealed.lock().unwrap_or_else(PoisonError::into_inner);
        resealed.insert((kind, name.into()))
    }
}

impl<S: VersionedStore> ItemStore for SealedStore<S> {
    async fn check(&self) -> Result<(), StoreError> {
        self.inner.check().await
    }

    async fn read(&self, kind: ItemKind, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let item = self.load(kind, name).await?;
        Ok(item.map(|item| item.content))
    }

    async fn write(&self, kind: ItemKind, name: &str, content: Vec<u8>) -> Result<(), StoreError> {
        self.verify().await?;
        let sealed = self.sealed(kind, name, content)?;
        self.inner.write(kind, name, sealed).await
    }

    async fn create(
        &self,
        kind: ItemKind,
        name: &str,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        self.verify().await?;
        let sealed = self.sealed(kind, name, content)?;
        self.inner.create(kind, name, sealed).await
    }

    async fn remove(&self, kind: ItemKind, name: &str) -> Result<(), StoreError> {
        self.verify().await?;
        self.inner.remove(kind, name).await
    }

    async fn list(&self, kind: ItemKind) -> Result<Vec<ItemRevision>, StoreError> {
        self.inner.list(kind).await
    }
}

impl<S: VersionedStore> VersionedStore for SealedStore<S> {
    async fn load(&self, kind: ItemKind, name: &str) -> Result<Option<StoredItem>, StoreError> {
        let Some(item) = self.inner.load(kind, name).await? else {
            return Ok(None);
        };
        let opened = self.sealer.open(kind, name, &item.content);
        let opened = opened.map_err(|error| StoreError::sealed(kind, name, error))?;
        self.reseal(kind, name, item.revision, &opened).await;
        Ok(Some(StoredItem {
            content: opened.content.to_vec(),
            revision: item.revision,
        }))
    }

    async fn replace(
        &self,
        kind: ItemKind,
        name: &str,
        revision: u128,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        self.verify().await?;
        let sealed = self.sealed(kind, name, content)?;
        self.inner.replace(kind, name, revision, sealed).await
    }
}

impl StoreError {
    pub(super) fn sealed(kind: ItemKind, name: &str, error: SealError) -> Self {
        Self::Sealed {
            item: format!("{}/{name}", kind.folder()),
            error,
        }
    }

    /// Whether an item is there that cannot be opened. What other nodes may need for long, such as an account, must
    /// not be replaced then.
    pub fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::sealer;
    use super::super::versioned_folder::VersionedFolder;
    use super::*;

    const KIND: ItemKind = ItemKind::Certificate;

    fn store(folder: &std::path::Path, fills: &[u8]) -> SealedStore<VersionedFolder> {
        SealedStore::new(VersionedFolder::new(folder), sealer(fills, "acme/le"))
    }

    #[tokio::test]
    async fn files_contain_nothing_that_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = store(folder.path(), &[1]);
        sealed.write(KIND, "a", b"PRIVATE".to_vec()).await.unwrap();
        let created = sealed.create(KIND, "b", b"PRIVATE".to_vec()).await;
        assert_eq!(created, Ok(true));
        let item = sealed.load(KIND, "a").await.unwrap().unwrap();
        assert_eq!(item.content, b"PRIVATE");
        let replaced = sealed.replace(KIND, "a", item.revision, b"PRIVATE2".to_vec());
        assert_eq!(replaced.await, Ok(true));
        assert_eq!(sealed.read(KIND, "a").await, Ok(Some(b"PRIVATE2".to_vec())));
        let files = std::fs::read_dir(folder.path().join("certificates")).unwrap();
        for file in files {
            let content = std::fs::read(file.unwrap().path()).unwrap();
            let has_key = content.windows(7).any(|part| part == b"PRIVATE");
            assert!(!has_key);
        }
    }

    #[tokio::test]
    async fn a_copy_under_another_name_and_another_secret_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = store(folder.path(), &[1]);
        sealed.write(KIND, "a", b"key".to_vec()).await.unwrap();
        let files = folder.path().join("certificates");
        std::fs::copy(files.join("a.1"), files.join("b.1")).unwrap();
        let error = sealed.read(KIND, "b").await.unwrap_err();
        assert!(
            error.is_sealed() && error.to_string().contains("certificates/b"),
            "{error}"
        );
        let error = store(folder.path(), &[2])
            .read(KIND, "a")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("`store.secret_file`"), "{error}");
    }

    #[tokio::test]
    async fn a_node_with_another_secret_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let own = store(folder.path(), &[1]);
        own.write(KIND, "a", b"key".to_vec()).await.unwrap();
        let stranger = store(folder.path(), &[2]);
        for error in [
            stranger.write(KIND, "a", Vec::new()).await.unwrap_err(),
            stranger.create(KIND, "b", Vec::new()).await.unwrap_err(),
            stranger
                .replace(KIND, "a", 1, Vec::new())
                .await
                .unwrap_err(),
            stranger.remove(KIND, "a").await.unwrap_err(),
        ] {
            assert!(error.is_sealed(), "{error}");
        }
        assert_eq!(own.read(KIND, "a").await, Ok(Some(b"key".to_vec())));
        assert_eq!(own.read(KIND, "b").await, Ok(None));
        let changing = store(folder.path(), &[2, 1]);
        changing.write(KIND, "b", Vec::new()).await.unwrap();
        // It has sealed the check again, with the secret that comes first there.
        stranger.write(KIND, "b", Vec::new()).await.unwrap();
    }

    #[tokio::test]
    async fn after_a_change_of_the_secret_what_is_read_is_sealed_again() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &[1])
            .write(KIND, "a", b"key".to_vec())
            .await
            .unwrap();
        assert!(store(folder.path(), &[2]).read(KIND, "a").await.is_err());
        let both = store(folder.path(), &[2, 1]);
        assert_eq!(both.read(KIND, "a").await, Ok(Some(b"key".to_vec())));
        let new = store(folder.path(), &[2]);
        assert_eq!(new.read(KIND, "a").await, Ok(Some(b"key".to_vec())));
        // A node that has the old order seals it back, but not a second time.
        let old = store(folder.path(), &[1, 2]);
        old.read(KIND, "a").await.unwrap();
        assert!(new.read(KIND, "a").await.is_err());
        both.read(KIND, "a").await.unwrap();
        assert!(new.read(KIND, "a").await.is_err());
    }
}
