//! The results of probes, by route. They outlive reloads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::ProbeError;
use crate::quota::failure_reports::FailureReports;

/// Probes in a row that have to pass before the log says so: where one of several endpoints fails, results
/// alternate.
const PASSES_TO_RECOVER: u64 = 5;

/// The results of the probes of all routes.
#[derive(Debug, Default)]
pub struct RouteProbes(Mutex<BTreeMap<Arc<str>, RouteProbeLog>>);

#[derive(Debug, Default)]
struct RouteProbeLog {
    state: RouteProbeState,
    reports: FailureReports,
    /// Failures since the log said last that probes pass again.
    failures: u64,
    /// Probes that have passed since the last failure.
    passes_in_row: u64,
}

/// What the probes of a route have shown so far.
#[derive(Debug, Clone, Default)]
pub struct RouteProbeState {
    /// Probes by result: `passed`, or why they failed.
    pub counts: BTreeMap<&'static str, u64>,
    /// Failures since the last probe that passed.
    pub failures_in_row: u64,
    /// The latest probe that reached a result: not one for which every endpoint was full.
    pub last: Option<ProbeRecord>,
}

/// A probe that has ended.
#[derive(Debug, Clone)]
pub struct ProbeRecord {
    /// When it ended.
    pub at: SystemTime,
    /// The time that it took, up to the last response that it needs.
    pub took: Duration,
    /// The endpoint, if one was asked.
    pub endpoint: Option<Arc<str>>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What the log says about a probe.
#[derive(Debug, PartialEq, Eq)]
enum ProbeLogLine {
    /// It failed; this many failures with the same cause were not reported since the last one.
    Failed { unreported: u64 },
    /// Probes pass again, after this many failures.
    Recovered { failures: u64 },
}

impl RouteProbeLog {
    fn report(&mut self, error: Option<&ProbeError>, now: Instant) -> Option<ProbeLogLine> {
        let Some(error) = error else {
            self.passes_in_row += 1;
            if self.failures == 0 || self.passes_in_row < PASSES_TO_RECOVER {
                return None;
            }
            let failures = std::mem::take(&mut self.failures);
            self.reports = FailureReports::default();
            return Some(ProbeLogLine::Recovered { failures });
        };
        self.passes_in_row = 0;
        self.failures += 1;
        let unreported = self.reports.admit(error.token(), now)?;
        Some(ProbeLogLine::Failed { unreported })
    }
}

impl RouteProbes {
    /// Records a probe with its endpoint, and logs what it changes.
    pub fn record(
        &self,
        route: &Arc<str>,
        result: Result<&Arc<str>, &ProbeError>,
        took: Duration,
        at: SystemTime,
    ) {
        let error = result.err();
        let report = self.note(route, result, took, at);
        let name = &**route;
        let endpoint = error.map_or(result.ok(), ProbeError::endpoint);
        let label = endpoint.map(|label| &**label);
        match (report, error) {
            (Some(ProbeLogLine::Failed { unreported }), Some(error)) => tracing::warn!(
                route = name,
                endpoint = label,
                %error,
                unreported,
                "probe failed"
            ),
            (Some(ProbeLogLine::Recovered { failures }), _) => {
                tracing::info!(route = name, failures, "probe passes again");
            }
            (_, Some(error)) => {
                tracing::debug!(route = name, endpoint = label, %error, "probe failed");
            }
            _ => {}
        }
    }

    /// Records a probe; returns what the log says about it.
    fn note(
        &self,
        route: &Arc<str>,
        result: Result<&Arc<str>, &ProbeError>,
        took: Duration,
        at: SystemTime,
    ) -> Option<ProbeLogLine> {
        let mut routes = self.lock();
        let log = routes.entry(Arc::clone(route)).or_default();
        let error = result.err();
        let token = error.map_or("passed", ProbeError::token);
        *log.state.counts.entry(token).or_default() += 1;
        if let Some(ProbeError::Full) = error {
            return None;
        }
        log.state.failures_in_row = match error {
            Some(_) => log.state.failures_in_row + 1,
            None => 0,
        };
        log.state.last = Some(ProbeRecord {
            at,
            took,
            endpoint: error.map_or(result.ok(), ProbeError::endpoint).cloned(),
            error: error.map(ToString::to_string),
        });
        log.report(error, Instant::now())
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
            .map(|(route, log)| (Arc::clone(route), log.state.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, RouteProbeLog>> {
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
        let record = |result: Result<Arc<str>, ProbeError>| {
            let result = result.as_ref();
            probes.record(&route, result, Duration::ZERO, SystemTime::UNIX_EPOCH);
            let (_, state) = probes.all().swap_remove(0);
            (state.failures_in_row, state.last.unwrap().error)
        };
        let passed = || Ok(Arc::from("10.0.0.11:9000"));
        let failed = || Err(Rejection::NoEndpoint.into());
        assert_eq!(record(passed()), (0, None));
        let error = Some("tidegate rejects the request: no-endpoint".to_owned());
        assert_eq!(record(failed()), (1, error.clone()));
        assert_eq!(record(failed()), (2, error.clone()));
        // Nothing was probed: the result before stays.
        assert_eq!(record(Err(ProbeError::Full)), (2, error));
        assert_eq!(record(passed()), (0, None));
        let (_, state) = probes.all().swap_remove(0);
        assert_eq!(
            state.counts,
            BTreeMap::from([("full", 1), ("passed", 2), ("rejected", 2)])
        );
        probes.retain(|route| route != "chat");
        assert!(probes.all().is_empty());
    }

    #[test]
    fn results_that_alternate_are_not_logged_one_by_one() {
        let mut log = RouteProbeLog::default();
        let now = Instant::now();
        let failure = ProbeError::from(Rejection::NoEndpoint);
        let failed = |unreported| Some(ProbeLogLine::Failed { unreported });
        assert_eq!(log.report(Some(&failure), now), failed(0));
        for _ in 0..10 {
            assert_eq!(log.report(None, now), None);
            assert_eq!(log.report(Some(&failure), now), None);
        }
        let later = now + Duration::from_secs(60);
        assert_eq!(log.report(Some(&failure), later), failed(10));
        for _ in 1..PASSES_TO_RECOVER {
            assert_eq!(log.report(None, later), None);
        }
        let recovered = Some(ProbeLogLine::Recovered { failures: 12 });
        assert_eq!(log.report(None, later), recovered);
        assert_eq!(log.report(None, later), None);
        assert_eq!(log.report(Some(&failure), later), failed(0));
    }
}
