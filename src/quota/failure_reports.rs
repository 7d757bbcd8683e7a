//! Reports about what may fail again and again: one per cause and minute.

use std::collections::HashMap;
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
