//! A folder as a store whose items several nodes change at the same time, on a file system that they share.
//!
//! An item is a file `KIND/NAME.VERSION`; the highest version counts. A version is written once, by giving a
//! complete file a name that must be free, which every file system does for one node alone. So there are no locks,
//! and nothing is left to be cleared up after a node that was killed. This needs hard links.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_queue::FileQueue;
use super::files::{
    MAX_ITEMS, UNFINISHED, check, failed, linked, read, remove, remove_if_left_behind, written,
};
use super::{ItemKind, ItemRevision, ItemStore, StoreError, StoredItem, VersionedStore};

/// Versions of an item that are kept: a node that has listed the folder a moment ago reads one of them.
const KEPT_VERSIONS: u64 = 8;

/// How often an operation is tried again because another node has changed the item meanwhile.
const MAX_TRIES: usize = 32;

/// A folder of items that nodes share.
#[derive(Debug)]
pub struct VersionedFolder {
    folder: Arc<Path>,
    queue: FileQueue,
}

/// Where the versions of one item are.
struct ItemPlace {
    folder: PathBuf,
    name: Box<str>,
}

impl VersionedFolder {
    /// The items in `folder`. Nothing is created before something is written.
    pub fn new(folder: &Path) -> Self {
        Self {
            queue: FileQueue::new(folder),
            folder: folder.into(),
        }
    }

    /// A folder that waits for files however much time the test lets pass meanwhile.
    #[cfg(test)]
    pub(crate) fn patient(folder: &Path) -> Self {
        let queue = FileQueue::new(folder);
        Self {
            queue: queue.with_timeout(std::time::Duration::from_secs(1_000_000)),
            folder: folder.into(),
        }
    }

    fn place(&self, kind: ItemKind, name: &str) -> ItemPlace {
        ItemPlace {
            folder: self.folder.join(kind.folder()),
            name: name.into(),
        }
    }
}

impl ItemStore for VersionedFolder {
    async fn check(&self) -> Result<(), StoreError> {
        let folder = Arc::clone(&self.folder);
        self.queue.run(move || check(&folder)).await
    }

    async fn read(&self, kind: ItemKind, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let item = self.load(kind, name).await?;
        Ok(item.map(|item| item.content))
    }

    async fn write(&self, kind: ItemKind, name: &str, content: Vec<u8>) -> Result<(), StoreError> {
        let place = self.place(kind, name);
        self.queue.run(move || place.write(&content)).await
    }

    async fn create(
        &self,
        kind: ItemKind,
        name: &str,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let place = self.place(kind, name);
        self.queue.run(move || place.write_after(0, &content)).await
    }

    async fn remove(&self, kind: ItemKind, name: &str) -> Result<(), StoreError> {
        let place = self.place(kind, name);
        self.queue.run(move || place.remove()).await
    }

    async fn list(&self, kind: ItemKind) -> Result<Vec<ItemRevision>, StoreError> {
        let folder = self.folder.join(kind.folder());
        self.queue.run(move || list(&folder)).await
    }
}

impl VersionedStore for VersionedFolder {
    async fn load(&self, kind: ItemKind, name: &str) -> Result<Option<StoredItem>, StoreError> {
        let place = self.place(kind, name);
        self.queue.run(move || place.load()).await
    }

    async fn replace(
        &self,
        kind: ItemKind,
        name: &str,
        revision: u128,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let place = self.place(kind, name);
        let replace = move || match u64::try_from(revision) {
            Ok(version) if version > 0 => place.write_after(version, &content),
            _ => Ok(false),
        };
        self.queue.run(replace).await
    }
}

impl ItemPlace {
    fn path(&self, version: u64) -> PathBuf {
        self.folder.join(format!("{}.{version}", self.name))
    }

    /// The versions that exist, in ascending order.
    fn versions(&self) -> Result<Vec<u64>, StoreError> {
        let mut versions = Vec::new();
        each_version(&self.folder, |name, version| {
            if name == &*self.name {
                versions.push(version);
            }
        })?;
        versions.sort_unstable();
        Ok(versions)
    }

    fn latest(&self) -> Result<u64, StoreError> {
        Ok(self.versions()?.last().copied().unwrap_or(0))
    }

    fn load(&self) -> Result<Option<StoredItem>, StoreError> {
        for _ in 0..MAX_TRIES {
            let version = self.latest()?;
            if version == 0 {
                return Ok(None);
            }
            // A version that is not there any more was followed by others.
            if let Some(content) = read(&self.path(version))? {
                return Ok(Some(StoredItem {
                    content,
                    revision: version.into(),
                }));
            }
        }
        Err(self.busy())
    }

    fn write(&self, content: &[u8]) -> Result<(), StoreError> {
        for _ in 0..MAX_TRIES {
            if self.write_after(self.latest()?, content)? {
                return Ok(());
            }
        }
        Err(self.busy())
    }

    /// Writes the version after `before`, if that is the latest one, or 0 and there is none.
    fn write_after(&self, before: u64, content: &[u8]) -> Result<bool, StoreError> {
        if self.latest()? != before {
            return Ok(false);
        }
        match before.checked_add(1) {
            Some(version) => self.write_version(version, content),
            None => Ok(false),
        }
    }

    /// Writes a version, if its name is free.
    fn write_version(&self, version: u64, content: &[u8]) -> Result<bool, StoreError> {
        let path = self.path(version);
        if let Err(error) = written(&path, content, linked) {
            return match path.symlink_metadata() {
                // Another node was faster.
                Ok(_) => Ok(false),
                Err(_) => Err(error),
            };
        }
        // The name of a version that was removed is free again for a process that was stopped since it looked. By
        // then there are versions that are newer by this many. A few newer ones were written after this one.
        let versions = self.versions()?;
        let kept_until = version.saturating_add(KEPT_VERSIONS);
        if versions.last().is_some_and(|last| *last >= kept_until) {
            remove(&path)?;
            return Err(self.busy());
        }
        for old in versions
            .iter()
            .filter(|old| old.saturating_add(KEPT_VERSIONS) <= version)
        {
            // What stays is removed by the next write.
            let _ = remove(&self.path(*old));
        }
        Ok(true)
    }

    /// Removes all versions, the oldest first: as long as one is left, no node begins with the first one again.
    fn remove(&self) -> Result<(), StoreError> {
        let mut versions = self.versions()?.into_iter();
        versions.try_for_each(|version| remove(&self.path(version)))
    }

    fn busy(&self) -> StoreError {
        StoreError::Busy {
            path: self.folder.clone(),
        }
    }
}

fn list(folder: &Path) -> Result<Vec<ItemRevision>, StoreError> {
    let mut latest: BTreeMap<Box<str>, u64> = BTreeMap::new();
    each_version(folder, |name, version| {
        let known = latest.entry(name.into()).or_default();
        *known = version.max(*known);
    })?;
    let items = latest.into_iter().map(|(name, version)| ItemRevision {
        name,
        revision: version.into(),
    });
    Ok(items.collect())
}

/// Calls `visit` with the name and the version of every file of an item.
fn each_version(folder: &Path, mut visit: impl FnMut(&str, u64)) -> Result<(), StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", folder, &error)),
    };
    for entry in entries.take(MAX_ITEMS) {
        let entry = entry.map_err(|error| failed("read", folder, &error))?;
        let file = entry.file_name();
        let Some(file) = file.to_str() else {
            continue;
        };
        if file.starts_with(UNFINISHED) {
            if let Ok(metadata) = entry.metadata() {
                remove_if_left_behind(&entry.path(), &metadata);
            }
        } else if let Some((name, version)) = file.rsplit_once('.')
            && let Ok(version) = version.parse()
        {
            visit(name, version);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ItemKind = ItemKind::TicketKeys;

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join(KIND.folder())).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn items_are_written_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = VersionedFolder::new(&folder.path().join("deep"));
        store.check().await.unwrap();
        assert_eq!(store.read(KIND, "a").await, Ok(None));
        assert_eq!(store.remove(KIND, "a").await, Ok(()));
        assert_eq!(store.create(KIND, "a", b"one".to_vec()).await, Ok(true));
        assert_eq!(store.create(KIND, "a", b"two".to_vec()).await, Ok(false));
        assert_eq!(store.read(KIND, "a").await, Ok(Some(b"one".to_vec())));
        // One whose name begins with another's is another item.
        assert_eq!(store.create(KIND, "a.b", b"b".to_vec()).await, Ok(true));
        for number in 2..=9 {
            let before = store.list(KIND).await.unwrap();
            store.write(KIND, "a", vec![number]).await.unwrap();
            let after = store.list(KIND).await.unwrap();
            assert_ne!(before[0], after[0]);
            assert_eq!(before[1], after[1]);
        }
        assert_eq!(store.read(KIND, "a").await, Ok(Some(vec![9])));
        let names = files(&folder.path().join("deep"));
        let kept: Vec<_> = (2..=9).map(|number| format!("a.{number}")).collect();
        assert_eq!(names[..8], kept, "old versions and unfinished files");
        assert_eq!(names[8..], ["a.b.1"]);
        store.remove(KIND, "a").await.unwrap();
        assert_eq!(store.read(KIND, "a").await, Ok(None));
        assert_eq!(files(&folder.path().join("deep")), ["a.b.1"]);
    }

    #[tokio::test]
    async fn an_item_is_replaced_only_as_it_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = VersionedFolder::new(folder.path());
        assert_eq!(store.replace(KIND, "a", 0, b"x".to_vec()).await, Ok(false));
        assert_eq!(store.replace(KIND, "a", 1, b"x".to_vec()).await, Ok(false));
        store.write(KIND, "a", b"one".to_vec()).await.unwrap();
        let one = store.load(KIND, "a").await.unwrap().unwrap();
        let replaced = store.replace(KIND, "a", one.revision, b"two".to_vec());
        assert_eq!(replaced.await, Ok(true));
        let again = store.replace(KIND, "a", one.revision, b"six".to_vec());
        assert_eq!(again.await, Ok(false));
        let two = store.load(KIND, "a").await.unwrap().unwrap();
        assert_eq!(two.content, b"two");
        let late = store.replace(KIND, "a", u128::MAX, b"six".to_vec());
        assert_eq!(late.await, Ok(false));
    }

    #[tokio::test]
    async fn a_process_that_was_stopped_meanwhile_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = VersionedFolder::new(folder.path());
        for number in 1..=20 {
            store.write(KIND, "a", vec![number]).await.unwrap();
        }
        // As if it had looked when version 2 was the latest one, and goes on only now.
        let place = store.place(KIND, "a");
        assert!(place.write_version(3, b"late").is_err());
        let item = store.load(KIND, "a").await.unwrap().unwrap();
        assert_eq!((item.content, item.revision), (vec![20], 20));
        assert_eq!(files(folder.path()).len(), 8);
        assert_eq!(store.replace(KIND, "a", 2, b"x".to_vec()).await, Ok(false));
    }

    /// Each counts in its part of the same item, with a store of its own as on a node of its own: no count is lost.
    #[test]
    fn nodes_that_change_an_item_at_once_lose_nothing() {
        const NODES: usize = 4;
        const EACH: u64 = 50;
        type Counts = [u64; NODES];
        let folder = tempfile::tempdir().unwrap();
        let place = || VersionedFolder::new(folder.path()).place(KIND, "count");
        let read = |place: &ItemPlace| match place.load().unwrap() {
            None => (Counts::default(), 0),
            Some(item) => {
                let counts: Counts = serde_json::from_slice(&item.content).unwrap();
                (counts, item.revision.try_into().unwrap())
            }
        };
        let count = |node: usize| {
            let place = place();
            loop {
                let (mut counts, version) = read(&place);
                if counts[node] == EACH {
                    break;
                }
                counts[node] += 1;
                let json = serde_json::to_vec(&counts).unwrap();
                // After an error it may have been written: what is read next shows that.
                let _ = place.write_after(version, &json);
            }
        };
        std::thread::scope(|scope| {
            for node in 0..NODES {
                let count = &count;
                scope.spawn(move || count(node));
            }
        });
        let (counts, version) = read(&place());
        assert_eq!(counts, [EACH; NODES]);
        assert_eq!(version, EACH * NODES as u64);
    }

    #[tokio::test]
    async fn only_the_owner_may_read_and_errors_name_the_file() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let store = VersionedFolder::new(folder.path());
        store.write(KIND, "a", b"key".to_vec()).await.unwrap();
        let mode = |path: &str| {
            let metadata = fs::metadata(folder.path().join(path)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        assert_eq!(
            (mode("ticket-keys"), mode("ticket-keys/a.1")),
            (0o700, 0o600)
        );
        let blocked = folder.path().join("sticky-keys");
        fs::write(&blocked, "a file").unwrap();
        for error in [
            store
                .write(ItemKind::StickyKeys, "a", Vec::new())
                .await
                .unwrap_err(),
            store.read(ItemKind::StickyKeys, "a").await.unwrap_err(),
        ] {
            let shown = error.to_string();
            assert!(shown.contains(blocked.to_str().unwrap()), "{shown}");
        }
    }
}
