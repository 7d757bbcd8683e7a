//! Reports about what may fail again and again: one per cause and minute, the others at the level DEBUG.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A cause is reported again after this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Causes that are remembered, at most.
const MAX_CAUSES: usize = 32;

/// The causes that were reported lately.
#[derive(Debug, Default)]
pub struct FailureReports(Mutex<ReportedCauses>);

#[derive(Debug, Default)]
struct ReportedCauses {
    known: HashMap<Box<str>, ReportedCause>,
    /// Stands for all causes that are too many to be remembered, and for those that were forgotten.
    others: ReportedCause,
}

#[derive(Debug, Default)]
struct ReportedCause {
    /// When it was last reported.
    at: Option<Instant>,
    unreported: u64,
}

impl FailureReports {
    /// Whether a failure with this cause is to be reported. If so, returns how many were not since the last
    /// report.
    pub fn admit(&self, cause: &str, now: Instant) -> Option<u64> {
        let mut causes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        causes.of(cause, now).admit(now)
    }
}

impl ReportedCauses {
    fn of(&mut self, cause: &str, now: Instant) -> &mut ReportedCause {
        if !self.known.contains_key(cause) {
            if self.known.len() >= MAX_CAUSES {
                self.forget_due(now);
            }
            if self.known.len() >= MAX_CAUSES {
                // Forgetting them all would report each of them again: as many lines as there are failures.
                return &mut self.others;
            }
        }
        self.known.entry(cause.into()).or_default()
    }

    /// Forgets the causes that may be reported again; the number of their failures that were not is kept.
    fn forget_due(&mut self, now: Instant) {
        let others = &mut self.others;
        self.known.retain(|_, reported| {
            let is_due = reported.is_due(now);
            if is_due {
                others.unreported += reported.unreported;
            }
            !is_due
        });
    }
}

impl ReportedCause {
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if !self.is_due(now) {
            self.unreported += 1;
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.unreported))
    }

    /// Whether it is to be reported again.
    fn is_due(&self, now: Instant) -> bool {
        self.at
            .is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL)
    }
}

/// Logs an event at the level WARN if `reports` admit its `cause` now, with the number of those that were not
/// reported since the last one; otherwise at the level DEBUG. The fields come after the message.
macro_rules! warn_once_a_minute {
    ($reports:expr, $cause:expr, $message:literal, $($fields:tt)+) => {
        match $reports.admit($cause, ::std::time::Instant::now()) {
            Some(unreported) => ::tracing::warn!($($fields)+, unreported, $message),
            None => ::tracing::debug!($($fields)+, $message),
        }
    };
}
pub(crate) use warn_once_a_minute;

/// A trouble that comes and goes, as often as a stranger wants: its beginning is reported at most once a minute,
/// and its end if its beginning was. One that lasts is reported as soon as that is allowed.
#[derive(Debug, Default)]
pub struct RecurringTrouble {
    reported_at: Option<Instant>,
    is_reported: bool,
}

impl RecurringTrouble {
    /// There is trouble, or there still is. Returns whether to report it.
    pub fn is_there(&mut self, now: Instant) -> bool {
        let is_due = self
            .reported_at
            .is_none_or(|at| now.saturating_duration_since(at) >= REPORT_INTERVAL);
        if self.is_reported || !is_due {
            return false;
        }
        self.reported_at = Some(now);
        self.is_reported = true;
        true
    }

    /// There is none, or none any more. Returns whether to report that.
    pub fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.is_reported)
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
    }

    #[test]
    fn more_causes_than_are_remembered_are_not_more_reports() {
        let reports = FailureReports::default();
        let now = Instant::now();
        let admitted = |now| {
            let causes = (0..1000).map(|number: u32| (number % 100).to_string());
            causes
                .filter_map(|cause| reports.admit(&cause, now))
                .count()
        };
        assert_eq!(admitted(now), MAX_CAUSES + 1);
        assert_eq!(admitted(now), 0);
        assert_eq!(admitted(now + REPORT_INTERVAL), MAX_CAUSES + 1);
        assert!(reports.0.lock().unwrap().known.len() <= MAX_CAUSES);
    }

    #[test]
    fn every_failure_is_reported_or_counted_in_a_later_report() {
        let reports = FailureReports::default();
        let now = Instant::now();
        let mut told = 0;
        // Enough causes to forget some of them, and in the end one after the other.
        for step in 0..1000_u64 {
            let cause = (step % 100).to_string();
            let at = now + REPORT_INTERVAL * (step / 400) as u32;
            told += reports
                .admit(&cause, at)
                .map_or(0, |unreported| 1 + unreported);
        }
        let later = now + REPORT_INTERVAL * 10;
        // All are due: what is forgotten is in the report of those that are too many to be remembered.
        for step in 0..=MAX_CAUSES {
            let cause = format!("later {step}");
            told += reports
                .admit(&cause, later)
                .map_or(0, |unreported| 1 + unreported);
        }
        assert_eq!(told, 1000 + MAX_CAUSES as u64 + 1);
    }

    #[test]
    fn a_trouble_that_comes_and_goes_is_reported_once_a_minute_with_its_end() {
        let mut trouble = RecurringTrouble::default();
        let now = Instant::now();
        assert!(!trouble.is_over());
        assert!(trouble.is_there(now));
        assert!(!trouble.is_there(now));
        assert!(trouble.is_over());
        assert!(!trouble.is_over());
        for _ in 0..3 {
            assert!(!trouble.is_there(now + REPORT_INTERVAL / 2));
            assert!(!trouble.is_over(), "nobody knows of it");
        }
        // It stays this time.
        assert!(!trouble.is_there(now + REPORT_INTERVAL / 2));
        assert!(trouble.is_there(now + REPORT_INTERVAL));
        assert!(!trouble.is_there(now + REPORT_INTERVAL * 2));
        assert!(trouble.is_over());
    }
}
