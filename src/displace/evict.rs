//! What happens to live tunnels of endpoints that are down, removed or drained: `on_down`, `on_removed`,
//! `on_drain`.
//!
//! Checked once a second, on the control runtime. When the cause goes away, the job that it started is
//! stopped: tunnels not closed yet stay open.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Displacer;
use super::jobs::{self, Job, JobSpec, Speed};
use super::live_tunnels::LiveTunnels;
use super::periodic::PeriodicTask;
use super::tunnel_filter::TunnelFilter;
use crate::config::model::{self, DisplacementPolicy};
use crate::tunnel::ended::{CloseMessage, Ended};
use crate::upstream::group::Member;
use crate::upstream::health::HealthStatus;

/// How often endpoints are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Starts to check, on the current runtime.
pub fn start(displacer: Displacer) -> PeriodicTask {
    PeriodicTask::spawn(async move {
        let mut causes = Evictions::default();
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            causes.look(&displacer).await;
        }
    })
}

/// An upstream, and the address of an endpoint in it.
type EndpointName = (Arc<str>, Arc<str>);

/// The evictions under way.
#[derive(Debug, Default)]
struct Evictions {
    begun: HashMap<EndpointName, Eviction>,
    /// `on_removed` of upstreams, kept until the tunnels of removed upstreams have ended.
    on_removed: HashMap<Arc<str>, DisplacementPolicy>,
}

#[derive(Debug)]
struct Eviction {
    ended: Ended,
    job: Option<Arc<Job>>,
}

/// An endpoint whose tunnels are to be closed.
#[derive(Debug, Clone, PartialEq)]
struct DueEviction {
    endpoint: EndpointName,
    ended: Ended,
    policy: DisplacementPolicy,
}

impl Evictions {
    async fn look(&mut self, displacer: &Displacer) {
        let wanted = self.wanted(displacer);
        let still: HashSet<(&EndpointName, Ended)> =
            wanted.iter().map(|it| (&it.endpoint, it.ended)).collect();
        self.begun.retain(|endpoint, begun| {
            let stays = still.contains(&(endpoint, begun.ended));
            if let Some(job) = begun.job.as_ref().filter(|_| !stays) {
                job.stop();
            }
            stays
        });
        for wanted in wanted {
            let begun = self.begun.get(&wanted.endpoint);
            let job = begun.and_then(|begun| begun.job.as_ref());
            if job.is_some_and(|job| job.is_running()) {
                continue;
            }
            // No job is running: start one, also for tunnels that have opened since the last job.
            let job = begin(displacer, &wanted).await;
            let ended = wanted.ended;
            self.begun.insert(wanted.endpoint, Eviction { ended, job });
        }
    }

    /// The endpoints whose tunnels are to be closed now.
    fn wanted(&mut self, displacer: &Displacer) -> Vec<DueEviction> {
        let snapshot = displacer.shared.snapshot.load();
        let upstreams = snapshot.upstreams();
        for upstream in upstreams {
            let policy = upstream.settings.on_removed;
            self.on_removed.insert(Arc::clone(&upstream.name), policy);
        }
        let mut on_removed = self.on_removed.values();
        let all_stay = on_removed.all(|policy| *policy == DisplacementPolicy::Keep)
            && upstreams
                .iter()
                .all(|upstream| keeps_all(&upstream.settings));
        if all_stay {
            return Vec::new();
        }
        let live = LiveTunnels::of(&displacer.workers.counters());
        let now = Instant::now();
        let mut wanted = Vec::new();
        let mut present = HashSet::new();
        for upstream in upstreams {
            for member in upstream.members() {
                let endpoint = (Arc::clone(&upstream.name), Arc::clone(&member.state.label));
                present.insert(endpoint.clone());
                let Some((ended, policy)) = cause(&member, &upstream.settings, now) else {
                    continue;
                };
                wanted.push(DueEviction {
                    endpoint,
                    ended,
                    policy,
                });
            }
        }
        for (upstream, label) in live.endpoints() {
            let endpoint = (Arc::clone(upstream), Arc::clone(label));
            if present.contains(&endpoint) {
                continue;
            }
            let policy = self
                .on_removed
                .get(&endpoint.0)
                .copied()
                .unwrap_or_default();
            wanted.push(DueEviction {
                endpoint,
                ended: Ended::EndpointRemoved,
                policy,
            });
        }
        let has_tunnels = |(upstream, label): &EndpointName| live.of_endpoint(upstream, label) > 0;
        wanted.retain(|it| it.policy != DisplacementPolicy::Keep && has_tunnels(&it.endpoint));
        self.on_removed
            .retain(|name, _| snapshot.upstream(name).is_some() || live.of_upstream(name) > 0);
        wanted
    }
}

/// Whether no event closes tunnels of this upstream.
fn keeps_all(upstream: &model::UpstreamConfig) -> bool {
    let policies = [upstream.on_down, upstream.on_removed, upstream.on_drain];
    policies
        .iter()
        .all(|policy| *policy == DisplacementPolicy::Keep)
}

/// Why the tunnels of an endpoint may have to be closed, and the policy for that case.
fn cause(
    member: &Member,
    settings: &model::UpstreamConfig,
    now: Instant,
) -> Option<(Ended, DisplacementPolicy)> {
    if !member.is_undrained() {
        return Some((Ended::Drain, settings.on_drain));
    }
    let is_down = member.state.health(now, |health| {
        matches!(health.status(now), HealthStatus::Down { .. })
    });
    is_down.then_some((Ended::EndpointDown, settings.on_down))
}

async fn begin(displacer: &Displacer, wanted: &DueEviction) -> Option<Arc<Job>> {
    let (upstream, endpoint) = &wanted.endpoint;
    let filter = Arc::new(TunnelFilter {
        upstream: Some(upstream.to_string()),
        endpoint: Some(endpoint.to_string()),
        ..TunnelFilter::default()
    });
    let (speed, order) = match wanted.policy {
        DisplacementPolicy::Keep => return None,
        DisplacementPolicy::Close => (Speed::AtOnce, model::CloseOrder::Oldest),
        DisplacementPolicy::Drain(pace, order) => (Speed::Paced(pace), order),
    };
    // A worker that does not respond is asked again at the next check.
    let chosen = jobs::choose(&displacer.workers, &filter, order)
        .await
        .ok()?;
    if chosen.is_empty() {
        return None;
    }
    let tunnels = chosen.len();
    let closing = JobSpec {
        description: format!("tunnels of endpoint {endpoint} in upstream {upstream}"),
        speed,
        words: CloseMessage::standard(wanted.ended),
    };
    let job = displacer.jobs.begin(chosen, closing).ok()?;
    tracing::info!(
        job = job.number,
        %upstream,
        %endpoint,
        tunnels,
        reason = wanted.ended.token(),
        "closing the tunnels of an endpoint"
    );
    Some(job)
}
