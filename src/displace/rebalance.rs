//! Moves tunnels from endpoints that have more than their share: `rebalance`.
//!
//! Checked every few seconds, on the control runtime. Each time a few tunnels are closed, as `rate`
//! allows, and then all are counted again. Counts lag behind: a tunnel that is being closed still counts
//! on its endpoint, and its client counts nowhere until it has reconnected. The former are therefore
//! subtracted from what their endpoint has to give up, and the latter added to what there is to share.
//!
//! The oldest tunnels are moved first. Most tunnels are short and some are very long, so the oldest are
//! those that will live longest, and the effect lasts. A moved client has the youngest tunnel, and is
//! left alone until all others had their turn.

pub mod share;
pub mod budget;
pub mod excess;

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::budget::{CHECK_INTERVAL, MoveBudget, RECONNECT_TIME};
use self::excess::Excess;
use super::Displacer;
use super::jobs::{ChosenTunnel, Job, JobSpec, Speed};
use super::periodic::PeriodicTask;
use super::tunnel_filter::TunnelFilter;
use super::tunnel_page::CloseCandidate;
use super::worker_queries::Workers;
use crate::config::model::{self, RebalanceConfig};
use crate::tunnel::ended::{CloseMessage, Ended};
use crate::upstream::group::Upstream;

/// Tunnels are closed over this share of the time between two checks: the next check counts the result.
const CLOSING_SHARE: f64 = 0.8;

/// Checks without excess before it is logged that the upstream is balanced: one tunnel more or less is
/// not worth a line.
const QUIET_CHECKS: u32 = 3;

/// Starts to check, on the current runtime.
pub fn start(displacer: Displacer) -> PeriodicTask {
    PeriodicTask::spawn(async move {
        let mut fleet = Rebalancer::default();
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            fleet.look(&displacer).await;
        }
    })
}

/// The upstreams with `rebalance`.
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

/// The state of one upstream. Dropping it stops its job.
#[derive(Debug, Default)]
struct UpstreamRebalancer {
    pace: MoveBudget,
    /// The excess that was last logged; 0 while balanced.
    logged: usize,
    /// Checks without excess since then.
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
        let upstreams = match displacer.shared.process.is_draining() {
            // All tunnels will be closed anyway.
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
        self.log_change(&upstream.name, settings, excess.total());
        if settings.is_dry_run || excess.is_warming || excess.total() == 0 {
            self.stop();
            return;
        }
        let is_busy = self.job.as_ref().is_some_and(|job| job.is_running());
        if is_busy || allowed == 0 || now < self.not_before {
            return;
        }
        let mut donors: Donors<'_> = excess
            .of
            .iter()
            .filter(|(_, above)| *above > 0)
            .map(|(state, above)| (&*state.label, Donor::new(*above, allowed)))
            .collect();
        if !count(&displacer.workers, upstream, &mut donors, settings.min_age).await {
            return;
        }
        let oldest: Vec<_> = donors.into_values().map(Donor::oldest).collect();
        let chosen = in_turn(&oldest, allowed);
        if chosen.is_empty() {
            // Listing all tunnels costs more than counting: do not repeat it at every check.
            self.not_before = now + RECONNECT_TIME;
            return;
        }
        let tunnels = chosen.len();
        let closing = JobSpec {
            description: format!("excess tunnels of endpoints in upstream {}", upstream.name),
            speed: Speed::Paced(model::ClosePace::Over(
                CHECK_INTERVAL.mul_f64(CLOSING_SHARE),
            )),
            words: CloseMessage::standard(Ended::Rebalance),
        };
        // With too many jobs running, tunnels are being closed anyway: the next check tries again.
        if let Ok(job) = displacer.jobs.begin(chosen, closing) {
            self.pace.moved(now, tunnels);
            self.job = Some(job);
        }
    }

    /// Logs when excess appears, when it has doubled, and when it is gone.
    fn log_change(&mut self, upstream: &str, settings: RebalanceConfig, excess: usize) {
        if excess == 0 {
            self.quiet += 1;
            if self.logged > 0 && self.quiet == QUIET_CHECKS {
                self.logged = 0;
                tracing::info!(upstream, "upstream is balanced again");
            }
            return;
        }
        self.quiet = 0;
        if self.logged == 0 || excess > self.logged * 2 {
            self.logged = excess;
            let dry_run = settings.is_dry_run;
            tracing::info!(
                upstream,
                excess,
                dry_run,
                "endpoints have more tunnels than their share"
            );
        }
    }

    fn stop(&mut self) {
        if let Some(job) = self.job.take() {
            job.stop();
        }
    }
}

/// The endpoints that have to give up tunnels, by address.
type Donors<'a> = HashMap<&'a str, Donor>;

/// Shows the upstream's tunnels to their donors. Returns `false` if a worker does not respond: it is asked
/// again at the next check.
async fn count(
    workers: &Workers,
    upstream: &Upstream,
    donors: &mut Donors<'_>,
    min_age: Duration,
) -> bool {
    let filter = Arc::new(TunnelFilter {
        upstream: Some(upstream.name.to_string()),
        ..TunnelFilter::default()
    });
    let visit = |worker, tunnel: CloseCandidate| {
        if let Some(donor) = donors.get_mut(&*tunnel.series.endpoint) {
            donor.count(worker, &tunnel, min_age);
        }
    };
    workers.candidates(&filter, visit).await.is_ok()
}

/// An endpoint that has to give up tunnels. It remembers only as many as can be moved now.
#[derive(Debug)]
struct Donor {
    above: usize,
    most: usize,
    /// Tunnels that are being closed already.
    leaving: usize,
    /// The oldest tunnels so far, the youngest of them first.
    old: BinaryHeap<(Instant, ChosenTunnel)>,
}

impl Donor {
    /// A donor of `above` tunnels, of which `allowed` may be moved now.
    fn new(above: usize, allowed: usize) -> Self {
        Self {
            above,
            most: above.min(allowed),
            leaving: 0,
            old: BinaryHeap::new(),
        }
    }

    fn count(&mut self, worker: usize, tunnel: &CloseCandidate, min_age: Duration) {
        let reference = tunnel.reference;
        if tunnel.ending.is_some() {
            self.leaving += 1;
        } else if tunnel.age >= min_age {
            let chosen = ChosenTunnel { worker, reference };
            // Not by its age: workers are asked one after the other.
            self.old.push((tunnel.opened, chosen));
            if self.old.len() > self.most {
                self.old.pop();
            }
        }
    }

    /// The tunnels to move, the oldest first.
    fn oldest(self) -> Vec<ChosenTunnel> {
        let left = self.above.saturating_sub(self.leaving);
        let oldest = self.old.into_sorted_vec().into_iter().take(left);
        oldest.map(|(_, chosen)| chosen).collect()
    }
}

/// The first of each endpoint, then the second of each, and so on, up to `max`.
fn in_turn(candidates: &[Vec<ChosenTunnel>], max: usize) -> Vec<ChosenTunnel> {
    let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
    let turns = (0..longest).flat_map(|turn| candidates.iter().filter_map(move |it| it.get(turn)));
    turns.take(max).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use super::*;
    use crate::displace::tunnel_filter::SessionKind;
    use crate::displace::tunnel_page::TunnelRef;
    use proptest::prelude::*;

    proptest! {
        /// As if all were kept and sorted, but with no more memory than the tunnels that can be moved.
        #[test]
        fn a_donor_gives_up_its_oldest_and_remembers_no_more(
            tunnels in proptest::collection::vec((0..50_u64, 0..8_u8), 0..200),
            above in 0..40_usize,
            allowed in 1..40_usize,
        ) {
            let counters = crate::observe::series::ListenerSeries::new("main".into());
            let registry = Arc::default();
            let address = model::Address::Ip("127.0.0.1:1".parse().unwrap());
            let endpoint = model::EndpointConfig::at(address);
            let settings = model::UpstreamConfig::listed("main", vec![endpoint]);
            let upstream = Upstream::new(&settings, &registry).unwrap();
            let series = counters.route("main").endpoint(&upstream.endpoints()[0]);
            let min_age = Duration::from_secs(10);
            let began = Instant::now();
            let mut donor = Donor::new(above, allowed);
            let (mut old, mut leaving) = (Vec::new(), 0);
            for (place, (age, kind)) in tunnels.into_iter().enumerate() {
                let age = Duration::from_secs(age);
                let is_ending = kind == 0;
                let reference = TunnelRef { kind: SessionKind::Tunnel, place, session: place as u64 };
                let series = Arc::clone(&series);
                let opened = began.checked_sub(age).unwrap();
                let ending = is_ending.then_some(Ended::Drain);
                let tunnel = CloseCandidate { reference, series, opened, age, ending };
                donor.count(0, &tunnel, min_age);
                prop_assert!(donor.old.len() <= above.min(allowed));
                leaving += usize::from(is_ending);
                if !is_ending && age >= min_age {
                    old.push(age);
                }
            }
            old.sort_by_key(|age| Reverse(*age));
            old.truncate(above.saturating_sub(leaving).min(allowed));
            let ages: HashMap<usize, Duration> = donor
                .old
                .iter()
                .map(|(opened, chosen)| (chosen.reference.place, began.duration_since(*opened)))
                .collect();
            let chosen = donor.oldest();
            let chosen: Vec<Duration> = chosen.iter().map(|it| ages[&it.reference.place]).collect();
            prop_assert_eq!(chosen, old);
        }
    }
}
