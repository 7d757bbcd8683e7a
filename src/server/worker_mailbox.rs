//! Messages to workers, from the control runtime and from each other.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::displace::worker_queries::WorkerQuery;
use crate::front::accept::IncomingConnection;
use crate::net::admission::WorkerLoad;
use crate::net::bind::ListeningSocket;
use crate::net::listener::Listener;
use crate::observe::counters::Counters;
use crate::tunnel::ended::Ended;

/// Maximum number of pending messages per worker.
pub(super) const MAILBOX: usize = 1024;

/// A message to a worker.
#[derive(Debug)]
pub(super) enum WorkerMessage {
    /// Accept from a socket.
    Accept(Box<AcceptTask>),
    /// Serve a connection that another worker accepted.
    IncomingConnection(Box<IncomingConnection>),
    /// End every tunnel and stream in order, for this reason.
    EndSessions(Ended),
    /// Cut the tunnels that are still open, without waiting for their peers, and end all plain requests for this
    /// reason.
    CutSessions(Ended),
    /// Report when no task is left. No connections follow this message.
    Finish(oneshot::Sender<()>),
}

/// A socket for a worker to accept from.
#[derive(Debug)]
pub(super) struct AcceptTask {
    /// The socket.
    pub(super) bound: Arc<ListeningSocket>,
    /// The listener that the connections belong to.
    pub(super) owner: Arc<ArcSwap<Listener>>,
    /// All workers.
    pub(super) workers: Arc<[WorkerHandle]>,
    /// The index of this worker among them.
    pub(super) own: usize,
    /// Completes when accepting is to stop.
    pub(super) stopped: oneshot::Receiver<StopMode>,
    /// Dropped when accepting has stopped.
    pub(super) done: oneshot::Sender<()>,
}

/// How to stop accepting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopMode {
    /// No other process has the socket: have new connections dropped, and accept those that have begun.
    CloseSocket,
    /// Accept what is in the backlog. The service manager keeps the socket open.
    EmptyBacklog,
    /// Leave the backlog to the successor, which has the same socket.
    LeaveBacklog,
}

/// A worker, as the control runtime and other workers see it.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    /// The mailbox.
    pub(super) mailbox: mpsc::Sender<WorkerMessage>,
    /// Questions from operators.
    pub(super) questions: mpsc::Sender<WorkerQuery>,
    /// The number of its connections.
    pub(super) load: Arc<WorkerLoad>,
    /// The counters for metrics.
    pub(super) counters: Arc<Counters>,
}
