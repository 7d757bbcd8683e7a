//! The keys that nodes share for one purpose, as they are stored.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::config::model::{Secret, SharedKeys};

/// Keys that are not used for anything new any more, at most.
pub const MAX_PREVIOUS: usize = 8;

/// The length of a fingerprint, in bytes.
const FINGERPRINT_BYTES: usize = 4;

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
    /// For how many seconds `current` is accepted when it is not current any more: the longest that any node has
    /// asked for. Earlier versions of tidegate note nothing.
    #[serde(default)]
    pub keep_for: u64,
    /// The key that will be current as soon as all nodes know it.
    pub next: Option<Secret>,
    /// The same for `next`.
    #[serde(default)]
    pub next_keep_for: u64,
}

/// A key that was current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredKey {
    /// The key.
    pub secret: Secret,
    /// How long ago another one became current.
    pub age: Duration,
    /// For how many seconds it is accepted after that: the longest that any node has asked for.
    #[serde(default)]
    pub keep_for: u64,
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

    /// What distinguishes the key for anything new from others, and is the same on all nodes; `None` before there is one.
    /// It is too short to say anything about the key.
    pub fn fingerprint(&self) -> Option<String> {
        let mut digest = Context::new(&SHA256);
        digest.update(b"tidegate: the fingerprint of a shared key\n");
        digest.update(self.current.as_ref()?.bytes());
        let digest = digest.finish();
        let bytes = digest.as_ref().iter().take(FINGERPRINT_BYTES);
        Some(bytes.map(|byte| format!("{byte:02x}")).collect())
    }

    /// The same keys, each of them kept for this many seconds at least.
    pub fn kept_for(mut self, seconds: u64) -> Self {
        let retired = self.previous.iter_mut().map(|key| &mut key.keep_for);
        let current = self.current.is_some().then_some(&mut self.keep_for);
        let next = self.next.is_some().then_some(&mut self.next_keep_for);
        for keep_for in retired.chain(current).chain(next) {
            *keep_for = seconds.max(*keep_for);
        }
        self
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_earlier_versions_have_stored_is_read() {
        let age = r#"{"secs": 5, "nanos": 0}"#;
        let json = format!(
            r#"{{"version": 3, "maker": "a", "previous": [{{"secret": [1], "age": {age}}}],
                "current": [2], "age": {age}, "next": null}}"#
        );
        let set = SharedKeySet::parse(json.as_bytes()).unwrap();
        assert_eq!((set.keep_for, set.previous[0].keep_for), (0, 0));
        let kept = set.kept_for(60);
        assert_eq!((kept.keep_for, kept.previous[0].keep_for), (60, 60));
        // Without a next key, nothing has to be kept.
        assert_eq!(kept.next_keep_for, 0);
        let kept = SharedKeySet::parse(&kept.to_json()).unwrap().kept_for(30);
        assert_eq!((kept.keep_for, kept.previous[0].keep_for), (60, 60));
    }
}
