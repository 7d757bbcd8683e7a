//! A small HTTP server on the control runtime: few connections, and a deadline for everything.

use std::convert::Infallible;
use std::io;
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
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::drain::{Drain, DrainWatch, Urgency};
use crate::handover::link::Link;
use crate::net::bind::ListeningSocket;
use crate::net::stream::Socket;

/// Connections at once; further ones are closed.
const MAX_CONNECTIONS: usize = 32;

/// How long a connection may be idle, or take to send a request head. Longer than the usual interval
/// between two scrapes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);

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

/// What responds to the requests of a server.
pub trait AdminService: Send + Sync + 'static {
    /// Responds to one request.
    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = AdminResponse> + Send;
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
    async fn accept(&self) -> io::Result<Option<Socket>> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|it| Some(Socket::Tcp(it.0))),
            Self::Unix(listener) => listener.accept().await.map(|it| Some(Socket::Unix(it.0))),
            Self::Link(link) => Ok(link.accept().await?.map(Socket::Unix)),
        }
    }
}

async fn accept_all(source: AcceptSource, service: Arc<impl AdminService>, mut drain: DrainWatch) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let watch = drain.clone();
    loop {
        tokio::select! {
            accepted = source.accept() => match accepted {
                Ok(None) => break,
                Ok(Some(socket)) => {
                    // Without a permit the connection is closed by being dropped.
                    let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
                    let (service, watch) = (Arc::clone(&service), watch.clone());
                    connections.spawn(async move {
                        let _permit = permit;
                        serve(socket, &*service, watch).await;
                    });
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

async fn serve(socket: Socket, service: &impl AdminService, mut drain: DrainWatch) {
    let answer = |request| async move { Ok::<_, Infallible>(service.respond(request).await) };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(socket), service_fn(answer));
    let mut connection = pin!(connection);
    let served = async {
        tokio::select! {
            served = &mut connection => return served,
            _ = drain.begun() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    if let Ok(Err(error)) = tokio::time::timeout(MAX_LIFETIME, served).await {
        tracing::debug!(%error, "an admin connection ended with an error");
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
