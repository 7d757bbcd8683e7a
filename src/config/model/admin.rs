//! The admin interface.

use std::path::PathBuf;

use super::{Bind, Secret};

/// The admin interface, which operators connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admin {
    /// The address of the interface; `None` if it is off.
    pub bind: Option<Bind>,
    /// Whether `bind` is the default: if it cannot be bound then, the process starts nevertheless.
    pub is_default: bool,
    /// The token that changes over TCP require; without it, they are refused.
    pub token: Option<Secret>,
    /// The address of metrics and health; `None` if they are not served.
    pub metrics_bind: Option<Bind>,
}

impl Admin {
    /// The default path of the interface's unix socket.
    pub const PATH: &str = "/run/tidegate/admin.sock";

    /// The default permission bits of that socket.
    pub const MODE: u32 = 0o600;

    /// The default of `bind`, with these permission bits if any are given.
    pub fn default_bind(mode: Option<u32>) -> Bind {
        Bind::Unix {
            path: PathBuf::from(Self::PATH),
            mode: mode.unwrap_or(Self::MODE),
        }
    }
}
