//! Sources of endpoints.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The source of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discovery {
    /// The configuration lists them.
    Listed,
    /// The addresses of a name (A and AAAA records).
    Dns {
        /// The name.
        name: Box<str>,
        /// The port of every endpoint, not 0.
        port: u16,
        /// The name server; `None` for those of the operating system.
        server: Option<SocketAddr>,
    },
    /// The targets of a service (SRV records, RFC 2782).
    Srv {
        /// The name.
        name: Box<str>,
        /// The name server; `None` for those of the operating system.
        server: Option<SocketAddr>,
    },
    /// A file of their own lists them.
    File(PathBuf),
}
