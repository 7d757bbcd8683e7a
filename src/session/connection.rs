//! A client's connection, as its sessions see it, and what it counts for while it lasts.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::worker::Worker;
use crate::config::model::{ListenerLimits, ListenerTimeouts};
use crate::net::admission::ConnectionPermit;
use crate::net::listener::Listener;
use crate::net::stream::Peer;
use crate::observe::series::{Connected, ListenerSeries};
use crate::protocol::certificate::TlsFacts;

/// What sessions know of the connection that their requests came by.
#[derive(Debug)]
pub struct Connection {
    /// The worker that has it.
    pub worker: Rc<Worker>,
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// What is counted of that on this worker.
    pub counts: Arc<ListenerSeries>,
    /// Deadlines towards the client, as they were when it came in.
    pub timeouts: ListenerTimeouts,
    /// What the client may take, likewise.
    pub limits: ListenerLimits,
    /// Who connected: the socket's other end, or who a PROXY header says.
    pub peer: Peer,
    /// A PROXY header came with it that names nobody: whoever it is, they are not the peer.
    pub is_anonymous: bool,
    /// The address that was connected to, likewise; `None` for a unix socket.
    pub local: Option<SocketAddr>,
    /// Whether it came by TLS, to us or to who sent the PROXY header.
    pub secure: bool,
    /// What is known of our TLS.
    pub tls: Option<TlsFacts>,
}

/// What a client's connection counts for as long as it lasts.
#[derive(Debug)]
pub struct ConnectionGuards {
    /// In the process and on its worker.
    pub permit: ConnectionPermit,
    /// At its listener.
    pub connected: Connected,
}
