//! Older generations, for as long as they drain: what they report, and the link to each. Operators
//! reach all of them through the youngest process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::closing::{DisplacedInfo, JobInfo};
use super::error::ApiError;
use super::exchange::exchange;
use crate::causes::with_causes;
use crate::handover::identity::Identity;
use crate::handover::link::Link;
use crate::quota::shared::{LimitCounts, ReplaceResponse};
use crate::session::Shared;

/// How often each is asked for its counts.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How many times as long as a look at a generation the pause after it is at least.
const PAUSE_FACTOR: u32 = 20;

/// How long a response may take: rates are measured for up to ten seconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// All older generations, the oldest first.
#[derive(Debug, Default)]
pub struct Generations {
    older: Mutex<Vec<Arc<OlderGeneration>>>,
    /// A task for each of them, which ends with that process.
    following: Mutex<JoinSet<()>>,
}

/// An older generation: a process that drains.
#[derive(Debug)]
pub struct OlderGeneration {
    /// Which process it is.
    pub identity: Identity,
    link: Arc<Link>,
    seen: Mutex<LastSeen>,
}

/// What it reported last.
#[derive(Debug, Default)]
struct LastSeen {
    report: GenerationReport,
    /// Sessions in flight, by upstream and endpoint.
    in_flight: HashMap<(String, String), usize>,
    /// The tunnels of each key of limits that routes share; `None` before its first report.
    limits: Option<Vec<LimitCounts>>,
}

/// What it reports in its status.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct GenerationReport {
    /// Live tunnels.
    pub tunnels: u64,
    /// Streams.
    pub streams: u64,
    /// Client connections, tunnels included.
    pub connections: usize,
    /// When it ends what is left, in RFC 3339.
    pub drain_ends: Option<String>,
    /// Jobs that close tunnels at a pace.
    pub jobs: Vec<JobInfo>,
    /// What was removed from its configuration while it had tunnels.
    pub displaced: Vec<DisplacedInfo>,
}

/// What it reports of its upstreams: only the fields that are needed here, because an older version may
/// not have others.
#[derive(Debug, Deserialize)]
struct UpstreamReport {
    name: String,
    endpoints: Vec<EndpointReport>,
}

#[derive(Debug, Deserialize)]
struct EndpointReport {
    endpoint: String,
    in_flight: usize,
    #[serde(default)]
    in_flight_older: usize,
}

impl OlderGeneration {
    /// An older generation that is reached by `link`.
    pub fn new(identity: Identity, link: Link) -> Self {
        Self {
            identity,
            link: Arc::new(link),
            seen: Mutex::default(),
        }
    }

    /// The link to it, for handing on to a successor.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// What it reported a moment ago.
    pub fn report(&self) -> GenerationReport {
        locked(&self.seen).report.clone()
    }

    /// Its live tunnels and its streams, as it reported them a moment ago.
    pub fn open(&self) -> (u64, u64) {
        let seen = locked(&self.seen);
        (seen.report.tunnels, seen.report.streams)
    }

    /// Sends it a request, and waits for its response.
    ///
    /// # Errors
    /// [`ApiError`], if it does not respond.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let generation = self.identity.generation;
        let silent = |error: String| {
            ApiError::unavailable(format!("generation {generation} does not respond: {error}"))
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| silent(error.to_string()))?;
        let sent = async { exchange(self.link.connect().await?, request).await };
        let response = tokio::time::timeout(RESPONSE_TIMEOUT, sent).await;
        let response = response.map_err(|_| silent("no response in time".to_owned()))?;
        response.map_err(|error| silent(with_causes(&*error)))
    }

    async fn look(&self) -> Option<()> {
        let ask = |path| self.ask(Method::GET, path, Bytes::new());
        let (status, upstreams) = (
            ask("/v1/status").await.ok()?,
            ask("/v1/upstreams").await.ok()?,
        );
        // An older version knows no shared limits.
        let limits = ask("/v1/limits/counts").await.ok()?;
        let limits = serde_json::from_slice(&limits.1).unwrap_or_default();
        let report = serde_json::from_slice(&status.1).ok()?;
        let upstreams: Vec<UpstreamReport> = serde_json::from_slice(&upstreams.1).ok()?;
        let mut in_flight = HashMap::new();
        for upstream in upstreams {
            for endpoint in upstream.endpoints {
                let own = endpoint.in_flight.saturating_sub(endpoint.in_flight_older);
                in_flight.insert((upstream.name.clone(), endpoint.endpoint), own);
            }
        }
        *locked(&self.seen) = LastSeen {
            report,
            in_flight,
            limits: Some(limits),
        };
        Some(())
    }
}

impl Generations {
    /// All of them, the oldest first.
    pub fn all(&self) -> Vec<Arc<OlderGeneration>> {
        locked(&self.older).clone()
    }

    /// The one with this number.
    ///
    /// # Errors
    /// [`ApiError`], if there is none.
    pub fn find(&self, generation: u64) -> Result<Arc<OlderGeneration>, ApiError> {
        let mut older = self.all().into_iter().rev();
        let named = older.find(|older| older.identity.generation == generation);
        named.ok_or_else(|| {
            ApiError::not_found(format!(
                "there is no generation {generation}; `tidegate status` lists the generations that are running"
            ))
        })
    }

    /// Forgets all of them: a successor follows them from now on.
    pub fn leave(&self) {
        locked(&self.following).abort_all();
        locked(&self.older).clear();
    }

    /// Adds these, and follows each until its process has exited.
    pub fn follow(self: &Arc<Self>, shared: &Arc<Shared>, older: Vec<OlderGeneration>) {
        if older.is_empty() {
            // The predecessor was gone before this process could follow it.
            self.count(shared);
        }
        for older in older {
            let older = Arc::new(older);
            locked(&self.older).push(Arc::clone(&older));
            let (generations, shared) = (Arc::clone(self), Arc::clone(shared));
            locked(&self.following).spawn(async move {
                tokio::select! {
                    () = older.link.gone() => {}
                    () = generations.look(&older, &shared) => {}
                }
                generations.remove(&older);
                generations.count(&shared);
                let Identity {
                    generation, pid, ..
                } = older.identity;
                tracing::info!(generation, pid, "older generation has exited");
            });
        }
    }

    async fn look(&self, older: &OlderGeneration, shared: &Shared) {
        loop {
            self.replace_older(shared).await;
            let began = Instant::now();
            if older.look().await.is_some() {
                self.count(shared);
            }
            // Counting many keys must not keep either process busy.
            let pause = POLL_INTERVAL.max(began.elapsed() * PAUSE_FACTOR);
            tokio::time::sleep(pause).await;
        }
    }

    /// Adds what they have to the counts of this process.
    fn count(&self, shared: &Shared) {
        self.count_leases(shared);
        let older = self.all().into_iter();
        let reports = older.map(|it| locked(&it.seen).limits.clone());
        // Until each has reported, what the predecessor has handed over about all of them stands.
        let Some(reports) = reports.collect::<Option<Vec<_>>>() else {
            return;
        };
        let snapshot = shared.snapshot.load();
        snapshot.shared_limits().set_older(reports.concat());
    }

    /// Has them close the tunnels that newer ones of this process replace: the oldest generation first.
    async fn replace_older(&self, shared: &Shared) {
        let orders = shared
            .snapshot
            .load()
            .shared_limits()
            .take_older_to_replace();
        for mut order in orders {
            for older in self.all() {
                if order.tunnels == 0 {
                    break;
                }
                let Ok(body) = serde_json::to_vec(&order) else {
                    continue;
                };
                let asked = older.ask(Method::POST, "/v1/limits/replace", body.into());
                let closed = asked.await.ok();
                let closed = closed.and_then(|(_, body)| serde_json::from_slice(&body).ok());
                let closed = closed.map_or(0, |it: ReplaceResponse| it.closed);
                order.tunnels = order.tunnels.saturating_sub(closed);
            }
        }
    }

    /// Adds what they have in flight to this process's endpoints: limits and balancing count both.
    fn count_leases(&self, shared: &Shared) {
        let older = self.all();
        let snapshot = shared.snapshot.load();
        for upstream in snapshot.upstreams() {
            for endpoint in upstream.endpoints() {
                let key = (endpoint.upstream.to_string(), endpoint.label.to_string());
                let of = |it: &Arc<OlderGeneration>| locked(&it.seen).in_flight.get(&key).copied();
                endpoint.set_older_generations(older.iter().filter_map(of).sum());
            }
        }
    }

    fn remove(&self, gone: &Arc<OlderGeneration>) {
        locked(&self.older).retain(|it| !Arc::ptr_eq(it, gone));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
