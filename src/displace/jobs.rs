//! Jobs that close many tunnels and streams at a pace. A job continues even if the operator who started it
//! disconnects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

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

/// The part of the time for closing everything in which workers have to say what there is, and at least a second.
const CHOOSING_SHARE: f64 = 0.25;

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
    /// are stopped: this one replaces their pace. The tunnels of a worker that does not respond are not among those that
    /// it closes.
    pub async fn close_all(&self, over: Duration, code: u16) -> Option<Arc<Job>> {
        self.running().iter().for_each(|job| job.stop());
        let began = Instant::now();
        let filter = Arc::new(TunnelFilter {
            kind: Some(FilterKind::All),
            with_young_streams: true,
            ..TunnelFilter::default()
        });
        let limit = over.mul_f64(CHOOSING_SHARE).max(Duration::from_secs(1));
        let filter = &filter;
        let choosing = (0..self.workers.len()).map(|worker| async move {
            let mut chosen = Vec::new();
            let candidates =
                choose_from(&self.workers, worker, filter, Ended::Shutdown, &mut chosen);
            if !matches!(timeout(limit, candidates).await, Ok(Ok(()))) {
                tracing::warn!(
                    worker,
                    "worker does not respond; what it carries is closed last"
                );
            }
            chosen
        });
        let chosen = join_all(choosing).await.concat();
        let over = over.saturating_sub(began.elapsed());
        let closing = JobSpec {
            description: filter.to_string(),
            speed: Speed::Paced(ClosePace::Over(over)),
            words: CloseMessage {
                code,
                ..CloseMessage::standard(Ended::Shutdown)
            },
        };
        let begun = self.begin(in_order(chosen, CloseOrder::Oldest), closing);
        let log = |error: &TooManyJobs| tracing::warn!(%error, "nothing is closed at a pace");
        begun.inspect_err(log).ok()
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
    let mut unresponsive = BTreeSet::new();
    let mut rest = chosen.as_slice();
    while !rest.is_empty() && !job.stops.load(Ordering::Relaxed) {
        // A few thousand at most at a time, so that a stop takes effect soon.
        let due = closing.speed.due(began.elapsed(), job.tunnels);
        let due = due
            .saturating_sub(job.done())
            .min(rest.len())
            .min(BATCH * 16);
        let (now, later) = rest.split_at(due);
        let closed = close(&workers, now, &closing.words, &unresponsive).await;
        for worker in closed.unresponsive {
            tracing::warn!(
                job = job.number,
                worker,
                "worker does not respond; the job goes on without it"
            );
            unresponsive.insert(worker);
        }
        let closed = closed.count;
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
    let mut chosen = Vec::new();
    for worker in 0..workers.len() {
        choose_from(workers, worker, filter, reason, &mut chosen).await?;
    }
    Ok(in_order(chosen, order))
}

/// A tunnel or stream that a job is to close, and when it opened.
type DatedTunnel = (std::time::Instant, ChosenTunnel);

/// Adds those of one worker to `chosen`.
async fn choose_from(
    workers: &Workers,
    worker: usize,
    filter: &Arc<TunnelFilter>,
    reason: Ended,
    chosen: &mut Vec<DatedTunnel>,
) -> Result<(), WorkerUnresponsive> {
    let visit = |tunnel: CloseCandidate| {
        let reference = tunnel.reference;
        if tunnel.ending.is_none_or(|first| first.gives_way_to(reason)) {
            chosen.push((tunnel.opened, ChosenTunnel { worker, reference }));
        }
    };
    workers.candidates_of(worker, filter, visit).await
}

fn in_order(mut chosen: Vec<DatedTunnel>, order: CloseOrder) -> Vec<ChosenTunnel> {
    match order {
        CloseOrder::Oldest => chosen.sort_by_key(|(opened, _)| *opened),
        CloseOrder::Random => fastrand::shuffle(&mut chosen),
    }
    chosen.into_iter().map(|(_, chosen)| chosen).collect()
}

/// What a step of a job has done.
struct ClosedTunnels {
    /// How many were still open.
    count: usize,
    /// Workers that have not responded in time.
    unresponsive: Vec<usize>,
}

/// Closes these now, except for those of workers that are known not to respond.
async fn close(
    workers: &Workers,
    chosen: &[ChosenTunnel],
    words: &CloseMessage,
    known: &BTreeSet<usize>,
) -> ClosedTunnels {
    let responsive = (0..workers.len()).filter(|worker| !known.contains(worker));
    // At the same time: one that does not respond must not hold up the others.
    let closing = responsive.map(|worker| async move {
        let here = chosen.iter().filter(|chosen| chosen.worker == worker);
        let here: Vec<TunnelRef> = here.map(|chosen| chosen.reference).collect();
        let mut count = 0;
        for batch in here.chunks(BATCH) {
            let closed = workers.close(worker, batch.to_vec(), words.clone());
            match closed.await {
                Ok(closed) => count += closed,
                Err(_) => return (count, Some(worker)),
            }
        }
        (count, None)
    });
    let closed = join_all(closing).await;
    ClosedTunnels {
        count: closed.iter().map(|(count, _)| count).sum(),
        unresponsive: closed.iter().filter_map(|(_, worker)| *worker).collect(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::model;
    use crate::displace::tunnel_filter::SessionKind;
    use crate::displace::tunnel_page::TunnelPage;
    use crate::displace::worker_queries::{WorkerLink, WorkerQuery};
    use crate::observe::series::ListenerSeries;
    use crate::upstream::group::Upstream;

    /// Some tunnels of a worker, which have opened at this time.
    fn tunnels(count: usize, opened: std::time::Instant) -> Vec<CloseCandidate> {
        let address = model::Address::Ip("127.0.0.1:1".parse().unwrap());
        let endpoint = model::EndpointConfig::at(address);
        let settings = model::UpstreamConfig::listed("main", vec![endpoint]);
        let upstream = Upstream::new(&settings, &Arc::default()).unwrap();
        let route = ListenerSeries::new("main".into()).route("main");
        let series = route.endpoint(&upstream.endpoints()[0]);
        let tunnel = |place| CloseCandidate {
            reference: TunnelRef {
                kind: SessionKind::Tunnel,
                place,
                session: 1,
            },
            series: Arc::clone(&series),
            opened,
            age: Duration::ZERO,
            ending: None,
        };
        (0..count).map(tunnel).collect()
    }

    /// A worker with some tunnels, which it says, and closes if `closes`.
    async fn serve(
        mut queries: mpsc::Receiver<WorkerQuery>,
        (count, opened): (usize, std::time::Instant),
        closes: bool,
    ) {
        let mut unanswered = Vec::new();
        while let Some(query) = queries.recv().await {
            match query {
                WorkerQuery::Candidates { response, .. } => {
                    let tunnels = tunnels(count, opened);
                    response
                        .send(TunnelPage {
                            tunnels,
                            next: None,
                        })
                        .unwrap();
                }
                WorkerQuery::Close(named, _, closed) if closes => closed.send(named.len()).unwrap(),
                query => unanswered.push(query),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_does_not_respond_holds_up_no_other() {
        let (links, queries): (Vec<WorkerLink>, Vec<mpsc::Receiver<WorkerQuery>>) = (0..3)
            .map(|_| {
                let (queries, asked) = mpsc::channel(4);
                let counters = Arc::default();
                (WorkerLink { queries, counters }, asked)
            })
            .unzip();
        let jobs = Jobs::new(Arc::new(Workers::new(links)));
        let [_silent, forgetful, responsive] = queries.try_into().unwrap();
        let time = Duration::from_secs(40);
        let began = Instant::now();
        // The tunnels of the one that does not close them have their turn first.
        let opened = std::time::Instant::now();
        let job = async {
            let job = jobs.close_all(time, 1001).await.unwrap();
            job.finished().await;
            job
        };
        let job = tokio::select! {
            job = job => job,
            () = serve(forgetful, (2, opened), false) => unreachable!(),
            () = serve(responsive, (300, opened + Duration::from_secs(1)), true) => unreachable!(),
        };
        assert_eq!((job.tunnels, job.closed()), (302, 300));
        // The tunnels that come last are due at the end of their time, also if others do not respond.
        assert!(began.elapsed() <= time, "{:?}", began.elapsed());
        assert!(began.elapsed() > time / 2, "not all at once");
    }

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
