//! Keeps the endpoints of an upstream those of a Kubernetes Service.
//!
//! A failure removes nothing. While the API server does not respond, the last known endpoints stay in use; at a
//! start, these are the ones that the previous process has saved. An endpoint that no slice has is removed only if that
//! is still so a moment later.

use std::collections::{BTreeSet, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{LookupTarget, publish_readiness};
use crate::config::model::{Address, EndpointConfig, EndpointPhase, KubernetesService};
use crate::kubernetes::KubernetesError;
use crate::kubernetes::outage::{FailureCourse, StepMeaning, WatchFailure, WatchOutage};
use crate::kubernetes::saved::SavedEndpoints;
use crate::kubernetes::slices::{SliceRemark, SlicedEndpoints};
use crate::kubernetes::unlisted::UnlistedEndpoints;
use crate::kubernetes::watch::{SliceWatch, WatchPhase, WatchStep};
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
        unlisted: UnlistedEndpoints::default(),
        is_current: false,
        outage: WatchOutage::default(),
        expiries: 0,
        reports: FailureReports::default(),
        remarks: BTreeSet::new(),
    };
    loop {
        let pause = follower.step().await;
        answered.send_replace(true);
        follower.rest(pause).await;
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
    unlisted: UnlistedEndpoints,
    /// Whether the slices were listed after the latest watch has ended.
    is_current: bool,
    outage: WatchOutage,
    expiries: u32,
    reports: FailureReports,
    /// What was logged about the slices, as long as it is so.
    remarks: BTreeSet<SliceRemark>,
}

impl ServiceFollower {
    /// One step; returns the pause before the next.
    async fn step(&mut self) -> Duration {
        let (began, phase) = (Instant::now(), self.watch.phase());
        let due = self.due().filter(|_| phase == WatchPhase::Open);
        let result = if let Some(due) = due {
            match timeout_at(due, self.watch.step()).await {
                Ok(result) => result,
                Err(_) => {
                    self.do_due().await;
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
            Err(error) => self.failed(&error, phase, began).await,
        }
    }

    /// Waits this long. Endpoints that lists have shown are saved meanwhile: it may be that no watch is ever opened.
    async fn rest(&mut self, pause: Duration) {
        let end = Instant::now() + pause;
        // Without a pause, the next request is not to wait for a file system.
        if self.unsaved.is_some() && !pause.is_zero() && self.save_due < end {
            sleep_until(self.save_due).await;
            self.save().await;
        }
        sleep_until(end).await;
    }

    /// When there is something to do, whether an event has come or not.
    fn due(&self) -> Option<Instant> {
        let save = self.unsaved.as_ref().map(|_| self.save_due);
        let removal = self.unlisted.due().map(Instant::from_std);
        save.into_iter().chain(removal).min()
    }

    async fn do_due(&mut self) {
        let now = Instant::now();
        let removal = self.unlisted.due().map(Instant::from_std);
        match removal.is_some_and(|removal| removal <= now) {
            true => self.apply(),
            false => self.save().await,
        }
    }

    fn succeeded(&mut self, step: WatchStep) -> Duration {
        let (upstream, record) = (&self.target.upstream, &self.target.state.discovery);
        match self.outage.stepped(step) {
            StepMeaning::Nothing => {}
            StepMeaning::Fresh => record.responded(SystemTime::now()),
            StepMeaning::Works => record.succeeded(SystemTime::now()),
            StepMeaning::WorksAgain => {
                record.succeeded(SystemTime::now());
                tracing::info!(%upstream, "endpoint discovery works again");
            }
        }
        if matches!(step, WatchStep::Listed | WatchStep::Ended) {
            self.shared.discovery.count(true);
        }
        match step {
            WatchStep::Listed => {
                self.is_current = true;
                self.apply();
            }
            WatchStep::Changed => {
                self.expiries = 0;
                self.apply();
            }
            WatchStep::Opened if !self.is_current => {
                self.unlisted.restart(Instant::now().into_std());
            }
            WatchStep::Opened => {}
            WatchStep::Unchanged => self.expiries = 0,
            WatchStep::Ended => {
                self.is_current = false;
                return shortened(RESUME_PAUSE);
            }
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

    async fn failed(
        &mut self,
        error: &KubernetesError,
        phase: WatchPhase,
        began: Instant,
    ) -> Duration {
        let took = began.elapsed();
        let course = self.outage.failed(WatchFailure::of(error, phase));
        self.is_current = false;
        self.shared.discovery.count(false);
        self.target.state.discovery.failed(&error.to_string());
        if self.may_restore {
            self.may_restore = false;
            restore(&self.target, &self.shared, self.saved.clone()).await;
        }
        if course == FailureCourse::Mute {
            self.watch.list_again();
        }
        let upstream = &self.target.upstream;
        if course == FailureCourse::Interrupted {
            tracing::info!(%upstream, %error, "watch of EndpointSlices interrupted; it is resumed");
        } else if let Some(unreported) = self.reports.admit("", std::time::Instant::now()) {
            let kept = self.target.known().len();
            tracing::warn!(%upstream, %error, kept, unreported, "endpoint discovery failed; the last known endpoints stay in use");
        }
        shortened(self.outage.pause(took))
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
        self.use_listed(endpoints, Instant::now());
    }

    /// Uses the endpoints that slices list, and those that they have listed until a moment ago.
    fn use_listed(&mut self, listed: Vec<EndpointConfig>, now: Instant) {
        let listing = ListingCounts::of(&listed);
        let before = self.target.known();
        let is_first = self.target.found().is_none();
        let endpoints = self.unlisted.keep(before.clone(), listed, now.into_std());
        if !self.target.take(&self.shared, endpoints.clone()) {
            return;
        }
        publish_readiness(&self.shared);
        let upstream = &self.target.upstream;
        let present: HashSet<&Address> = endpoints.iter().map(|it| &it.address).collect();
        let (stay, gone): (Vec<_>, Vec<_>) = before
            .into_iter()
            .partition(|endpoint| present.contains(&endpoint.address));
        if !gone.is_empty() {
            let (removed, endpoints) = (gone.len(), endpoints.len());
            tracing::info!(%upstream, removed, endpoints, "endpoints removed: no EndpointSlice has them any more");
        }
        if is_first || stay != endpoints {
            let ListingCounts {
                endpoints,
                terminating,
                not_ready,
            } = listing;
            tracing::info!(%upstream, endpoints, terminating, not_ready, "endpoints discovered");
        }
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

/// How many endpoints slices list, for the log.
struct ListingCounts {
    endpoints: usize,
    terminating: usize,
    not_ready: usize,
}

impl ListingCounts {
    fn of(listed: &[EndpointConfig]) -> Self {
        let of = |counts: &dyn Fn(EndpointPhase) -> bool| {
            listed.iter().filter(|it| counts(it.phase)).count()
        };
        Self {
            endpoints: listed.len(),
            terminating: of(&EndpointPhase::is_terminating),
            not_ready: of(&|phase| phase == EndpointPhase::NotReady),
        }
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
