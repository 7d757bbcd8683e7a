//! How nodes agree on keys: which node makes them, when a new one is made, and when it is used.
//!
//! This has no I/O, and reads no clock: the caller says what it has read and what time it is by its own steady clock.
//! Clocks of nodes are never compared. All writes are compare-and-swap, on what was read in the same step:
//!
//! - The maker is the process whose id is in the set. It writes the set again at each beat, with a higher version. A
//!   process that has seen the same version for long enough by its own clock makes itself the maker.
//! - The maker first stores a key as `next`, and makes it current after it has known for some time that it is stored:
//!   by then each node that reads the store accepts it.
//! - Each key has with it how long it is kept, which is the longest that any node has asked for: nodes have different
//!   configurations. A node that needs a key for longer writes that, and makes itself the maker by that: one of an
//!   earlier version would forget it with its next beat.
//! - A node never goes back to a lower version. If the store has one, or has lost the set, it stores what it knows.

use std::time::Duration;

use super::key_set::{MAX_PREVIOUS, RetiredKey, SharedKeySet};
use crate::config::model::Secret;

/// Keys that are accepted at the same time, about: what was made with any of them may have to be verified with all.
const KEYS_AT_ONCE: u32 = 4;

/// What counts at most of how long others need the current key: one of them may have had a wrong configuration for a
/// minute. With keys that change after a quarter of this, the previous ones that are kept last for 400 days. No
/// browser keeps a cookie for longer.
const MAX_OF_OTHERS: Duration = Duration::from_secs(200 * 24 * 60 * 60);

/// The times of an agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPlan {
    /// How long a key is current, at least.
    pub rotate_after: Duration,
    /// How long this node needs it after that. Others may need it for longer.
    pub keep_for: Duration,
    /// How long a key is stored before it is current: more than nodes need to read it.
    pub spread: Duration,
    /// How often the maker writes.
    pub beat: Duration,
    /// How long others see the same version before one of them becomes the maker.
    pub expiry: Duration,
}

/// What was read from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredSet {
    /// There is none.
    Absent,
    /// This one.
    Present(SharedKeySet),
}

/// One node's part in the agreement on the keys for one purpose.
#[derive(Debug)]
pub struct KeyAgreement {
    node: Box<str>,
    plan: KeyPlan,
    /// The set with the highest version.
    known: Option<SharedKeySet>,
    /// Since when the store has had the version of `known`.
    since: Duration,
    /// While this node is the maker: until when the ages in `known` are right.
    counted: Duration,
    /// The next key, and since when this node, as the maker, has known that it is stored.
    stored_next: Option<(Secret, Duration)>,
}

impl KeyAgreement {
    /// `node` distinguishes this process from all others, also from those before it. `known` is what the previous
    /// process of an upgrade knew.
    pub fn new(node: &str, plan: KeyPlan, known: Option<SharedKeySet>) -> Self {
        Self {
            node: node.into(),
            plan,
            known,
            since: Duration::ZERO,
            counted: Duration::ZERO,
            stored_next: None,
        }
    }

    /// From now on with these times.
    pub fn set_plan(&mut self, plan: KeyPlan) {
        self.plan = plan;
    }

    /// The latest set that this node knows.
    pub fn known(&self) -> Option<&SharedKeySet> {
        self.known.as_ref()
    }

    /// Whether this node makes the keys.
    pub fn is_maker(&self) -> bool {
        self.known
            .as_ref()
            .is_some_and(|set| set.maker == self.node)
    }

    /// At `now`, the store has `stored`. Returns what to write instead of it, if anything; [`written`](Self::written)
    /// says that this was done. `new_key` makes a key.
    ///
    /// # Errors
    /// That of `new_key`.
    pub fn step<E>(
        &mut self,
        now: Duration,
        stored: StoredSet,
        new_key: impl FnOnce() -> Result<Secret, E>,
    ) -> Result<Option<SharedKeySet>, E> {
        let lost = match (&stored, &self.known) {
            (StoredSet::Absent, None) => return Ok(Some(self.first(new_key()?))),
            (StoredSet::Absent, Some(known)) => Some(known),
            (StoredSet::Present(stored), Some(known)) if stored.version < known.version => {
                Some(known)
            }
            _ => None,
        };
        if let Some(known) = lost {
            return Ok(Some(self.following(known.clone())));
        }
        if let StoredSet::Present(set) = stored {
            self.adopt(now, set);
        }
        let Some(known) = self.known.clone() else {
            return Ok(None);
        };
        if !self.is_maker() {
            let is_silent = now.saturating_sub(self.since) >= self.plan.expiry;
            let needs_longer = known.clone().kept_for(self.keep_for()) != known;
            return Ok((is_silent || needs_longer).then(|| self.following(known)));
        }
        self.make(now, known, new_key)
    }

    /// At `now`, the store has `set`, which this node has written.
    pub fn written(&mut self, now: Duration, set: SharedKeySet) {
        self.adopt(now, set);
    }

    /// The first set of all: its key is not used before all nodes know it.
    fn first(&self, next: Secret) -> SharedKeySet {
        SharedKeySet {
            version: 1,
            maker: self.node.clone(),
            previous: Vec::new(),
            current: None,
            age: Duration::ZERO,
            keep_for: 0,
            next: Some(next),
            next_keep_for: self.keep_for(),
        }
    }

    /// The same keys, as this node writes them.
    fn following(&self, set: SharedKeySet) -> SharedKeySet {
        SharedKeySet {
            version: set.version.saturating_add(1),
            maker: self.node.clone(),
            ..set.kept_for(self.keep_for())
        }
    }

    /// For how many seconds this node needs a key that is not current any more.
    fn keep_for(&self) -> u64 {
        let keep_for = self.plan.keep_for;
        let part = u64::from(keep_for.subsec_nanos() > 0);
        keep_for.as_secs().saturating_add(part)
    }

    /// How long the current key of `set` is that, at least: new keys are needed for as long as this one, or as this
    /// node says, and not too many of them at the same time.
    fn rotate_after(&self, set: &SharedKeySet) -> Duration {
        let of_others = Duration::from_secs(set.keep_for).min(MAX_OF_OTHERS);
        let needed = self.plan.keep_for.max(of_others);
        self.plan.rotate_after.max(needed / KEYS_AT_ONCE)
    }

    fn adopt(&mut self, now: Duration, set: SharedKeySet) {
        if self.known.as_ref() != Some(&set) {
            self.since = now;
            self.counted = now;
            self.known = Some(set);
        }
        let is_maker = self.is_maker();
        let next = self.known.as_ref().and_then(|set| set.next.as_ref());
        self.stored_next = match (next, self.stored_next.take()) {
            (Some(next), Some((stored, since))) if is_maker && *next == stored => {
                Some((stored, since))
            }
            (Some(next), _) if is_maker => Some((next.clone(), now)),
            _ => None,
        };
    }

    /// What the maker writes now.
    fn make<E>(
        &self,
        now: Duration,
        known: SharedKeySet,
        new_key: impl FnOnce() -> Result<Secret, E>,
    ) -> Result<Option<SharedKeySet>, E> {
        let plan = self.plan;
        let passed = now.saturating_sub(self.counted);
        let is_beat = now.saturating_sub(self.since) >= plan.beat;
        // Only a reload makes its own needs longer.
        let mut has_changed = known.clone().kept_for(self.keep_for()) != known;
        let mut set = self.following(known);
        set.age = set.age.saturating_add(passed);
        for key in &mut set.previous {
            key.age = key.age.saturating_add(passed);
        }
        let count = set.previous.len();
        set.previous
            .retain(|key| key.age < Duration::from_secs(key.keep_for));
        has_changed |= set.previous.len() != count;
        let rotate_after = self.rotate_after(&set);
        let is_spread = self
            .stored_next
            .as_ref()
            .is_some_and(|(_, since)| now.saturating_sub(*since) >= plan.spread);
        let is_due = set.current.is_none() || set.age >= rotate_after;
        if set.next.is_none()
            && (set.current.is_none() || set.age.saturating_add(plan.spread) >= rotate_after)
        {
            set.next = Some(new_key()?);
            // Others have the time until it is current to ask for more.
            set.next_keep_for = self.keep_for();
            has_changed = true;
        } else if is_spread && is_due {
            promote(&mut set);
            has_changed = true;
        }
        Ok((has_changed || is_beat).then_some(set))
    }
}

/// Makes the next key current.
fn promote(set: &mut SharedKeySet) {
    let Some(next) = set.next.take() else {
        return;
    };
    if let Some(secret) = set.current.replace(next) {
        set.previous.push(RetiredKey {
            secret,
            age: Duration::ZERO,
            keep_for: set.keep_for,
        });
    }
    set.keep_for = std::mem::take(&mut set.next_keep_for);
    let excess = set.previous.len().saturating_sub(MAX_PREVIOUS);
    set.previous.drain(..excess);
    set.age = Duration::ZERO;
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
