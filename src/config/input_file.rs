//! The files that a configuration is read from: their contents, read once, and hashes of them.
//!
//! Whether a file has changed is judged by the bytes that were parsed: a hash of a second reading
//! would belong to contents that were never parsed, if the file was replaced in between.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

/// The maximum size of a file, in bytes.
pub const MAX_INPUT_BYTES: u64 = 16 * 1024 * 1024;

/// A file that was read, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its path.
    pub path: PathBuf,
    /// The hash of its contents.
    pub hash: ContentHash,
}

/// A hash of the contents of a file. A file that cannot be read has a fixed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHash(u64);

/// The contents of a file, or why they cannot be read. They may be secret.
pub type Contents = io::Result<Zeroizing<Vec<u8>>>;

impl ContentHash {
    /// The hash of these contents.
    pub fn of(contents: &Contents) -> Self {
        Self::of_bytes(contents.as_ref().ok().map(|bytes| bytes.as_slice()))
    }

    /// The hash of a text.
    pub fn of_text(text: &str) -> Self {
        Self::of_bytes(Some(text.as_bytes()))
    }

    fn of_bytes(bytes: Option<&[u8]>) -> Self {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Reads a regular file.
///
/// # Errors
/// When the file cannot be opened or read, is something else than a regular file, or is larger than
/// [`MAX_INPUT_BYTES`].
//
// Opened without blocking: a pipe that lies where a certificate is expected would otherwise hold up
// whatever reads it, until something writes to it.
pub fn read(path: &Path) -> Contents {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > MAX_INPUT_BYTES {
        return Err(too_long());
    }
    // Room for the whole file: a buffer that grows would leave pieces of a secret behind.
    let room = usize::try_from(metadata.len()).unwrap_or_default() + 1;
    let bytes = Zeroizing::new(Vec::with_capacity(room));
    // The file may have grown meanwhile.
    read_bounded(file, bytes)
}

/// Reads a stream, such as standard input, to its end.
///
/// # Errors
/// When the stream cannot be read, or has more than [`MAX_INPUT_BYTES`].
pub fn read_stream(input: impl Read) -> Contents {
    read_bounded(input, Zeroizing::default())
}

fn read_bounded(input: impl Read, mut bytes: Zeroizing<Vec<u8>>) -> Contents {
    input.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_INPUT_BYTES {
        true => Err(too_long()),
        false => Ok(bytes),
    }
}

/// The contents of a file as text.
///
/// # Errors
/// When they are not valid UTF-8.
pub fn text(contents: &[u8]) -> io::Result<String> {
    let text = str::from_utf8(contents);
    let text = text.map_err(|_| io::Error::other("not valid UTF-8"))?;
    Ok(text.to_owned())
}

fn too_long() -> io::Error {
    io::Error::other(format!("larger than {MAX_INPUT_BYTES} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_is_read_whole_and_its_hash_is_that_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "some text").unwrap();
        let read = read(&path);
        assert_eq!(read.as_ref().unwrap().as_slice(), b"some text");
        assert_eq!(ContentHash::of(&read), ContentHash::of_text("some text"));
        assert_ne!(ContentHash::of(&read), ContentHash::of_text("other text"));
    }

    #[test]
    fn what_cannot_be_read_differs_from_an_empty_file() {
        let folder = tempfile::tempdir().unwrap();
        let missing = read(&folder.path().join("none"));
        assert_eq!(
            missing.as_ref().unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert_ne!(ContentHash::of(&missing), ContentHash::of_text(""));
    }

    /// Would hang if it waited for a writer, or for the bytes of a device.
    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        for path in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            let error = read(path).unwrap_err().to_string();
            assert_eq!(error, "not a regular file", "{}", path.display());
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        File::create(&path)
            .unwrap()
            .set_len(MAX_INPUT_BYTES + 1)
            .unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.starts_with("larger than"), "{error}");
    }
}
