//! Health checks of an endpoint: how many in a row it takes to go down or up, and when the next one
//! is due.
//!
//! Pure: given results and the time, it returns what changed.

use std::time::Instant;

use crate::config::model::Health;
use crate::upstream::time::{YEAR, later};

/// The maximum length of a failure's reason, in bytes: it may quote what the endpoint sent.
pub(super) const MAX_REASON_LENGTH: usize = 200;

/// How a check ended, as it is counted. The tokens are stable: they are a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The check passed.
    Passed,
    /// The connection failed.
    Connect,
    /// The check timed out.
    Timeout,
    /// There was no response, or not the expected one.
    Answer,
    /// The response was good, but no Pong followed the Ping.
    Pong,
}

impl CheckOutcome {
    /// All outcomes, in the order of their counters.
    pub const ALL: [Self; 5] = [
        Self::Passed,
        Self::Connect,
        Self::Timeout,
        Self::Answer,
        Self::Pong,
    ];

    /// The stable token.
    pub fn token(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Answer => "answer",
            Self::Pong => "pong",
        }
    }
}

/// The results of an endpoint's checks so far.
#[derive(Debug, Default)]
pub(super) struct CheckHistory {
    pub(super) is_down: bool,
    /// Consecutive results that contradict `is_down`.
    pub(super) streak: u32,
    /// When the endpoint last went down or up.
    pub(super) changed: Option<Instant>,
    /// Why the latest check failed.
    pub(super) fault: Option<Box<str>>,
    /// When the next check is due.
    pub(super) due: Option<Instant>,
}

/// What the result of a check has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthChange {
    /// The check failed; the one before passed, or failed for another reason.
    Failing,
    /// Enough checks in a row failed: the endpoint is out of rotation.
    Down,
    /// Enough checks in a row passed: the endpoint is back in rotation.
    Up,
    /// The check passed and ended an ejection.
    Readmitted,
}

impl CheckHistory {
    /// When the next check is due; the first one after `chance` of the interval.
    pub(super) fn due(
        &mut self,
        settings: &Health,
        chance: impl FnOnce() -> f64,
        now: Instant,
    ) -> Instant {
        let first = || later(now, settings.interval.min(YEAR).mul_f64(chance()));
        let due = self.due.get_or_insert_with(first);
        // A reload may have shortened the interval.
        *due = overdue_at(settings, now).min(*due);
        *due
    }

    /// A check begins.
    pub(super) fn begin(&mut self, settings: &Health, now: Instant) {
        self.due = Some(overdue_at(settings, now));
    }

    /// A check has ended without a result.
    pub(super) fn skip(&mut self, settings: &Health, chance: f64, now: Instant) {
        let interval = settings.interval.min(YEAR).mul_f64(0.9 + 0.2 * chance);
        self.due = Some(later(now, interval));
    }

    /// A check has ended with `result`.
    pub(super) fn take(
        &mut self,
        result: Result<(), &str>,
        settings: &Health,
        chance: f64,
        now: Instant,
    ) -> Option<HealthChange> {
        self.skip(settings, chance, now);
        let fault = result.err().map(bounded);
        let differs = self.fault.as_deref() != fault;
        self.fault = fault.map(Into::into);
        if result.is_err() == self.is_down {
            self.streak = 0;
            return (self.is_down && differs).then_some(HealthChange::Failing);
        }
        self.streak += 1;
        let (enough, change) = match self.is_down {
            true => (settings.rise, HealthChange::Up),
            false => (settings.fall, HealthChange::Down),
        };
        if self.streak < enough {
            return (result.is_err() && differs).then_some(HealthChange::Failing);
        }
        self.is_down = !self.is_down;
        self.streak = 0;
        self.changed = Some(now);
        Some(change)
    }
}

/// The latest time that the next check can be due: a check that began and never reported is given
/// up then.
fn overdue_at(settings: &Health, now: Instant) -> Instant {
    let longest = settings.interval.max(settings.timeout);
    later(now, longest.min(YEAR) * 2)
}

/// `why`, cut to the maximum length.
pub(in crate::upstream) fn bounded(why: &str) -> &str {
    let end = (0..=MAX_REASON_LENGTH.min(why.len())).rfind(|&end| why.is_char_boundary(end));
    why.get(..end.unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::health::tests::{SECOND, health};
    use proptest::prelude::*;

    /// Checks with these results, one a second: `.` for one that passed, other letters for the reason.
    #[track_caller]
    fn check(results: &str, expected: &[Option<HealthChange>]) {
        let now = Instant::now();
        let mut checks = CheckHistory::default();
        let changes: Vec<_> = (0..)
            .zip(results.chars())
            .map(|(at, result)| {
                let why = result.to_string();
                let result = if result == '.' { Ok(()) } else { Err(&*why) };
                checks.take(result, &health(2, 3), 0.5, now + at * SECOND)
            })
            .collect();
        assert_eq!(changes, expected);
    }

    #[test]
    fn fall_and_rise_are_counted_in_a_row() {
        use HealthChange::{Down, Failing, Up};
        check("...", &[None; 3]);
        check("aaa", &[Some(Failing), None, Some(Down)]);
        check("aa.aa", &[Some(Failing), None, None, Some(Failing), None]);
        check("ab", &[Some(Failing), Some(Failing)]);
        check(
            "aaa.a..",
            &[
                Some(Failing),
                None,
                Some(Down),
                None,
                Some(Failing),
                None,
                Some(Up),
            ],
        );
        check(
            "aaabb..",
            &[
                Some(Failing),
                None,
                Some(Down),
                Some(Failing),
                None,
                None,
                Some(Up),
            ],
        );
    }

    #[test]
    fn checks_are_spread_and_never_lost() {
        let now = Instant::now();
        let settings = health(1, 1);
        let mut checks = CheckHistory::default();
        let first = checks.due(&settings, || 0.3, now);
        assert_eq!(first, now + 3 * SECOND);
        assert_eq!(checks.due(&settings, || 0.9, now + SECOND), first);
        // The check never ends.
        checks.begin(&settings, first);
        let again = checks.due(&settings, || 0.0, first);
        assert_eq!(again, first + 20 * SECOND);
        for (chance, next) in [(0.0, 9), (0.5, 10), (1.0, 11)] {
            checks.take(Ok(()), &settings, chance, now);
            let due = checks.due(&settings, || 0.0, now);
            assert_eq!((due - now).as_secs_f64().round() as u32, next);
        }
        // A shorter interval applies at once.
        let often = Health {
            interval: SECOND,
            ..settings
        };
        assert_eq!(checks.due(&often, || 0.0, now), now + 2 * SECOND);
    }

    proptest! {
        #[test]
        fn it_changes_when_all_of_the_latest_checks_agree(
            results in prop::collection::vec(any::<bool>(), 0..60),
            rise in 1..5u32,
            fall in 1..5u32,
        ) {
            let now = Instant::now();
            let mut checks = CheckHistory::default();
            let (mut up, mut last_turn) = (true, 0);
            for (at, &passed) in results.iter().enumerate() {
                let result = if passed { Ok(()) } else { Err("no") };
                checks.take(result, &health(rise, fall), 0.5, now);
                let latest = &results[last_turn..=at];
                let needed = if up { fall } else { rise } as usize;
                let run = latest.iter().rev().take_while(|&&passed| passed != up).count();
                if run >= needed {
                    (up, last_turn) = (!up, at + 1);
                }
                prop_assert_eq!(!checks.is_down, up);
            }
        }
    }
}
