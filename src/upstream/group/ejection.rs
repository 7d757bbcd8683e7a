//! Outcomes of an upstream's sessions, and the ejections that follow from them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::Upstream;
use crate::upstream::endpoint::{EndpointState, locked};
use crate::upstream::health::{HealthStatus, SessionFailure, max_ejected};
use crate::upstream::time::later;

/// Held while ejected endpoints are counted and one more is ejected. Without it, two workers could
/// both see room for one more ejection, and together exceed the maximum share.
///
/// The lock order is this one, then the health of one endpoint at a time; the group's lock is
/// released before. One lock for the whole process is enough, because ejections are rare.
static EJECTING: Mutex<()> = Mutex::new(());

impl Upstream {
    /// A session with `endpoint` succeeded.
    pub fn passed(&self, endpoint: &EndpointState, now: Instant) {
        if let Some(settings) = &self.settings.ejection {
            endpoint.health(now, |health| health.passed(settings, now));
        }
    }

    /// A connection to `endpoint` failed, and not because of this process. Returns whether to report
    /// that. The endpoint is asked last for a short time, unless the upstream has ejection:
    /// then failures have to reach the endpoint until they are enough for that.
    pub fn connect_failed(&self, endpoint: &EndpointState, why: &str, now: Instant) -> bool {
        endpoint.connect_failed(why, self.settings.ejection.is_none(), now)
    }

    /// The name of `endpoint` was not resolved. Nothing counts against it, but if no address of it is known it is
    /// asked last for a short time. Returns whether to report that.
    pub fn name_unresolved(&self, endpoint: &EndpointState, why: &str, now: Instant) -> bool {
        endpoint.destinations().is_empty() && endpoint.connect_failed(why, true, now)
    }

    /// A session failed because of `endpoint`. If the endpoint is ejected, returns for how long.
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
        // A tunnel may outlive its endpoint's place in the upstream: one that is drained or removed
        // must not count against the maximum share of those that serve.
        let endpoints = self.serving();
        let serving = endpoints.iter().find(|serving| serving.id == endpoint.id)?;
        let _ejecting = locked(&EJECTING);
        if ejected(&endpoints, now).len() >= max_ejected(settings, endpoints.len()) {
            if failure == SessionFailure::Connect {
                endpoint.ask_last(now);
            }
            return None;
        }
        // Another worker may have ejected it since the first look at its health.
        let time = endpoint.health(now, |health| {
            (!health.is_ejected(now)).then(|| health.eject(settings, now))
        })?;
        let agenda = self.registry.agenda();
        agenda.ejected(serving, later(now, time));
        Some(time)
    }

    /// Readmits endpoints if more are ejected than allowed, because the set of serving endpoints has
    /// changed. Those whose ejection ends first are readmitted first.
    pub(super) fn limit_ejected(&self, now: Instant) {
        let Some(settings) = &self.settings.ejection else {
            return;
        };
        let endpoints = self.serving();
        let max = max_ejected(settings, endpoints.len());
        let _ejecting = locked(&EJECTING);
        let mut ejected = ejected(&endpoints, now);
        ejected.sort_by_key(|(until, _)| *until);
        let excess = ejected.len().saturating_sub(max);
        for (_, endpoint) in ejected.iter().take(excess) {
            endpoint.health(now, |health| health.readmit(now));
        }
    }
}

/// The ejected ones of `endpoints`, and until when.
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
