//! The admin interface.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Bind, ListenerTls, Secret};

/// The admin interface, which operators connect to.
#[derive(Debug, Clone, Default)]
pub struct Admin {
    /// The address of the interface; `None` if it is off.
    pub bind: Option<Bind>,
    /// Whether `bind` is the default: other places are tried then, and the process starts without the interface
    /// if it cannot have any.
    pub is_default: bool,
    /// Who may do what over TCP.
    pub access: AdminAccess,
    /// TLS of the interface over TCP; `None` for plain text.
    pub tls: Option<ListenerTls>,
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

/// Who may use the admin interface over TCP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdminAccess {
    /// The tokens. No two are the same, and no two have the same name.
    pub tokens: Vec<AdminToken>,
    /// Whether reading requires no token.
    pub is_reading_open: bool,
}

/// A token of the admin interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminToken {
    /// Whose it is.
    pub name: Arc<str>,
    /// What it allows.
    pub role: AdminRole,
    /// The token itself.
    pub secret: Secret,
}

/// What a token of the admin interface allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminRole {
    /// To read everything.
    Read,
    /// To read everything, and to change what runs.
    Steer,
    /// Only to revoke and extend what clients were granted.
    Revoke,
    /// Everything.
    All,
}

impl AdminRole {
    /// The role with this name.
    pub fn of(name: &str) -> Option<Self> {
        let mut all = [Self::Read, Self::Steer, Self::Revoke, Self::All].into_iter();
        all.find(|role| role.name() == name)
    }

    /// Its name, as it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Steer => "steer",
            Self::Revoke => "revoke",
            Self::All => "all",
        }
    }

    /// Whether it allows what requires `needed`.
    pub fn allows(self, needed: Self) -> bool {
        match self {
            Self::All => true,
            Self::Steer => matches!(needed, Self::Steer | Self::Read),
            Self::Read | Self::Revoke => self == needed,
        }
    }
}

impl fmt::Display for AdminRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_allows_no_more_than_it_says() {
        let all = [
            AdminRole::Read,
            AdminRole::Steer,
            AdminRole::Revoke,
            AdminRole::All,
        ];
        for (role, allowed) in [
            (AdminRole::Read, &all[..1]),
            (AdminRole::Steer, &all[..2]),
            (AdminRole::Revoke, &all[2..3]),
            (AdminRole::All, &all),
        ] {
            for needed in all {
                let expected = allowed.contains(&needed);
                assert_eq!(role.allows(needed), expected, "{role} {needed}");
            }
            assert_eq!(AdminRole::of(role.name()), Some(role));
        }
        assert_eq!(AdminRole::of("root"), None);
    }
}
