//! Where endpoints come from.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discovery {
    /// The configuration lists them.
    Listed,
    /// The addresses of a name (A and AAAA records).
    Dns {
        /// The name.
        name: Box<str>,
        /// Not 0.
        port: u16,
        /// Who is asked; `None` for the system's name servers.
        server: Option<SocketAddr>,
    },
    /// The targets of a service (SRV records, RFC 2782).
    Srv {
        /// The name.
        name: Box<str>,
        /// Who is asked; `None` for the system's name servers.
        server: Option<SocketAddr>,
    },
    /// A file of their own lists them.
    File(PathBuf),
}
