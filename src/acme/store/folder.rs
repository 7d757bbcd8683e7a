//! A folder as the store: `STATE/AUTHORITY`, with a folder for each kind of item. Nodes may share it.
//!
//! Folders are for the owner alone (0700), and so are files (0600): there are keys in them. A file is written
//! under another name and renamed, so it is whole or not there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_queue::FileQueue;
use super::{CertificateStore, ItemKind, ItemRevision, StoreError};
use crate::config::{Unreadable, writable_folder};

/// The largest item, in bytes. A chain of certificates has a few thousand.
const MAX_ITEM_BYTES: u64 = 256 * 1024;

/// Items of a kind that are listed, at most.
const MAX_ITEMS: usize = 10_000;

/// What begins the name of a file that is being written.
const UNFINISHED: &str = ".new-";

/// After this time, a file that is being written has been left behind by a process that was killed.
const MAX_UNFINISHED_SECONDS: i64 = 24 * 60 * 60;

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
    pub(in crate::acme) fn patient(state: &Path, name: &str) -> Self {
        let store = Self::new(state, name);
        let queue = store
            .queue
            .with_timeout(std::time::Duration::from_secs(1_000_000));
        Self { queue, ..store }
    }

    fn path(&self, kind: ItemKind, name: &str) -> PathBuf {
        self.folder
            .join(folder_of(kind))
            .join(format!("{name}{}", ending_of(kind)))
    }
}

impl CertificateStore for FolderStore {
    async fn check(&self) -> Result<(), StoreError> {
        let folder = Arc::clone(&self.folder);
        let check = move || {
            writable_folder(&folder).map_err(|Unreadable { why, hint }| StoreError::Unwritable {
                path: folder.to_path_buf(),
                why,
                hint,
            })
        };
        self.queue.run(check).await
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
            let linked = written(&path, &content, |new, path| fs::hard_link(new, path));
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
        let removed = move || match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed("remove", &path, &error))
            }
            _ => Ok(()),
        };
        self.queue.run(removed).await
    }

    async fn list(&self, kind: ItemKind) -> Result<Vec<ItemRevision>, StoreError> {
        let folder = self.folder.join(folder_of(kind));
        self.queue.run(move || list(&folder, ending_of(kind))).await
    }
}

fn folder_of(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Account => "accounts",
        ItemKind::Certificate => "certificates",
        ItemKind::Order => "orders",
        ItemKind::Challenge => "challenges",
        ItemKind::Attempt => "attempts",
        ItemKind::Lock => "locks",
    }
}

fn ending_of(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Certificate => ".pem",
        ItemKind::Lock => ".lock",
        ItemKind::Account | ItemKind::Order | ItemKind::Challenge | ItemKind::Attempt => ".json",
    }
}

fn failed(action: &'static str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::File {
        action,
        path: path.to_owned(),
        error: error.to_string(),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path, &error)),
    };
    let mut content = Vec::new();
    let read = file.take(MAX_ITEM_BYTES + 1).read_to_end(&mut content);
    read.map_err(|error| failed("read", path, &error))?;
    if content.len() as u64 > MAX_ITEM_BYTES {
        return Err(StoreError::TooLarge {
            path: path.to_owned(),
            limit: MAX_ITEM_BYTES,
        });
    }
    Ok(Some(content))
}

/// Writes a new file beside `path`, and lets `place` give it that name.
fn written(
    path: &Path,
    content: &[u8],
    place: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> Result<(), StoreError> {
    let error = |error: &io::Error| failed("write", path, error);
    let folder = path.parent().unwrap_or(path);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| failed("create", folder, &error))?;
    let new = folder.join(format!("{UNFINISHED}{:016x}", fastrand::u64(..)));
    let result: io::Result<()> = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(content)?;
        // The new name must not lead to a file that a power cut has emptied.
        file.sync_all()?;
        place(&new, path)?;
        // Not every file system can do this with a folder.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    })();
    if result.is_err() || new.symlink_metadata().is_ok() {
        // After a link, the file has two names.
        let _ = fs::remove_file(&new);
    }
    result.map_err(|failure| error(&failure))
}

/// Writes a file in place, if there is none. Others may read half of it for a moment.
fn created(path: &Path, content: &[u8]) -> Result<bool, StoreError> {
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let written = match opened {
        Ok(mut file) => file.write_all(content).and_then(|()| file.sync_all()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => Err(error),
    };
    written
        .map(|()| true)
        .map_err(|error| failed("write", path, &error))
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

fn remove_if_left_behind(path: &Path, metadata: &fs::Metadata) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if now.saturating_sub(metadata.mtime()) > MAX_UNFINISHED_SECONDS {
        let _ = fs::remove_file(path);
    }
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
