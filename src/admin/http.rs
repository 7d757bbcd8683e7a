//! A small HTTP server on the control runtime: few connections, each with a deadline for everything.

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
use crate::net::listen::ListeningSocket;
use crate::net::stream::Socket;

/// Connections at once; more are closed.
const CONNECTIONS_MOST: usize = 32;

/// How long a connection may lie idle, or take for the head of a request. Longer than what usually
/// lies between two scrapes.
const HEAD_WITHIN: Duration = Duration::from_secs(90);

/// How long a connection may last, whatever it does.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How long accepting rests when the system has no room.
const EXHAUSTED_REST: Duration = Duration::from_millis(100);

/// Bytes of a request's head.
const HEAD_MOST: usize = 16 * 1024;

/// What is answered.
pub type AdminResponse = Response<Full<Bytes>>;

/// A server; it stops when dropped.
#[derive(Debug)]
pub struct AdminServer {
    /// Where it listens, as bound.
    pub bound: Arc<ListeningSocket>,
    drain: Drain,
    accepting: JoinSet<()>,
}

/// Whatever answers requests.
pub trait AdminService: Send + Sync + 'static {
    /// Answers one.
    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = AdminResponse> + Send;
}

impl AdminServer {
    /// Serves who connects there.
    ///
    /// # Errors
    /// What the system said.
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

    /// Leaves the socket to another process, which has it, too. Who is being answered is answered to the
    /// end, which what this gives waits for.
    pub fn retire(self) -> JoinSet<()> {
        self.bound.leave();
        self.drain.begin(Urgency::Low);
        self.accepting
    }
}

/// Serves the process that has succeeded this one, until that is gone.
pub async fn serve_successor(link: Link, service: impl AdminService) {
    // Nobody begins it.
    let drain = Drain::new();
    accept_all(AcceptSource::Link(link), Arc::new(service), drain.watch()).await;
}

/// Where the control runtime takes connections from.
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

    /// `None` when nobody comes any more.
    async fn accept(&self) -> io::Result<Option<Socket>> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|it| Some(Socket::Tcp(it.0))),
            Self::Unix(listener) => listener.accept().await.map(|it| Some(Socket::Unix(it.0))),
            Self::Link(link) => Ok(link.accept().await?.map(Socket::Unix)),
        }
    }
}

async fn accept_all(source: AcceptSource, service: Arc<impl AdminService>, mut drain: DrainWatch) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MOST));
    let mut connections = JoinSet::new();
    let watch = drain.clone();
    loop {
        tokio::select! {
            accepted = source.accept() => match accepted {
                Ok(None) => break,
                Ok(Some(socket)) => {
                    // Without a place it is closed by being dropped.
                    let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
                    let (service, watch) = (Arc::clone(&service), watch.clone());
                    connections.spawn(async move {
                        let _place = place;
                        serve(socket, &*service, watch).await;
                    });
                }
                Err(_) => tokio::time::sleep(EXHAUSTED_REST).await,
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
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_MOST)
        .serve_connection(TokioIo::new(socket), service_fn(answer));
    let mut connection = pin!(connection);
    let served = async {
        tokio::select! {
            served = &mut connection => return served,
            _ = drain.begun() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    };
    if let Ok(Err(error)) = tokio::time::timeout(LIFETIME, served).await {
        tracing::debug!(%error, "an operator's connection ended");
    }
}

/// An answer with this body.
pub fn response(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> AdminResponse {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// A text for a person.
pub fn text(status: StatusCode, body: &'static str) -> AdminResponse {
    response(status, "text/plain; charset=utf-8", body)
}

/// There is something here, but not for this method.
pub fn method_not_allowed(allowed: &'static str) -> AdminResponse {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        "This method is not served here.\n",
    );
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}
