//! The limit on memory: measured once a second on the control thread. Near it no further tunnel is
//! opened, and nearer still the tunnels with the most unread bytes are closed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::cgroup;
use crate::config::model::MemoryLimit;
use crate::displace::periodic::PeriodicTask;
use crate::displace::worker_queries::Workers;
use crate::net::memory::{MemoryFigures, MemoryState};
use crate::quota::failure_reports::{FailureReports, RecurringTrouble, warn_once_a_minute};
use crate::session::Shared;
use crate::tunnel::ended::Ended;

/// How often memory is measured.
const INTERVAL: Duration = Duration::from_secs(1);

/// What closing a tunnel with unread bytes is expected to free: its remainder, and what the kernel holds
/// for its two sockets.
const EXPECTED_BYTES: u64 = 128 * 1024;

/// Tunnels that each worker closes at once, at most. Those that are still ending count.
const MAX_ENDING: usize = 1000;

/// Measures for the first time, and from then on once a second until the handle is dropped.
pub(super) fn start(shared: &Arc<Shared>, workers: &Arc<Workers>) -> PeriodicTask {
    // Before the first connection is accepted.
    let mut monitor = MemoryMonitor {
        shared: Arc::clone(shared),
        workers: Arc::clone(workers),
        full: RecurringTrouble::default(),
        critical: FailureReports::default(),
    };
    let state = monitor.measure();
    PeriodicTask::spawn(async move {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        monitor.act_on(state).await;
        loop {
            ticks.tick().await;
            let state = monitor.measure();
            monitor.act_on(state).await;
        }
    })
}

struct MemoryMonitor {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    full: RecurringTrouble,
    critical: FailureReports,
}

impl MemoryMonitor {
    fn measure(&mut self) -> MemoryState {
        let figures = figures(self.shared.snapshot.load().server.memory);
        let state = self.shared.memory.record(figures);
        let MemoryFigures { limit, used } = figures.unwrap_or(MemoryFigures { limit: 0, used: 0 });
        if state == MemoryState::Ample {
            if self.full.is_over() {
                tracing::info!(used, limit, "enough memory again; handshakes are accepted");
            }
        } else if self.full.is_there(Instant::now()) {
            tracing::warn!(
                used,
                limit,
                "memory is nearly used up; handshakes are rejected"
            );
        }
        state
    }

    async fn act_on(&self, state: MemoryState) {
        let MemoryState::Critical(excess) = state else {
            return;
        };
        let count = excess / EXPECTED_BYTES / self.workers.len().max(1) as u64 + 1;
        let count = usize::try_from(count).unwrap_or(MAX_ENDING).min(MAX_ENDING);
        // A worker that does not respond is reported by the watchdog.
        let held = self.workers.end_largest(count, Ended::MemoryFull).await;
        if held > 0 {
            warn_once_a_minute!(
                self.critical,
                "unread",
                "memory is nearly used up; closing the tunnels with the most unread bytes",
                unread = held
            );
        }
    }
}

/// The memory and its limit; `None` if there is no limit, or if the system does not say.
fn figures(limit: MemoryLimit) -> Option<MemoryFigures> {
    match limit {
        MemoryLimit::Off => None,
        MemoryLimit::Resident(limit) => Some(MemoryFigures {
            limit,
            used: resident()?,
        }),
        MemoryLimit::Cgroup => {
            let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
            cgroup::memory(&membership, Path::new(cgroup::ROOT))
        }
    }
}

/// The resident memory of the process, in bytes.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
