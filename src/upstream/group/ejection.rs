//! What sessions say of their endpoints, and who is left out for it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Upstream;
use crate::upstream::endpoint::{EndpointState, locked};
use crate::upstream::health::{HealthStatus, SessionFailure, max_ejected};

/// Whoever ejects, or counts who is ejected, does so alone: otherwise two workers might each eject
/// the last one that may be.
static EJECTING: Mutex<()> = Mutex::new(());

impl Upstream {
    /// A session with `endpoint` went well.
    pub fn passed(&self, endpoint: &EndpointState, now: Instant) {
        if let Some(settings) = &self.settings.ejection {
            endpoint.health(now, |health| health.passed(settings, now));
        }
    }

    /// A session with `endpoint` failed by its doing. If it is ejected for that, tells for how long.
    pub fn failed(
        &self,
        endpoint: &EndpointState,
        failure: SessionFailure,
        now: Instant,
    ) -> Option<Duration> {
        let settings = self.settings.ejection.as_ref()?;
        if !endpoint.health(now, |health| health.failed(failure, settings, now)) {
            return None;
        }
        let endpoints = self.serving();
        if endpoints.iter().all(|each| each.id != endpoint.id) {
            return None;
        }
        let _alone = locked(&EJECTING);
        if ejected(&endpoints, now).len() >= max_ejected(settings, endpoints.len()) {
            return None;
        }
        endpoint.health(now, |health| {
            (!health.is_ejected(now)).then(|| health.eject(settings, now))
        })
    }

    /// After those that serve have changed: those that would have come back first come back now, as far
    /// as more are ejected than may be.
    pub(super) fn limit_ejected(&self, now: Instant) {
        let Some(settings) = &self.settings.ejection else {
            return;
        };
        let endpoints = self.serving();
        let most = max_ejected(settings, endpoints.len());
        let _alone = locked(&EJECTING);
        let mut ejected = ejected(&endpoints, now);
        ejected.sort_by_key(|(until, _)| *until);
        let excess = ejected.len().saturating_sub(most);
        for (_, endpoint) in ejected.iter().take(excess) {
            endpoint.health(now, |health| health.readmit(now));
        }
    }
}

/// Those that are ejected, and until when.
fn ejected(endpoints: &[Arc<EndpointState>], now: Instant) -> Vec<(Instant, &Arc<EndpointState>)> {
    let until = |endpoint: &Arc<EndpointState>| {
        endpoint.health(now, |health| match health.status(now) {
            HealthStatus::Ejected { until, .. } => Some(until),
            HealthStatus::Up | HealthStatus::Down { .. } => None,
        })
    };
    endpoints
        .iter()
        .filter_map(|endpoint| Some((until(endpoint)?, endpoint)))
        .collect()
}
