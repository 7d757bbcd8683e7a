//! Closing many tunnels at a pace. It goes on when whoever asked for it has gone.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::filter::TunnelFilter;
use super::workers::{ListPosition, LiveTunnel, TunnelRef, WorkerUnresponsive, Workers};
use crate::config::model::{CloseOrder, ClosePace};
use crate::tunnel::ended::{CloseMessage, Ended};

/// Jobs at once.
const JOBS_MOST: usize = 1024;

/// Between two steps of a job.
const STEP_EVERY: Duration = Duration::from_millis(50);

/// Tunnels that one question names: a worker closes them in one go.
const BATCH: usize = 256;

/// Tunnels that all jobs together are to close: 32 bytes each.
const TUNNELS_MOST: usize = 4_000_000;

/// The jobs that run.
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

/// A job.
#[derive(Debug)]
pub struct Job {
    /// Unique in the process.
    pub number: u64,
    /// Whose tunnels it closes, for people.
    pub description: String,
    /// As what they end.
    pub ended: Ended,
    /// Tunnels that it is to close.
    pub tunnels: usize,
    /// Those of them that it has come to.
    done: AtomicUsize,
    /// Those that were still there, and were closed.
    closed: AtomicUsize,
    /// Set when it is to do no more, and when it does.
    stops: AtomicBool,
    finished: watch::Sender<bool>,
}

impl Job {
    /// Waits for its end.
    pub async fn finished(&self) {
        // An error is the end, too.
        let _ = self
            .finished
            .subscribe()
            .wait_for(|finished| *finished)
            .await;
    }

    /// Has it do no more.
    pub fn stop(&self) {
        self.stops.store(true, Ordering::Relaxed);
    }

    /// Whether it is not finished.
    pub fn is_running(&self) -> bool {
        !*self.finished.borrow()
    }

    /// Tunnels that it has come to.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Those that were still there, and were closed.
    pub fn closed(&self) -> usize {
        self.closed.load(Ordering::Relaxed)
    }
}

/// How tunnels are closed.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// Whose they are, for people.
    pub description: String,
    /// How fast.
    pub speed: Speed,
    /// As what they end, and what their Close frames say.
    pub words: CloseMessage,
}

/// How fast tunnels are closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// As fast as that goes.
    AtOnce,
    /// At a pace.
    Paced(ClosePace),
}

/// A tunnel, and the worker that has it.
#[derive(Debug, Clone, Copy)]
pub struct ChosenTunnel {
    /// The worker.
    pub worker: usize,
    /// The tunnel there.
    pub named: TunnelRef,
}

/// There are too many jobs already, or too many tunnels in them.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("too many jobs are running already: wait for one, or stop one")]
pub struct TooManyJobs;

impl Jobs {
    /// None so far; they will close tunnels of these workers.
    pub fn new(workers: Arc<Workers>) -> Self {
        Self {
            workers,
            inner: Mutex::default(),
        }
    }

    /// Closes these in this order.
    ///
    /// # Errors
    /// [`TooManyJobs`].
    pub fn begin(
        &self,
        chosen: Vec<ChosenTunnel>,
        closing: JobSpec,
    ) -> Result<Arc<Job>, TooManyJobs> {
        let mut inner = self.lock();
        while inner.running.try_join_next().is_some() {}
        inner.jobs.retain(|job| job.is_running());
        let tunnels: usize = inner.jobs.iter().map(|job| job.tunnels).sum();
        if inner.jobs.len() >= JOBS_MOST || tunnels + chosen.len() > TUNNELS_MOST {
            return Err(TooManyJobs);
        }
        inner.begun += 1;
        let job = Arc::new(Job {
            number: inner.begun,
            description: closing.description.clone(),
            ended: closing.words.ended,
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

    /// Begins to close the tunnels that there are, spread over a time: clients that come back then do
    /// not all do so at once. What is being closed at another pace gives way.
    pub async fn close_all(&self, over: Duration, code: u16) -> Option<Arc<Job>> {
        self.running().iter().for_each(|job| job.stop());
        let chosen = choose(&self.workers, &Arc::default(), CloseOrder::Random)
            .await
            .ok()?;
        let closing = JobSpec {
            description: "all tunnels".to_owned(),
            speed: Speed::Paced(ClosePace::Over(over)),
            words: CloseMessage {
                code,
                ..CloseMessage::standard(Ended::Shutdown)
            },
        };
        self.begin(chosen, closing).ok()
    }

    /// Has a job do no more; `None` if there is none of this number.
    pub fn stop(&self, number: u64) -> Option<Arc<Job>> {
        let running = self.running().into_iter();
        let job = running.rev().find(|job| job.number == number)?;
        job.stop();
        Some(job)
    }

    /// Tunnels that are to be closed and have not been come to yet, by the reason that they end for.
    pub fn left(&self) -> BTreeMap<&'static str, usize> {
        let mut left = BTreeMap::new();
        for job in self.running() {
            let tunnels = job.tunnels.saturating_sub(job.done());
            *left.entry(job.ended.token()).or_default() += tunnels;
        }
        left
    }

    /// Those that are not finished.
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
        // A few thousand at most before it is looked again whether to go on.
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
            sleep_until(Instant::now() + STEP_EVERY).await;
        }
    }
    let (tunnels, closed) = (job.tunnels, job.closed());
    tracing::info!(
        job = job.number,
        description = job.description,
        tunnels,
        closed,
        "tunnels closed"
    );
    job.finished.send_replace(true);
}

impl Speed {
    /// How many of so many are to be closed by then.
    fn due(self, elapsed: Duration, tunnels: usize) -> usize {
        let due = match self {
            Self::AtOnce => return tunnels,
            // The first at once.
            Self::Paced(ClosePace::PerSecond(rate)) => elapsed.as_secs_f64() * rate + 1.0,
            // Each in the middle of its part of the time.
            Self::Paced(ClosePace::Over(time)) => {
                let share = elapsed.as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE);
                share * tunnels as f64 + 0.5
            }
        };
        due as usize
    }
}

/// The live tunnels that are meant and that nobody ends already, in the order in which they are to be
/// closed.
///
/// # Errors
/// [`WorkerUnresponsive`].
pub async fn choose(
    workers: &Workers,
    filter: &Arc<TunnelFilter>,
    order: CloseOrder,
) -> Result<Vec<ChosenTunnel>, WorkerUnresponsive> {
    let mut chosen: Vec<(Duration, ChosenTunnel)> = Vec::new();
    let visit = |worker, found: LiveTunnel| {
        let named = found.name;
        if found.ending.is_none() {
            chosen.push((found.age, ChosenTunnel { worker, named }));
        }
        true
    };
    workers
        .tunnels(filter, ListPosition::default(), visit)
        .await?;
    match order {
        CloseOrder::Oldest => chosen.sort_by_key(|(age, _)| Reverse(*age)),
        CloseOrder::Random => fastrand::shuffle(&mut chosen),
    }
    Ok(chosen.into_iter().map(|(_, chosen)| chosen).collect())
}

/// Closes these now; tells how many were still there, as far as workers answer.
async fn close(workers: &Workers, chosen: &[ChosenTunnel], words: &CloseMessage) -> usize {
    let mut closed = 0;
    for worker in 0..workers.len() {
        let here = chosen.iter().filter(|each| each.worker == worker);
        let here: Vec<TunnelRef> = here.map(|each| each.named).collect();
        for batch in here.chunks(BATCH) {
            let count = workers.close(worker, batch.to_vec(), words.clone());
            // One that has stopped has closed them all.
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
