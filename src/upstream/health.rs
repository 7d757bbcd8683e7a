//! Whether an endpoint may serve: what its checks say of it, and what its sessions say.
//!
//! Pure: told results and the time, it tells what changed. Two things keep an endpoint out, each on
//! its own: checks that it fails, and failures in sessions, for which it is ejected for a while.

mod checks;
mod ejection;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::checks::CheckHistory;
pub use self::checks::{CheckOutcome, HealthChange};
use self::ejection::EjectionHistory;
pub use self::ejection::{SessionFailure, max_ejected};
use super::time::{moment, seconds};
use crate::config::model::{Ejection, Health};

/// What is known of an endpoint's fitness.
#[derive(Debug, Default)]
pub struct EndpointHealth {
    checks: CheckHistory,
    ejections: EjectionHistory,
    counts: HealthCounts,
}

/// What has happened since the start of the process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct HealthCounts {
    /// Checks, by how they ended.
    pub checks: [u64; CheckOutcome::ALL.len()],
    /// Ejections.
    pub ejections: u64,
}

/// What another process is told of it. Times are seconds from then, those that have passed less than 0.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthHandover {
    is_down: bool,
    streak: u32,
    changed: Option<f64>,
    fault: Option<Box<str>>,
    ejected_until: Option<f64>,
    doublings: u32,
    why: Option<SessionFailure>,
}

/// Whether an endpoint serves, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus<'a> {
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
        why: SessionFailure,
    },
}

impl EndpointHealth {
    /// As another process has known it until `now`. How its latest sessions went is forgotten, and its
    /// next check is due as if it were new.
    pub fn of(remembered: HealthHandover, now: Instant) -> Self {
        Self {
            checks: CheckHistory {
                is_down: remembered.is_down,
                streak: remembered.streak,
                changed: remembered.changed.map(|time| moment(time, now)),
                fault: remembered.fault,
                due: None,
            },
            ejections: EjectionHistory {
                until: remembered.ejected_until.map(|time| moment(time, now)),
                doublings: remembered.doublings,
                why: remembered.why,
                ..EjectionHistory::default()
            },
            ..Self::default()
        }
    }

    /// For another process.
    pub fn remembered(&self, now: Instant) -> HealthHandover {
        HealthHandover {
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
    pub fn status(&self, now: Instant) -> HealthStatus<'_> {
        if self.checks.is_down
            && let Some(since) = self.checks.changed
        {
            let why = self.fault().unwrap_or_default();
            return HealthStatus::Down { since, why };
        }
        match (self.ejections.until, self.ejections.why) {
            (Some(until), Some(why)) if now < until => HealthStatus::Ejected { until, why },
            _ => HealthStatus::Up,
        }
    }

    /// What has happened since the start of the process.
    pub fn counts(&self) -> HealthCounts {
        self.counts
    }

    /// Counts a check that ended like this.
    pub fn count(&mut self, checked: CheckOutcome) {
        self.counts.checks[checked as usize] += 1;
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
    ) -> Option<HealthChange> {
        let readmitted = result.is_ok() && self.is_ejected(now);
        if readmitted {
            self.readmit(now);
        }
        let change = self.checks.take(result, settings, chance, now);
        change.or((readmitted && !self.checks.is_down).then_some(HealthChange::Readmitted))
    }

    /// A session went well: it got an answer, and that was none of the failures.
    pub fn passed(&mut self, settings: &Ejection, now: Instant) {
        self.ejections.passed(settings, now);
    }

    /// A session failed by the endpoint's doing. Tells whether that makes it due to be ejected. While
    /// it is out anyway, what comes is left over from older sessions, and says nothing new.
    pub fn failed(&mut self, failure: SessionFailure, settings: &Ejection, now: Instant) -> bool {
        !self.checks.is_down && self.ejections.failed(failure, settings, now)
    }

    /// Ejects it, and tells for how long.
    pub fn eject(&mut self, settings: &Ejection, now: Instant) -> Duration {
        self.counts.ejections += 1;
        self.ejections.eject(settings, now)
    }

    /// Forgets what its checks have found: there are none any more.
    pub fn forget_checks(&mut self) {
        self.checks = CheckHistory::default();
    }

    /// Forgets how its sessions went: nothing follows from that any more.
    pub fn forget_outcomes(&mut self) {
        self.ejections = EjectionHistory::default();
    }
}

#[cfg(test)]
mod tests {
    use super::checks::MAX_REASON_LENGTH;
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
        let mut endpoint = EndpointHealth::default();
        for (position, checked) in CheckOutcome::ALL.into_iter().enumerate() {
            assert_eq!(checked as usize, position, "counters are indexed by it");
            endpoint.count(checked);
        }
        endpoint.eject(&ejection(1), Instant::now());
        endpoint.forget_checks();
        endpoint.forget_outcomes();
        let expected = HealthCounts {
            checks: [1; 5],
            ejections: 1,
        };
        assert_eq!(endpoint.counts(), expected);
    }

    #[test]
    fn what_is_down_says_why_and_since_when() {
        let now = Instant::now();
        let mut endpoint = EndpointHealth::default();
        assert_eq!(endpoint.status(now), HealthStatus::Up);
        let down = now + SECOND;
        let long = "é".repeat(MAX_REASON_LENGTH);
        endpoint.checked(Err(&long), &health(1, 1), 0.5, down);
        let why = "é".repeat(MAX_REASON_LENGTH / 2);
        assert_eq!(
            endpoint.status(down + SECOND),
            HealthStatus::Down {
                since: down,
                why: &why
            }
        );
        let up = down + 2 * SECOND;
        endpoint.checked(Ok(()), &health(1, 1), 0.5, up);
        assert_eq!(endpoint.status(up), HealthStatus::Up);
        assert_eq!(endpoint.fault(), None);
    }

    #[test]
    fn what_is_forgotten_keeps_nobody_out() {
        let now = Instant::now();
        let mut endpoint = EndpointHealth::default();
        endpoint.checked(Err("gone"), &health(1, 1), 0.5, now);
        endpoint.forget_checks();
        assert_eq!(endpoint.status(now), HealthStatus::Up);
        endpoint.failed(SessionFailure::Connect, &ejection(1), now);
        endpoint.eject(&ejection(1), now);
        endpoint.forget_outcomes();
        assert_eq!(endpoint.status(now), HealthStatus::Up);
    }

    #[test]
    fn a_passing_check_ends_an_ejection_unless_it_is_down() {
        let now = Instant::now();
        for is_down in [false, true] {
            let mut endpoint = EndpointHealth::default();
            assert!(endpoint.failed(SessionFailure::Connect, &ejection(1), now));
            endpoint.eject(&ejection(1), now);
            if is_down {
                endpoint.checked(Err("gone"), &health(2, 1), 0.5, now);
            }
            assert!(!endpoint.failed(SessionFailure::Connect, &ejection(1), now));
            let failed = endpoint.checked(Err("gone"), &health(2, 3), 0.5, now);
            assert_eq!(failed, (!is_down).then_some(HealthChange::Failing));
            assert!(endpoint.is_ejected(now));
            let change = endpoint.checked(Ok(()), &health(2, 1), 0.5, now);
            assert_eq!(change, (!is_down).then_some(HealthChange::Readmitted));
            assert!(!endpoint.is_ejected(now));
            assert_eq!(endpoint.status(now) == HealthStatus::Up, !is_down);
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
        let mut endpoint = EndpointHealth::default();
        endpoint.check_due(&health, || 1.0, now);
        endpoint.check_begins(&health, now);
        endpoint.checked(Ok(()), &health, 1.0, now);
        assert!(endpoint.failed(SessionFailure::Connect, &ejection, now));
        endpoint.eject(&ejection, now);
        endpoint.eject(&ejection, now);
        assert!(endpoint.is_ejected(now + 100 * SECOND));
        let none = Ejection {
            window: Duration::ZERO,
            base: Duration::ZERO,
            ceiling: Duration::ZERO,
            ..ejection
        };
        let mut endpoint = EndpointHealth::default();
        assert!(endpoint.failed(SessionFailure::Connect, &none, now));
        endpoint.eject(&none, now);
        endpoint.eject(&none, now + SECOND);
        assert!(!endpoint.is_ejected(now + SECOND));
    }
}
