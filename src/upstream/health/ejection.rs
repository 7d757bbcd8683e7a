//! When sessions get an endpoint ejected, and for how long.
//!
//! Pure: told outcomes and the time, it tells what changed.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::model::Ejection;
use crate::upstream::time::later;

/// Parts that the window of ejection has. Outcomes are forgotten bucket by bucket.
const BUCKETS: usize = 8;

/// The narrowest that a part can be.
const MIN_BUCKET: Duration = Duration::from_millis(1);

/// Failures that mean something in less than the whole window.
const SUDDEN: u64 = 5;

/// What an endpoint did wrong in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionFailure {
    /// No connection came about.
    Connect,
    /// A handshake had no answer in time, or a broken one, or a 502, 503 or 504.
    Handshake,
    /// A tunnel was cut by the endpoint soon after it had opened.
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

/// How often and how long it has been ejected.
#[derive(Debug, Default)]
pub(super) struct EjectionHistory {
    pub(super) outcomes: OutcomeWindow,
    /// When the latest one ends, or has ended.
    pub(super) until: Option<Instant>,
    /// How often the time of the next one is doubled.
    pub(super) doublings: u32,
    /// What the latest was for.
    pub(super) why: Option<SessionFailure>,
}

impl EjectionHistory {
    /// Whether it is ejected now.
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Ends its ejection.
    pub(super) fn end(&mut self, now: Instant) {
        self.until = self.until.map(|until| until.min(now));
    }

    /// A session went well.
    pub(super) fn passed(&mut self, settings: &Ejection, now: Instant) {
        if !self.is_ejected(now) {
            self.outcomes.now(settings, now).successes += 1;
        }
    }

    /// A session failed by the endpoint's doing. Tells whether that makes it due to be ejected.
    ///
    /// It is due when there are as many failures as the settings have it within the window, and no
    /// fewer of them than successes: one percent of failures never ejects a busy endpoint. So that
    /// its older successes do not protect it for long when all of a sudden it fails, the same holds for
    /// the latest parts of the window, from a handful of failures. There, early ends do not count: the
    /// successes that opened those tunnels may lie before that part, and somebody who has their own
    /// tunnels cut must not get an endpoint ejected that serves others well.
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
        let part = self.outcomes.now(settings, now);
        match failure {
            SessionFailure::Connect | SessionFailure::Handshake => part.failures += 1,
            SessionFailure::EarlyEnd => part.early_ends += 1,
        }
        self.outcomes.are_bad(settings)
    }

    /// Ejects it: for `base`, doubled each time, up to `ceiling`. A doubling is forgotten for each
    /// time, as long as the longer of `window` and `base`, that it has served in between.
    pub(super) fn eject(&mut self, settings: &Ejection, now: Instant) -> Duration {
        if let Some(until) = self.until {
            let step = settings.window.max(settings.base).max(MIN_BUCKET);
            let good = now.saturating_duration_since(until).as_nanos() / step.as_nanos();
            let good = u32::try_from(good).unwrap_or(u32::MAX);
            self.doublings = self.doublings.saturating_sub(good);
        }
        let factor = 1u32.checked_shl(self.doublings).unwrap_or(u32::MAX);
        let time = settings.base.saturating_mul(factor).min(settings.ceiling);
        if time < settings.ceiling {
            self.doublings += 1;
        }
        self.until = Some(later(now, time));
        self.outcomes = OutcomeWindow::default();
        time
    }
}

/// How sessions went within the window.
#[derive(Debug, Default)]
pub(super) struct OutcomeWindow {
    /// The latest one first.
    parts: [Bucket; BUCKETS],
    /// How long each is.
    length: Duration,
    /// When the latest began.
    began: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Bucket {
    successes: u64,
    failures: u64,
    early_ends: u64,
}

impl OutcomeWindow {
    /// The part that `now` falls into; the latest one, too, for a worker that comes a hair late.
    fn now(&mut self, settings: &Ejection, now: Instant) -> &mut Bucket {
        let length = (settings.window / BUCKETS as u32).max(MIN_BUCKET);
        let began = match self.began {
            Some(began) if length == self.length => began,
            _ => {
                // The window has changed, or nothing has happened yet.
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
                self.parts.rotate_right(passed);
                self.parts.iter_mut().take(passed).for_each(Bucket::clear);
                self.began = Some(later(began, length * passed as u32));
            }
            _ => {
                self.parts = Default::default();
                self.began = Some(now);
            }
        }
        &mut self.parts[0]
    }

    fn are_bad(&self, settings: &Ejection) -> bool {
        let least = u64::from(settings.failures);
        let mut sum = Bucket::default();
        let suddenly = self.parts.iter().any(|part| {
            sum.add(part);
            sum.failures >= least.max(SUDDEN) && sum.failures >= sum.successes
        });
        let all = sum.failures + sum.early_ends;
        suddenly || (all >= least && all >= sum.successes)
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

/// How many of so many endpoints may be ejected at once.
pub fn max_ejected(settings: &Ejection, endpoints: usize) -> usize {
    // A share of 0.3 of ten is three, although 0.3 * 10.0 might be a hair less.
    (settings.max_share * endpoints as f64 + 1e-9).floor() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ejection(failures: u32) -> Ejection {
        Ejection {
            failures,
            window: 32 * SECOND,
            base: 10 * SECOND,
            ceiling: 60 * SECOND,
            max_share: 0.5,
        }
    }

    /// Sessions, one every `apart`: `.` for a success, `h` for a failed handshake, `e` for an early end.
    /// After how many it is due to be ejected.
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
            // An early end follows a success: many tunnels that are cut, and nothing else.
            (".e.e.e", 1, Some(5)),
            (".e.e..e", 1, None),
            // Too far apart.
            ("hhhhhh", 16, None),
        ] {
            let due = due(&settings, outcomes, apart * SECOND);
            assert_eq!(due, expected, "{outcomes} every {apart} s");
        }
    }

    /// Thousands of successes must not protect what hangs for as long as they are remembered.
    #[test]
    fn a_busy_endpoint_that_breaks_is_found_out_soon() {
        let outcomes = ".".repeat(10_000) + &"h".repeat(10_000);
        let at = due(&ejection(5), &outcomes, SECOND / 100).unwrap();
        // Two parts of the window are 800 sessions.
        assert!((10_004..10_800).contains(&at), "{at}");
        // With tunnels cut early, that takes the window: others may be served well meanwhile.
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
    fn each_ejection_is_twice_as_long_and_good_times_are_remembered() {
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
        fn one_percent_of_failures_ejects_nobody_who_is_busy(
            failures in 1..20u32,
            apart in 1..280u64,
            early in any::<bool>(),
            first in 1..100usize,
        ) {
            // A hundred sessions, or more, within seven eighths of the window.
            let bad = if early { "e" } else { "h" };
            let hundred = ".".repeat(99) + bad;
            let outcomes = ".".repeat(first) + &hundred.repeat(20);
            let due = due(&ejection(failures), &outcomes, Duration::from_millis(apart));
            prop_assert_eq!(due, None);
        }

        #[test]
        fn it_is_due_only_after_bad_times(
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
        fn nothing_but_failures_within_the_window_is_enough(
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
