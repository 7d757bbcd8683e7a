//! A small HTTP server on the control runtime: few connections, each with a deadline for everything.

use std::convert::Infallible;
use std::io;
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

use crate::config::model::Bind;
use crate::net::listen::{Bound, SocketFile};
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
pub type Answer = Response<Full<Bytes>>;

/// A server; it stops when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens, as bound.
    pub address: String,
    _accepting: JoinSet<()>,
}

/// Whatever answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

impl Server {
    /// Listens on `bind`.
    ///
    /// # Errors
    /// What the system said.
    pub fn start(bind: &Bind, service: impl Service) -> io::Result<Self> {
        let bound = Bound::bind(bind)?;
        let address = bound.address();
        let door = Door::open(bound)?;
        let mut accepting = JoinSet::new();
        accepting.spawn(accept_all(door, Arc::new(service)));
        Ok(Self {
            address,
            _accepting: accepting,
        })
    }
}

/// A listening socket of the control runtime.
enum Door {
    Tcp(TcpListener),
    /// With the file that goes when it closes.
    Unix(
        UnixListener,
        #[expect(dead_code, reason = "dropped with it")] SocketFile,
    ),
}

impl Door {
    fn open(bound: Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Tcp(listener, _) => Self::Tcp(TcpListener::from_std(listener)?),
            Bound::Unix(listener, file) => Self::Unix(UnixListener::from_std(listener)?, file),
        })
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|it| Socket::Tcp(it.0)),
            Self::Unix(listener, _) => listener.accept().await.map(|it| Socket::Unix(it.0)),
        }
    }
}

async fn accept_all(door: Door, service: Arc<impl Service>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MOST));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = door.accept() => match accepted {
                Ok(socket) => {
                    // Without a place it is closed by being dropped.
                    let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
                    let service = Arc::clone(&service);
                    connections.spawn(async move {
                        let _place = place;
                        serve(socket, &*service).await;
                    });
                }
                Err(_) => tokio::time::sleep(EXHAUSTED_REST).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(socket: Socket, service: &impl Service) {
    let answer = |request| async move { Ok::<_, Infallible>(service.answer(request).await) };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_MOST)
        .serve_connection(TokioIo::new(socket), service_fn(answer));
    if let Ok(Err(error)) = tokio::time::timeout(LIFETIME, connection).await {
        tracing::debug!(%error, "an operator's connection ended");
    }
}

/// An answer with this body.
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// A text for a person.
pub fn text(status: StatusCode, body: &'static str) -> Answer {
    reply(status, "text/plain; charset=utf-8", body)
}

/// There is something here, but not for this method.
pub fn method_not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        "This method is not served here.\n",
    );
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}
