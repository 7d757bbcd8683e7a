//! Runs the probes of routes, on the control runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::{AbortHandle, JoinSet};

use crate::config::model::RouteProbe;
use crate::probe::{PassedProbe, probe};
use crate::session::Shared;
use crate::snapshot::{Route, Snapshot};

/// How soon a new configuration is noticed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest pause between two looks.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// The first probe of a route follows within this time.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// Probes that run at the same time: fewer than the reserved file descriptors, with health checks. The others
/// wait until one has ended.
const MAX_RUNNING_PROBES: usize = 16;

/// The task that runs the probes; dropping it ends them, and forgets their results, which say nothing from then on.
#[derive(Debug)]
pub(super) struct RouteProbeTask {
    task: AbortHandle,
    shared: Arc<Shared>,
}

impl Drop for RouteProbeTask {
    fn drop(&mut self) {
        // It runs on the thread of this one, so no result follows.
        self.task.abort();
        self.shared.probes.retain(|_| false);
    }
}

/// Starts the probes on this runtime.
pub(super) fn start(shared: &Arc<Shared>) -> RouteProbeTask {
    let control = tokio::runtime::Handle::current();
    RouteProbeTask {
        task: control.spawn(run(Arc::clone(shared))).abort_handle(),
        shared: Arc::clone(shared),
    }
}

async fn run(shared: Arc<Shared>) {
    let mut timetable = Timetable::default();
    let mut running = JoinSet::new();
    loop {
        let pause = timetable.look(&shared, &mut running);
        tokio::time::sleep(pause).await;
    }
}

/// When each route is probed next.
#[derive(Debug, Default)]
struct Timetable(HashMap<Arc<str>, RouteSchedule>);

#[derive(Debug)]
struct RouteSchedule {
    due: Instant,
    /// The latest probe.
    probe: Option<AbortHandle>,
}

impl RouteSchedule {
    fn is_due(&self, now: Instant) -> bool {
        let runs = self
            .probe
            .as_ref()
            .is_some_and(|probe| !probe.is_finished());
        self.due <= now && !runs
    }
}

impl Timetable {
    /// Starts the probes that are due; returns the pause until the next look.
    fn look(&mut self, shared: &Arc<Shared>, running: &mut JoinSet<()>) -> Duration {
        // Finished tasks stay in the set until they are joined.
        while running.try_join_next().is_some() {}
        let now = Instant::now();
        let snapshot = shared.snapshot.load_full();
        let mut known = std::mem::take(&mut self.0);
        let mut next = LOOK_INTERVAL;
        for route in snapshot.routes() {
            let Some(settings) = &route.settings.probe else {
                continue;
            };
            let name = &route.settings.name;
            // Routes do not all begin at once.
            let delay = || settings.interval.min(FIRST_WITHIN).mul_f64(fastrand::f64());
            let mut schedule = known.remove(name).unwrap_or_else(|| RouteSchedule {
                due: now + delay(),
                probe: None,
            });
            // A reload may have made the interval shorter.
            schedule.due = schedule.due.min(now + settings.interval.mul_f64(1.1));
            if schedule.is_due(now) && running.len() < MAX_RUNNING_PROBES {
                let work = run_probe(Arc::clone(shared), Arc::clone(&snapshot), Arc::clone(route));
                schedule.probe = Some(running.spawn(work));
                schedule.due = now + jittered(settings, fastrand::f64());
            }
            if schedule.probe.as_ref().is_none_or(AbortHandle::is_finished) {
                next = next.min(schedule.due.saturating_duration_since(now));
            }
            self.0.insert(Arc::clone(name), schedule);
        }
        if !known.is_empty() {
            shared.probes.retain(|route| self.0.contains_key(route));
        }
        next.max(MIN_PAUSE)
    }
}

/// The time until the next probe: the interval, less or more by up to a tenth.
fn jittered(settings: &RouteProbe, random: f64) -> Duration {
    settings.interval.mul_f64(0.9 + 0.2 * random)
}

async fn run_probe(shared: Arc<Shared>, snapshot: Arc<Snapshot>, route: Arc<Route>) {
    let Some(settings) = &route.settings.probe else {
        return;
    };
    let began = Instant::now();
    let result = probe(&snapshot, &route, settings, &shared.connector).await;
    let took = began.elapsed();
    // After a reload with other settings the result says nothing about the route.
    let current = shared.snapshot.load();
    let mut current = current.routes().iter();
    if current.any(|it| {
        it.settings.name == route.settings.name && it.settings.probe.as_ref() == Some(settings)
    }) {
        let outcome = result.as_ref().map(PassedProbe::endpoint);
        let name = &route.settings.name;
        shared.probes.record(name, outcome, took, SystemTime::now());
    }
    if let Ok(passed) = result {
        passed.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{RouteConfig, WebSocketProbe};

    #[test]
    fn probes_are_spread_by_a_tenth() {
        let settings = RouteProbe {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            request: WebSocketProbe {
                path: "/".into(),
                host: None,
                origin: None,
                subprotocols: Vec::new(),
                headers: Vec::new(),
                ping: true,
            },
        };
        for (random, expected) in [(0.0, 9.0), (0.5, 10.0), (1.0, 11.0)] {
            let pause = jittered(&settings, random).as_secs_f64();
            assert!((pause - expected).abs() < 1e-6, "{pause}");
        }
        assert!(RouteConfig::to_upstream("a", "b").probe.is_none(), "opt-in");
    }
}
