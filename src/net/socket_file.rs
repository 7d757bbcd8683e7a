//! The files of unix sockets: which process owns a file, and removes it.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a unix socket; removed with the socket, if this process owns it.
#[derive(Debug)]
pub struct SocketFile {
    /// `None` for a socket without a file.
    path: Option<PathBuf>,
    is_ours: AtomicBool,
    /// Whether this process may own the file at all: not if the service manager bound the socket.
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

    /// A file of the predecessor. This process owns it once it has claimed it.
    pub(super) fn heir(path: PathBuf) -> Self {
        Self {
            path: Some(path),
            is_ours: AtomicBool::new(false),
            may_be_ours: true,
        }
    }

    /// A file of the service manager, which also removes it.
    pub(super) fn theirs(path: Option<PathBuf>) -> Self {
        Self {
            path,
            is_ours: AtomicBool::new(false),
            may_be_ours: false,
        }
    }

    /// From now on the file is removed with the socket, unless the service manager owns it.
    pub(super) fn claim(&self) {
        self.is_ours.store(self.may_be_ours, Ordering::Relaxed);
    }

    /// A successor owns the file from now on.
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

/// Removes the file of a socket whose process is gone. A socket that still answers is in use.
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
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A process that accepts nothing may have a full backlog, and a blocking connection would wait for it.
    socket.set_nonblocking(true)?;
    let Err(error) = socket.connect(&SockAddr::unix(path)?) else {
        return Err(io::ErrorKind::AddrInUse.into());
    };
    match error.kind() {
        io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        io::ErrorKind::WouldBlock => Err(io::ErrorKind::AddrInUse.into()),
        _ => Err(error),
    }
}
