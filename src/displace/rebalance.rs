//! Moves tunnels from endpoints that have more than their share: `rebalance`.
//!
//! Looked at every few seconds, on the control runtime. Each time a few are closed, as the rate says,
//! and then it is counted again. Counts lag behind: a tunnel that is being closed is counted where it
//! was until it is gone, and its client is counted nowhere until it is back. So the former are taken
//! off what their endpoint has to give up, and the latter still belong to what there is to share.
//!
//! The oldest go first. They are those that live longest from here on, since most tunnels are short
//! and some very long, so that what was moved stays moved; and whoever was moved is the youngest,
//! and is left alone until all others had their turn.

pub mod share;
pub mod budget;
pub mod excess;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::budget::{BACK_WITHIN, LOOK_EVERY, MoveBudget};
use self::excess::Excess;
use super::Displacer;
use super::filter::TunnelFilter;
use super::jobs::{ChosenTunnel, Job, JobSpec, Speed};
use super::periodic::PeriodicTask;
use super::workers::{ListPosition, LiveTunnel, Workers};
use crate::config::model::{self, RebalanceConfig};
use crate::tunnel::ended::{CloseMessage, Ended};
use crate::upstream::group::Upstream;

/// The part of the time between two looks over which tunnels are closed: they are to be done by then.
const CLOSING_SHARE: f64 = 0.8;

/// Looks that find nothing before it is told that there is nothing: one tunnel more or less is no news.
const QUIET_LOOKS: u32 = 3;

/// Begins to look, on this runtime.
pub fn start(displacer: Displacer) -> PeriodicTask {
    PeriodicTask::spawn(async move {
        let mut fleet = Rebalancer::default();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            fleet.look(&displacer).await;
        }
    })
}

/// Upstreams that are looked at.
#[derive(Debug)]
struct Rebalancer {
    upstreams: HashMap<Arc<str>, UpstreamRebalancer>,
    began: Instant,
}

impl Default for Rebalancer {
    fn default() -> Self {
        Self {
            upstreams: HashMap::new(),
            began: Instant::now(),
        }
    }
}

/// How far it has come in one of them. When this is dropped, nothing more is moved.
#[derive(Debug, Default)]
struct UpstreamRebalancer {
    pace: MoveBudget,
    /// Tunnels that it was last told of, while there are too many somewhere.
    told: usize,
    /// Looks since then that have found none.
    quiet: u32,
    job: Option<Arc<Job>>,
    /// No tunnel was old enough: tunnels are not looked through again until then.
    not_before: Duration,
}

impl Drop for UpstreamRebalancer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Rebalancer {
    async fn look(&mut self, displacer: &Displacer) {
        let upstreams = match displacer.process.is_draining() {
            // All of them go anyway.
            true => Vec::new(),
            false => displacer.shared.snapshot.load().upstreams().to_vec(),
        };
        self.upstreams.retain(|name, _| {
            let mut wanted = upstreams
                .iter()
                .filter(|it| it.settings.rebalance.is_some());
            wanted.any(|upstream| upstream.name == *name)
        });
        for upstream in upstreams {
            if let Some(settings) = upstream.settings.rebalance {
                let name = Arc::clone(&upstream.name);
                let moving = self.upstreams.entry(name).or_default();
                let now = self.began.elapsed();
                moving.look(displacer, &upstream, settings, now).await;
            }
        }
    }
}

impl UpstreamRebalancer {
    async fn look(
        &mut self,
        displacer: &Displacer,
        upstream: &Upstream,
        settings: RebalanceConfig,
        now: Duration,
    ) {
        let allowed = self.pace.allows(now, settings.rate);
        let away = self.pace.away(now);
        let Some(excess) = Excess::of(upstream, away) else {
            return;
        };
        self.tell(&upstream.name, settings, excess.total());
        if settings.is_dry_run || excess.is_warming || excess.total() == 0 {
            self.stop();
            return;
        }
        let is_busy = self.job.as_ref().is_some_and(|job| job.is_running());
        if is_busy || allowed == 0 || now < self.not_before {
            return;
        }
        let Some(candidates) =
            candidates(&displacer.workers, upstream, &excess, settings.min_age).await
        else {
            return;
        };
        let chosen = in_turn(&candidates, allowed);
        if chosen.is_empty() {
            self.not_before = now + BACK_WITHIN;
            return;
        }
        let tunnels = chosen.len();
        let closing = JobSpec {
            description: format!("what is too much on endpoints of {}", upstream.name),
            speed: Speed::Paced(model::ClosePace::Over(LOOK_EVERY.mul_f64(CLOSING_SHARE))),
            words: CloseMessage::standard(Ended::Rebalance),
        };
        // Where too many jobs are running, others close tunnels: it is looked again afterwards.
        if let Ok(job) = displacer.jobs.begin(chosen, closing) {
            self.pace.moved(now, tunnels);
            self.job = Some(job);
        }
    }

    /// Tells once that there is something to move, when that has become much more, and when it is over.
    fn tell(&mut self, upstream: &str, settings: RebalanceConfig, excess: usize) {
        if excess == 0 {
            self.quiet += 1;
            if self.told > 0 && self.quiet == QUIET_LOOKS {
                self.told = 0;
                tracing::info!(upstream, "no endpoint has too many tunnels any more");
            }
            return;
        }
        self.quiet = 0;
        if self.told == 0 || excess > self.told * 2 {
            self.told = excess;
            let dry_run = settings.is_dry_run;
            tracing::info!(upstream, excess, dry_run, "endpoints have too many tunnels");
        }
    }

    fn stop(&mut self) {
        if let Some(job) = self.job.take() {
            job.stop();
        }
    }
}

/// Of each endpoint as many of the oldest as it has to give up, that are old enough. `None` if a
/// worker does not answer: it is asked again at the next look.
async fn candidates(
    workers: &Workers,
    upstream: &Upstream,
    excess: &Excess,
    min_age: Duration,
) -> Option<Vec<Vec<ChosenTunnel>>> {
    let filter = Arc::new(TunnelFilter {
        upstream: Some(upstream.name.to_string()),
        ..TunnelFilter::default()
    });
    let giving = excess.of.iter().filter(|(_, above)| *above > 0);
    let mut found: HashMap<&str, Donor> = giving
        .map(|(state, above)| (&*state.label, Donor::new(*above)))
        .collect();
    let visit = |worker, tunnel: LiveTunnel| {
        if let Some(giving) = found.get_mut(&*tunnel.series.endpoint) {
            giving.count(worker, &tunnel, min_age);
        }
        true
    };
    let listing = workers.tunnels(&filter, ListPosition::default(), visit);
    listing.await.ok()?;
    Some(found.into_values().map(Donor::oldest).collect())
}

/// What an endpoint has to give up, and what it has.
#[derive(Debug)]
struct Donor {
    above: usize,
    /// Tunnels that are being closed already.
    leaving: usize,
    old: Vec<(Duration, ChosenTunnel)>,
}

impl Donor {
    fn new(above: usize) -> Self {
        Self {
            above,
            leaving: 0,
            old: Vec::new(),
        }
    }

    fn count(&mut self, worker: usize, tunnel: &LiveTunnel, min_age: Duration) {
        let named = tunnel.name;
        if tunnel.ending.is_some() {
            self.leaving += 1;
        } else if tunnel.age >= min_age {
            self.old.push((tunnel.age, ChosenTunnel { worker, named }));
        }
    }

    fn oldest(mut self) -> Vec<ChosenTunnel> {
        self.old.sort_by_key(|(age, _)| Reverse(*age));
        self.old.truncate(self.above.saturating_sub(self.leaving));
        self.old.into_iter().map(|(_, chosen)| chosen).collect()
    }
}

/// The first of each, then the second of each, and so on, up to so many.
fn in_turn(candidates: &[Vec<ChosenTunnel>], most: usize) -> Vec<ChosenTunnel> {
    let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
    let turns = (0..longest).flat_map(|turn| candidates.iter().filter_map(move |it| it.get(turn)));
    turns.take(most).copied().collect()
}
