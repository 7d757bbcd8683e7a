//! Accepting: every worker accepts connections from sockets of its own, and keeps them, unless another
//! worker has clearly fewer.
//!
//! The kernel spreads connections over the sockets of an address by hash (SO_REUSEPORT). That is even
//! only in the long run, while a connection that lives for days stays where it arrived. Handing every
//! connection to the worker with the fewest is even, but wakes another thread for each. So most
//! connections stay on their worker, and only those that would make the load uneven are handed over.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::worker_mailbox::{AcceptTask, StopMode, WorkerHandle, WorkerMessage};
use crate::front::accept::{self, IncomingConnection};
use crate::net::admission::ConnectionPermit;
use crate::net::bind::{AcceptedSocket, ListeningSocket, MAX_WAITING};
use crate::net::listener::Listener;
use crate::session::Worker;

/// How long accepting pauses when the system is out of descriptors or memory.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// Connections accepted from one socket before the worker's other tasks get their turn.
const ACCEPTS_PER_TURN: usize = 16;

/// How long the handshakes that have begun may take before their socket is closed: a round trip.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(300);

/// A worker keeps a new connection as long as it has at most this many more than the worker with the
/// fewest, plus one for every [`SPREAD_FRACTION`] that the other has.
const SPREAD: usize = 4;
const SPREAD_FRACTION: usize = 32;

/// The sockets of one address, or those passed under one name, while workers accept from them.
#[derive(Debug)]
pub(super) struct BoundAddress {
    /// The listener that the connections belong to; a reload may change it.
    pub(super) owner: Arc<ArcSwap<Listener>>,
    /// The addresses as bound, with actual ports.
    pub(super) addresses: Vec<String>,
    sockets: Vec<AcceptingSocket>,
}

/// One of these sockets. It belongs to one worker.
#[derive(Debug)]
struct AcceptingSocket {
    bound: Arc<ListeningSocket>,
    /// `None` while accepting is paused.
    accepting: Option<Accepting>,
}

/// A worker that accepts from a socket.
#[derive(Debug)]
struct Accepting {
    stop: oneshot::Sender<StopMode>,
    done: oneshot::Receiver<()>,
}

impl BoundAddress {
    /// Starts accepting from these sockets, each on one worker.
    pub(super) async fn start(
        bound: Vec<ListeningSocket>,
        listener: Arc<Listener>,
        workers: &Arc<[WorkerHandle]>,
    ) -> Self {
        let mut addresses: Vec<_> = bound.iter().map(ListeningSocket::address).collect();
        addresses.dedup();
        let paused = |bound| AcceptingSocket {
            bound: Arc::new(bound),
            accepting: None,
        };
        let mut address = Self {
            owner: Arc::new(ArcSwap::new(listener)),
            addresses,
            sockets: bound.into_iter().map(paused).collect(),
        };
        address.resume(workers).await;
        address
    }

    /// Accepts from all sockets.
    pub(super) async fn resume(&mut self, workers: &Arc<[WorkerHandle]>) {
        let turns = workers.iter().enumerate().cycle();
        for (socket, (own, worker)) in self.sockets.iter_mut().zip(turns) {
            if socket.accepting.is_some() {
                continue;
            }
            let (stop, stopped) = oneshot::channel();
            let (done, is_done) = oneshot::channel();
            let task = AcceptTask {
                bound: Arc::clone(&socket.bound),
                owner: Arc::clone(&self.owner),
                workers: Arc::clone(workers),
                own,
                stopped,
                done,
            };
            // A worker that is gone leaves `is_done` dropped.
            let _ = worker
                .mailbox
                .send(WorkerMessage::Accept(Box::new(task)))
                .await;
            socket.accepting = Some(Accepting {
                stop,
                done: is_done,
            });
        }
    }

    /// The sockets.
    pub(super) fn sockets(&self) -> impl ExactSizeIterator<Item = &Arc<ListeningSocket>> {
        self.sockets.iter().map(|socket| &socket.bound)
    }

    /// Stops accepting; the sockets stay open.
    pub(super) async fn pause(&mut self) {
        stopped(self.signal_stop(StopMode::LeaveBacklog)).await;
    }

    /// Has accepting stop; once that is awaited, it has stopped, and the sockets are closed. The workers do
    /// not wait for that, so that many addresses take no longer than one.
    pub(super) fn stop(mut self, how: StopMode) -> impl Future<Output = ()> + use<> {
        if how == StopMode::LeaveBacklog {
            self.sockets().for_each(|socket| socket.leave());
        }
        let stopping = self.signal_stop(how);
        async move {
            stopped(stopping).await;
            drop(self);
        }
    }

    /// Signals all workers before any is waited for: they empty their backlogs at the same time.
    fn signal_stop(&mut self, how: StopMode) -> Vec<oneshot::Receiver<()>> {
        let sockets = self.sockets.iter_mut();
        let accepting = sockets.filter_map(|socket| socket.accepting.take());
        accepting
            .map(|Accepting { stop, done }| {
                let _ = stop.send(how);
                done
            })
            .collect()
    }
}

async fn stopped(stopping: Vec<oneshot::Receiver<()>>) {
    for done in stopping {
        // The worker drops its end, and sends nothing.
        let _ = done.await;
    }
}

/// A listening socket as `AsyncFd` needs it.
struct Descriptor(Arc<ListeningSocket>);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Accepts on `worker` until asked to stop.
pub(super) async fn accept_all(worker: Rc<Worker>, task: AcceptTask) {
    let AcceptTask {
        bound,
        owner,
        workers,
        own,
        mut stopped,
        done,
    } = task;
    let Some(own) = workers.get(own) else { return };
    let to = Dispatcher {
        worker,
        own,
        workers: &workers,
        owner: &owner,
    };
    #[expect(
        deprecated,
        reason = "its successor is unsafe; `ListeningSocket` owns its one descriptor, and never changes it"
    )]
    let socket = match AsyncFd::with_interest(Descriptor(bound), Interest::READABLE) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = %owner.load().name, %error, "cannot accept connections on this worker");
            return;
        }
    };
    // Only waits are cancelled by a stop: a connection that has been accepted is always served.
    let bound = &socket.get_ref().0;
    let how = loop {
        let mut ready = match until(&mut stopped, socket.readable()).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(_)) => break StopMode::EmptyBacklog,
            Err(how) => break how,
        };
        match to.accept_some(bound, &mut stopped).await {
            // Readiness is edge-triggered: waiting again before `WouldBlock` would miss what is left.
            Backlog::Empty => ready.clear_ready(),
            Backlog::Unknown => tokio::task::yield_now().await,
            Backlog::Left(how) => break how,
        }
    };
    // The kernel has completed these handshakes: closing the socket would reset connections that are
    // open to the clients.
    match how {
        StopMode::CloseSocket if bound.drop_new_connections() => {
            to.accept_begun(&socket).await;
        }
        StopMode::CloseSocket | StopMode::EmptyBacklog => {
            to.accept_waiting(bound).await;
        }
        StopMode::LeaveBacklog => {}
    }
    drop(socket);
    drop(done);
}

/// The backlog of a socket, after some of it was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backlog {
    Empty,
    Unknown,
    /// Asked to stop while the connection limit was reached.
    Left(StopMode),
}

/// The result of `wait`, unless a stop comes first.
async fn until<T>(
    stopped: &mut oneshot::Receiver<StopMode>,
    wait: impl Future<Output = T>,
) -> Result<T, StopMode> {
    tokio::select! {
        biased;
        // A dropped sender means that the control runtime is gone: no process accepts what is left.
        how = stopped => Err(how.unwrap_or(StopMode::EmptyBacklog)),
        value = wait => Ok(value),
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

/// Decides which worker serves a connection.
struct Dispatcher<'a> {
    worker: Rc<Worker>,
    own: &'a WorkerHandle,
    workers: &'a [WorkerHandle],
    owner: &'a ArcSwap<Listener>,
}

impl Dispatcher<'_> {
    /// Accepts up to [`ACCEPTS_PER_TURN`] connections. At the connection limit, new connections stay in the
    /// backlog.
    async fn accept_some(
        &self,
        bound: &ListeningSocket,
        stopped: &mut oneshot::Receiver<StopMode>,
    ) -> Backlog {
        for _ in 0..ACCEPTS_PER_TURN {
            // The permit comes before the accept: what cannot be served is left to the kernel.
            let permit = match self.own.load.admit() {
                Some(permit) => permit,
                None => match until(stopped, self.own.load.admit_or_wait()).await {
                    Ok(permit) => permit,
                    Err(how) => return Backlog::Left(how),
                },
            };
            match bound.accept() {
                Ok(accepted) => self.hand_over(accepted, permit),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Backlog::Empty,
                Err(error) if is_exhaustion(&error) => {
                    self.accept_failed(&error);
                    // The socket stays readable: without a pause this would be a busy loop.
                    tokio::time::sleep(EXHAUSTION_PAUSE).await;
                    return Backlog::Unknown;
                }
                // The client has disconnected while in the backlog.
                Err(error) => tracing::debug!(%error, "cannot accept a connection"),
            }
        }
        Backlog::Unknown
    }

    fn accept_failed(&self, error: &io::Error) {
        let owner = self.owner.load();
        let listener = &owner.name;
        match owner.failures.admit(&error.to_string(), Instant::now()) {
            Some(unreported) => {
                tracing::error!(%listener, %error, unreported, "cannot accept connections; new ones wait in the backlog");
            }
            None => tracing::debug!(%listener, %error, "cannot accept connections"),
        }
    }

    /// Accepts the connections whose handshakes have begun. No others arrive.
    async fn accept_begun(&self, socket: &AsyncFd<Descriptor>) {
        let bound = &socket.get_ref().0;
        let complete = async {
            while self.accept_waiting(bound).await {
                match socket.readable().await {
                    // Before the next look, so that what arrives during it wakes this again.
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(HANDSHAKE_TIMEOUT, complete).await;
        // What has arrived since the last look.
        self.accept_waiting(bound).await;
    }

    /// Accepts what is in the backlog; returns whether there may be more later.
    async fn accept_waiting(&self, bound: &ListeningSocket) -> bool {
        take_waiting(|| {
            let Some(permit) = self.own.load.admit() else {
                return Waiting::NotTakenAnyMore;
            };
            match bound.accept() {
                Ok(accepted) => {
                    self.hand_over(accepted, permit);
                    Waiting::Taken
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Waiting::Nothing,
                Err(error) if is_exhaustion(&error) => Waiting::NotTakenAnyMore,
                // The client has disconnected while in the backlog.
                Err(_) => Waiting::Taken,
            }
        })
        .await
    }

    /// Serves a connection on this worker, or hands it to one that has clearly fewer.
    fn hand_over(&self, accepted: AcceptedSocket, permit: ConnectionPermit) {
        let mut arrival = IncomingConnection {
            accepted,
            listener: self.owner.load_full(),
            permit,
        };
        // With its mailbox full the other worker is busier than its count says: the connection stays.
        if let Some(other) = self.least_loaded()
            && let Ok(slot) = other.mailbox.try_reserve()
        {
            arrival.permit = arrival.permit.hand_over(&other.load);
            slot.send(WorkerMessage::IncomingConnection(Box::new(arrival)));
        } else {
            let serve = accept::serve(Rc::clone(&self.worker), arrival);
            self.worker.tasks.spawn(serve);
        }
    }

    /// The worker with the fewest connections, if this one has too many more, the new one included.
    fn least_loaded(&self) -> Option<&WorkerHandle> {
        let fewest = self
            .workers
            .iter()
            .min_by_key(|worker| worker.load.connections())?;
        is_uneven(self.own.load.connections(), fewest.load.connections()).then_some(fewest)
    }
}

/// What was found in the backlog of a socket that is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// A connection.
    Taken,
    /// No connection.
    Nothing,
    /// There may be connections, but no more can be taken.
    NotTakenAnyMore,
}

/// Calls `take` until nothing is waiting, but not without end, and with a turn for the worker's other tasks
/// after every [`ACCEPTS_PER_TURN`] calls. Returns whether it makes sense to try again later.
async fn take_waiting(mut take: impl FnMut() -> Waiting) -> bool {
    for taken in 1..=MAX_WAITING {
        match take() {
            Waiting::Taken => {}
            Waiting::Nothing => return true,
            Waiting::NotTakenAnyMore => return false,
        }
        if taken % ACCEPTS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
    false
}

/// Whether a worker has too many more connections than another to keep a new one.
fn is_uneven(own: usize, other: usize) -> bool {
    own > other + SPREAD + other / SPREAD_FRACTION
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;
    use crate::config::model::{Bind, ListenerLimits, ListenerTimeouts, Trust};
    use crate::drain::Drain;
    use crate::net::listener::ListenerSettings;
    use crate::quota::failure_reports::FailureReports;

    fn listener() -> Listener {
        Listener {
            name: "in".into(),
            drain: Drain::new(),
            gate: Arc::default(),
            failures: FailureReports::default(),
            settings: ArcSwap::from_pointee(ListenerSettings {
                tls: None,
                http2: None,
                handshakes_at_once: 1,
                trust: Trust::default(),
                redirect_to_https: false,
                certificate_header: None,
                revoked: Arc::default(),
                limits: ListenerLimits::default(),
                keepalive: None,
                timeouts: ListenerTimeouts {
                    tls_handshake: Duration::ZERO,
                    request_header: Duration::ZERO,
                    keep_alive: Duration::ZERO,
                    request_body: Duration::ZERO,
                    response_body: Duration::ZERO,
                },
            }),
        }
    }

    /// So that the workers of many addresses stop at the same time.
    #[tokio::test]
    async fn a_stop_is_signalled_before_it_is_awaited() {
        let bound = ListeningSocket::bind(&Bind::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
        let (stop, mut signalled) = oneshot::channel();
        let (worker, done) = oneshot::channel();
        let mut address = BoundAddress::start(vec![bound], Arc::new(listener()), &[].into()).await;
        address.sockets[0].accepting = Some(Accepting { stop, done });
        let stopped = address.stop(StopMode::CloseSocket);
        assert_eq!(signalled.try_recv(), Ok(StopMode::CloseSocket));
        drop(worker);
        stopped.await;
    }

    /// How many connections are taken in each turn, while more of them keep coming.
    #[tokio::test]
    async fn a_backlog_is_emptied_in_turns_and_not_without_end() {
        let taken = Cell::new(0);
        let mut taking = pin!(take_waiting(|| {
            taken.set(taken.get() + 1);
            Waiting::Taken
        }));
        let (mut turns, mut before) = (0, 0);
        let more = loop {
            let polled = poll_fn(|cx| Poll::Ready(taking.as_mut().poll(cx))).await;
            assert!(taken.get() - before <= ACCEPTS_PER_TURN);
            before = taken.get();
            turns += 1;
            if let Poll::Ready(more) = polled {
                break more;
            }
        };
        assert!(!more);
        assert_eq!(taken.get(), MAX_WAITING);
        assert_eq!(turns, MAX_WAITING / ACCEPTS_PER_TURN + 1);
    }

    #[test]
    fn workers_stay_within_a_few_and_a_thirty_second_of_one_another() {
        for (own, other, uneven) in [
            (1, 0, false),
            (4, 0, false),
            (5, 0, true),
            (36, 31, true),
            (1000, 980, false),
            (1000, 960, true),
        ] {
            assert_eq!(is_uneven(own, other), uneven, "{own} and {other}");
        }
    }

    /// However the kernel throws them.
    #[test]
    fn connections_end_up_even() {
        let mut connections = [0_usize; 4];
        for number in 0..4000_usize {
            let thrown = number.wrapping_mul(number) % 7 % 4;
            connections[thrown] += 1;
            let fewest = (0..4).min_by_key(|&at| connections[at]).unwrap();
            if is_uneven(connections[thrown], connections[fewest]) {
                connections[thrown] -= 1;
                connections[fewest] += 1;
            }
        }
        let (least, most) = (connections.iter().min(), connections.iter().max());
        assert!(most.unwrap() - least.unwrap() <= 40, "{connections:?}");
    }
}
