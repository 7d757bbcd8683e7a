//! Secrets.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Secret bytes. They are wiped when dropped, and `Debug` does not show them.
///
/// A secret is serialized only for the successor of this process, and for what is sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Zeroizing<Vec<u8>>", into = "Zeroizing<Vec<u8>>")]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// A secret of these bytes.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self::new(bytes)
    }
}

impl From<Secret> for Zeroizing<Vec<u8>> {
    fn from(secret: Secret) -> Self {
        (*secret.0).clone()
    }
}

/// Keys that nodes have agreed on, for one purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedKeys {
    /// The keys that are accepted, oldest first.
    pub secrets: Vec<Secret>,
    /// The position of the key for anything new; `None` while each node uses one of its own.
    pub current: Option<usize>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
