//! Whether the store can be used: what operators see of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

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
    /// Why it cannot be written; `None` if it can, or if nothing was written yet.
    pub writing: Option<StoreTrouble>,
    /// When what is known was last known to be complete; `None` if nothing was read yet.
    pub up_to_date: Option<SystemTime>,
}

#[derive(Debug, Default)]
struct HealthState {
    condition: StoreCondition,
    reading: RecurringTrouble,
    writing: RecurringTrouble,
}

impl StoreHealth {
    /// How it is now.
    pub fn condition(&self) -> StoreCondition {
        self.state().condition.clone()
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

    /// Something was written.
    pub fn written(&self) {
        let mut state = self.state();
        if state.condition.writing.take().is_some() && state.writing.is_over() {
            tracing::info!("the store can be written again");
        }
    }

    /// Something could not be written.
    pub fn not_written(&self, error: &EtcdError) {
        let mut state = self.state();
        // Where no member responds, that it cannot be read is the one warning.
        let is_away = error.is_of_member();
        let error = with_causes(error);
        if !is_away && state.writing.is_there(Instant::now()) {
            tracing::warn!(
                error,
                "the store cannot be written; other nodes see an older state of this one, and it is tried again"
            );
        }
        begin(&mut state.condition.writing, error);
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begin(trouble: &mut Option<StoreTrouble>, error: String) {
    let since = trouble.as_ref().map_or_else(SystemTime::now, |it| it.since);
    let error = error.into();
    *trouble = Some(StoreTrouble { error, since });
}
