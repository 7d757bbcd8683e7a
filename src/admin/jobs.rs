//! Closing many tunnels at a pace. It goes on when whoever asked for it has gone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::ask::Named;
use super::view::View;
use crate::tunnel::ended::Words;

/// Jobs at once.
pub const JOBS_MOST: usize = 16;

/// Between two steps of a job.
const STEP_EVERY: Duration = Duration::from_millis(50);

/// Tunnels that one question names: a worker closes them in one go.
pub const BATCH: usize = 256;

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
}

impl Job {
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
    /// Closes these in this order, `per_second` of them a second, with these words; `None` if there
    /// are jobs enough already.
    pub fn begin(
        &self,
        view: &Arc<View>,
        chosen: Vec<Chosen>,
        per_second: f64,
        words: Words,
    ) -> Option<Arc<Job>> {
        let mut inner = self.lock();
        while inner.running.try_join_next().is_some() {}
        inner.jobs.retain(|job| job.done() < job.tunnels);
        if inner.jobs.len() >= JOBS_MOST {
            return None;
        }
        inner.begun += 1;
        let job = Arc::new(Job {
            number: inner.begun,
            tunnels: chosen.len(),
            done: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
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
        Some(job)
    }

    /// Those that are not finished.
    pub fn running(&self) -> Vec<Arc<Job>> {
        let mut inner = self.lock();
        inner.jobs.retain(|job| job.done() < job.tunnels);
        inner.jobs.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(view: Arc<View>, job: Arc<Job>, chosen: Vec<Chosen>, per_second: f64, words: Words) {
    let began = Instant::now();
    let mut rest = chosen.as_slice();
    while !rest.is_empty() {
        let due = began.elapsed().as_secs_f64() * per_second + 1.0;
        let due = (due as usize).saturating_sub(job.done());
        let (now, later) = rest.split_at(due.min(rest.len()));
        let closed = close(&view, now, &words).await;
        job.closed.fetch_add(closed, Ordering::Relaxed);
        job.done.fetch_add(now.len(), Ordering::Relaxed);
        rest = later;
        sleep_until(Instant::now() + STEP_EVERY).await;
    }
    let (tunnels, closed) = (job.tunnels, job.closed());
    tracing::info!(job = job.number, tunnels, closed, "tunnels closed");
}

/// Closes these now; tells how many were still there.
pub async fn close(view: &View, chosen: &[Chosen], words: &Words) -> usize {
    let mut closed = 0;
    for worker in 0..view.workers.len() {
        let here = chosen.iter().filter(|each| each.worker == worker);
        let here: Vec<Named> = here.map(|each| each.named).collect();
        for batch in here.chunks(BATCH) {
            let count = view.workers.close(worker, batch.to_vec(), words.clone());
            // One that does not answer has stopped, and its tunnels with it.
            closed += count.await.unwrap_or_default();
        }
    }
    closed
}
