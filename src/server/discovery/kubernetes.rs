//! Keeps the endpoints of an upstream those of a Kubernetes Service.
//!
//! A failure removes nothing. While the API server does not respond, the last known endpoints stay in use; at a
//! start, these are the ones that the previous process has saved.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::{LookupTarget, publish_readiness};
use crate::config::model::{EndpointConfig, EndpointPhase, KubernetesService};
use crate::kubernetes::KubernetesError;
use crate::kubernetes::saved::SavedEndpoints;
use crate::kubernetes::slices::{SliceRemark, SlicedEndpoints};
use crate::kubernetes::watch::{SliceWatch, WatchStep};
use crate::quota::failure_reports::FailureReports;
use crate::session::Shared;
use crate::upstream::discovery::answer::retry_after;

/// The saved endpoints are used if no list has come after this time.
const RESTORE_AFTER: Duration = Duration::from_secs(2);

/// The time between two writes of the saved endpoints.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// How long reading or writing them may take.
const SAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest pause before a watch that has ended is resumed.
const RESUME_PAUSE: Duration = Duration::from_secs(1);

/// Follows `service` until it is dropped. Reports to `answered` that the first request has an outcome.
pub(super) async fn follow(
    target: Arc<LookupTarget>,
    shared: Arc<Shared>,
    service: KubernetesService,
    answered: watch::Sender<bool>,
) {
    let counters = shared
        .services
        .of(&format!("kubernetes/{}", target.upstream));
    let saved = SavedEndpoints::of(&target.upstream, &service);
    let mut follower = ServiceFollower {
        watch: SliceWatch::new(service, shared.connector.clone(), counters),
        may_restore: !target.state.has_discovered(&target.discovery),
        target,
        shared,
        saved,
        unsaved: None,
        save_due: Instant::now(),
        cannot_save: false,
        failures: 0,
        expiries: 0,
        reports: FailureReports::default(),
        remarks: BTreeSet::new(),
    };
    loop {
        let pause = follower.step().await;
        answered.send_replace(true);
        tokio::time::sleep(pause).await;
    }
}

struct ServiceFollower {
    target: Arc<LookupTarget>,
    shared: Arc<Shared>,
    watch: SliceWatch,
    saved: Option<SavedEndpoints>,
    /// Endpoints that the file does not have yet.
    unsaved: Option<Vec<EndpointConfig>>,
    save_due: Instant,
    /// Whether the latest write has failed, which was logged.
    cannot_save: bool,
    /// Whether no endpoints are known, so that saved ones are better.
    may_restore: bool,
    failures: u32,
    expiries: u32,
    reports: FailureReports,
    /// What was logged about the slices, as long as it is so.
    remarks: BTreeSet<SliceRemark>,
}

impl ServiceFollower {
    /// One step; returns the pause before the next.
    async fn step(&mut self) -> Duration {
        let was_open = self.watch.is_open();
        let result = if was_open && self.unsaved.is_some() {
            match timeout_at(self.save_due, self.watch.step()).await {
                Ok(result) => result,
                Err(_) => {
                    self.save().await;
                    return Duration::ZERO;
                }
            }
        } else if self.may_restore {
            let mut step = pin!(self.watch.step());
            match timeout(RESTORE_AFTER, &mut step).await {
                Ok(result) => result,
                Err(_) => {
                    self.may_restore = false;
                    restore(&self.target, &self.shared, self.saved.clone()).await;
                    step.await
                }
            }
        } else {
            self.watch.step().await
        };
        match result {
            Ok(step) => self.succeeded(step),
            Err(error) => self.failed(&error, was_open).await,
        }
    }

    fn succeeded(&mut self, step: WatchStep) -> Duration {
        let upstream = &self.target.upstream;
        self.target.state.discovery.succeeded(SystemTime::now());
        if self.failures > 0 && matches!(step, WatchStep::Listed | WatchStep::Opened) {
            tracing::info!(%upstream, "endpoint discovery works again");
            self.failures = 0;
        }
        if matches!(step, WatchStep::Listed | WatchStep::Opened) {
            self.shared.discovery.count(true);
        }
        match step {
            WatchStep::Listed => self.apply(),
            WatchStep::Changed => {
                self.expiries = 0;
                self.apply();
            }
            WatchStep::Opened => {}
            WatchStep::Unchanged => self.expiries = 0,
            WatchStep::Ended => return shortened(RESUME_PAUSE),
            WatchStep::Expired => {
                self.expiries = self.expiries.saturating_add(1);
                return match self.expiries {
                    1 => Duration::ZERO,
                    again => shortened(retry_after(again - 1)),
                };
            }
        }
        Duration::ZERO
    }

    async fn failed(&mut self, error: &KubernetesError, was_open: bool) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.shared.discovery.count(false);
        self.target.state.discovery.failed(&error.to_string());
        if self.may_restore {
            self.may_restore = false;
            restore(&self.target, &self.shared, self.saved.clone()).await;
        }
        let upstream = &self.target.upstream;
        if was_open && self.failures == 1 {
            // API servers restart, and what is between may end long connections.
            tracing::info!(%upstream, %error, "watch of EndpointSlices interrupted; it is resumed");
        } else if let Some(unreported) = self.reports.admit("", std::time::Instant::now()) {
            let kept = self.target.known_endpoints();
            tracing::warn!(%upstream, %error, kept, unreported, "endpoint discovery failed; the last known endpoints stay in use");
        }
        shortened(retry_after(self.failures))
    }

    /// Applies what the slices say now.
    fn apply(&mut self) {
        let SlicedEndpoints { endpoints, remarks } = self.watch.endpoints();
        let upstream = &self.target.upstream;
        for remark in remarks.difference(&self.remarks) {
            tracing::warn!(%upstream, "{remark}");
        }
        self.remarks = remarks;
        self.may_restore = false;
        let in_phase = |phase| {
            endpoints
                .iter()
                .filter(|endpoint| endpoint.phase == phase)
                .count()
        };
        let (count, terminating) = (endpoints.len(), in_phase(EndpointPhase::Terminating));
        let not_ready = in_phase(EndpointPhase::NotReady);
        if !self.target.take(&self.shared, endpoints.clone()) {
            return;
        }
        tracing::info!(%upstream, endpoints = count, terminating, not_ready, "endpoints discovered");
        publish_readiness(&self.shared);
        self.unsaved = self.saved.as_ref().map(|_| endpoints);
    }

    async fn save(&mut self) {
        let (Some(saved), Some(endpoints)) = (self.saved.clone(), self.unsaved.take()) else {
            return;
        };
        self.save_due = Instant::now() + SAVE_INTERVAL;
        let file = saved.path().to_owned();
        let writing = tokio::task::spawn_blocking(move || saved.write(endpoints));
        let error = match timeout(SAVE_TIMEOUT, writing).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(error.to_string()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the file system does not respond".to_owned()),
        };
        if let Some(error) = error.as_ref().filter(|_| !self.cannot_save) {
            let (upstream, file) = (&self.target.upstream, file.display());
            tracing::warn!(%upstream, %file, error, "endpoints not saved; a start without the API server would have none or older ones");
        }
        self.cannot_save = error.is_some();
    }
}

/// Uses the saved endpoints until the API server responds.
async fn restore(target: &LookupTarget, shared: &Shared, saved: Option<SavedEndpoints>) {
    let Some(saved) = saved else {
        return;
    };
    let (upstream, file) = (&target.upstream, saved.path().to_owned());
    let file = file.display();
    let reading = tokio::task::spawn_blocking(move || saved.read());
    match timeout(SAVE_TIMEOUT, reading).await {
        Ok(Ok(Ok(Some(endpoints)))) if !endpoints.is_empty() => {
            let count = endpoints.len();
            target.take(shared, endpoints);
            publish_readiness(shared);
            tracing::warn!(%upstream, endpoints = count, %file, "the API server does not respond; the endpoints that were saved before are in use");
        }
        Ok(Ok(Err(error))) => {
            tracing::warn!(%upstream, %file, %error, "saved endpoints cannot be read; there are none until the API server responds");
        }
        _ => {}
    }
}

/// Between half of a pause and all of it, so that not all nodes ask at once.
fn shortened(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}
