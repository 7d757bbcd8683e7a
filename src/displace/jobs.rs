//! Jobs that close many tunnels and streams at a pace. A job continues even if the operator who started it
//! disconnects.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::tunnel_filter::{FilterKind, TunnelFilter};
use super::tunnel_page::{CloseCandidate, TunnelRef};
use super::worker_queries::{WorkerUnresponsive, Workers};
use crate::config::model::{CloseOrder, ClosePace};
use crate::tunnel::ended::{CloseMessage, Ended};

/// Jobs that may run at once.
const MAX_JOBS: usize = 1024;

/// Time between two steps of a job.
const STEP_INTERVAL: Duration = Duration::from_millis(50);

/// Tunnels in one query: a worker closes them in one go, and carries no data meanwhile.
const BATCH: usize = 256;

/// Tunnels in all jobs together; each takes 32 bytes.
const MAX_TUNNELS: usize = 4_000_000;

/// The running jobs.
#[derive(Debug)]
pub struct Jobs {
    workers: Arc<Workers>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    running: JoinSet<()>,
    jobs: Vec<Arc<Job>>,
    begun: u64,
}

/// A job: it closes a list of tunnels.
#[derive(Debug)]
pub struct Job {
    /// Its number, unique in the process.
    pub number: u64,
    /// Which tunnels it closes, in words.
    pub description: String,
    /// The reason that its tunnels end with, and what their Close frames say.
    pub words: CloseMessage,
    /// Tunnels that it was started for.
    pub tunnels: usize,
    /// Tunnels processed so far.
    done: AtomicUsize,
    /// Tunnels closed so far; others had ended by themselves.
    closed: AtomicUsize,
    /// Set to stop it before its next step.
    stops: AtomicBool,
    finished: watch::Sender<bool>,
}

impl Job {
    /// Waits until it has finished.
    pub async fn finished(&self) {
        // An error means that its task is gone: that is the end, too.
        let _ = self
            .finished
            .subscribe()
            .wait_for(|finished| *finished)
            .await;
    }

    /// Stops it: tunnels that it has not processed yet stay open.
    pub fn stop(&self) {
        self.stops.store(true, Ordering::Relaxed);
    }

    /// Whether it has not finished yet.
    pub fn is_running(&self) -> bool {
        !*self.finished.borrow()
    }

    /// Tunnels processed so far.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Tunnels closed so far; others had ended by themselves.
    pub fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }
}

/// How a job closes its tunnels.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// Which tunnels they are, in words.
    pub description: String,
    /// How fast to close them.
    pub speed: Speed,
    /// The reason that they end with, and what their Close frames say.
    pub words: CloseMessage,
}

/// How fast tunnels are closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// As fast as possible.
    AtOnce,
    /// One by one, at this pace.
    Paced(ClosePace),
}

/// A tunnel or stream that a job is to close, and its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChosenTunnel {
    /// The number of its worker.
    pub worker: usize,
    /// The tunnel in that worker's table.
    pub reference: TunnelRef,
}

/// The limit of jobs, or of tunnels in all jobs, is reached.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("too many close jobs are running; wait for one to finish, or stop one")]
pub struct TooManyJobs;

impl Jobs {
    /// No jobs yet, for tunnels of these workers.
    pub fn new(workers: Arc<Workers>) -> Self {
        Self {
            workers,
            inner: Mutex::default(),
        }
    }

    /// Starts a job that closes these tunnels in this order.
    ///
    /// # Errors
    /// [`TooManyJobs`].
    pub fn begin(
        &self,
        chosen: Vec<ChosenTunnel>,
        closing: JobSpec,
    ) -> Result<Arc<Job>, TooManyJobs> {
        let mut inner = self.lock();
        // Finished tasks stay in the set until they are joined.
        while inner.running.try_join_next().is_some() {}
        inner.jobs.retain(|job| job.is_running());
        let tunnels: usize = inner.jobs.iter().map(|job| job.tunnels).sum();
        if inner.jobs.len() >= MAX_JOBS || tunnels + chosen.len() > MAX_TUNNELS {
            return Err(TooManyJobs);
        }
        inner.begun += 1;
        let job = Arc::new(Job {
            number: inner.begun,
            description: closing.description.clone(),
            words: closing.words.clone(),
            tunnels: chosen.len(),
            done: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            stops: AtomicBool::new(false),
            finished: watch::Sender::new(false),
        });
        inner.jobs.push(Arc::clone(&job));
        let work = run(Arc::clone(&self.workers), Arc::clone(&job), chosen, closing);
        inner.running.spawn(work);
        Ok(job)
    }

    /// Starts to close all tunnels and streams, the oldest first, spread over a time so that clients do not all
    /// reconnect at once. Plain requests that are not streams yet have their turn last, if they are by then. Other jobs
    /// are stopped: this one replaces their pace.
    pub async fn close_all(&self, over: Duration, code: u16) -> Option<Arc<Job>> {
        self.running().iter().for_each(|job| job.stop());
        let filter = Arc::new(TunnelFilter {
            kind: Some(FilterKind::All),
            with_young_streams: true,
            ..TunnelFilter::default()
        });
        let chosen = choose(&self.workers, &filter, CloseOrder::Oldest, Ended::Shutdown)
            .await
            .ok()?;
        let closing = JobSpec {
            description: filter.to_string(),
            speed: Speed::Paced(ClosePace::Over(over)),
            words: CloseMessage {
                code,
                ..CloseMessage::standard(Ended::Shutdown)
            },
        };
        self.begin(chosen, closing).ok()
    }

    /// Stops the job with this number; `None` if no such job is running.
    pub fn stop(&self, number: u64) -> Option<Arc<Job>> {
        let running = self.running().into_iter();
        let job = running.rev().find(|job| job.number == number)?;
        job.stop();
        Some(job)
    }

    /// Tunnels that jobs have not processed yet, by the reason that they will end with.
    pub fn left(&self) -> BTreeMap<&'static str, usize> {
        let mut left = BTreeMap::new();
        for job in self.running() {
            let tunnels = job.tunnels.saturating_sub(job.done());
            *left.entry(job.words.ended.token()).or_default() += tunnels;
        }
        left
    }

    /// The jobs that have not finished.
    pub fn running(&self) -> Vec<Arc<Job>> {
        let mut inner = self.lock();
        inner.jobs.retain(|job| job.is_running());
        inner.jobs.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(workers: Arc<Workers>, job: Arc<Job>, chosen: Vec<ChosenTunnel>, closing: JobSpec) {
    let began = Instant::now();
    let mut rest = chosen.as_slice();
    while !rest.is_empty() && !job.stops.load(Ordering::Relaxed) {
        // A few thousand at most at a time, so that a stop takes effect soon.
        let due = closing.speed.due(began.elapsed(), job.tunnels);
        let due = due
            .saturating_sub(job.done())
            .min(rest.len())
            .min(BATCH * 16);
        let (now, later) = rest.split_at(due);
        let closed = close(&workers, now, &closing.words).await;
        job.closed.fetch_add(closed, Ordering::Relaxed);
        job.done.fetch_add(now.len(), Ordering::Relaxed);
        rest = later;
        if closing.speed != Speed::AtOnce && !rest.is_empty() {
            sleep_until(Instant::now() + STEP_INTERVAL).await;
        }
    }
    let (tunnels, closed) = (job.tunnels, job.closed());
    tracing::info!(
        job = job.number,
        description = job.description,
        tunnels,
        closed,
        "close job finished"
    );
    job.finished.send_replace(true);
}

impl Speed {
    /// How many of `tunnels` are due by then.
    fn due(self, elapsed: Duration, tunnels: usize) -> usize {
        let due = match self {
            Self::AtOnce => return tunnels,
            // One tunnel is due at once: a slow rate must not look like nothing happens.
            Self::Paced(ClosePace::PerSecond(rate)) => elapsed.as_secs_f64() * rate + 1.0,
            // Each in the middle of its share of the time.
            Self::Paced(ClosePace::Over(time)) => {
                let share = elapsed.as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE);
                share * tunnels as f64 + 0.5
            }
        };
        due as usize
    }
}

/// The live tunnels and streams that match and may end for this `reason`, in the order in which to close them: those that are
/// being closed already are left out, unless the reason leaves them no time for that.
///
/// # Errors
/// [`WorkerUnresponsive`].
pub async fn choose(
    workers: &Workers,
    filter: &Arc<TunnelFilter>,
    order: CloseOrder,
    reason: Ended,
) -> Result<Vec<ChosenTunnel>, WorkerUnresponsive> {
    let mut chosen: Vec<(std::time::Instant, ChosenTunnel)> = Vec::new();
    let visit = |worker, tunnel: CloseCandidate| {
        let reference = tunnel.reference;
        if tunnel.ending.is_none_or(|first| first.gives_way_to(reason)) {
            chosen.push((tunnel.opened, ChosenTunnel { worker, reference }));
        }
    };
    workers.candidates(filter, visit).await?;
    match order {
        CloseOrder::Oldest => chosen.sort_by_key(|(opened, _)| *opened),
        CloseOrder::Random => fastrand::shuffle(&mut chosen),
    }
    Ok(chosen.into_iter().map(|(_, chosen)| chosen).collect())
}

/// Closes these now; returns how many were still open, as far as workers respond.
async fn close(workers: &Workers, chosen: &[ChosenTunnel], words: &CloseMessage) -> usize {
    let mut closed = 0;
    for worker in 0..workers.len() {
        let here = chosen.iter().filter(|chosen| chosen.worker == worker);
        let here: Vec<TunnelRef> = here.map(|chosen| chosen.reference).collect();
        for batch in here.chunks(BATCH) {
            let count = workers.close(worker, batch.to_vec(), words.clone());
            // A worker that has stopped has closed all of its tunnels.
            closed += count.await.unwrap_or(batch.len());
        }
    }
    closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_even() {
        let seconds = Duration::from_secs_f64;
        let rate = Speed::Paced(ClosePace::PerSecond(10.0));
        let due = |speed: Speed, time| speed.due(seconds(time), 100);
        assert_eq!(
            [due(rate, 0.0), due(rate, 1.0), due(rate, 5.05)],
            [1, 11, 51]
        );
        let over = Speed::Paced(ClosePace::Over(seconds(10.0)));
        assert_eq!(
            [
                due(over, 0.0),
                due(over, 0.05),
                due(over, 5.0),
                due(over, 9.96)
            ],
            [0, 1, 50, 100]
        );
        assert_eq!(over.due(seconds(4.9), 1), 0);
        assert_eq!(
            over.due(seconds(5.0), 1),
            1,
            "a single one has half of the time"
        );
        assert_eq!(due(Speed::AtOnce, 0.0), 100);
    }
}
