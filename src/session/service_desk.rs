//! What waits for a service that decides about requests, and what it has decided lately.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout_at;

use crate::auth::question::{AuthQuestion, QuestionDigest};
use crate::auth::service::ServiceVerdict;
use crate::auth::verdict_cache::VerdictCache;
use crate::config::model::{AuthConfig, AuthService};
use crate::observe::series::AuthSeries;
use crate::quota::failure_reports::FailureReports;

/// What a worker keeps for the service of one `[auth.NAME]`.
#[derive(Debug)]
pub(super) struct ServiceDesk {
    settings: Arc<AuthConfig>,
    /// One for each request to the service.
    slots: Arc<Semaphore>,
    /// Requests that wait for a slot.
    waiting: Cell<usize>,
    /// The verdicts that still hold; `None` if none are remembered.
    verdicts: Option<RefCell<VerdictCache>>,
    pub(super) reports: FailureReports,
    pub(super) series: Arc<AuthSeries>,
}

impl ServiceDesk {
    /// For `service`, which is that of `settings`.
    pub(super) fn new(
        settings: &Arc<AuthConfig>,
        service: &AuthService,
        series: Arc<AuthSeries>,
    ) -> Self {
        let verdicts = service.cache.and_then(|_| VerdictCache::new());
        Self {
            settings: Arc::clone(settings),
            slots: Arc::new(Semaphore::new(service.at_once.min(Semaphore::MAX_PERMITS))),
            waiting: Cell::new(0),
            verdicts: verdicts.map(RefCell::new),
            reports: FailureReports::default(),
            series,
        }
    }

    /// Whether it is for these settings: a reload may have changed them.
    pub(super) fn is_for(&self, settings: &Arc<AuthConfig>) -> bool {
        Arc::ptr_eq(&self.settings, settings)
    }

    /// What distinguishes a question from others, if verdicts are remembered.
    pub(super) fn digest(&self, question: &AuthQuestion) -> Option<QuestionDigest> {
        let verdicts = self.verdicts.as_ref()?;
        Some(verdicts.borrow().digest(question))
    }

    /// A slot, for which at most `most` others may wait; `None` if there are more, or none is free in time.
    pub(super) async fn slot(
        &self,
        most: usize,
        deadline: Instant,
    ) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        let _waiting = WaitingRequest::among(&self.waiting, most)?;
        let slot = Arc::clone(&self.slots).acquire_owned();
        timeout_at(deadline.into(), slot).await.ok()?.ok()
    }

    /// The verdict about a question with this digest, if it is known.
    pub(super) fn remembered(&self, digest: Option<&QuestionDigest>) -> Option<ServiceVerdict> {
        let verdicts = self.verdicts.as_ref()?.borrow();
        verdicts.get(digest?, Instant::now()).cloned()
    }

    /// Remembers a verdict, as far as it holds for others like it.
    pub(super) fn remember(
        &self,
        digest: Option<QuestionDigest>,
        verdict: &ServiceVerdict,
        of: &AuthService,
    ) {
        let lifetime = of
            .cache
            .and_then(|longest| verdict.lifetime(longest, SystemTime::now()));
        if let (Some(verdicts), Some(digest), Some(lifetime)) = (&self.verdicts, digest, lifetime) {
            let verdict = verdict.clone();
            let mut verdicts = verdicts.borrow_mut();
            verdicts.put(digest, verdict, lifetime, Instant::now());
        }
    }
}

/// A request that waits, until it is dropped.
struct WaitingRequest<'a>(&'a Cell<usize>);

impl<'a> WaitingRequest<'a> {
    fn among(waiting: &'a Cell<usize>, most: usize) -> Option<Self> {
        if waiting.get() >= most {
            return None;
        }
        waiting.set(waiting.get() + 1);
        Some(Self(waiting))
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
