//! The keys that nodes share for one purpose, as they are stored.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::model::{Secret, SharedKeys};

/// Keys that are not used for anything new any more, at most.
pub const MAX_PREVIOUS: usize = 8;

/// All keys for one purpose. Nodes accept what was made with any of them, and use `current` for anything new.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedKeySet {
    /// Grows with each change, also after the store has lost some.
    pub version: u64,
    /// The process that makes keys and has written this.
    pub maker: Box<str>,
    /// The keys that were current, oldest first.
    pub previous: Vec<RetiredKey>,
    /// The key for anything new; `None` before all nodes know the first one.
    pub current: Option<Secret>,
    /// How long `current` has been that, by the clocks of its makers.
    pub age: Duration,
    /// The key that will be current as soon as all nodes know it.
    pub next: Option<Secret>,
}

/// A key that was current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredKey {
    /// The key.
    pub secret: Secret,
    /// How long ago another one became current.
    pub age: Duration,
}

impl fmt::Debug for SharedKeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeySet")
            .field("version", &self.version)
            .field("maker", &self.maker)
            .finish_non_exhaustive()
    }
}

impl SharedKeySet {
    /// What is stored.
    pub fn to_json(&self) -> Vec<u8> {
        // It has strings and numbers, which can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What was stored; `None` if another version of tidegate has written it in another form.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let set: Self = serde_json::from_slice(json).ok()?;
        (set.previous.len() <= MAX_PREVIOUS).then_some(set)
    }

    /// All keys, the oldest first, and which of them is current.
    pub fn keys(&self) -> SharedKeys {
        let previous = self.previous.iter().map(|key| &key.secret);
        let keys = previous.chain(&self.current).chain(&self.next);
        SharedKeys {
            secrets: keys.cloned().collect(),
            current: self.current.is_some().then_some(self.previous.len()),
        }
    }
}
