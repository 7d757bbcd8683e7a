//! Whether an endpoint may serve: what its checks say of it, and what its sessions say.
//!
//! Pure: told results and the time, it tells what changed. Two things keep an endpoint out, each on
//! its own: checks that it fails, and failures in sessions, for which it is ejected for a while.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::model::{Ejection, Health};

/// Bytes that are kept of why a check failed.
const WHY_MOST: usize = 200;

/// Parts that the window of ejection has. Outcomes are forgotten part by part.
const PARTS: usize = 8;

/// The narrowest that a part can be.
const PART_LEAST: Duration = Duration::from_millis(1);

/// Failures that mean something in less than the whole window.
const SUDDEN: u64 = 5;

/// "For ever", where a duration goes beyond what the clock can tell.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is known of an endpoint's fitness.
#[derive(Debug, Default)]
pub struct Condition {
    checks: Checks,
    outcomes: Outcomes,
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

/// How a check ended, as it is counted. The tokens are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// It passed.
    Passed,
    /// No connection came about.
    Connect,
    /// It took too long.
    Timeout,
    /// The answer was another one than is expected, or none.
    Answer,
    /// The answer was good, but no Pong came to the Ping.
    Pong,
}

impl Checked {
    /// Every way there is.
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

/// What its checks have found.
#[derive(Debug, Default)]
struct Checks {
    is_down: bool,
    /// Results in a row that speak for the opposite.
    streak: u32,
    /// When it went down, or came up again.
    changed: Option<Instant>,
    /// What the latest check found wrong.
    fault: Option<Box<str>>,
    /// When the next one is due.
    due: Option<Instant>,
}

/// How often and how long it has been ejected.
#[derive(Debug, Default)]
struct Ejections {
    /// When the latest one ends, or has ended.
    until: Option<Instant>,
    /// How often the time of the next one is doubled.
    doublings: u32,
    /// What the latest was for.
    why: Option<Failure>,
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

/// What an endpoint did wrong in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// No connection came about.
    Connect,
    /// A handshake had no answer in time, or a broken one, or a 502, 503 or 504.
    Handshake,
    /// A tunnel was cut by the endpoint soon after it had opened.
    EarlyEnd,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connections fail",
            Self::Handshake => "handshakes fail",
            Self::EarlyEnd => "tunnels are cut soon after they open",
        })
    }
}

/// What the result of a check has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It failed, where the one before had passed or had failed for another reason.
    Failing,
    /// So many in a row have failed: it gets nothing new.
    Down,
    /// So many in a row have passed: it serves again.
    Up,
    /// It passed, which has ended an ejection.
    Readmitted,
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
        self.ejections.until.is_some_and(|until| now < until)
    }

    /// Ends its ejection.
    pub fn readmit(&mut self, now: Instant) {
        self.ejections.until = self.ejections.until.map(|until| until.min(now));
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
        let first = || later(now, settings.interval.min(YEAR).mul_f64(chance()));
        let due = self.checks.due.get_or_insert_with(first);
        // The settings may have changed.
        *due = patience(settings, now).min(*due);
        *due
    }

    /// A check begins. If nothing is heard of it any more, there will be another.
    pub fn check_begins(&mut self, settings: &Health, now: Instant) {
        self.checks.due = Some(patience(settings, now));
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
        let interval = settings.interval.min(YEAR).mul_f64(0.9 + 0.2 * chance);
        self.checks.due = Some(later(now, interval));
        let readmitted = result.is_ok() && self.is_ejected(now);
        if readmitted {
            self.readmit(now);
        }
        let change = self.checks.take(result, settings, now);
        change.or((readmitted && !self.checks.is_down).then_some(Change::Readmitted))
    }

    /// A session went well: it got an answer, and that was none of the failures.
    pub fn passed(&mut self, settings: &Ejection, now: Instant) {
        if !self.is_ejected(now) {
            self.outcomes.now(settings, now).successes += 1;
        }
    }

    /// A session failed by the endpoint's doing. Tells whether that makes it due to be ejected. While
    /// it is out anyway, what comes is left over from older sessions, and says nothing new.
    ///
    /// It is due when there are as many failures as the settings have it within the window, and no
    /// fewer of them than successes: one percent of failures never ejects a busy endpoint. So that
    /// its older successes do not protect it for long when all of a sudden it fails, the same holds for
    /// the latest parts of the window, from a handful of failures. There, early ends do not count: the
    /// successes that opened those tunnels may lie before that part, and somebody who has their own
    /// tunnels cut must not get an endpoint ejected that serves others well.
    pub fn failed(&mut self, failure: Failure, settings: &Ejection, now: Instant) -> bool {
        if self.checks.is_down || self.is_ejected(now) {
            return false;
        }
        self.ejections.why = Some(failure);
        let part = self.outcomes.now(settings, now);
        match failure {
            Failure::Connect | Failure::Handshake => part.failures += 1,
            Failure::EarlyEnd => part.early_ends += 1,
        }
        self.outcomes.are_bad(settings)
    }

    /// Ejects it: for `base`, doubled each time, up to `ceiling`. A doubling is forgotten for each
    /// time, as long as the longer of `window` and `base`, that it has served in between.
    pub fn eject(&mut self, settings: &Ejection, now: Instant) -> Duration {
        let ejections = &mut self.ejections;
        if let Some(until) = ejections.until {
            let step = settings.window.max(settings.base).max(PART_LEAST);
            let good = now.saturating_duration_since(until).as_nanos() / step.as_nanos();
            let good = u32::try_from(good).unwrap_or(u32::MAX);
            ejections.doublings = ejections.doublings.saturating_sub(good);
        }
        let factor = 1u32.checked_shl(ejections.doublings).unwrap_or(u32::MAX);
        let time = settings.base.saturating_mul(factor).min(settings.ceiling);
        if time < settings.ceiling {
            ejections.doublings += 1;
        }
        ejections.until = Some(later(now, time));
        self.tally.ejections += 1;
        self.outcomes = Outcomes::default();
        time
    }

    /// Forgets what its checks have found: there are none any more.
    pub fn forget_checks(&mut self) {
        self.checks = Checks::default();
    }

    /// Forgets how its sessions went: nothing follows from that any more.
    pub fn forget_outcomes(&mut self) {
        self.outcomes = Outcomes::default();
        self.ejections = Ejections::default();
    }
}

impl Checks {
    fn take(
        &mut self,
        result: Result<(), &str>,
        settings: &Health,
        now: Instant,
    ) -> Option<Change> {
        let fault = result.err().map(bounded);
        let differs = self.fault.as_deref() != fault;
        self.fault = fault.map(Into::into);
        if result.is_err() == self.is_down {
            self.streak = 0;
            return (self.is_down && differs).then_some(Change::Failing);
        }
        self.streak += 1;
        let (enough, turned) = match self.is_down {
            true => (settings.rise, Change::Up),
            false => (settings.fall, Change::Down),
        };
        if self.streak < enough {
            return (result.is_err() && differs).then_some(Change::Failing);
        }
        self.is_down = !self.is_down;
        self.streak = 0;
        self.changed = Some(now);
        Some(turned)
    }
}

/// How sessions went within the window.
#[derive(Debug, Default)]
struct Outcomes {
    /// The latest one first.
    parts: [Part; PARTS],
    /// How long each is.
    length: Duration,
    /// When the latest began.
    began: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Part {
    successes: u64,
    failures: u64,
    early_ends: u64,
}

impl Outcomes {
    /// The part that `now` falls into; the latest one, too, for a worker that comes a hair late.
    fn now(&mut self, settings: &Ejection, now: Instant) -> &mut Part {
        let length = (settings.window / PARTS as u32).max(PART_LEAST);
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
            Ok(passed @ 0..PARTS) => {
                self.parts.rotate_right(passed);
                self.parts.iter_mut().take(passed).for_each(Part::clear);
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
        let mut sum = Part::default();
        let suddenly = self.parts.iter().any(|part| {
            sum.add(part);
            sum.failures >= least.max(SUDDEN) && sum.failures >= sum.successes
        });
        let all = sum.failures + sum.early_ends;
        suddenly || (all >= least && all >= sum.successes)
    }
}

impl Part {
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
pub fn ejected_most(settings: &Ejection, endpoints: usize) -> usize {
    // A share of 0.3 of ten is three, although 0.3 * 10.0 might be a hair less.
    (settings.max_share * endpoints as f64 + 1e-9).floor() as usize
}

/// When to give up on a check that was begun, or the latest that one can be due.
fn patience(settings: &Health, now: Instant) -> Instant {
    let longest = settings.interval.max(settings.timeout);
    later(now, longest.min(YEAR) * 2)
}

fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now + YEAR)
}

/// Seconds from `now` to a moment; less than 0 if it has passed.
fn seconds(moment: Instant, now: Instant) -> f64 {
    match moment.checked_duration_since(now) {
        Some(ahead) => ahead.as_secs_f64(),
        None => -now.duration_since(moment).as_secs_f64(),
    }
}

fn moment(seconds: f64, now: Instant) -> Instant {
    let time = Duration::try_from_secs_f64(seconds.abs())
        .unwrap_or(YEAR)
        .min(YEAR);
    match seconds < 0.0 {
        true => now.checked_sub(time).unwrap_or(now),
        false => later(now, time),
    }
}

/// As much of it as is kept.
fn bounded(why: &str) -> &str {
    let end = (0..=WHY_MOST.min(why.len())).rfind(|&end| why.is_char_boundary(end));
    why.get(..end.unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Probe;
    use proptest::prelude::*;

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

    /// Checks with these results, one a second: `.` for one that passed, other letters for the reason.
    #[track_caller]
    fn check(results: &str, expected: &[Option<Change>]) {
        let now = Instant::now();
        let mut condition = Condition::default();
        let changes: Vec<_> = (0..)
            .zip(results.chars())
            .map(|(at, result)| {
                let why = result.to_string();
                let result = if result == '.' { Ok(()) } else { Err(&*why) };
                condition.checked(result, &health(2, 3), 0.5, now + at * SECOND)
            })
            .collect();
        assert_eq!(changes, expected);
    }

    #[test]
    fn fall_and_rise_are_counted_in_a_row() {
        use Change::{Down, Failing, Up};
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
    fn checks_are_spread_and_never_lost() {
        let now = Instant::now();
        let settings = health(1, 1);
        let mut condition = Condition::default();
        let first = condition.check_due(&settings, || 0.3, now);
        assert_eq!(first, now + 3 * SECOND);
        assert_eq!(condition.check_due(&settings, || 0.9, now + SECOND), first);
        // Nothing is heard of it.
        condition.check_begins(&settings, first);
        let again = condition.check_due(&settings, || 0.0, first);
        assert_eq!(again, first + 20 * SECOND);
        for (chance, next) in [(0.0, 9), (0.5, 10), (1.0, 11)] {
            condition.checked(Ok(()), &settings, chance, now);
            let due = condition.check_due(&settings, || 0.0, now);
            assert_eq!((due - now).as_secs_f64().round() as u32, next);
        }
        // A shorter interval holds at once.
        let often = Health {
            interval: SECOND,
            ..settings
        };
        assert_eq!(condition.check_due(&often, || 0.0, now), now + 2 * SECOND);
    }

    /// Sessions, one every `apart`: `.` for a success, `h` for a failed handshake, `e` for an early end.
    /// After how many it is due to be ejected.
    fn due(settings: &Ejection, outcomes: &str, apart: Duration) -> Option<usize> {
        let now = Instant::now();
        let mut condition = Condition::default();
        let times = (0..).map(|at| now + apart * at);
        outcomes.chars().zip(times).position(|(outcome, now)| {
            let failure = match outcome {
                '.' => {
                    condition.passed(settings, now);
                    return false;
                }
                'h' => Failure::Handshake,
                _ => Failure::EarlyEnd,
            };
            condition.failed(failure, settings, now)
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
        let mut condition = Condition::default();
        let mut now = Instant::now();
        let mut times = Vec::new();
        for good in [0, 0, 0, 0, 31, 32, 64, 1000] {
            let time = condition.eject(&settings, now);
            assert!(condition.is_ejected(now + time - SECOND));
            assert!(!condition.is_ejected(now + time));
            times.push(time.as_secs());
            now += time + good * SECOND;
        }
        assert_eq!(times, [10, 20, 40, 60, 60, 60, 40, 20]);
        assert_eq!(condition.eject(&settings, now).as_secs(), 10);
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
            assert_eq!(ejected_most(&settings, endpoints), most);
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

    proptest! {
        #[test]
        fn it_turns_when_all_of_the_latest_checks_agree(
            results in prop::collection::vec(any::<bool>(), 0..60),
            rise in 1..5u32,
            fall in 1..5u32,
        ) {
            let now = Instant::now();
            let mut condition = Condition::default();
            let (mut up, mut last_turn) = (true, 0);
            for (at, &passed) in results.iter().enumerate() {
                let result = if passed { Ok(()) } else { Err("no") };
                condition.checked(result, &health(rise, fall), 0.5, now);
                let latest = &results[last_turn..=at];
                let needed = if up { fall } else { rise } as usize;
                let run = latest.iter().rev().take_while(|&&passed| passed != up).count();
                if run >= needed {
                    (up, last_turn) = (!up, at + 1);
                }
                prop_assert_eq!(condition.standing(now) == Standing::Up, up);
            }
        }

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
