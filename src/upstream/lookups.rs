//! Counts the lookups of names and of discovery.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lookups since the start of the process.
#[derive(Debug, Default)]
pub struct LookupCounters {
    found: AtomicU64,
    failed: AtomicU64,
}

impl LookupCounters {
    /// Counts a lookup: whether it found addresses or endpoints.
    pub fn count(&self, has_found: bool) {
        let counter = match has_found {
            true => &self.found,
            false => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Lookups by result, with the token of each in metrics.
    pub fn by_result(&self) -> [(&'static str, u64); 2] {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("found", count(&self.found)),
            ("failed", count(&self.failed)),
        ]
    }
}
