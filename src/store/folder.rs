//! A folder as the store: `STATE/AUTHORITY`, with a folder for each kind of item. Nodes may share it.
//!
//! Folders are for the owner alone (0700), and so are files (0600): there are keys in them. A file is written
//! under another name and renamed, so it is whole or not there.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_queue::FileQueue;
use super::files::{
    MAX_ITEMS, UNFINISHED, check, created, failed, linked, read, remove, remove_if_left_behind,
    written,
};
use super::{ItemKind, ItemRevision, ItemStore, StoreError};

/// A folder of one authority.
#[derive(Debug)]
pub struct FolderStore {
    folder: Arc<Path>,
    queue: FileQueue,
}

impl FolderStore {
    /// The items of authority `name` below `state`. Nothing is created before something is written.
    pub fn new(state: &Path, name: &str) -> Self {
        let folder = state.join(name);
        Self {
            queue: FileQueue::new(&folder),
            folder: folder.into(),
        }
    }

    /// A store that waits for files however much time the test lets pass meanwhile.
    #[cfg(test)]
    pub(crate) fn patient(state: &Path, name: &str) -> Self {
        let store = Self::new(state, name);
        let queue = store
            .queue
            .with_timeout(std::time::Duration::from_secs(1_000_000));
        Self { queue, ..store }
    }

    fn path(&self, kind: ItemKind, name: &str) -> PathBuf {
        self.folder
            .join(kind.folder())
            .join(format!("{name}{}", ending_of(kind)))
    }
}

impl ItemStore for FolderStore {
    async fn check(&self) -> Result<(), StoreError> {
        let folder = Arc::clone(&self.folder);
        self.queue.run(move || check(&folder)).await
    }

    async fn read(&self, kind: ItemKind, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(kind, name);
        self.queue.run(move || read(&path)).await
    }

    async fn write(&self, kind: ItemKind, name: &str, content: Vec<u8>) -> Result<(), StoreError> {
        let path = self.path(kind, name);
        let written = self
            .queue
            .run(move || written(&path, &content, |new, path| fs::rename(new, path)));
        written.await
    }

    async fn create(
        &self,
        kind: ItemKind,
        name: &str,
        content: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let path = self.path(kind, name);
        let create = move || {
            // A link is made only if the name is free. Unlike O_EXCL, it makes a file that is complete.
            let linked = written(&path, &content, linked);
            match linked {
                // File systems of Windows servers have no links.
                Err(_) if path.symlink_metadata().is_err() => created(&path, &content),
                Ok(()) => Ok(true),
                Err(_) => Ok(false),
            }
        };
        self.queue.run(create).await
    }

    async fn remove(&self, kind: ItemKind, name: &str) -> Result<(), StoreError> {
        let path = self.path(kind, name);
        self.queue.run(move || remove(&path)).await
    }

    async fn list(&self, kind: ItemKind) -> Result<Vec<ItemRevision>, StoreError> {
        let folder = self.folder.join(kind.folder());
        self.queue.run(move || list(&folder, ending_of(kind))).await
    }
}

fn ending_of(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Certificate => ".pem",
        ItemKind::Lock => ".lock",
        ItemKind::Account
        | ItemKind::Order
        | ItemKind::Challenge
        | ItemKind::Attempt
        | ItemKind::TicketKeys
        | ItemKind::StickyKeys
        | ItemKind::Seal => ".json",
    }
}

fn list(folder: &Path, ending: &str) -> Result<Vec<ItemRevision>, StoreError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", folder, &error)),
    };
    let mut items = Vec::new();
    for entry in entries.take(MAX_ITEMS) {
        let entry = entry.map_err(|error| failed("read", folder, &error))?;
        let name = entry.file_name();
        // A file may be removed at any moment.
        let (Some(name), Ok(metadata)) = (name.to_str(), entry.metadata()) else {
            continue;
        };
        if name.starts_with(UNFINISHED) {
            remove_if_left_behind(&entry.path(), &metadata);
        } else if let Some(name) = name.strip_suffix(ending) {
            items.push(ItemRevision {
                name: name.into(),
                revision: revision_of(&metadata),
            });
        }
    }
    items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

/// Every new content is in a new file: it has another number, unless the file system uses it again, and then
/// another time.
fn revision_of(metadata: &fs::Metadata) -> u128 {
    let time = metadata.mtime().unsigned_abs() << 30 | metadata.mtime_nsec().unsigned_abs();
    u128::from(metadata.ino()) << 64 | u128::from(time)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KIND: ItemKind = ItemKind::Certificate;

    #[tokio::test]
    async fn items_are_written_read_and_removed() {
        let state = tempfile::tempdir().unwrap();
        let store = FolderStore::new(&state.path().join("deep"), "ca");
        assert_eq!(store.read(KIND, "a").await, Ok(None));
        assert_eq!(store.list(KIND).await, Ok(Vec::new()));
        assert_eq!(store.remove(KIND, "a").await, Ok(()));
        store.write(KIND, "a", b"one".to_vec()).await.unwrap();
        let first = store.list(KIND).await.unwrap();
        assert_eq!(&*first[0].name, "a");
        assert_eq!(store.list(KIND).await.unwrap(), first);
        store.write(KIND, "a", b"two".to_vec()).await.unwrap();
        assert_ne!(store.list(KIND).await.unwrap(), first);
        assert_eq!(store.read(KIND, "a").await, Ok(Some(b"two".to_vec())));
        assert_eq!(store.list(ItemKind::Order).await, Ok(Vec::new()));
        assert_eq!(store.create(KIND, "a", b"three".to_vec()).await, Ok(false));
        assert_eq!(store.create(KIND, "b", b"three".to_vec()).await, Ok(true));
        assert_eq!(store.read(KIND, "a").await, Ok(Some(b"two".to_vec())));
        store.remove(KIND, "a").await.unwrap();
        let names: Vec<_> = store
            .list(KIND)
            .await
            .unwrap()
            .into_iter()
            .map(|item| item.name)
            .collect();
        assert_eq!(names, ["b".into()]);
        let left = fs::read_dir(state.path().join("deep/ca/certificates"))
            .unwrap()
            .count();
        assert_eq!(left, 1, "files that were not finished");
    }

    #[tokio::test]
    async fn only_the_owner_may_read() {
        let state = tempfile::tempdir().unwrap();
        let store = FolderStore::new(state.path(), "ca");
        store.write(KIND, "a", b"key".to_vec()).await.unwrap();
        store
            .create(ItemKind::Lock, "a", b"node".to_vec())
            .await
            .unwrap();
        for (path, expected) in [
            ("ca", 0o700),
            ("ca/certificates", 0o700),
            ("ca/certificates/a.pem", 0o600),
            ("ca/locks/a.lock", 0o600),
        ] {
            let mode = fs::metadata(state.path().join(path))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, expected, "{path}");
        }
    }

    #[test]
    fn without_links_a_file_is_still_created_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.lock");
        assert_eq!(created(&path, b"one"), Ok(true));
        assert_eq!(created(&path, b"two"), Ok(false));
        assert_eq!(read(&path), Ok(Some(b"one".to_vec())));
        assert!(created(&folder.path().join("none/a.lock"), b"one").is_err());
    }

    #[tokio::test]
    async fn errors_name_the_file() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("ca"), "a file").unwrap();
        let store = FolderStore::new(state.path(), "ca");
        let path = state.path().join("ca/certificates");
        for error in [
            store.write(KIND, "a", Vec::new()).await.unwrap_err(),
            store.create(KIND, "a", Vec::new()).await.unwrap_err(),
            store.list(KIND).await.unwrap_err(),
        ] {
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
        let large = FolderStore::new(state.path(), "other");
        large.write(KIND, "a", vec![0; 300_000]).await.unwrap();
        let error = large.read(KIND, "a").await.unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    }
}
