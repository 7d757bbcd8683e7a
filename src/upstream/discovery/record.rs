//! How the search for the endpoints of an upstream goes, for operators and metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// What has become of the lookups of one upstream since the start of the process.
#[derive(Debug, Default)]
pub struct DiscoveryRecord {
    /// In seconds since the Unix epoch; 0 for never.
    succeeded_at: AtomicU64,
    failures: AtomicU64,
    failure: Mutex<Option<Box<str>>>,
}

impl DiscoveryRecord {
    /// Notes that the source of endpoints has responded, at this time.
    pub fn succeeded(&self, now: SystemTime) {
        self.responded(now);
        *self.latest() = None;
    }

    /// Notes the same, while the failure of something else goes on.
    pub fn responded(&self, now: SystemTime) {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.succeeded_at.store(since.as_secs(), Ordering::Relaxed);
    }

    /// Notes that it has not, and why.
    pub fn failed(&self, why: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.latest() = Some(why.into());
    }

    /// When it has last responded, in seconds since the Unix epoch; `None` if it never has.
    pub fn last_success(&self) -> Option<u64> {
        Some(self.succeeded_at.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// How often it has not.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Why the latest attempt has failed; `None` if it has not.
    pub fn failure(&self) -> Option<Box<str>> {
        self.latest().clone()
    }

    fn latest(&self) -> std::sync::MutexGuard<'_, Option<Box<str>>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_latest_result_counts() {
        let record = DiscoveryRecord::default();
        assert_eq!((record.last_success(), record.failures()), (None, 0));
        record.failed("no route");
        record.failed("refused");
        assert_eq!(record.failure().as_deref(), Some("refused"));
        record.succeeded(UNIX_EPOCH + Duration::from_millis(7_900));
        assert_eq!(record.failure(), None);
        assert_eq!((record.last_success(), record.failures()), (Some(7), 2));
        record.failed("silent");
        record.responded(UNIX_EPOCH + Duration::from_secs(9));
        assert_eq!(record.failure().as_deref(), Some("silent"));
        assert_eq!(record.last_success(), Some(9));
    }
}
