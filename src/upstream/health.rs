//! Whether an endpoint may serve: what its checks say of it, and what its sessions say.
//!
//! Pure: told results and the time, it tells what changed. Two things keep an endpoint out, each on
//! its own: checks that it fails, and failures in sessions, for which it is ejected for a while.

mod checks;
mod ejection;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::checks::Checks;
pub use self::checks::{Change, Checked};
use self::ejection::Ejections;
pub use self::ejection::{Failure, ejected_most};
use super::time::{moment, seconds};
use crate::config::model::{Ejection, Health};

/// What is known of an endpoint's fitness.
#[derive(Debug, Default)]
pub struct Condition {
    checks: Checks,
    ejections: Ejections,
    tally: Tally,
}

/// What has happened since the start of the process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Checks, by how they ended.
    pub checks: [u64; Checked::ALL.len()],
    /// Ejections.
    pub ejections: u64,
}

/// What another process is told of it. Times are seconds from then, those that have passed less than 0.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Remembered {
    is_down: bool,
    streak: u32,
    changed: Option<f64>,
    fault: Option<Box<str>>,
    ejected_until: Option<f64>,
    doublings: u32,
    why: Option<Failure>,
}

/// Whether an endpoint serves, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    /// It does.
    Up,
    /// Its checks fail.
    Down {
        /// When it went down.
        since: Instant,
        /// What the latest check found wrong.
        why: &'a str,
    },
    /// Sessions have failed.
    Ejected {
        /// When it comes back.
        until: Instant,
        /// What the last of them failed by.
        why: Failure,
    },
}

impl Condition {
    /// As another process has known it until `now`. How its latest sessions went is forgotten, and its
    /// next check is due as if it were new.
    pub fn of(remembered: Remembered, now: Instant) -> Self {
        Self {
            checks: Checks {
                is_down: remembered.is_down,
                streak: remembered.streak,
                changed: remembered.changed.map(|time| moment(time, now)),
                fault: remembered.fault,
                due: None,
            },
            ejections: Ejections {
                until: remembered.ejected_until.map(|time| moment(time, now)),
                doublings: remembered.doublings,
                why: remembered.why,
                ..Ejections::default()
            },
            ..Self::default()
        }
    }

    /// For another process.
    pub fn remembered(&self, now: Instant) -> Remembered {
        Remembered {
            is_down: self.checks.is_down,
            streak: self.checks.streak,
            changed: self.checks.changed.map(|at| seconds(at, now)),
            fault: self.checks.fault.clone(),
            ejected_until: self.ejections.until.map(|at| seconds(at, now)),
            doublings: self.ejections.doublings,
            why: self.ejections.why,
        }
    }

    /// Whether it is ejected now.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejections.is_ejected(now)
    }

    /// Ends its ejection.
    pub fn readmit(&mut self, now: Instant) {
        self.ejections.end(now);
    }

    /// Whether it serves, and if not, why.
    pub fn standing(&self, now: Instant) -> Standing<'_> {
        if self.checks.is_down
            && let Some(since) = self.checks.changed
        {
            let why = self.fault().unwrap_or_default();
            return Standing::Down { since, why };
        }
        match (self.ejections.until, self.ejections.why) {
            (Some(until), Some(why)) if now < until => Standing::Ejected { until, why },
            _ => Standing::Up,
        }
    }

    /// What has happened since the start of the process.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Counts a check that ended like this.
    pub fn count(&mut self, checked: Checked) {
        self.tally.checks[checked as usize] += 1;
    }

    /// What the latest check found wrong, even if nothing has followed from it yet.
    pub fn fault(&self) -> Option<&str> {
        self.checks.fault.as_deref()
    }

    /// When its next check is due: the first one after `chance` (from 0 to 1) of the interval, so that
    /// those of many endpoints are spread over it.
    pub fn check_due(
        &mut self,
        settings: &Health,
        chance: impl FnOnce() -> f64,
        now: Instant,
    ) -> Instant {
        self.checks.due(settings, chance, now)
    }

    /// A check begins. If nothing is heard of it any more, there will be another.
    pub fn check_begins(&mut self, settings: &Health, now: Instant) {
        self.checks.begin(settings, now);
    }

    /// The check that was due last has ended like this. The next one is due after nine to eleven
    /// tenths of the interval, as `chance` (from 0 to 1) has it, so that they do not fall into step.
    pub fn checked(
        &mut self,
        result: Result<(), &str>,
        settings: &Health,
        chance: f64,
        now: Instant,
    ) -> Option<Change> {
        let readmitted = result.is_ok() && self.is_ejected(now);
        if readmitted {
            self.readmit(now);
        }
        let change = self.checks.take(result, settings, chance, now);
        change.or((readmitted && !self.checks.is_down).then_some(Change::Readmitted))
    }

    /// A session went well: it got an answer, and that was none of the failures.
    pub fn passed(&mut self, settings: &Ejection, now: Instant) {
        self.ejections.passed(settings, now);
    }

    /// A session failed by the endpoint's doing. Tells whether that makes it due to be ejected. While
    /// it is out anyway, what comes is left over from older sessions, and says nothing new.
    pub fn failed(&mut self, failure: Failure, settings: &Ejection, now: Instant) -> bool {
        !self.checks.is_down && self.ejections.failed(failure, settings, now)
    }

    /// Ejects it, and tells for how long.
    pub fn eject(&mut self, settings: &Ejection, now: Instant) -> Duration {
        self.tally.ejections += 1;
        self.ejections.eject(settings, now)
    }

    /// Forgets what its checks have found: there are none any more.
    pub fn forget_checks(&mut self) {
        self.checks = Checks::default();
    }

    /// Forgets how its sessions went: nothing follows from that any more.
    pub fn forget_outcomes(&mut self) {
        self.ejections = Ejections::default();
    }
}

#[cfg(test)]
mod tests {
    use super::checks::WHY_MOST;
    use super::*;
    use crate::config::model::Probe;

    const SECOND: Duration = Duration::from_secs(1);

    fn health(rise: u32, fall: u32) -> Health {
        Health {
            probe: Probe::Tcp,
            interval: 10 * SECOND,
            timeout: SECOND,
            rise,
            fall,
        }
    }

    fn ejection(failures: u32) -> Ejection {
        Ejection {
            failures,
            window: 32 * SECOND,
            base: 10 * SECOND,
            ceiling: 60 * SECOND,
            max_share: 0.5,
        }
    }

    #[test]
    fn what_happens_is_counted() {
        let mut condition = Condition::default();
        for (position, checked) in Checked::ALL.into_iter().enumerate() {
            assert_eq!(checked as usize, position, "counters are indexed by it");
            condition.count(checked);
        }
        condition.eject(&ejection(1), Instant::now());
        condition.forget_checks();
        condition.forget_outcomes();
        let expected = Tally {
            checks: [1; 5],
            ejections: 1,
        };
        assert_eq!(condition.tally(), expected);
    }

    #[test]
    fn what_is_down_says_why_and_since_when() {
        let now = Instant::now();
        let mut condition = Condition::default();
        assert_eq!(condition.standing(now), Standing::Up);
        let down = now + SECOND;
        let long = "é".repeat(WHY_MOST);
        condition.checked(Err(&long), &health(1, 1), 0.5, down);
        let why = "é".repeat(WHY_MOST / 2);
        assert_eq!(
            condition.standing(down + SECOND),
            Standing::Down {
                since: down,
                why: &why
            }
        );
        let up = down + 2 * SECOND;
        condition.checked(Ok(()), &health(1, 1), 0.5, up);
        assert_eq!(condition.standing(up), Standing::Up);
        assert_eq!(condition.fault(), None);
    }

    #[test]
    fn what_is_forgotten_keeps_nobody_out() {
        let now = Instant::now();
        let mut condition = Condition::default();
        condition.checked(Err("gone"), &health(1, 1), 0.5, now);
        condition.forget_checks();
        assert_eq!(condition.standing(now), Standing::Up);
        condition.failed(Failure::Connect, &ejection(1), now);
        condition.eject(&ejection(1), now);
        condition.forget_outcomes();
        assert_eq!(condition.standing(now), Standing::Up);
    }

    #[test]
    fn a_passing_check_ends_an_ejection_unless_it_is_down() {
        let now = Instant::now();
        for is_down in [false, true] {
            let mut condition = Condition::default();
            assert!(condition.failed(Failure::Connect, &ejection(1), now));
            condition.eject(&ejection(1), now);
            if is_down {
                condition.checked(Err("gone"), &health(2, 1), 0.5, now);
            }
            assert!(!condition.failed(Failure::Connect, &ejection(1), now));
            let failed = condition.checked(Err("gone"), &health(2, 3), 0.5, now);
            assert_eq!(failed, (!is_down).then_some(Change::Failing));
            assert!(condition.is_ejected(now));
            let change = condition.checked(Ok(()), &health(2, 1), 0.5, now);
            assert_eq!(change, (!is_down).then_some(Change::Readmitted));
            assert!(!condition.is_ejected(now));
            assert_eq!(condition.standing(now) == Standing::Up, !is_down);
        }
    }

    #[test]
    fn no_duration_is_too_long() {
        let ever = Duration::MAX;
        let now = Instant::now();
        let health = Health {
            interval: ever,
            timeout: ever,
            ..health(1, 1)
        };
        let ejection = Ejection {
            window: ever,
            base: ever,
            ceiling: ever,
            ..ejection(1)
        };
        let mut condition = Condition::default();
        condition.check_due(&health, || 1.0, now);
        condition.check_begins(&health, now);
        condition.checked(Ok(()), &health, 1.0, now);
        assert!(condition.failed(Failure::Connect, &ejection, now));
        condition.eject(&ejection, now);
        condition.eject(&ejection, now);
        assert!(condition.is_ejected(now + 100 * SECOND));
        let none = Ejection {
            window: Duration::ZERO,
            base: Duration::ZERO,
            ceiling: Duration::ZERO,
            ..ejection
        };
        let mut condition = Condition::default();
        assert!(condition.failed(Failure::Connect, &none, now));
        condition.eject(&none, now);
        condition.eject(&none, now + SECOND);
        assert!(!condition.is_ejected(now + SECOND));
    }
}
