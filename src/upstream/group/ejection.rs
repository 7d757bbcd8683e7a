//! What sessions say of their endpoints, and who is left out for it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Upstream;
use crate::upstream::endpoint::{State, locked};
use crate::upstream::health::{Failure, Standing, ejected_most};

/// Whoever ejects, or counts who is ejected, does so alone: otherwise two workers might each eject
/// the last one that may be.
static EJECTING: Mutex<()> = Mutex::new(());

impl Upstream {
    /// A session with `endpoint` went well.
    pub fn passed(&self, endpoint: &State, now: Instant) {
        if let Some(settings) = &self.settings.ejection {
            endpoint.condition(now, |condition| condition.passed(settings, now));
        }
    }

    /// A session with `endpoint` failed by its doing. If it is ejected for that, tells for how long.
    pub fn failed(&self, endpoint: &State, failure: Failure, now: Instant) -> Option<Duration> {
        let settings = self.settings.ejection.as_ref()?;
        if !endpoint.condition(now, |condition| condition.failed(failure, settings, now)) {
            return None;
        }
        let endpoints = self.serving();
        if endpoints.iter().all(|each| each.id != endpoint.id) {
            return None;
        }
        let _alone = locked(&EJECTING);
        if ejected(&endpoints, now).len() >= ejected_most(settings, endpoints.len()) {
            return None;
        }
        endpoint.condition(now, |condition| {
            (!condition.is_ejected(now)).then(|| condition.eject(settings, now))
        })
    }

    /// After those that serve have changed: those that would have come back first come back now, as far
    /// as more are ejected than may be.
    pub(super) fn keep_share(&self, now: Instant) {
        let Some(settings) = &self.settings.ejection else {
            return;
        };
        let endpoints = self.serving();
        let most = ejected_most(settings, endpoints.len());
        let _alone = locked(&EJECTING);
        let mut ejected = ejected(&endpoints, now);
        ejected.sort_by_key(|(until, _)| *until);
        let excess = ejected.len().saturating_sub(most);
        for (_, endpoint) in ejected.iter().take(excess) {
            endpoint.condition(now, |condition| condition.readmit(now));
        }
    }
}

/// Those that are ejected, and until when.
fn ejected(endpoints: &[Arc<State>], now: Instant) -> Vec<(Instant, &Arc<State>)> {
    let until = |endpoint: &Arc<State>| {
        endpoint.condition(now, |condition| match condition.standing(now) {
            Standing::Ejected { until, .. } => Some(until),
            Standing::Up | Standing::Down { .. } => None,
        })
    };
    endpoints
        .iter()
        .filter_map(|endpoint| Some((until(endpoint)?, endpoint)))
        .collect()
}
