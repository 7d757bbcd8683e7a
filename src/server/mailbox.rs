//! What the workers are told, by the control runtime and by one another.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::displace::workers::WorkerQuery;
use crate::front::accept::IncomingConnection;
use crate::net::admission::WorkerLoad;
use crate::net::listen::ListeningSocket;
use crate::net::listener::Listener;
use crate::observe::counters::Counters;
use crate::tunnel::ended::Ended;

/// Messages that may wait for a worker.
pub(super) const MAILBOX: usize = 1024;

/// What a worker is told.
#[derive(Debug)]
pub(super) enum WorkerMessage {
    /// Accept from a socket.
    Accept(Box<AcceptTask>),
    /// A connection that is its own from now on.
    IncomingConnection(Box<IncomingConnection>),
    /// End every tunnel, as this, in order.
    EndTunnels(Ended),
    /// Those that are still there have had their time.
    CutTunnels,
    /// Tell when nothing runs any more. No arrivals come after this.
    Finish(oneshot::Sender<()>),
}

/// A socket to accept from.
#[derive(Debug)]
pub(super) struct AcceptTask {
    /// The socket.
    pub(super) bound: Arc<ListeningSocket>,
    /// The listener that its connections belong to.
    pub(super) owner: Arc<ArcSwap<Listener>>,
    /// All workers.
    pub(super) workers: Arc<[WorkerHandle]>,
    /// Which of them this one is.
    pub(super) own: usize,
    /// Ends when accepting is to stop.
    pub(super) stopped: oneshot::Receiver<StopMode>,
    /// Dropped when it has.
    pub(super) done: oneshot::Sender<()>,
}

/// How accepting comes to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopMode {
    /// What the kernel has queued by then is taken: nobody else would.
    EmptyBacklog,
    /// It is left to another process, which has the socket, too.
    LeaveBacklog,
}

/// A worker, as the others see it.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    /// Its mailbox.
    pub(super) mailbox: mpsc::Sender<WorkerMessage>,
    /// What operators want to know of it.
    pub(super) questions: mpsc::Sender<WorkerQuery>,
    /// Its connections.
    pub(super) load: Arc<WorkerLoad>,
    /// Its counters.
    pub(super) counters: Arc<Counters>,
}
