//! Runs the health checks of all endpoints, once per process, on the control runtime.
//!
//! The time of the next check is part of an endpoint's state: frequent reloads do not postpone checks,
//! endpoints from discovery are included, and removed ones leave nothing behind.

mod schedule;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};

use self::schedule::{DueCheck, EndedCheck, Schedule};
use crate::quota::failure_reports::FailureReports;
use crate::session::Shared;
use crate::upstream::check_steps::CheckError;
use crate::upstream::connect::ConnectError;
use crate::upstream::endpoint::EndpointState;
use crate::upstream::health::{CheckOutcome, HealthChange};
use crate::upstream::health_check::health_check;

/// How often due checks are started.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The same without any health checks: only to notice the end of ejections.
const IDLE_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Checks that run at the same time: fewer than the reserved file descriptors. The most overdue come
/// first.
const MAX_RUNNING_CHECKS: usize = 64;

/// The task that runs the checks; dropping it ends them.
#[derive(Debug)]
pub(super) struct HealthCheckTask(AbortHandle);

impl Drop for HealthCheckTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts the checks on this runtime.
pub(super) fn start(shared: &Arc<Shared>) -> HealthCheckTask {
    let shared = Arc::clone(shared);
    let control = tokio::runtime::Handle::current();
    HealthCheckTask(control.spawn(run(shared)).abort_handle())
}

async fn run(shared: Arc<Shared>) {
    let mut running = JoinSet::new();
    let mut schedule = Schedule::default();
    let skipped = Arc::default();
    loop {
        // The snapshot is not held during the pause: a reload frees the old one where it swaps it.
        let pause = look(&shared, &mut schedule, &mut running, &skipped);
        tokio::time::sleep(pause).await;
    }
}

/// Starts the checks that are due; returns the pause until the next look.
fn look(
    shared: &Arc<Shared>,
    schedule: &mut Schedule,
    running: &mut JoinSet<EndedCheck>,
    skipped: &Arc<FailureReports>,
) -> Duration {
    let now = Instant::now();
    let snapshot = shared.snapshot.load_full();
    while let Some(check) = running.try_join_next() {
        match check {
            Ok(check) => schedule.ended(&check, &snapshot, now),
            // It panicked, and nothing is known of it but that its endpoint needs a next one.
            Err(_) => schedule.invalidate(),
        }
    }
    let free = MAX_RUNNING_CHECKS.saturating_sub(running.len());
    let (due, readmitted) = schedule.look(&snapshot, free, now);
    for endpoint in readmitted {
        log_readmitted(&endpoint, "time");
    }
    for check in due {
        running.spawn(check.run(Arc::clone(shared), Arc::clone(skipped)));
    }
    match schedule.has_checks() {
        true => LOOK_INTERVAL,
        false => IDLE_LOOK_INTERVAL,
    }
}

impl DueCheck {
    async fn run(self, shared: Arc<Shared>, skipped: Arc<FailureReports>) -> EndedCheck {
        let Self {
            settings,
            upstream,
            endpoint,
            ..
        } = &self;
        let result = health_check(settings, upstream, endpoint, &shared.connector).await;
        if let Err(CheckError::Connect(error)) = &result
            && !error.blames_endpoint()
        {
            // Nothing to hold against the endpoint: it has not been asked.
            let now = Instant::now();
            let why = error.to_string();
            if let ConnectError::Resolve(_) = error {
                upstream.name_unresolved(endpoint, &why, now);
            }
            if let Some(unreported) = skipped.admit(&why, now) {
                tracing::warn!(
                    upstream = &*upstream.name,
                    endpoint = &*endpoint.label,
                    why,
                    unreported,
                    "health check skipped: the failure is not the endpoint's"
                );
            } else {
                tracing::debug!(endpoint = &*endpoint.label, why, "health check skipped");
            }
            endpoint.health(now, |health| {
                health.check_skipped(settings, random_fraction(), now);
            });
            return self.end();
        }
        // After a reload with other settings the result says nothing about the endpoint.
        let snapshot = shared.snapshot.load();
        let current = snapshot.upstream(&upstream.name);
        if current.and_then(|current| current.settings.health.as_ref()) == Some(settings) {
            self.record(result.as_ref().err());
        }
        self.end()
    }

    /// Records the result of a check, and logs what it changes. A pod that has got the address meanwhile has
    /// its own checks.
    fn record(&self, error: Option<&CheckError>) {
        let Self {
            settings,
            endpoint,
            incarnation,
            ..
        } = self;
        let now = Instant::now();
        let why = error.map(ToString::to_string);
        let result = why.as_deref().map_or(Ok(()), Err);
        let is_current = || endpoint.incarnation() == *incarnation;
        // A check connects as sessions do.
        let has_connected = !matches!(error, Some(CheckError::Connect(_))) && is_current();
        if has_connected && endpoint.connected() {
            let (upstream, endpoint) = (&*endpoint.upstream, &*endpoint.label);
            tracing::info!(upstream, endpoint, "endpoint reachable again");
        }
        let change = endpoint.health(now, |health| {
            health.count(error.map_or(CheckOutcome::Passed, CheckError::outcome));
            is_current()
                .then(|| health.checked(result, settings, random_fraction(), now))
                .flatten()
        });
        let (upstream, label) = (&*endpoint.upstream, &*endpoint.label);
        match change {
            None => {}
            Some(HealthChange::Failing) => {
                tracing::info!(upstream, endpoint = label, why, "health check failed");
            }
            Some(HealthChange::Down) => {
                let in_flight = endpoint.in_flight();
                tracing::warn!(upstream, endpoint = label, why, in_flight, "endpoint down");
            }
            Some(HealthChange::Up) => tracing::info!(upstream, endpoint = label, "endpoint up"),
            Some(HealthChange::Readmitted) => log_readmitted(endpoint, "check"),
        }
    }
}

fn log_readmitted(endpoint: &EndpointState, by: &str) {
    let (upstream, endpoint) = (&*endpoint.upstream, &*endpoint.label);
    tracing::info!(upstream, endpoint, by, "endpoint back in rotation");
}

/// A random number from 0 to 1.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    // It does not fail in practice; if it did, checks would lose their jitter once.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
