//! Whether the store can be used: what operators see of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::error::EtcdError;
use crate::causes::with_causes;
use crate::quota::failure_reports::RecurringTrouble;

/// Whether a store can be read and written.
#[derive(Debug, Default)]
pub struct StoreHealth(Mutex<HealthState>);

/// A trouble with the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreTrouble {
    /// What is wrong.
    pub error: Box<str>,
    /// Since when.
    pub since: SystemTime,
}

/// How the store is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreCondition {
    /// Why it cannot be read; `None` if it can.
    pub reading: Option<StoreTrouble>,
    /// Why it cannot be written; `None` if it can, or if that is not known.
    pub writing: Option<StoreTrouble>,
    /// When what is known was last known to be complete; `None` if nothing was read yet.
    pub up_to_date: Option<SystemTime>,
}

/// How long a failed write counts, if nothing is written after it. Where nothing has to be, it would never be
/// known that it would succeed.
const WRITE_MEMORY: Duration = Duration::from_secs(10 * 60);

/// How often in a row writes, or renewals, may get no response while reads do, until that is a trouble of writes.
const MAX_UNANSWERED: u32 = 3;

#[derive(Debug, Default)]
struct HealthState {
    condition: StoreCondition,
    reading: RecurringTrouble,
    writing: RecurringTrouble,
    failed_write: Option<FailedWrite>,
    writes: UnansweredCount,
    /// Apart from writes: a node that has nothing to write renews its lease all the same.
    renewals: UnansweredCount,
}

/// What the store is asked for to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChangeKind {
    Write,
    Renewal,
}

#[derive(Debug, Default)]
struct UnansweredCount {
    /// How often the store has responded to something else after such requests that had no response, since it last
    /// responded to one.
    count: u32,
    /// When one last had no response.
    at: Option<Instant>,
}

/// What is known of the latest write, if it has failed.
#[derive(Debug)]
struct FailedWrite {
    kind: ChangeKind,
    at: Instant,
    /// No member has responded: nothing is said about writes.
    is_away: bool,
    /// It says nothing about other keys.
    is_of_key: bool,
}

impl StoreHealth {
    /// How it is now.
    pub fn condition(&self) -> StoreCondition {
        self.condition_at(Instant::now())
    }

    fn condition_at(&self, now: Instant) -> StoreCondition {
        let mut state = self.state();
        let age = |failed: &FailedWrite| now.saturating_duration_since(failed.at);
        if state.failed_write.as_ref().map(age) >= Some(WRITE_MEMORY) {
            state.forget_failed_write();
        }
        state.condition.clone()
    }

    /// Whether the store has refused the latest write, whatever its key, because it is full for example: only another
    /// write shows that it does not any more.
    pub fn has_refused(&self) -> bool {
        let state = self.state();
        let failed = state.failed_write.as_ref();
        failed.is_some_and(|failed| !failed.is_away && !failed.is_of_key)
    }

    /// What is known of the store is complete.
    pub(super) fn read(&self) {
        let mut state = self.state();
        state.forget_away();
        state.condition.up_to_date = Some(SystemTime::now());
        if state.condition.reading.take().is_some() && state.reading.is_over() {
            tracing::info!(
                "the store can be read again; everything that changed meanwhile is known"
            );
        }
    }

    /// The store could not be read.
    pub(super) fn not_read(&self, error: &EtcdError) {
        let mut state = self.state();
        let error = with_causes(error);
        if state.reading.is_there(Instant::now()) {
            let effect = match state.condition.up_to_date {
                Some(_) => "what was read before stays in use",
                None => "nothing was read yet",
            };
            tracing::warn!(error, effect, "the store cannot be read; it is asked again");
        }
        begin(&mut state.condition.reading, error);
    }

    /// Something was written: not merely removed or renewed, which a full store does as well.
    pub fn written(&self) {
        let mut state = self.state();
        state.forget_counts();
        state.forget_failed_write();
        if state.writing.is_over() {
            tracing::info!("the store can be written again");
        }
    }

    /// The store has responded to something else than a write.
    pub fn reached(&self) {
        self.state().forget_away();
    }

    /// A lease was renewed, which a full store does as well.
    pub fn renewed(&self) {
        let mut state = self.state();
        state.forget_away();
        state.renewals.count = 0;
    }

    /// The store has removed something, or has found that a condition of a write does not hold: it responds to
    /// writes, and may be full all the same.
    pub fn decided(&self) {
        let mut state = self.state();
        state.forget_away();
        state.forget_counts();
    }

    /// Something could not be written.
    pub fn not_written(&self, error: &EtcdError) {
        self.not_changed(ChangeKind::Write, error, Instant::now());
    }

    /// A lease could not be renewed.
    pub fn not_renewed(&self, error: &EtcdError) {
        self.not_changed(ChangeKind::Renewal, error, Instant::now());
    }

    fn not_changed(&self, kind: ChangeKind, error: &EtcdError, now: Instant) {
        let mut state = self.state();
        // Where no member responds, that it cannot be read is the one warning.
        let is_away = error.is_of_member() && state.unanswered(kind).at(now) < MAX_UNANSWERED;
        let is_of_key = matches!(error, EtcdError::Denied(_));
        let error = with_causes(error);
        if !is_away && state.writing.is_there(now) {
            tracing::warn!(
                error,
                "the store cannot be written; other nodes do not see what changes here, and it is tried again"
            );
        }
        // What is known to be wrong stays so while no member responds.
        if is_away && state.failed_write.as_ref().is_some_and(|it| !it.is_away) {
            return;
        }
        state.failed_write = Some(FailedWrite {
            kind,
            at: now,
            is_away,
            is_of_key,
        });
        begin(&mut state.condition.writing, error);
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HealthState {
    fn forget_failed_write(&mut self) {
        self.failed_write = None;
        self.condition.writing = None;
    }

    fn forget_counts(&mut self) {
        self.writes.count = 0;
        self.renewals.count = 0;
    }

    fn unanswered(&mut self, kind: ChangeKind) -> &mut UnansweredCount {
        match kind {
            ChangeKind::Write => &mut self.writes,
            ChangeKind::Renewal => &mut self.renewals,
        }
    }

    /// Members respond: that none has responded to a write says nothing any more.
    fn forget_away(&mut self) {
        if let Some(failed) = self.failed_write.as_ref().filter(|it| it.is_away) {
            let unanswered = self.unanswered(failed.kind);
            unanswered.count = unanswered.count.saturating_add(1);
            self.forget_failed_write();
        }
    }
}

impl UnansweredCount {
    /// The count as it is before a request without a response at `now`: outages that are far apart are not one
    /// trouble, whether something was written between them or not.
    fn at(&mut self, now: Instant) -> u32 {
        let before = self.at.replace(now);
        if before.is_some_and(|at| now.saturating_duration_since(at) >= WRITE_MEMORY) {
            self.count = 0;
        }
        self.count
    }
}

fn begin(trouble: &mut Option<StoreTrouble>, error: String) {
    let since = trouble.as_ref().map_or_else(SystemTime::now, |it| it.since);
    let error = error.into();
    *trouble = Some(StoreTrouble { error, since });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> EtcdError {
        EtcdError::Full("database space exceeded".into())
    }

    fn away() -> EtcdError {
        EtcdError::Ended
    }

    fn trouble(health: &StoreHealth) -> Option<Box<str>> {
        health.condition().writing.map(|it| it.error)
    }

    #[test]
    fn only_a_write_shows_that_a_full_store_can_be_written_again() {
        let health = StoreHealth::default();
        health.not_written(&full());
        assert!(health.has_refused());
        health.reached();
        health.not_written(&away());
        health.reached();
        health.decided();
        health.read();
        assert!(trouble(&health).unwrap().contains("is full"));
        health.written();
        assert_eq!((trouble(&health), health.has_refused()), (None, false));
    }

    #[test]
    fn a_store_that_was_away_is_known_to_be_back_by_any_response() {
        for response in [
            StoreHealth::reached,
            StoreHealth::renewed,
            StoreHealth::decided,
            StoreHealth::read,
            StoreHealth::written,
        ] {
            let health = StoreHealth::default();
            health.not_written(&away());
            assert!(trouble(&health).is_some() && !health.has_refused());
            response(&health);
            assert_eq!(trouble(&health), None);
        }
    }

    #[test]
    fn what_responds_to_reads_alone_cannot_be_written() {
        let health = StoreHealth::default();
        let outage = |response: fn(&StoreHealth)| {
            // As long as nothing responds, it is one outage.
            for _ in 0..10 {
                health.not_written(&away());
            }
            response(&health);
            trouble(&health).is_some()
        };
        for _ in 0..10 {
            assert!(!outage(StoreHealth::read) && !outage(StoreHealth::decided));
        }
        let stays = [(); 4].map(|()| outage(StoreHealth::read));
        assert_eq!(stays, [false, false, false, true]);
        assert!(health.has_refused());
        assert!(!outage(StoreHealth::written));
        assert!(!outage(StoreHealth::read));
    }

    #[test]
    fn renewals_without_a_response_count_until_one_has_one() {
        let health = StoreHealth::default();
        for _ in 0..10 {
            health.not_renewed(&away());
            health.read();
            health.renewed();
        }
        let outage = |failure: fn(&StoreHealth, &EtcdError)| {
            failure(&health, &away());
            health.read();
            trouble(&health).is_some()
        };
        // That leases are renewed says nothing about writes.
        for _ in 0..3 {
            assert!(!outage(StoreHealth::not_renewed) && !outage(StoreHealth::not_written));
        }
        health.renewed();
        assert!(!outage(StoreHealth::not_renewed) && outage(StoreHealth::not_written));
        health.written();
        let stays = [(); 4].map(|()| outage(StoreHealth::not_renewed));
        assert_eq!(stays, [false, false, false, true]);
    }

    #[test]
    fn outages_that_are_far_apart_are_not_one_trouble() {
        let health = StoreHealth::default();
        let now = Instant::now();
        for number in 0..10 {
            health.not_changed(ChangeKind::Write, &away(), now + number * WRITE_MEMORY);
            health.read();
            assert_eq!(trouble(&health), None);
        }
    }

    #[test]
    fn what_is_refused_for_a_key_says_nothing_about_others() {
        let other = EtcdError::Other {
            code: 8,
            message: "etcdserver: too many requests".into(),
        };
        let denied = EtcdError::Denied("permission denied".into());
        for (error, has_refused) in [(full(), true), (other, true), (denied, false)] {
            let health = StoreHealth::default();
            health.not_written(&error);
            health.read();
            assert!(trouble(&health).is_some(), "{error}");
            assert_eq!(health.has_refused(), has_refused, "{error}");
        }
    }

    #[test]
    fn a_failed_write_is_forgotten_if_nothing_is_written_after_it() {
        let health = StoreHealth::default();
        let now = Instant::now();
        health.not_changed(ChangeKind::Write, &full(), now);
        assert!(
            health
                .condition_at(now + WRITE_MEMORY / 2)
                .writing
                .is_some()
        );
        health.not_changed(ChangeKind::Write, &full(), now + WRITE_MEMORY / 2);
        assert!(health.condition_at(now + WRITE_MEMORY).writing.is_some());
        let later = now + 2 * WRITE_MEMORY;
        assert_eq!(health.condition_at(later).writing, None);
    }
}
