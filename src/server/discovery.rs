//! Endpoints that change while a configuration is in effect: from DNS, from Kubernetes, or from endpoint files.
//!
//! A lookup belongs to an upstream and a query. As long as neither changes, it continues across reloads,
//! with its last answer and its schedule. A failed lookup removes nothing: the last known endpoints stay
//! in use.

mod kubernetes;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::endpoints_file;
use crate::config::input_file::Contents;
use crate::config::model::{self, Discovery, EndpointConfig};
use crate::session::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::discovery::answer::{next_after, retry_after};
use crate::upstream::discovery::{Discovered, Lookup, LookupError};
use crate::upstream::group::Upstream;
use crate::upstream::registry::UpstreamState;

/// How long a start or a reload waits for the first answers, so that the first clients are not refused.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The running lookups.
#[derive(Debug)]
pub(super) struct Lookups {
    control: Handle,
    shared: Arc<Shared>,
    running: Vec<RunningLookup>,
}

/// A repeating lookup; ends when dropped.
#[derive(Debug)]
struct RunningLookup {
    target: Arc<LookupTarget>,
    task: JoinHandle<()>,
}

/// What is looked up, and the last result.
#[derive(Debug)]
struct LookupTarget {
    upstream: Arc<str>,
    discovery: Discovery,
    state: Arc<UpstreamState>,
    found: Mutex<Option<Vec<EndpointConfig>>>,
}

impl Drop for RunningLookup {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lookups {
    /// No lookups yet; they will run on `control`.
    pub(super) fn new(control: Handle, shared: Arc<Shared>) -> Self {
        Self {
            control,
            shared,
            running: Vec::new(),
        }
    }

    /// Starts the new lookups of `upstreams`, and waits up to [`FIRST_ANSWER_TIMEOUT`] for their answers.
    pub(super) async fn begin(&mut self, upstreams: &[model::UpstreamConfig]) {
        let mut answers = Vec::new();
        let registry = Arc::clone(self.shared.snapshot.load().registry());
        for upstream in upstreams {
            let asked = upstream.discovery.is_asked();
            let is_running = |running: &RunningLookup| {
                running.target.is_for(&upstream.name, &upstream.discovery)
            };
            if !asked || self.running.iter().any(is_running) {
                continue;
            }
            let target = Arc::new(LookupTarget {
                upstream: Arc::clone(&upstream.name),
                discovery: upstream.discovery.clone(),
                state: registry.upstream(&upstream.name),
                found: Mutex::default(),
            });
            let (sender, answered) = watch::channel(false);
            answers.push(answered);
            let (target_of_task, shared) = (Arc::clone(&target), Arc::clone(&self.shared));
            let task = match &upstream.discovery {
                Discovery::Kubernetes(service) => {
                    let service = service.clone();
                    let following = kubernetes::follow(target_of_task, shared, service, sender);
                    self.control.spawn(following)
                }
                _ => self.control.spawn(repeat(target_of_task, shared, sender)),
            };
            self.running.push(RunningLookup { target, task });
        }
        let all_answered = async {
            for mut answered in answers {
                // An error means that the lookup has been dropped.
                let _ = answered.wait_for(|answered| *answered).await;
            }
        };
        // Slower lookups continue, and log their result later.
        let _ = tokio::time::timeout(FIRST_ANSWER_TIMEOUT, all_answered).await;
        publish_readiness(&self.shared);
    }

    /// Gives a new snapshot the endpoints that lookups have found.
    pub(super) fn fill(&self, snapshot: &Snapshot) {
        for upstream in snapshot.upstreams() {
            if let Discovery::File(_) = upstream.settings.discovery {
                // The file was read with the configuration: it is newer than the endpoints known so far.
                upstream.set_endpoints(&upstream.settings.endpoints);
            }
        }
        for running in &self.running {
            if let Some(upstream) = running.target.upstream_in(snapshot)
                && let Some(found) = &*running.target.found()
            {
                upstream.set_endpoints(found);
            }
        }
    }

    /// Ends lookups that the running snapshot does not need.
    pub(super) fn settle(&mut self) {
        let snapshot = self.shared.snapshot.load();
        self.running
            .retain(|running| running.target.upstream_in(&snapshot).is_some());
        publish_readiness(&self.shared);
    }
}

impl LookupTarget {
    fn is_for(&self, upstream: &str, discovery: &Discovery) -> bool {
        *self.upstream == *upstream && self.discovery == *discovery
    }

    fn upstream_in<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Arc<Upstream>> {
        let mut upstreams = snapshot.upstreams().iter();
        upstreams.find(|upstream| self.is_for(&upstream.name, &upstream.settings.discovery))
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Option<Vec<EndpointConfig>>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoints that stay in use when a lookup fails: the last ones found, if need be by another lookup of the
    /// same or by the predecessor.
    fn known(&self) -> Vec<EndpointConfig> {
        let found = self.found().clone();
        let found = found.or_else(|| self.state.discovered(&self.discovery));
        found.unwrap_or_default()
    }

    /// Applies a result; returns whether it differs from the last one.
    fn take(&self, shared: &Shared, endpoints: Vec<EndpointConfig>) -> bool {
        let mut found = self.found();
        if found.as_ref() == Some(&endpoints) {
            return false;
        }
        if let Some(upstream) = self.upstream_in(&shared.snapshot.load()) {
            upstream.set_endpoints(&endpoints);
        }
        *found = Some(endpoints);
        true
    }
}

/// Repeats a lookup. A failure is logged when it begins, when its cause changes, and when it is over.
async fn repeat(target: Arc<LookupTarget>, shared: Arc<Shared>, answered: watch::Sender<bool>) {
    let mut lookup = Lookup::new(target.discovery.clone());
    let mut failures = 0;
    let mut wrong: Option<LookupError> = None;
    let upstream = &target.upstream;
    loop {
        let result = lookup.run().await;
        shared.discovery.count(result.is_ok());
        let wait = match result {
            Ok(Discovered { endpoints, ttl }) => {
                if wrong.take().is_some() {
                    tracing::info!(%upstream, "endpoint discovery works again");
                }
                failures = 0;
                target.state.discovery.succeeded(SystemTime::now());
                let count = endpoints.len();
                if target.take(&shared, endpoints) {
                    tracing::info!(%upstream, endpoints = count, "endpoints discovered");
                }
                next_after(ttl)
            }
            Err(error) => {
                failures += 1;
                target.state.discovery.failed(&error.to_string());
                if wrong.as_ref() != Some(&error) {
                    let kept = target.known().len();
                    tracing::warn!(%upstream, %error, kept, "endpoint discovery failed; the last known endpoints stay in use");
                }
                wrong = Some(error);
                retry_after(failures)
            }
        };
        answered.send_replace(true);
        tokio::time::sleep(wait).await;
    }
}

/// Whether this process is ready: not before it knows which endpoints a Service has, or had before.
fn publish_readiness(shared: &Shared) {
    let snapshot = shared.snapshot.load();
    let mut upstreams = snapshot.upstreams().iter();
    let lacks = upstreams.any(|upstream| {
        matches!(upstream.settings.discovery, Discovery::Kubernetes(_))
            && upstream.awaits_discovery()
    });
    shared.process.set_lacks_endpoints(lacks);
}

/// The endpoint files that a snapshot uses.
pub(super) fn files(snapshot: &Snapshot) -> Vec<PathBuf> {
    let upstreams = snapshot.upstreams().iter();
    let files = upstreams.filter_map(|upstream| match &upstream.settings.discovery {
        Discovery::File(path) => Some(path.clone()),
        _ => None,
    });
    files.collect()
}

/// Applies the contents of the endpoint file at `path`. If it has errors, the present endpoints stay.
pub(super) fn apply_file(snapshot: &Snapshot, path: &Path, contents: &Contents) {
    let read = endpoints_file::from_contents(contents);
    let upstreams = snapshot.upstreams().iter();
    for upstream in upstreams.filter(
        |upstream| matches!(&upstream.settings.discovery, Discovery::File(known) if known == path),
    ) {
        let (file, upstream_name) = (path.display(), &upstream.name);
        match &read {
            Ok(endpoints) => {
                upstream.set_endpoints(endpoints);
                let endpoints = endpoints.len();
                tracing::info!(upstream = %upstream_name, %file, endpoints, "endpoints file loaded");
            }
            Err(error) => {
                let kept = upstream.endpoints().len();
                tracing::error!(upstream = %upstream_name, %file, %error, kept, "endpoints file rejected; the last known endpoints stay in use");
            }
        }
    }
}
