//! What is reported of a log that loses lines: each cause at once, then the total now and then.
//!
//! Pure: the caller brings the time. A report is a log line itself and may be lost in the same way,
//! so a report per loss would be an endless one.

use std::io;
use std::time::{Duration, Instant};

/// How often a cause that persists is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of causes that are reported within [`REPORT_INTERVAL`].
const MAX_CAUSES: usize = 8;

/// The result of writing a batch of lines.
#[derive(Debug, Default)]
pub(super) struct WriteOutcome {
    /// Lines that were lost.
    pub(super) lost: u64,
    /// Why, or why the file could not be reopened.
    pub(super) error: Option<WriteError>,
}

/// An error of a destination.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Lines cannot be written.
    Write(io::Error),
    /// The file cannot be reopened; the one that is open is written to.
    Reopen(io::Error),
}

/// What is due to be reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LossReport {
    /// Lines lost since the last report.
    pub(super) lost: u64,
    /// The latest cause.
    pub(super) cause: String,
}

/// Decides when losses are reported.
#[derive(Debug, Default)]
pub(super) struct LossReporter {
    /// Lines lost and not reported yet, and the latest cause.
    lost: u64,
    cause: Option<String>,
    /// The causes reported within the last [`REPORT_INTERVAL`], and when.
    reported: Vec<(String, Instant)>,
}

impl LossReporter {
    /// Notes the result of a batch, and lines that were dropped before because the queue was full.
    /// Returns what is to be reported now.
    pub(super) fn note(
        &mut self,
        now: Instant,
        dropped: u64,
        written: &WriteOutcome,
    ) -> Option<LossReport> {
        self.lost += dropped + written.lost;
        if dropped > 0 {
            self.cause = Some("the reader or the disk is too slow".to_owned());
        }
        // The error of the destination explains more: lines are also dropped while it fails slowly.
        match &written.error {
            Some(WriteError::Write(error)) => self.cause = Some(error.to_string()),
            Some(WriteError::Reopen(error)) => {
                self.cause = Some(format!(
                    "cannot reopen the file, writing to the one that is open: {error}"
                ));
            }
            None => {}
        }
        // Several causes may alternate, batch by batch: each has a time of its own.
        self.reported
            .retain(|(_, at)| now.duration_since(*at) < REPORT_INTERVAL);
        let cause = self.cause.as_ref()?;
        let is_known = self.reported.iter().any(|(known, _)| known == cause);
        if is_known || self.reported.len() >= MAX_CAUSES {
            return None;
        }
        let cause = self.cause.take()?;
        self.reported.push((cause.clone(), now));
        let lost = std::mem::take(&mut self.lost);
        Some(LossReport { lost, cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    fn full(lost: u64) -> WriteOutcome {
        WriteOutcome {
            lost,
            error: Some(WriteError::Write(Errno::NOSPC.into())),
        }
    }

    #[test]
    fn a_cause_is_reported_at_once_and_then_every_ten_seconds() {
        let start = Instant::now();
        let mut reporter = LossReporter::default();
        let mut reports = Vec::new();
        for tenth in 0..250 {
            let now = start + Duration::from_millis(100) * tenth;
            reports.extend(reporter.note(now, 0, &full(2)).map(|due| (tenth, due.lost)));
        }
        assert_eq!(reports, [(0, 2), (100, 200), (200, 200)]);
    }

    #[test]
    fn another_cause_is_reported_at_once() {
        let start = Instant::now();
        let mut reporter = LossReporter::default();
        let cause = |due: Option<LossReport>| due.map(|due| due.cause);
        let first = cause(reporter.note(start, 0, &full(1))).unwrap();
        assert!(first.contains("No space left on device"), "{first}");
        assert_eq!(cause(reporter.note(start, 0, &full(1))), None);
        let slow = cause(reporter.note(start, 3, &WriteOutcome::default())).unwrap();
        assert!(slow.contains("too slow"), "{slow}");
    }

    #[test]
    fn causes_that_alternate_are_reported_once_each() {
        let start = Instant::now();
        let mut reporter = LossReporter::default();
        let mut reports = 0;
        for turn in 0..100 {
            let written = match turn % 2 {
                0 => full(1),
                _ => WriteOutcome {
                    lost: 0,
                    error: Some(WriteError::Reopen(Errno::NOENT.into())),
                },
            };
            reports += usize::from(reporter.note(start, 0, &written).is_some());
        }
        assert_eq!(reports, 2);
    }

    /// The last losses before a pause are not forgotten.
    #[test]
    fn what_was_lost_before_is_reported_with_the_next_batch() {
        let start = Instant::now();
        let mut reporter = LossReporter::default();
        assert!(reporter.note(start, 0, &full(1)).is_some());
        assert!(reporter.note(start, 0, &full(5)).is_none());
        let later = start + REPORT_INTERVAL;
        let due = reporter.note(later, 0, &WriteOutcome::default()).unwrap();
        assert_eq!(due.lost, 5);
        assert!(reporter.note(later, 0, &WriteOutcome::default()).is_none());
    }

    #[test]
    fn a_log_that_works_reports_nothing() {
        let mut reporter = LossReporter::default();
        assert!(
            reporter
                .note(Instant::now(), 0, &WriteOutcome::default())
                .is_none()
        );
    }
}
