//! The health of an endpoint: the state of its health checks and of its ejection.
//!
//! Pure: given results and the time, it returns what changed. Two things take an endpoint out of
//! rotation, independently of each other: failed health checks, and an ejection for a limited time
//! because sessions failed.

mod checks;
mod ejection;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::checks::CheckHistory;
pub(super) use self::checks::bounded;
pub use self::checks::{CheckOutcome, HealthChange};
use self::ejection::EjectionHistory;
pub use self::ejection::{SessionFailure, max_ejected};
use super::time::{moment, seconds};
use crate::config::model::{Ejection, Health};

/// Whether an endpoint is fit to get new sessions.
#[derive(Debug, Default)]
pub struct EndpointHealth {
    checks: CheckHistory,
    ejections: EjectionHistory,
    counts: HealthCounts,
}

/// Health events of an endpoint since the start of the process.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct HealthCounts {
    /// Health checks, by [`CheckOutcome`].
    pub checks: [u64; CheckOutcome::ALL.len()],
    /// Ejections.
    pub ejections: u64,
}

/// Health as it is handed to a successor. Times are seconds from the handover; negative ones have passed.
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

/// Whether health keeps an endpoint in rotation, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus<'a> {
    /// In rotation.
    Up,
    /// Out of rotation: its health checks fail.
    Down {
        /// When it went down.
        since: Instant,
        /// Why the latest check failed.
        why: &'a str,
    },
    /// Out of rotation for a while: sessions failed.
    Ejected {
        /// When it is back in rotation.
        until: Instant,
        /// What the last failure was.
        why: SessionFailure,
    },
}

impl EndpointHealth {
    /// The health that a predecessor handed over at `now`. Outcomes of sessions are not handed
    /// over, and the next check is due as for a new endpoint.
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

    /// The health to hand to a successor.
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

    /// Whether the endpoint is ejected at `now`.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.ejections.is_ejected(now)
    }

    /// Ends the ejection.
    pub fn readmit(&mut self, now: Instant) {
        self.ejections.end(now);
    }

    /// Whether the endpoint is in rotation at `now`, and if not, why. Failed checks come first: they
    /// outlast an ejection.
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

    /// Health events since the start of the process.
    pub fn counts(&self) -> HealthCounts {
        self.counts
    }

    /// Counts a check.
    pub fn count(&mut self, outcome: CheckOutcome) {
        self.counts.checks[outcome as usize] += 1;
    }

    /// Why the latest check failed, even if the endpoint is not down yet.
    pub fn fault(&self) -> Option<&str> {
        self.checks.fault.as_deref()
    }

    /// When the next check is due. The first one is due after `chance` (from 0 to 1) of the interval,
    /// so that the checks of many endpoints are spread over it.
    pub fn check_due(
        &mut self,
        settings: &Health,
        chance: impl FnOnce() -> f64,
        now: Instant,
    ) -> Instant {
        self.checks.due(settings, chance, now)
    }

    /// A check begins. If it never ends, another one becomes due anyway.
    pub fn check_begins(&mut self, settings: &Health, now: Instant) {
        self.checks.begin(settings, now);
    }

    /// A check has ended with `result`. The next one is due after 90 to 110 % of the interval, by
    /// `chance` (from 0 to 1): with this jitter the checks of many endpoints, and of many proxies, do
    /// not fall into step.
    pub fn checked(
        &mut self,
        result: Result<(), &str>,
        settings: &Health,
        chance: f64,
        now: Instant,
    ) -> Option<HealthChange> {
        // A passing check proves more than old failures do: it ends an ejection early.
        let readmitted = result.is_ok() && self.is_ejected(now);
        if readmitted {
            self.readmit(now);
        }
        let change = self.checks.take(result, settings, chance, now);
        change.or((readmitted && !self.checks.is_down).then_some(HealthChange::Readmitted))
    }

    /// A check has ended without a result. The next one is due as usual.
    pub fn check_skipped(&mut self, settings: &Health, chance: f64, now: Instant) {
        self.checks.skip(settings, chance, now);
    }

    /// A session succeeded: it got a response, and the response was not a failure.
    pub fn passed(&mut self, settings: &Ejection, now: Instant) {
        self.ejections.passed(settings, now);
    }

    /// A session failed because of the endpoint. Returns whether the endpoint should be ejected. While
    /// the endpoint is out of rotation, failures belong to older sessions and are ignored.
    pub fn failed(&mut self, failure: SessionFailure, settings: &Ejection, now: Instant) -> bool {
        !self.checks.is_down && self.ejections.failed(failure, settings, now)
    }

    /// Ejects the endpoint, and returns for how long.
    pub fn eject(&mut self, settings: &Ejection, now: Instant) -> Duration {
        self.counts.ejections += 1;
        self.ejections.eject(settings, now)
    }

    /// Forgets the state of checks, because health checks were switched off.
    pub fn forget_checks(&mut self) {
        self.checks = CheckHistory::default();
    }

    /// Forgets all but the counts: something else has the address of the endpoint.
    pub fn forget(&mut self) {
        self.forget_checks();
        self.forget_outcomes();
    }

    /// Forgets outcomes and ejections, because ejection was switched off.
    pub fn forget_outcomes(&mut self) {
        self.ejections = EjectionHistory::default();
    }
}

#[cfg(test)]
mod tests {
    use super::checks::MAX_REASON_LENGTH;
    use super::*;
    use crate::config::model::Probe;

    pub(super) const SECOND: Duration = Duration::from_secs(1);

    pub(super) fn health(rise: u32, fall: u32) -> Health {
        Health {
            probe: Probe::Tcp,
            interval: 10 * SECOND,
            timeout: SECOND,
            rise,
            fall,
        }
    }

    pub(super) fn ejection(failures: u32) -> Ejection {
        Ejection {
            failures,
            window: 32 * SECOND,
            base: 10 * SECOND,
            ceiling: 60 * SECOND,
            max_share: 0.5,
        }
    }

    #[test]
    fn checks_and_ejections_are_counted() {
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
    fn an_endpoint_that_is_down_says_why_and_since_when() {
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
    fn forgotten_checks_and_outcomes_keep_no_endpoint_out() {
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
