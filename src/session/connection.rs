//! A client connection as its sessions see it, and the permits that it holds while it is open.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::worker::Worker;
use crate::config::model::{ListenerLimits, ListenerTimeouts};
use crate::net::admission::ConnectionPermit;
use crate::net::listener::Listener;
use crate::net::stream::Peer;
use crate::observe::series::{ListenerSeries, OpenConnection};
use crate::protocol::certificate::TlsFacts;
use crate::upstream::http::ReservedConnections;

/// The client connection that a session's request arrived on.
#[derive(Debug)]
pub struct Connection {
    /// The worker that carries the connection.
    pub worker: Rc<Worker>,
    /// The listener that accepted the connection.
    pub listener: Arc<Listener>,
    /// The listener's counters on this worker.
    pub counts: Arc<ListenerSeries>,
    /// The client's deadlines, as configured when the connection was accepted.
    pub timeouts: ListenerTimeouts,
    /// The client's limits, as configured when the connection was accepted.
    pub limits: ListenerLimits,
    /// The client: the peer of the socket, or the source address in a PROXY header.
    pub peer: Peer,
    /// Whether a PROXY header came without addresses: the client is unknown, and not the peer.
    pub is_anonymous: bool,
    /// The local address of the socket, or the destination address in a PROXY header; `None` for a
    /// unix socket.
    pub local: Option<SocketAddr>,
    /// Whether the client used TLS, to us or to the load balancer that sent the PROXY header.
    pub secure: bool,
    /// The parameters of our own TLS, if any.
    pub tls: Option<TlsFacts>,
    /// The connections to endpoints that only this client may use.
    pub reserved: Rc<ReservedConnections>,
}

/// The permits that a client connection holds while it is open.
#[derive(Debug)]
pub struct ConnectionGuards {
    /// Counts in the process and on the worker.
    pub permit: ConnectionPermit,
    /// Counts in the listener's gauge of open connections.
    pub connected: OpenConnection,
}
