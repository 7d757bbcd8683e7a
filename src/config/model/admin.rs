//! The admin interface.

use std::path::PathBuf;

use super::{Bind, Secret};

/// The admin interface, which operators connect to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admin {
    /// The address of the interface; `None` if it is off.
    pub bind: Option<Bind>,
    /// Whether `bind` is the default: other places are tried then, and the process starts without the interface
    /// if it cannot have any.
    pub is_default: bool,
    /// The token that changes over TCP require; without it, they are refused.
    pub token: Option<Secret>,
    /// The address of metrics and health; `None` if they are not served.
    pub metrics_bind: Option<Bind>,
}

impl Admin {
    /// The default path of the interface's unix socket; `admin::default_socket` has the other one.
    pub const PATH: &str = "/run/tidegate/admin.sock";

    /// The default permission bits of that socket.
    pub const MODE: u32 = 0o600;

    /// The address of the interface if its unix socket is at `path`.
    pub fn bind_at(&self, path: PathBuf) -> Bind {
        let mode = match self.bind {
            Some(Bind::Unix { mode, .. }) => mode,
            _ => Self::MODE,
        };
        Bind::Unix { path, mode }
    }

    /// The default of `bind`, with these permission bits if any are given.
    pub fn default_bind(mode: Option<u32>) -> Bind {
        Bind::Unix {
            path: PathBuf::from(Self::PATH),
            mode: mode.unwrap_or(Self::MODE),
        }
    }
}
