//! The files of unix sockets: whose they are, and who removes them.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The file of a unix socket; removed with the socket, if it is ours.
#[derive(Debug)]
pub struct SocketFile {
    /// Some sockets have none.
    path: Option<PathBuf>,
    is_ours: AtomicBool,
    /// Nobody has only lent it to us.
    may_be_ours: bool,
}

impl SocketFile {
    pub(super) fn ours(path: PathBuf) -> Self {
        Self {
            path: Some(path),
            is_ours: AtomicBool::new(true),
            may_be_ours: true,
        }
    }

    /// Of the process before, and ours once this one serves.
    pub(super) fn heir(path: PathBuf) -> Self {
        Self {
            path: Some(path),
            is_ours: AtomicBool::new(false),
            may_be_ours: true,
        }
    }

    /// Of whoever passed the socket, and theirs to remove.
    pub(super) fn theirs(path: Option<PathBuf>) -> Self {
        Self {
            path,
            is_ours: AtomicBool::new(false),
            may_be_ours: false,
        }
    }

    /// This process serves there: the file goes with its socket, unless it is of whoever passed that.
    pub(super) fn claim(&self) {
        self.is_ours.store(self.may_be_ours, Ordering::Relaxed);
    }

    /// Another process has the socket, too: the file stays when this end of it is closed.
    pub(super) fn leave(&self) {
        self.is_ours.store(false, Ordering::Relaxed);
    }
}

impl fmt::Display for SocketFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "unix:{}", path.display()),
            None => f.write_str("unix:"),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = self.path.as_ref().filter(|_| *self.is_ours.get_mut()) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes a socket that its process left behind; one that still answers is somebody's.
pub(super) fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path is not a socket",
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}
