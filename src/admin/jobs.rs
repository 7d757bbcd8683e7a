//! Closing many tunnels at a pace. It goes on when whoever asked for it has gone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::api::fault::Fault;
use super::ask::Named;
use super::view::View;
use crate::tunnel::ended::Words;

/// Jobs at once.
const JOBS_MOST: usize = 16;

/// Between two steps of a job.
const STEP_EVERY: Duration = Duration::from_millis(50);

/// Tunnels that one question names: a worker closes them in one go.
const BATCH: usize = 256;

/// Tunnels that all jobs together are to close: 32 bytes each.
const TUNNELS_MOST: usize = 4_000_000;

/// The jobs that run.
#[derive(Debug, Default)]
pub struct Jobs(Mutex<Inner>);

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

    fn is_running(&self) -> bool {
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

/// A tunnel, and the worker that has it.
#[derive(Debug, Clone, Copy)]
pub struct Chosen {
    /// The worker.
    pub worker: usize,
    /// The tunnel there.
    pub named: Named,
}

impl Jobs {
    /// Closes these in this order, with these words: `per_second` of them a second, or as fast as that
    /// goes.
    ///
    /// # Errors
    /// [`Fault`], if that would be too many at once.
    pub fn begin(
        &self,
        view: &Arc<View>,
        chosen: Vec<Chosen>,
        per_second: Option<f64>,
        words: Words,
    ) -> Result<Arc<Job>, Fault> {
        let mut inner = self.lock();
        while inner.running.try_join_next().is_some() {}
        inner.jobs.retain(|job| job.is_running());
        let tunnels: usize = inner.jobs.iter().map(|job| job.tunnels).sum();
        if inner.jobs.len() >= JOBS_MOST || tunnels + chosen.len() > TUNNELS_MOST {
            let error = "too many jobs are running already: wait for one, or stop one";
            return Err(Fault::conflict(error));
        }
        inner.begun += 1;
        let job = Arc::new(Job {
            number: inner.begun,
            tunnels: chosen.len(),
            done: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            stops: AtomicBool::new(false),
            finished: watch::Sender::new(false),
        });
        inner.jobs.push(Arc::clone(&job));
        let work = run(
            Arc::clone(view),
            Arc::clone(&job),
            chosen,
            per_second,
            words,
        );
        inner.running.spawn(work);
        Ok(job)
    }

    /// Has a job do no more; `None` if there is none of this number.
    pub fn stop(&self, number: u64) -> Option<Arc<Job>> {
        let running = self.running().into_iter();
        let job = running.rev().find(|job| job.number == number)?;
        job.stops.store(true, Ordering::Relaxed);
        Some(job)
    }

    /// Those that are not finished.
    pub fn running(&self) -> Vec<Arc<Job>> {
        let mut inner = self.lock();
        inner.jobs.retain(|job| job.is_running());
        inner.jobs.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(
    view: Arc<View>,
    job: Arc<Job>,
    chosen: Vec<Chosen>,
    per_second: Option<f64>,
    words: Words,
) {
    let began = Instant::now();
    let mut rest = chosen.as_slice();
    while !rest.is_empty() && !job.stops.load(Ordering::Relaxed) {
        let due = match per_second {
            Some(rate) => (began.elapsed().as_secs_f64() * rate + 1.0) as usize,
            None => job.tunnels,
        };
        // A second's worth at most before it is looked again whether to go on.
        let due = due
            .saturating_sub(job.done())
            .min(rest.len())
            .min(BATCH * 16);
        let (now, later) = rest.split_at(due);
        let closed = close(&view, now, &words).await;
        job.closed.fetch_add(closed, Ordering::Relaxed);
        job.done.fetch_add(now.len(), Ordering::Relaxed);
        rest = later;
        if per_second.is_some() && !rest.is_empty() {
            sleep_until(Instant::now() + STEP_EVERY).await;
        }
    }
    let (tunnels, closed) = (job.tunnels, job.closed());
    tracing::info!(job = job.number, tunnels, closed, "tunnels closed");
    job.finished.send_replace(true);
}

/// Closes these now; tells how many were still there, as far as workers answer.
async fn close(view: &View, chosen: &[Chosen], words: &Words) -> usize {
    let mut closed = 0;
    for worker in 0..view.workers.len() {
        let here = chosen.iter().filter(|each| each.worker == worker);
        let here: Vec<Named> = here.map(|each| each.named).collect();
        for batch in here.chunks(BATCH) {
            let count = view.workers.close(worker, batch.to_vec(), words.clone());
            // One that has stopped has closed them all.
            closed += count.await.unwrap_or(batch.len());
        }
    }
    closed
}
