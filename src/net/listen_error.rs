//! Why an address cannot be listened on, in words that lead to the cure.

use std::fmt;
use std::io;

use super::socket_holder::{self, SocketHolder};
use crate::config::model::Bind;

/// The reason why a socket cannot be bound.
#[derive(Debug)]
pub struct ListenFailure {
    error: io::Error,
    what: FailureDetail,
}

/// What is known about the reason.
#[derive(Debug)]
enum FailureDetail {
    /// The process that has the address, if it can be known.
    InUse(Option<SocketHolder>),
    /// A port that only privileged processes may bind.
    Privileged,
    /// An address that this machine does not have.
    NotLocal,
    /// The folder of a unix socket that does not exist.
    NoFolder(String),
    /// Nothing but the error.
    Unknown,
}

impl ListenFailure {
    /// Why `bind` failed with `error`. Looks into `/proc` for the process that has the address.
    pub fn new(bind: &Bind, error: io::Error) -> Self {
        let what = match (error.kind(), bind) {
            (io::ErrorKind::AddrInUse, _) => FailureDetail::InUse(socket_holder::of(bind)),
            (io::ErrorKind::PermissionDenied, Bind::Tcp(address)) if address.port() < 1024 => {
                FailureDetail::Privileged
            }
            (io::ErrorKind::AddrNotAvailable, Bind::Tcp(_)) => FailureDetail::NotLocal,
            (io::ErrorKind::NotFound, Bind::Unix { path, .. }) => {
                let folder = path.parent().filter(|folder| !folder.exists());
                folder.map_or(FailureDetail::Unknown, |folder| {
                    FailureDetail::NoFolder(folder.display().to_string())
                })
            }
            _ => FailureDetail::Unknown,
        };
        Self { error, what }
    }
}

impl fmt::Display for ListenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            FailureDetail::InUse(Some(holder)) => write!(f, "the address is in use by {holder}"),
            FailureDetail::InUse(None) => f.write_str("the address is in use"),
            FailureDetail::Privileged => f.write_str(
                "permission denied: a port below 1024 requires the capability CAP_NET_BIND_SERVICE",
            ),
            FailureDetail::NotLocal => {
                f.write_str("no network interface of this machine has the address")
            }
            FailureDetail::NoFolder(folder) => write!(f, "folder `{folder}` does not exist"),
            FailureDetail::Unknown => self.error.fmt(f),
        }
    }
}

impl std::error::Error for ListenFailure {}
