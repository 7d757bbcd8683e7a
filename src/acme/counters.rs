//! How orders have ended, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// How an attempt to get a certificate has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderResult {
    /// The authority has issued a certificate, and it is stored.
    Issued,
    /// The authority could not validate a name.
    ValidationFailed,
    /// The authority rejects the names, the account or the request.
    Rejected,
    /// The authority accepts no further orders for now.
    RateLimited,
    /// The authority did not answer, or failed itself.
    Unreachable,
    /// Something on our side failed: the folder, the hook, the lease.
    Local,
}

impl OrderResult {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Issued,
        Self::ValidationFailed,
        Self::Rejected,
        Self::RateLimited,
        Self::Unreachable,
        Self::Local,
    ];

    /// The name in metrics and logs.
    pub fn token(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::ValidationFailed => "validation-failed",
            Self::Rejected => "rejected",
            Self::RateLimited => "rate-limited",
            Self::Unreachable => "unreachable",
            Self::Local => "local",
        }
    }
}

/// The orders so far, by result.
#[derive(Debug, Default)]
pub struct OrderCounters([AtomicU64; OrderResult::ALL.len()]);

impl OrderCounters {
    /// Counts one.
    pub(super) fn count(&self, result: OrderResult) {
        if let Some(counter) = self.0.get(result as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many have ended like this.
    pub fn get(&self, result: OrderResult) -> u64 {
        let counter = self.0.get(result as usize);
        counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_result_has_its_own_counter() {
        let counters = OrderCounters::default();
        for (position, result) in OrderResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, position, "{}", result.token());
            counters.count(result);
            let counted = OrderResult::ALL.map(|each| counters.get(each));
            assert_eq!(counted.iter().sum::<u64>(), position as u64 + 1);
            assert_eq!(counted[position], 1);
        }
    }
}
