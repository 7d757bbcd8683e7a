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

#[derive(Debug, Default)]
struct HealthState {
    condition: StoreCondition,
    reading: RecurringTrouble,
    writing: RecurringTrouble,
    failed_write: Option<FailedWrite>,
}

/// What is known of the latest write, if it has failed.
#[derive(Debug)]
struct FailedWrite {
    at: Instant,
    /// No member has responded: nothing is said about writes.
    is_away: bool,
    is_full: bool,
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

    /// Whether the latest write has failed because the store was full: only another write shows that it is not full
    /// any more.
    pub fn was_full(&self) -> bool {
        let state = self.state();
        let failed = state.failed_write.as_ref();
        failed.is_some_and(|failed| failed.is_full)
    }

    /// What is known of the store is complete.
    pub(super) fn read(&self) {
        let mut state = self.state();
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
        state.forget_failed_write();
        if state.writing.is_over() {
            tracing::info!("the store can be written again");
        }
    }

    /// The store has responded to something else than a write.
    pub fn reached(&self) {
        let mut state = self.state();
        let failed = state.failed_write.as_ref();
        if failed.is_some_and(|failed| failed.is_away) {
            state.forget_failed_write();
        }
    }

    /// Something could not be written.
    pub fn not_written(&self, error: &EtcdError) {
        self.not_written_at(error, Instant::now());
    }

    fn not_written_at(&self, error: &EtcdError, now: Instant) {
        let mut state = self.state();
        // Where no member responds, that it cannot be read is the one warning.
        let is_away = error.is_of_member();
        let is_full = matches!(error, EtcdError::Full(_));
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
            at: now,
            is_away,
            is_full,
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
        assert!(health.was_full());
        health.reached();
        health.not_written(&away());
        health.reached();
        assert!(trouble(&health).unwrap().contains("is full"));
        health.written();
        assert_eq!((trouble(&health), health.was_full()), (None, false));
    }

    #[test]
    fn a_store_that_was_away_is_known_to_be_back_by_any_response() {
        let health = StoreHealth::default();
        health.not_written(&away());
        assert!(trouble(&health).is_some() && !health.was_full());
        health.reached();
        assert_eq!(trouble(&health), None);
    }

    #[test]
    fn a_failed_write_is_forgotten_if_nothing_is_written_after_it() {
        let health = StoreHealth::default();
        let now = Instant::now();
        health.not_written_at(&full(), now);
        assert!(
            health
                .condition_at(now + WRITE_MEMORY / 2)
                .writing
                .is_some()
        );
        health.not_written_at(&full(), now + WRITE_MEMORY / 2);
        assert!(health.condition_at(now + WRITE_MEMORY).writing.is_some());
        let later = now + 2 * WRITE_MEMORY;
        assert_eq!(health.condition_at(later).writing, None);
    }
}
