//! A small HTTP server on the control runtime: few connections, and a deadline for everything.
//!
//! Any process that can connect can open connections and say nothing. So a new connection is never refused
//! because of silent ones: the oldest of those is closed instead.

mod activity;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

pub use self::activity::AdminActivity;
use self::activity::{AdminIo, EvictionCost, HEAD_TIMEOUT};
use crate::causes::with_causes;
use crate::drain::{Drain, DrainWatch, Urgency};
use crate::handover::link::Link;
use crate::net::bind::ListeningSocket;
use crate::net::certificate_fault::in_words_of_io;
use crate::net::stream::{Socket, Stream, TlsStream};
use crate::net::turns::TurnTask;
use crate::quota::failure_reports::{FailureReports, warn_once_a_minute};

/// Connections at once; for a further one, another is closed.
const MAX_CONNECTIONS: usize = 32;

/// How often the deadline of a connection is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a connection may last in total.
const MAX_LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Pause after a failed accept, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Largest request head, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// A response; its body is in memory.
pub type AdminResponse = Response<Full<Bytes>>;

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct AdminServer {
    /// Its listening socket.
    pub bound: Arc<ListeningSocket>,
    drain: Drain,
    accepting: JoinSet<()>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminPeer {
    /// A client over TCP.
    Tcp {
        /// Its address.
        address: SocketAddr,
        /// Whether it has verified the certificate of this server.
        is_tls: bool,
    },
    /// A process on this machine, by what the kernel knows of it.
    Unix {
        /// The user that it ran as when it connected.
        user: Option<u32>,
        /// Its number; `None` if it is in another namespace.
        pid: Option<i32>,
    },
    /// The successor, which passes on requests that it has admitted.
    Successor,
}

/// What responds to the requests of a server.
pub trait AdminService: Send + Sync + 'static {
    /// Whether a request that is being served may be cut off for a new connection.
    const MAY_BE_CUT: bool;

    /// TLS of connections over TCP; `None` for plain text.
    fn tls(&self) -> Option<Arc<ServerConfig>> {
        None
    }

    /// Responds to one request. `peer` is the other end of its connection, `activity` what happens on that.
    fn respond(
        &self,
        request: Request<Incoming>,
        peer: AdminPeer,
        activity: &AdminActivity,
    ) -> impl Future<Output = AdminResponse> + Send;
}

impl AdminServer {
    /// Serves connections to this socket.
    ///
    /// # Errors
    /// The error of the system.
    pub fn start(bound: ListeningSocket, service: impl AdminService) -> io::Result<Self> {
        let source = AcceptSource::open(&bound)?;
        bound.claim();
        let drain = Drain::new();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept_all(source, Arc::new(service), drain.watch()));
        Ok(Self {
            bound: Arc::new(bound),
            drain,
            accepting,
        })
    }

    /// Leaves the socket to another process, which has it, too. Returns the tasks that finish requests
    /// already begun: the operator who started the upgrade waits for its response.
    pub fn retire(self) -> JoinSet<()> {
        self.bound.leave();
        self.drain.begin(Urgency::Low);
        self.accepting
    }
}

/// Serves requests that the successor passes on, until that process has exited.
pub async fn serve_successor(link: Link, service: impl AdminService) {
    // This drain is never begun: the end of the link ends the server.
    let drain = Drain::new();
    accept_all(AcceptSource::Link(link), Arc::new(service), drain.watch()).await;
}

/// What connections are accepted from.
enum AcceptSource {
    Tcp(TcpListener),
    Unix(UnixListener),
    Link(Link),
}

impl AcceptSource {
    fn open(bound: &ListeningSocket) -> io::Result<Self> {
        Ok(match bound {
            ListeningSocket::Tcp(listener, _) => {
                Self::Tcp(TcpListener::from_std(listener.try_clone()?)?)
            }
            ListeningSocket::Unix(listener, _) => {
                Self::Unix(UnixListener::from_std(listener.try_clone()?)?)
            }
        })
    }

    /// The next connection; `None` when there will be no more.
    async fn accept(&self) -> io::Result<Option<(Socket, AdminPeer)>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                let peer = AdminPeer::Tcp {
                    address,
                    is_tls: false,
                };
                Some((Socket::Tcp(socket), peer))
            }
            Self::Unix(listener) => {
                let socket = listener.accept().await?.0;
                let peer = socket.peer_cred().ok();
                let peer = AdminPeer::Unix {
                    user: peer.map(|it| it.uid()),
                    // The kernel says 0 of a process that this one cannot see.
                    pid: peer.and_then(|it| it.pid()).filter(|pid| *pid > 0),
                };
                Some((Socket::Unix(socket), peer))
            }
            Self::Link(link) => {
                let socket = link.accept().await?;
                socket.map(|socket| (Socket::Unix(socket), AdminPeer::Successor))
            }
        })
    }
}

async fn accept_all<S: AdminService>(source: AcceptSource, service: Arc<S>, mut drain: DrainWatch) {
    let mut open = OpenConnections::default();
    let mut connections = JoinSet::new();
    let failures = Arc::new(FailureReports::default());
    let watch = drain.clone();
    loop {
        tokio::select! {
            accepted = source.accept() => match accepted {
                Ok(None) => break,
                Ok(Some((socket, peer))) => {
                    // Without room the connection is closed by being dropped.
                    if !open.make_room(S::MAY_BE_CUT) { continue }
                    let activity = AdminActivity::new();
                    let (service, watch) = (Arc::clone(&service), watch.clone());
                    let (activity_there, failures) = (Arc::clone(&activity), Arc::clone(&failures));
                    let served = async move {
                        let Some((stream, peer)) = secured(socket, peer, &*service, &failures).await else {
                            return;
                        };
                        let io = AdminIo::new(stream, Arc::clone(&activity_there));
                        serve(io, peer, activity_there, service, watch).await;
                    };
                    open.add(activity, connections.spawn(TurnTask::new(served)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
            _ = drain.begun() => break,
        }
    }
    drop(source);
    while connections.join_next().await.is_some() {}
}

/// The open connections of a server.
#[derive(Debug, Default)]
struct OpenConnections(Vec<(Arc<AdminActivity>, AbortHandle)>);

impl OpenConnections {
    /// Whether there is room for one more connection. If there is none, the connection is closed that is the
    /// least loss; one that serves a request only if it `may_be_cut`.
    fn make_room(&mut self, may_be_cut: bool) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        if self.0.len() < MAX_CONNECTIONS {
            return true;
        }
        let costs = self.0.iter().map(|(activity, _)| activity.eviction());
        let Some((place, cost)) = costs.enumerate().min_by_key(|(_, cost)| *cost) else {
            return false;
        };
        if matches!(cost, EvictionCost::Serving(_)) && !may_be_cut {
            return false;
        }
        self.0.swap_remove(place).1.abort();
        true
    }

    fn add(&mut self, activity: Arc<AdminActivity>, task: AbortHandle) {
        self.0.push((activity, task));
    }
}

/// The stream of a connection, after its TLS handshake if the service has TLS.
async fn secured(
    socket: Socket,
    peer: AdminPeer,
    service: &impl AdminService,
    failures: &FailureReports,
) -> Option<(Stream, AdminPeer)> {
    let AdminPeer::Tcp { address, .. } = peer else {
        return Some((Stream::Plain(socket), peer));
    };
    let Some(tls) = service.tls() else {
        return Some((Stream::Plain(socket), peer));
    };
    // Boxed, because the state of a handshake is large.
    let handshake = Box::pin(TlsStream::accept(tls, socket));
    let error = match tokio::time::timeout(HEAD_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => {
            let peer = AdminPeer::Tcp {
                address,
                is_tls: true,
            };
            return Some((Stream::Tls(Box::new(stream)), peer));
        }
        // It has only looked whether the port is open.
        Ok(Err(failed)) if failed.error.kind() == io::ErrorKind::UnexpectedEof => return None,
        Ok(Err(failed)) => in_words_of_io(&failed.error),
        Err(_) => "it was not complete in time".to_owned(),
    };
    warn_once_a_minute!(
        failures, &address.ip().to_string(), "TLS handshake of an admin connection failed",
        from = %address, error
    );
    None
}

async fn serve(
    io: AdminIo,
    peer: AdminPeer,
    activity: Arc<AdminActivity>,
    service: Arc<impl AdminService>,
    mut drain: DrainWatch,
) {
    let answer = |request| {
        let (service, activity) = (&*service, &*activity);
        async move {
            let _serving = activity.serving();
            Ok::<_, Infallible>(service.respond(request, peer, activity).await)
        }
    };
    let connection = http1::Builder::new()
        // The deadlines follow from `activity`.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), service_fn(answer));
    let mut connection = pin!(connection);
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    let served = async {
        let mut is_finishing = false;
        loop {
            tokio::select! {
                served = &mut connection => return served,
                _ = drain.begun(), if !is_finishing => {
                    connection.as_mut().graceful_shutdown();
                    is_finishing = true;
                }
                _ = look.tick() => {
                    if activity.deadline().is_some_and(|due| due <= Instant::now()) {
                        return Ok(());
                    }
                }
            }
        }
    };
    if let Ok(Err(error)) = tokio::time::timeout(MAX_LIFETIME, served).await {
        let error = with_causes(&error);
        tracing::debug!(error, "an admin connection ended with an error");
    }
}

/// A response with this body.
pub fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> AdminResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A response in plain text.
pub fn text(status: StatusCode, body: &'static str) -> AdminResponse {
    response(status, "text/plain; charset=utf-8", body)
}

/// The response to a method that the path does not support.
pub fn method_not_allowed(allowed: &'static str) -> AdminResponse {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed.\n");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_requests_leaves_the_oldest_to_be_finished() {
        let mut open = OpenConnections::default();
        let mut tasks = JoinSet::<()>::new();
        let activities: Vec<_> = (0..=MAX_CONNECTIONS)
            .map(|_| AdminActivity::new())
            .collect();
        let mut serving = Vec::new();
        for activity in activities.iter().take(MAX_CONNECTIONS) {
            assert!(open.make_room(true));
            serving.push(activity.serving());
            open.add(Arc::clone(activity), tasks.spawn(pending()));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let is_left = |open: &OpenConnections, place: usize| {
            let mut left = open.0.iter();
            left.any(|(activity, _)| Arc::ptr_eq(activity, &activities[place]))
        };
        assert!(!open.make_room(false));
        assert!(open.make_room(true));
        assert!(is_left(&open, 0) && !is_left(&open, MAX_CONNECTIONS - 1));
        // One without a request is less of a loss.
        let waiting = &activities[MAX_CONNECTIONS];
        open.add(Arc::clone(waiting), tasks.spawn(pending()));
        assert!(open.make_room(false));
        assert!(is_left(&open, MAX_CONNECTIONS - 2) && !is_left(&open, MAX_CONNECTIONS));
    }
}
