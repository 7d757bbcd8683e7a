//! The results of probes, by route. They outlive reloads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::ProbeError;

/// The results of the probes of all routes.
#[derive(Debug, Default)]
pub struct RouteProbes(Mutex<BTreeMap<Arc<str>, RouteProbeState>>);

/// What the probes of a route have shown so far.
#[derive(Debug, Clone, Default)]
pub struct RouteProbeState {
    /// Probes by result: `passed`, or why they failed.
    pub counts: BTreeMap<&'static str, u64>,
    /// Failures since the last probe that passed.
    pub failures_in_row: u64,
    /// The latest probe.
    pub last: Option<ProbeRecord>,
}

/// A probe that has ended.
#[derive(Debug, Clone)]
pub struct ProbeRecord {
    /// When it ended.
    pub at: SystemTime,
    /// The time that it took.
    pub took: Duration,
    /// The endpoint, if one was asked.
    pub endpoint: Option<Arc<str>>,
    /// Why it failed.
    pub error: Option<String>,
}

impl RouteProbes {
    /// Records a probe, and logs what it changes.
    pub fn record(
        &self,
        route: &Arc<str>,
        result: &Result<Arc<str>, ProbeError>,
        took: Duration,
        at: SystemTime,
    ) {
        let mut states = self.lock();
        let state = states.entry(Arc::clone(route)).or_default();
        let token = result.as_ref().map_or_else(ProbeError::token, |_| "passed");
        *state.counts.entry(token).or_default() += 1;
        let endpoint = match result {
            Ok(endpoint) => Some(endpoint),
            Err(error) => error.endpoint(),
        };
        let error = result.as_ref().err().map(ToString::to_string);
        let failed_before = state.failures_in_row;
        state.failures_in_row = match &error {
            Some(_) => failed_before + 1,
            None => 0,
        };
        let (name, label) = (&**route, endpoint.map(|label| &**label));
        match &error {
            Some(error) if failed_before == 0 => {
                tracing::warn!(route = name, endpoint = label, error, "probe failed");
            }
            Some(error) => tracing::debug!(route = name, endpoint = label, error, "probe failed"),
            None if failed_before > 0 => {
                tracing::info!(
                    route = name,
                    endpoint = label,
                    failed_before,
                    "probe passes again"
                );
            }
            None => {}
        }
        state.last = Some(ProbeRecord {
            at,
            took,
            endpoint: endpoint.cloned(),
            error,
        });
    }

    /// Forgets the routes that are not probed any more.
    pub fn retain(&self, is_probed: impl Fn(&str) -> bool) {
        self.lock().retain(|route, _| is_probed(route));
    }

    /// What the probes of each route have shown.
    pub fn all(&self) -> Vec<(Arc<str>, RouteProbeState)> {
        let states = self.lock();
        let states = states.iter();
        states
            .map(|(route, state)| (Arc::clone(route), state.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, RouteProbeState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::rejection::Rejection;

    #[test]
    fn failures_in_a_row_are_counted_until_a_probe_passes() {
        let probes = RouteProbes::default();
        let route: Arc<str> = "chat".into();
        let record = |result| {
            probes.record(&route, &result, Duration::ZERO, SystemTime::UNIX_EPOCH);
            let (_, state) = probes.all().swap_remove(0);
            (state.failures_in_row, state.last.unwrap().error)
        };
        let passed = || Ok(Arc::from("10.0.0.11:9000"));
        let failed = || Err(Rejection::NoEndpoint.into());
        assert_eq!(record(passed()), (0, None));
        let error = Some("tidegate rejects the request: no-endpoint".to_owned());
        assert_eq!(record(failed()), (1, error.clone()));
        assert_eq!(record(failed()), (2, error));
        assert_eq!(record(passed()), (0, None));
        let (_, state) = probes.all().swap_remove(0);
        assert_eq!(
            state.counts,
            BTreeMap::from([("passed", 2), ("rejected", 2)])
        );
        probes.retain(|route| route != "chat");
        assert!(probes.all().is_empty());
    }
}
