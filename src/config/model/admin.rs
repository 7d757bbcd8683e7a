//! Where operators connect.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Bind;

/// Where operators connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admin {
    /// Where the interface is served; nowhere without it.
    pub bind: Option<Bind>,
    /// Whether that is only the default: then it is no reason not to start that it cannot be.
    pub is_default: bool,
    /// What changes over TCP need; there are none without it.
    pub token: Option<Token>,
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

/// What shows that a change is an operator's. Wiped when dropped; its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<Zeroizing<Vec<u8>>>);

impl Token {
    /// Bytes that it has at least.
    pub const LEAST: usize = 16;

    /// Of these bytes.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}
