//! Worker threads: each has a single-threaded runtime, its own connections, tunnels and counters.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::acceptor;
use super::worker_mailbox::{MAILBOX, WorkerHandle, WorkerMessage};
use crate::displace::worker_queries::{self, QUERY_QUEUE, WorkerQuery};
use crate::front::accept;
use crate::net::admission::{Admission, WorkerLoad};
use crate::observe::counters::Counters;
use crate::session::{Shared, Worker};
use crate::streams::ended::StreamEnded;
use crate::tunnel::SWEEP_INTERVAL;
use crate::vital::vital;

/// Starts worker `number`. Its connections count against `admission`.
///
/// # Errors
/// The system refuses a thread or an event queue.
pub(super) fn start(
    number: usize,
    shared: &Arc<Shared>,
    admission: &Arc<Admission>,
) -> io::Result<WorkerHandle> {
    let (mailbox, messages) = mpsc::channel(MAILBOX);
    let (questions, asked) = mpsc::channel(QUERY_QUEUE);
    let counters = Arc::<Counters>::default();
    let handle = WorkerHandle {
        mailbox,
        questions,
        load: Arc::new(WorkerLoad::new(Arc::clone(admission))),
        counters: Arc::clone(&counters),
    };
    let shared = Arc::clone(shared);
    let name = format!("worker-{number}");
    // The runtime is created on its own thread, and its failure must still fail the start.
    let (started, has_started) = std::sync::mpsc::sync_channel(1);
    thread::Builder::new().name(name.clone()).spawn(move || {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => {
                let _ = started.send(Ok(()));
                let worker = Rc::new(Worker::new(shared, counters));
                runtime.block_on(vital(&name, run(worker, messages, asked)));
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    })?;
    has_started.recv().map_err(io::Error::other)??;
    Ok(handle)
}

async fn run(
    worker: Rc<Worker>,
    mut messages: mpsc::Receiver<WorkerMessage>,
    mut asked: mpsc::Receiver<WorkerQuery>,
) {
    let mut tick = tokio::time::interval(SWEEP_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = pin!(tokio::time::sleep(SWEEP_INTERVAL));
    let mut stream_sweep = pin!(tokio::time::sleep(SWEEP_INTERVAL));
    let mut finish: Option<oneshot::Sender<()>> = None;
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(WorkerMessage::Accept(task)) => {
                    worker.recorder.counters.listener(&task.owner.load().name);
                    let accepting = acceptor::accept_all(Rc::clone(&worker), *task);
                    worker.tasks.spawn(vital("accepting", accepting));
                }
                Some(WorkerMessage::IncomingConnection(arrival)) => {
                    worker.tasks.spawn(accept::serve(Rc::clone(&worker), *arrival));
                }
                Some(WorkerMessage::EndSessions(reason)) => {
                    worker.tunnels.end_all(reason);
                    worker.exchanges.end_streams(StreamEnded::Forced(reason));
                }
                Some(WorkerMessage::CutSessions(reason)) => {
                    worker.tunnels.cut_all();
                    worker.exchanges.cut_all(StreamEnded::Forced(reason));
                }
                Some(WorkerMessage::Finish(done)) => {
                    worker.pool.clear();
                    finish = Some(done);
                }
                None => return,
            },
            Some(question) = asked.recv() => worker_queries::execute(&worker, question),
            () = worker.tunnels.take_turns() => {}
            () = worker.close_replaced() => {}
            () = &mut sweep => {
                let late = Instant::now().saturating_duration_since(sweep.deadline());
                worker.recorder.counters.usage.loop_delay.observe(late);
                let next = worker.tunnels.sweep_slice(Instant::now());
                sweep.as_mut().reset(next);
            }
            () = &mut stream_sweep => {
                let next = worker.exchanges.sweep_slice(Instant::now());
                stream_sweep.as_mut().reset(next);
            }
            _ = tick.tick() => {
                worker.recorder.counters.usage.note_cpu();
                worker.pool.sweep(Instant::now());
                worker.recheck();
                let running = worker.tasks.running() as u64;
                worker.recorder.counters.tasks.set(running);
                let unwritten = worker.tunnels.unwritten_bytes() as u64;
                worker.recorder.counters.unwritten_bytes.set(unwritten);
                // The last requests have returned their connections to the pool since `Finish`.
                if finish.is_some() {
                    worker.pool.clear();
                }
            }
            () = worker.tasks.all_done(), if finish.is_some() => {
                if let Some(done) = finish.take() {
                    // The control runtime may have stopped waiting.
                    let _ = done.send(());
                }
            }
        }
    }
}
