//! Which of two certificates for the same names is served: the one in memory, or the one in the store.
//!
//! Pure. A store may have an old certificate: it was restored from a backup, somebody has put the old one back, or a node
//! has brought one from the time before it shared. The end of the validity does not say which one is newer: a renewal may
//! be for a shorter time, and it must reach all nodes, also because the key of the one before may be known to somebody.

use std::time::SystemTime;

use super::chain::IssuedFacts;
use crate::config::model::AcmeConfig;

/// What one certificate has over another one; the greater one is served. Fields are compared in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    /// Its validity is not over.
    is_valid: bool,
    /// It is valid for all names.
    has_names: bool,
    /// It was issued as the authority is configured now.
    fits: bool,
    /// The beginning of its validity.
    issued: SystemTime,
}

impl Precedence {
    pub(super) fn of(
        facts: &IssuedFacts,
        has_names: bool,
        config: &AcmeConfig,
        now: SystemTime,
    ) -> Self {
        Self {
            is_valid: !facts.life.has_ended(now),
            has_names,
            fits: facts.fits(config),
            issued: facts.life.not_before,
        }
    }

    /// Whether a node that has this one writes it over the `other` in the store. Only what does not depend on clocks
    /// and configurations counts, in which nodes may differ: two of them would write theirs again and again in turn.
    pub(super) fn is_later_than(self, other: Self) -> bool {
        let kind = |it: Self| (it.has_names, it.fits);
        self.is_valid && kind(self) == kind(other) && self.issued > other.issued
    }

    /// Whether it is put back if the store has none.
    pub(super) fn is_good(self) -> bool {
        self.is_valid && self.has_names
    }
}
