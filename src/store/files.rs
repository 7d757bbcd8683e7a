//! Files with items in them: read, written as a whole, and cleared away.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{MAX_ITEM_BYTES, StoreError};
use crate::config::{Unreadable, writable_folder};

/// Items of a kind that are listed, at most.
pub(super) const MAX_ITEMS: usize = 10_000;

/// What begins the name of a file that is being written.
pub(super) const UNFINISHED: &str = ".new-";

/// After this time, a file that is being written has been left behind by a process that was killed.
const MAX_UNFINISHED_SECONDS: i64 = 24 * 60 * 60;

/// Whether items can be written below `folder`, as far as that can be said without writing one.
pub(super) fn check(folder: &Path) -> Result<(), StoreError> {
    writable_folder(folder).map_err(|Unreadable { why, hint }| StoreError::Unwritable {
        path: folder.to_owned(),
        why,
        hint,
    })
}

pub(super) fn failed(action: &'static str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::File {
        action,
        path: path.to_owned(),
        error: error.to_string(),
    }
}

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
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
pub(super) fn written(
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
pub(super) fn created(path: &Path, content: &[u8]) -> Result<bool, StoreError> {
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

/// Gives a file another name, if that is free.
pub(super) fn linked(new: &Path, path: &Path) -> io::Result<()> {
    let same = |one: fs::Metadata, other: fs::Metadata| {
        one.ino() == other.ino() && one.dev() == other.dev()
    };
    match fs::hard_link(new, path) {
        // A file server whose response was lost is asked again, and finds the name that it has given.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let both = new
                .symlink_metadata()
                .ok()
                .zip(path.symlink_metadata().ok());
            match both.is_some_and(|(one, other)| same(one, other)) {
                true => Ok(()),
                false => Err(error),
            }
        }
        result => result,
    }
}

/// Removes a file, if it exists.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path, &error)),
        _ => Ok(()),
    }
}

pub(super) fn remove_if_left_behind(path: &Path, metadata: &fs::Metadata) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if now.saturating_sub(metadata.mtime()) > MAX_UNFINISHED_SECONDS {
        let _ = fs::remove_file(path);
    }
}
