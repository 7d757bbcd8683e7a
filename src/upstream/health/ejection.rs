//! Ejection: when failing sessions take an endpoint out of rotation, and for how long.
//!
//! Pure: given outcomes and the time, it returns what changed.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::model::Ejection;
use crate::upstream::time::later;

/// Buckets of the sliding window. Outcomes are forgotten a bucket at a time.
const BUCKETS: usize = 8;

/// The shortest bucket: a window of zero must not divide by zero.
const MIN_BUCKET: Duration = Duration::from_millis(1);

/// The minimum of failures that count in less than the whole window.
const MIN_SUDDEN_FAILURES: u64 = 5;

/// How an endpoint made a session fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionFailure {
    /// The connection failed.
    Connect,
    /// A handshake got no response in time, an invalid one, or a 502, 503 or 504.
    Handshake,
    /// The endpoint cut a tunnel soon after it opened.
    EarlyEnd,
}

impl fmt::Display for SessionFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connections fail",
            Self::Handshake => "handshakes fail",
            Self::EarlyEnd => "tunnels are cut soon after they open",
        })
    }
}

/// The outcomes of an endpoint's sessions, and its ejections.
#[derive(Debug, Default)]
pub(super) struct EjectionHistory {
    pub(super) outcomes: OutcomeWindow,
    /// When the latest ejection ends or ended.
    pub(super) until: Option<Instant>,
    /// How often the duration of the next ejection is doubled.
    pub(super) doublings: u32,
    /// The latest failure.
    pub(super) why: Option<SessionFailure>,
}

impl EjectionHistory {
    /// Whether the endpoint is ejected at `now`.
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Ends the ejection.
    pub(super) fn end(&mut self, now: Instant) {
        self.until = self.until.map(|until| until.min(now));
    }

    /// A session succeeded.
    pub(super) fn passed(&mut self, settings: &Ejection, now: Instant) {
        if !self.is_ejected(now) {
            self.outcomes.now(settings, now).successes += 1;
        }
    }

    /// A session failed because of the endpoint. Returns whether the endpoint should be ejected.
    ///
    /// It should if the window has at least the configured number of failures, and at least as many
    /// failures as successes: one percent of failures never ejects a busy endpoint. Older successes
    /// must not protect an endpoint that suddenly fails, so the same rule applies to the latest
    /// buckets alone, from a handful of failures on. There, early ends do not count: the successes
    /// that opened those tunnels may be in older buckets, and a client that has its own tunnels cut
    /// must not get an endpoint ejected that serves other clients well.
    pub(super) fn failed(
        &mut self,
        failure: SessionFailure,
        settings: &Ejection,
        now: Instant,
    ) -> bool {
        if self.is_ejected(now) {
            return false;
        }
        self.why = Some(failure);
        let bucket = self.outcomes.now(settings, now);
        match failure {
            SessionFailure::Connect | SessionFailure::Handshake => bucket.failures += 1,
            SessionFailure::EarlyEnd => bucket.early_ends += 1,
        }
        self.outcomes.are_bad(settings)
    }

    /// Ejects the endpoint for `base`, doubled with each ejection (backoff) up to `ceiling`. For each
    /// period in rotation as long as the longer of `window` and `base`, one doubling is forgotten.
    pub(super) fn eject(&mut self, settings: &Ejection, now: Instant) -> Duration {
        if let Some(until) = self.until {
            let step = settings.window.max(settings.base).max(MIN_BUCKET);
            let calm = now.saturating_duration_since(until).as_nanos() / step.as_nanos();
            let calm = u32::try_from(calm).unwrap_or(u32::MAX);
            self.doublings = self.doublings.saturating_sub(calm);
        }
        let factor = 1u32.checked_shl(self.doublings).unwrap_or(u32::MAX);
        let time = settings.base.saturating_mul(factor).min(settings.ceiling);
        if time < settings.ceiling {
            self.doublings += 1;
        }
        self.until = Some(later(now, time));
        // Otherwise the first failure after the ejection would eject the endpoint again.
        self.outcomes = OutcomeWindow::default();
        time
    }
}

/// The outcomes of sessions within the sliding window.
#[derive(Debug, Default)]
pub(super) struct OutcomeWindow {
    /// The latest one first.
    buckets: [Bucket; BUCKETS],
    /// How long each bucket is.
    length: Duration,
    /// When the latest bucket began.
    began: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    successes: u64,
    failures: u64,
    early_ends: u64,
}

impl OutcomeWindow {
    /// The bucket of `now`. A worker whose `now` is slightly old gets the latest one.
    fn now(&mut self, settings: &Ejection, now: Instant) -> &mut Bucket {
        let length = (settings.window / BUCKETS as u32).max(MIN_BUCKET);
        let began = match self.began {
            Some(began) if length == self.length => began,
            _ => {
                // A reload changed the window, or this is the first outcome.
                *self = Self {
                    length,
                    ..Self::default()
                };
                now
            }
        };
        let passed = now.saturating_duration_since(began).as_nanos() / length.as_nanos();
        match usize::try_from(passed) {
            Ok(passed @ 0..BUCKETS) => {
                self.buckets.rotate_right(passed);
                self.buckets.iter_mut().take(passed).for_each(Bucket::clear);
                self.began = Some(later(began, length * passed as u32));
            }
            _ => {
                self.buckets = Default::default();
                self.began = Some(now);
            }
        }
        &mut self.buckets[0]
    }

    fn are_bad(&self, settings: &Ejection) -> bool {
        let min = u64::from(settings.failures);
        let mut sum = Bucket::default();
        let is_sudden = self.buckets.iter().any(|bucket| {
            sum.add(bucket);
            sum.failures >= min.max(MIN_SUDDEN_FAILURES) && sum.failures >= sum.successes
        });
        let failures = sum.failures + sum.early_ends;
        is_sudden || (failures >= min && failures >= sum.successes)
    }
}

impl Bucket {
    fn clear(&mut self) {
        *self = Self::default();
    }

    fn add(&mut self, other: &Self) {
        self.successes += other.successes;
        self.failures += other.failures;
        self.early_ends += other.early_ends;
    }
}

/// How many of an upstream's `endpoints` may be ejected at once.
pub fn max_ejected(settings: &Ejection, endpoints: usize) -> usize {
    // A share of 0.3 of ten is three, although 0.3 * 10.0 may be slightly less in floating point.
    (settings.max_share * endpoints as f64 + 1e-9).floor() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::health::tests::{SECOND, ejection};
    use proptest::prelude::*;

    /// Runs sessions, one every `apart`: `.` for a success, `h` for a failed handshake, `e` for an early
    /// end. Returns the position of the one after which the endpoint should be ejected.
    fn due(settings: &Ejection, outcomes: &str, apart: Duration) -> Option<usize> {
        let now = Instant::now();
        let mut ejections = EjectionHistory::default();
        let times = (0..).map(|at| now + apart * at);
        outcomes.chars().zip(times).position(|(outcome, now)| {
            let failure = match outcome {
                '.' => {
                    ejections.passed(settings, now);
                    return false;
                }
                'h' => SessionFailure::Handshake,
                _ => SessionFailure::EarlyEnd,
            };
            ejections.failed(failure, settings, now)
        })
    }

    #[test]
    fn enough_failures_within_the_window() {
        let settings = ejection(3);
        for (outcomes, apart, expected) in [
            ("hhhh", 1, Some(2)),
            ("eehh", 1, Some(2)),
            ("h.h.h", 1, Some(4)),
            ("...hh.h", 1, None),
            // Every tunnel is cut early: each early end follows the success of its handshake.
            (".e.e.e", 1, Some(5)),
            (".e.e..e", 1, None),
            // The failures are too far apart.
            ("hhhhhh", 16, None),
        ] {
            let due = due(&settings, outcomes, apart * SECOND);
            assert_eq!(due, expected, "{outcomes} every {apart} s");
        }
    }

    /// Thousands of successes in the window must not protect an endpoint that hangs now.
    #[test]
    fn a_busy_endpoint_that_breaks_is_ejected_soon() {
        let outcomes = ".".repeat(10_000) + &"h".repeat(10_000);
        let at = due(&ejection(5), &outcomes, SECOND / 100).unwrap();
        // Two buckets of the window are 800 sessions.
        assert!((10_004..10_800).contains(&at), "{at}");
        // Early ends count only over the whole window: other clients may be served well meanwhile.
        assert_eq!(
            due(
                &ejection(5),
                &(".".repeat(1000) + &"e".repeat(900)),
                SECOND / 100
            ),
            None
        );
    }

    #[test]
    fn each_ejection_is_twice_as_long_and_calm_periods_count() {
        let settings = ejection(1);
        let mut ejections = EjectionHistory::default();
        let mut now = Instant::now();
        let mut times = Vec::new();
        for good in [0, 0, 0, 0, 31, 32, 64, 1000] {
            let time = ejections.eject(&settings, now);
            assert!(ejections.is_ejected(now + time - SECOND));
            assert!(!ejections.is_ejected(now + time));
            times.push(time.as_secs());
            now += time + good * SECOND;
        }
        assert_eq!(times, [10, 20, 40, 60, 60, 60, 40, 20]);
        assert_eq!(ejections.eject(&settings, now).as_secs(), 10);
    }

    #[test]
    fn shares_are_rounded_down() {
        for (share, endpoints, most) in [
            (0.5, 1, 0),
            (0.5, 2, 1),
            (0.5, 3, 1),
            (0.3, 10, 3),
            (0.0, 9, 0),
            (1.0, 9, 9),
        ] {
            let settings = Ejection {
                max_share: share,
                ..ejection(1)
            };
            assert_eq!(max_ejected(&settings, endpoints), most);
        }
    }

    proptest! {
        #[test]
        fn one_percent_of_failures_ejects_no_busy_endpoint(
            failures in 1..20u32,
            apart in 1..280u64,
            early in any::<bool>(),
            first in 1..100usize,
        ) {
            // A hundred sessions or more within seven eighths of the window.
            let bad = if early { "e" } else { "h" };
            let hundred = ".".repeat(99) + bad;
            let outcomes = ".".repeat(first) + &hundred.repeat(20);
            let due = due(&ejection(failures), &outcomes, Duration::from_millis(apart));
            prop_assert_eq!(due, None);
        }

        #[test]
        fn ejection_needs_a_period_of_failures(
            outcomes in "[.he]{0,200}",
            apart in 1..8000u64,
            failures in 1..20u32,
        ) {
            let apart = Duration::from_millis(apart);
            let settings = ejection(failures);
            if let Some(at) = due(&settings, &outcomes, apart) {
                let within = (settings.window.as_nanos() / apart.as_nanos()) as usize;
                let start = at.saturating_sub(within);
                let mut bad = (0, 0);
                let found = outcomes[start..=at].bytes().rev().any(|outcome| {
                    match outcome {
                        b'.' => bad.1 += 1,
                        _ => bad.0 += 1,
                    }
                    bad.0 >= failures && bad.0 >= bad.1
                });
                prop_assert!(found, "{outcomes} at {at}");
            }
        }

        #[test]
        fn only_failures_within_the_window_are_enough(
            failures in 1..20u32,
            apart in 0..28_000u64,
        ) {
            let apart = Duration::from_millis(apart) / failures;
            let outcomes = "h".repeat(failures as usize);
            prop_assert_eq!(
                due(&ejection(failures), &outcomes, apart),
                Some(failures as usize - 1)
            );
        }
    }
}
