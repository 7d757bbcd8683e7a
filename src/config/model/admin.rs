//! Where operators connect.

use std::path::PathBuf;

use super::{Bind, Secret};

/// Where operators connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admin {
    /// Where the interface is served; nowhere without it.
    pub bind: Option<Bind>,
    /// Whether that is only the default: then it is no reason not to start that it cannot be.
    pub is_default: bool,
    /// What changes over TCP need; there are none without it.
    pub token: Option<Secret>,
    /// Where metrics and health are served; nowhere without it.
    pub metrics_bind: Option<Bind>,
}

impl Admin {
    /// Where the interface is served if nothing else is said.
    pub const PATH: &str = "/run/tidegate/admin.sock";

    /// Permission bits of its socket, likewise.
    pub const MODE: u32 = 0o600;

    /// The default of `bind`, with this mode if there is one.
    pub fn default_bind(mode: Option<u32>) -> Bind {
        Bind::Unix {
            path: PathBuf::from(Self::PATH),
            mode: mode.unwrap_or(Self::MODE),
        }
    }
}
