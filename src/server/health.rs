//! Runs the health checks of all endpoints, once per process, on the control runtime.
//!
//! The time of the next check is part of an endpoint's state: frequent reloads do not postpone checks,
//! endpoints from discovery are included, and removed ones leave nothing behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};

use crate::config::model::Health;
use crate::session::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::endpoint::EndpointState;
use crate::upstream::group::Upstream;
use crate::upstream::health::{CheckOutcome, HealthChange};
use crate::upstream::health_check::{HealthCheckError, health_check};

/// How often endpoints are scanned for due checks.
const SCAN_INTERVAL: Duration = Duration::from_millis(50);

/// The same without any health checks: only to notice the end of ejections.
const IDLE_SCAN_INTERVAL: Duration = Duration::from_secs(1);

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
    loop {
        while running.try_join_next().is_some() {}
        // The snapshot is not held during the pause: a reload frees the old one where it swaps it.
        let pause = start_due_checks(&shared, &shared.snapshot.load_full(), &mut running);
        tokio::time::sleep(pause).await;
    }
}

/// Starts the checks that are due; returns the pause until the next scan.
fn start_due_checks(
    shared: &Arc<Shared>,
    snapshot: &Snapshot,
    running: &mut JoinSet<()>,
) -> Duration {
    let now = Instant::now();
    let mut due: Vec<DueCheck> = Vec::new();
    let mut pause = IDLE_SCAN_INTERVAL;
    for upstream in snapshot.upstreams() {
        if upstream.settings.health.is_some() {
            pause = SCAN_INTERVAL;
        }
        let endpoints = upstream.endpoints().into_iter();
        due.extend(endpoints.filter_map(|endpoint| DueCheck::if_due(upstream, endpoint, now)));
    }
    due.sort_by_key(|check| check.due);
    let free = MAX_RUNNING_CHECKS.saturating_sub(running.len());
    for check in due.into_iter().take(free) {
        check
            .endpoint
            .health(now, |health| health.check_begins(&check.settings, now));
        running.spawn(check.run(Arc::clone(shared)));
    }
    pause
}

/// A check of one endpoint that is due.
struct DueCheck {
    due: Instant,
    settings: Health,
    upstream: Arc<Upstream>,
    endpoint: Arc<EndpointState>,
}

impl DueCheck {
    /// The check of `endpoint`, if it is due. Also drops state that the configuration no longer needs.
    fn if_due(
        upstream: &Arc<Upstream>,
        endpoint: Arc<EndpointState>,
        now: Instant,
    ) -> Option<Self> {
        if endpoint.ejection_has_ended(now) {
            log_readmitted(&endpoint, "time");
        }
        let settings = upstream.settings.health.as_ref();
        let due = endpoint.health(now, |health| {
            if upstream.settings.ejection.is_none() {
                health.forget_outcomes();
            }
            if settings.is_none() {
                health.forget_checks();
            }
            settings.map(|settings| health.check_due(settings, random_fraction, now))
        })?;
        (due <= now).then_some(Self {
            due,
            settings: settings?.clone(),
            upstream: Arc::clone(upstream),
            endpoint,
        })
    }

    async fn run(self, shared: Arc<Shared>) {
        let Self {
            settings,
            upstream,
            endpoint,
            ..
        } = &self;
        let result = health_check(settings, upstream, endpoint, &shared.connector).await;
        if let Err(HealthCheckError::Connect(error)) = &result
            && !error.blames_endpoint()
        {
            // Nothing to hold against the endpoint: it has not been asked.
            tracing::warn!(endpoint = &*endpoint.label, %error, "health check skipped: the failure is not the endpoint's");
            return;
        }
        // After a reload with other settings the result says nothing about the endpoint.
        let snapshot = shared.snapshot.load();
        let current = snapshot.upstream(&upstream.name);
        if current.and_then(|current| current.settings.health.as_ref()) == Some(settings) {
            record(endpoint, settings, result.as_ref().err());
        }
    }
}

/// Records the result of a check, and logs what it changes.
fn record(endpoint: &EndpointState, settings: &Health, error: Option<&HealthCheckError>) {
    let now = Instant::now();
    let why = error.map(ToString::to_string);
    let result = why.as_deref().map_or(Ok(()), Err);
    // A check connects as sessions do.
    let has_connected = !matches!(error, Some(HealthCheckError::Connect(_)));
    if has_connected && endpoint.connected() {
        let (upstream, endpoint) = (&*endpoint.upstream, &*endpoint.label);
        tracing::info!(upstream, endpoint, "endpoint reachable again");
    }
    let change = endpoint.health(now, |health| {
        health.count(error.map_or(CheckOutcome::Passed, HealthCheckError::outcome));
        health.checked(result, settings, random_fraction(), now)
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
