//! A client connection as its sessions see it, and the permits that it holds while it is open.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};

use super::shared_connection::SharedConnection;
use super::worker::Worker;
use crate::config::model::{ListenerLimits, ListenerTimeouts};
use crate::net::admission::ConnectionPermit;
use crate::net::listener::Listener;
use crate::net::stream::Peer;
use crate::observe::series::{ListenerSeries, OpenConnection};
use crate::protocol::certificate::TlsFacts;
use crate::protocol::client_protocol::ClientProtocol;
use crate::upstream::http::ReservedConnections;

/// The client connection that a session's request arrived on; in HTTP/2, one stream of it.
#[derive(Debug)]
pub struct Connection {
    /// The worker that carries the connection.
    pub worker: Rc<Worker>,
    /// The listener that accepted the connection.
    pub listener: Arc<Listener>,
    /// The protocol that the client speaks.
    pub protocol: ClientProtocol,
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
    pub tls: Option<Rc<TlsFacts>>,
    /// The connections to endpoints that only this client may use.
    pub reserved: Rc<ReservedConnections>,
    /// Interim responses to the current request.
    pub interim: Rc<InterimHeads>,
}

impl Connection {
    /// The same connection, as one stream of it: another stream's interim responses are not its own, and no
    /// authentication of the connection itself is shared.
    pub fn stream(&self) -> Self {
        Self {
            worker: Rc::clone(&self.worker),
            listener: Arc::clone(&self.listener),
            protocol: self.protocol,
            counts: Arc::clone(&self.counts),
            timeouts: self.timeouts,
            limits: self.limits,
            peer: self.peer,
            is_anonymous: self.is_anonymous,
            local: self.local,
            secure: self.secure,
            tls: self.tls.clone(),
            reserved: Rc::new(self.worker.pool.reserved()),
            interim: Rc::default(),
        }
    }
}

/// The heads of interim responses on their way to a client. hyper cannot send any, so `front` writes them to the
/// stream below hyper: when hyper has nothing to write, and the session waits for that before it responds.
#[derive(Debug, Default)]
pub struct InterimHeads(RefCell<Bytes>);

impl InterimHeads {
    /// Hands over heads, and waits until they have been written. The task of the client connection, which polls
    /// this, is woken by [`wrote`](Self::wrote).
    pub(super) async fn write(&self, heads: Vec<u8>) {
        self.0.replace(heads.into());
        std::future::poll_fn(|_| match self.0.borrow().is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    /// The bytes that have not been written yet.
    pub fn unwritten(&self) -> Bytes {
        self.0.borrow().clone()
    }

    /// Notes that `length` bytes have been written, and has the session go on after the last one.
    pub fn wrote(&self, length: usize, cx: &Context<'_>) {
        let mut unwritten = self.0.borrow_mut();
        let length = length.min(unwritten.len());
        unwritten.advance(length);
        if unwritten.is_empty() {
            cx.waker().wake_by_ref();
        }
    }
}

/// The permits that a client connection, or a stream of one, holds while it is open.
#[derive(Debug)]
pub struct ConnectionGuards {
    /// Counts in the process and on the worker.
    pub permit: ConnectionPermit,
    /// What carries the session.
    pub side: ClientSide,
}

/// What carries a session.
#[derive(Debug)]
pub enum ClientSide {
    /// A connection of its own, which counts in the listener's gauge of open connections.
    Connection(OpenConnection),
    /// A stream of this HTTP/2 connection.
    Stream(Rc<SharedConnection>),
}
