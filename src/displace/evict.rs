//! What happens to live tunnels of endpoints that are down, removed or drained: `on_down`, `on_removed`,
//! `on_drain`.
//!
//! Checked once a second, on the control runtime. When the cause goes away, the job that it started is
//! stopped: tunnels not closed yet stay open.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Displacer;
use super::fleet::{DueEviction, EndpointName, Fleet};
use super::jobs::{self, Job, JobSpec, Speed};
use super::live_tunnels::LiveTunnels;
use super::periodic::PeriodicTask;
use super::tunnel_filter::TunnelFilter;
use crate::config::model::{self, DisplacementPolicy};
use crate::tunnel::ended::{CloseMessage, Ended};

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

/// The evictions under way.
#[derive(Debug, Default)]
struct Evictions {
    begun: HashMap<EndpointName, Eviction>,
}

#[derive(Debug)]
struct Eviction {
    ended: Ended,
    job: Option<Arc<Job>>,
}

impl Evictions {
    async fn look(&mut self, displacer: &Displacer) {
        let wanted = wanted(displacer);
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
}

/// The endpoints whose tunnels are to be closed now.
fn wanted(displacer: &Displacer) -> Vec<DueEviction> {
    let snapshot = displacer.shared.snapshot.load();
    if Fleet::keeps_all(&snapshot) {
        return Vec::new();
    }
    let live = LiveTunnels::of(&displacer.workers.counters());
    Fleet::running(&snapshot, Instant::now()).evictions(&live)
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
    let chosen = jobs::choose(&displacer.workers, &filter, order, wanted.ended)
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
