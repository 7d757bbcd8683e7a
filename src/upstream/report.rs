//! Reports about what may fail again and again: warnings, one per cause and minute, and counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A cause is reported again after this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Causes that are remembered, at most.
const MAX_CAUSES: usize = 32;

/// The causes that were reported lately.
#[derive(Debug, Default)]
pub struct FailureReports(Mutex<HashMap<Box<str>, ReportedCause>>);

#[derive(Debug)]
struct ReportedCause {
    at: Instant,
    unreported: u64,
}

impl FailureReports {
    /// Whether a failure with this cause is to be reported. If so, returns how many were not since the last
    /// report.
    pub fn admit(&self, cause: &str, now: Instant) -> Option<u64> {
        let mut causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reported) = causes.get_mut(cause) {
            if now.saturating_duration_since(reported.at) < REPORT_INTERVAL {
                reported.unreported += 1;
                return None;
            }
            reported.at = now;
            return Some(std::mem::take(&mut reported.unreported));
        }
        if causes.len() >= MAX_CAUSES {
            causes.clear();
        }
        let reported = ReportedCause {
            at: now,
            unreported: 0,
        };
        causes.insert(cause.into(), reported);
        Some(0)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_reported_once_a_minute() {
        let reports = FailureReports::default();
        let now = Instant::now();
        assert_eq!(reports.admit("timeout", now), Some(0));
        for _ in 0..3 {
            assert_eq!(reports.admit("timeout", now + REPORT_INTERVAL / 2), None);
        }
        assert_eq!(reports.admit("refused", now), Some(0));
        assert_eq!(reports.admit("timeout", now + REPORT_INTERVAL), Some(3));
        for cause in 0..1000 {
            reports.admit(&cause.to_string(), now);
        }
        assert!(reports.0.lock().unwrap().len() <= MAX_CAUSES);
    }
}
