//! The latest report of an endpoint, as picks read it: without a lock, and only while it is valid.
//!
//! The parts of a report are written one after the other. A pick that reads between may see some of the report
//! before; both are true enough.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::balance::{ReportedTotal, WEIGHT_PARTS};
use super::time::{later, micros};
use crate::protocol::load_report::LoadReport;
use crate::quota::failure_reports::RecurringTrouble;

/// Bits of `bounds` beside `max` in the upper half and the weight in the 16 bits below that.
const HAS_TUNNELS: u64 = 1;
const HAS_MAX: u64 = 2;
const HAS_WEIGHT: u64 = 4;
const DRAINS: u64 = 8;

/// The latest report of an endpoint, and how many there were.
#[derive(Debug, Default)]
pub struct ReportState {
    /// `tunnels` in the upper half, this process's leases at that time in the lower one.
    total: AtomicU64,
    bounds: AtomicU64,
    /// When the report came, in [`micros`].
    at: AtomicU64,
    /// Until when it is valid, in [`micros`]; 0 if there is none.
    until: AtomicU64,
    /// Whether the latest report drains the endpoint, or has done so and its end was not noticed yet.
    is_drained: AtomicBool,
    /// Whether `server/health` has an appointment for the end of the report.
    is_watched: AtomicBool,
    drains: Mutex<DrainLog>,
    accepted: AtomicU64,
    malformed: AtomicU64,
}

/// What the log says of drains by reports: of an endpoint that comes and goes, two lines a minute. It may be several
/// processes behind one address.
#[derive(Debug, Default)]
struct DrainLog {
    trouble: RecurringTrouble,
    unreported: u64,
}

/// What a valid report says; by default, nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ValidReport {
    /// What the endpoint has, and what this process had there at that time.
    pub total: Option<ReportedTotal>,
    /// How many tunnels the endpoint accepts.
    pub max: Option<u32>,
    /// The factor of its weight, in hundredths.
    pub weight_hundredths: Option<u16>,
    /// Whether it is to get nothing new.
    pub is_draining: bool,
}

/// A report as it is handed to a successor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportHandover {
    tunnels: Option<u32>,
    own: u32,
    max: Option<u32>,
    weight_hundredths: Option<u16>,
    is_draining: bool,
    age: Duration,
    remaining: Duration,
}

impl ValidReport {
    /// Whether one more tunnel stays within the reported maximum, if this process has `own` leases.
    pub(super) fn has_room(&self, own: usize) -> bool {
        let total = self.total.map_or(own, |total| total.total(own));
        self.max.is_none_or(|max| total < max as usize)
    }

    /// The load of the endpoint for a pick.
    pub(super) fn load(&self, own: usize, scale: f32) -> usize {
        self.total.unwrap_or_default().load(own, scale)
    }

    /// Whether an endpoint may get more, or for the first time, when the report ends.
    fn holds_back(&self) -> bool {
        self.is_draining || self.max.is_some() || self.weight_hundredths.is_some()
    }

    /// The factor of the weight, in parts of [`WEIGHT_PARTS`].
    pub(super) fn weight_parts(&self) -> u32 {
        self.weight_hundredths.map_or(WEIGHT_PARTS, u32::from)
    }
}

impl ReportState {
    /// The report, if it is valid at `now`, in [`micros`].
    pub(super) fn valid(&self, now: u64) -> Option<ValidReport> {
        if now >= self.until.load(Ordering::Acquire) {
            return None;
        }
        let total = self.total.load(Ordering::Relaxed);
        let bounds = self.bounds.load(Ordering::Relaxed);
        let has = |bit| bounds & bit != 0;
        Some(ValidReport {
            total: has(HAS_TUNNELS).then_some(ReportedTotal {
                tunnels: (total >> 32) as u32,
                own: total as u32,
            }),
            max: has(HAS_MAX).then_some((bounds >> 32) as u32),
            weight_hundredths: has(HAS_WEIGHT).then_some((bounds >> 16) as u16),
            is_draining: has(DRAINS),
        })
    }

    /// The report for operators, with its age, if it is valid.
    pub fn shown(&self, now: Instant) -> Option<(ValidReport, Duration)> {
        let now = micros(now);
        let report = self.valid(now)?;
        let age = now.saturating_sub(self.at.load(Ordering::Relaxed));
        Some((report, Duration::from_micros(age)))
    }

    /// Keeps a report that has come at `now`, when this process has `own` leases, for `max_age`.
    pub(super) fn keep(&self, report: LoadReport, own: usize, max_age: Duration, now: Instant) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let until = micros(now).saturating_add(microseconds(max_age));
        self.store(report, saturated(own), (micros(now), until));
    }

    /// Whether it drains the endpoint from now on, or does not any more; `None` if it is as before.
    pub(super) fn turn_drain(&self, is_draining: bool) -> Option<bool> {
        let was_draining = self.is_drained.swap(is_draining, Ordering::Relaxed);
        (was_draining != is_draining).then_some(is_draining)
    }

    /// Whether to log that it is drained, given whether that is new: how many changes were not logged.
    pub(super) fn log_drained(&self, is_news: bool, now: Instant) -> Option<u64> {
        let mut log = self.drain_log();
        log.unreported += u64::from(is_news);
        let is_due = log.trouble.is_there(now);
        is_due.then(|| std::mem::take(&mut log.unreported).saturating_sub(1))
    }

    /// Whether to log that it is not drained any more: how many changes were not logged.
    pub(super) fn log_undrained(&self) -> Option<u64> {
        let mut log = self.drain_log();
        log.unreported += 1;
        let is_known = log.trouble.is_over();
        is_known.then(|| std::mem::take(&mut log.unreported).saturating_sub(1))
    }

    fn drain_log(&self) -> MutexGuard<'_, DrainLog> {
        self.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, there is an appointment for its end; returns whether there was none before.
    pub(super) fn watch(&self) -> bool {
        !self.is_watched.swap(true, Ordering::SeqCst)
    }

    /// Forgets the appointment; returns whether there was one.
    pub(super) fn unwatch(&self) -> bool {
        self.is_watched.swap(false, Ordering::SeqCst)
    }

    /// When the report ends, if it is valid and holds the endpoint back.
    pub(super) fn end(&self, now: Instant) -> Option<Instant> {
        let at = micros(now);
        self.valid(at).filter(ValidReport::holds_back)?;
        let until = self.until.load(Ordering::SeqCst);
        let remaining = Duration::from_micros(until.saturating_sub(at).max(1));
        Some(later(now, remaining))
    }

    /// Whether it has drained the endpoint, and does not any more because it is too old. True once.
    pub(super) fn drain_ends(&self, now: Instant) -> bool {
        self.valid(micros(now)).is_none() && self.is_drained.swap(false, Ordering::Relaxed)
    }

    fn store(&self, report: LoadReport, own: u32, (at, until): (u64, u64)) {
        let flag = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        let tunnels = u64::from(report.tunnels.unwrap_or_default());
        let max = u64::from(report.max.unwrap_or_default());
        let weight = u64::from(report.weight_hundredths.unwrap_or_default());
        let bounds = max << 32
            | weight << 16
            | flag(report.tunnels.is_some(), HAS_TUNNELS)
            | flag(report.max.is_some(), HAS_MAX)
            | flag(report.weight_hundredths.is_some(), HAS_WEIGHT)
            | flag(report.is_draining, DRAINS);
        self.bounds.store(bounds, Ordering::Relaxed);
        self.total
            .store(tunnels << 32 | u64::from(own), Ordering::Relaxed);
        self.at.store(at, Ordering::Relaxed);
        // Before it is asked whether there is an appointment: see `Upstream::report_ends`.
        self.until.store(until, Ordering::SeqCst);
    }

    /// Counts a report that is ignored.
    pub(super) fn ignore(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    /// Reports so far, by result: a token and a number.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        [
            ("accepted", self.accepted.load(Ordering::Relaxed)),
            ("malformed", self.malformed.load(Ordering::Relaxed)),
        ]
    }

    /// The report to hand to a successor, if it is valid.
    pub(super) fn hand_over(&self, now: Instant) -> Option<ReportHandover> {
        let (report, age) = self.shown(now)?;
        let until = self.until.load(Ordering::Relaxed);
        Some(ReportHandover {
            tunnels: report.total.map(|total| total.tunnels),
            own: report.total.map_or(0, |total| total.own),
            max: report.max,
            weight_hundredths: report.weight_hundredths,
            is_draining: report.is_draining,
            age,
            remaining: Duration::from_micros(until.saturating_sub(micros(now))),
        })
    }

    /// Continues with the report of a predecessor.
    pub(super) fn take_over(&self, handed: &ReportHandover, now: Instant) {
        let report = LoadReport {
            tunnels: handed.tunnels,
            max: handed.max,
            weight_hundredths: handed.weight_hundredths,
            is_draining: handed.is_draining,
        };
        let now = micros(now);
        let at = now.saturating_sub(microseconds(handed.age));
        let until = now.saturating_add(microseconds(handed.remaining));
        self.store(report, handed.own, (at, until));
        self.is_drained.store(handed.is_draining, Ordering::Relaxed);
        // The first look at all endpoints makes an appointment for its end, or finds that it has ended before.
        let holds_back =
            handed.is_draining || handed.max.is_some() || handed.weight_hundredths.is_some();
        self.is_watched.store(holds_back, Ordering::SeqCst);
    }

    /// Something else has the address of the endpoint: what the one before has reported does not count.
    pub(super) fn forget(&self) {
        self.until.store(0, Ordering::SeqCst);
        self.is_drained.store(false, Ordering::Relaxed);
        let mut log = self.drain_log();
        log.trouble.is_over();
        log.unreported = 0;
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn saturated(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    proptest! {
        /// A report is read as it was kept, in this process and in the next one.
        #[test]
        fn a_report_is_read_as_it_was_kept(
            tunnels: Option<u32>,
            max: Option<u32>,
            weight_hundredths: Option<u16>,
            is_draining: bool,
            own: u32,
        ) {
            let report = LoadReport { tunnels, max, weight_hundredths, is_draining };
            let expected = ValidReport {
                total: tunnels.map(|tunnels| ReportedTotal { tunnels, own }),
                max,
                weight_hundredths,
                is_draining,
            };
            let now = Instant::now();
            let state = ReportState::default();
            state.keep(report, own as usize, 10 * SECOND, now);
            prop_assert_eq!(state.shown(now + SECOND), Some((expected, SECOND)));
            let next = ReportState::default();
            next.take_over(&state.hand_over(now + SECOND).unwrap(), now + SECOND);
            prop_assert_eq!(next.shown(now + 9 * SECOND), Some((expected, 9 * SECOND)));
            prop_assert_eq!(next.shown(now + 10 * SECOND), None);
        }
    }

    #[test]
    fn an_endpoint_that_comes_and_goes_is_two_lines_a_minute() {
        let now = Instant::now();
        let state = ReportState::default();
        let flip = |at: Duration| {
            let drained = state.log_drained(true, now + at);
            // The next report says the same.
            let again = state.log_drained(false, now + at);
            assert!(drained.is_none() || again.is_none());
            [drained.or(again), state.log_undrained()]
        };
        assert_eq!(flip(Duration::ZERO), [Some(0); 2]);
        for _ in 0..50 {
            assert_eq!(flip(30 * SECOND), [None; 2]);
        }
        assert_eq!(flip(60 * SECOND), [Some(100), Some(0)]);
        // One that lasts is logged as soon as that is allowed.
        assert_eq!(state.log_drained(true, now + 61 * SECOND), None);
        assert_eq!(state.log_drained(false, now + 119 * SECOND), None);
        assert_eq!(state.log_drained(false, now + 120 * SECOND), Some(0));
        assert_eq!(state.log_undrained(), Some(0));
    }

    #[test]
    fn the_end_of_a_report_matters_only_if_it_holds_back() {
        let now = Instant::now();
        let state = ReportState::default();
        for (text, holds_back) in [
            ("tunnels=5", false),
            ("drain", true),
            ("", false),
            ("max=5", true),
            ("weight=0", true),
        ] {
            let report = LoadReport::parse([text.as_bytes()].into_iter()).unwrap();
            state.keep(report, 0, SECOND, now);
            let end = state.end(now);
            assert_eq!(end.is_some(), holds_back, "{text}");
            assert!(end.is_none_or(|end| state.end(end).is_none()), "{text}");
        }
    }

    #[test]
    fn a_report_is_valid_until_it_is_too_old() {
        let now = Instant::now();
        let state = ReportState::default();
        assert_eq!(state.shown(now), None);
        let report = LoadReport {
            is_draining: true,
            ..LoadReport::default()
        };
        state.keep(report, 0, SECOND, now);
        assert!(state.shown(now).unwrap().0.is_draining);
        assert_eq!(state.shown(now + SECOND), None);
        assert_eq!(state.hand_over(now + SECOND), None);
        // The next one is valid as a whole.
        state.keep(LoadReport::default(), 0, Duration::MAX, now + SECOND);
        let (report, _) = state.shown(now + 100 * SECOND).unwrap();
        assert_eq!(report, ValidReport::default());
        assert_eq!(state.counts(), [("accepted", 2), ("malformed", 0)]);
    }
}
