//! Plain HTTP towards endpoints: bodies both ways, and the idle connections of one worker.
//!
//! hyper's client frames the messages. A connection is lent to one request, and given back when
//! the reply's body has ended; only then may another request use it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::endpoint::Lease;
use super::group::Upstream;
use super::source::Share;
use crate::config::model::{SendProxy, same_variable};
use crate::drain::Tasks;
use crate::protocol::hop::BodyLength;
use crate::protocol::{forwarding_names, hop};

/// A connection that can take a request.
pub type Sender = SendRequest<RequestBody>;

/// How long a connection may lie idle: Node closes its own after 5 s, and a request that crosses
/// that close would be lost.
const IDLE_FOR: Duration = Duration::from_secs(4);

/// Idle connections kept per worker and endpoint.
const IDLE_MOST: usize = 32;

/// Bytes that hyper may buffer of one message: the bound on the head of an answer.
const BUFFER_MOST: usize = 64 * 1024;

/// Puts HTTP/1.1 on a fresh connection; the task that drives it is one of `tasks`, and holds `share`.
///
/// # Errors
/// None in practice: hyper's handshake for HTTP/1.1 sends nothing.
pub async fn open(
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
    share: Option<Share>,
    tasks: &Tasks,
) -> hyper::Result<Sender> {
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_buf_size(BUFFER_MOST)
        .handshake(TokioIo::new(io))
        .await?;
    tasks.spawn(async move {
        // What goes wrong is told to the request that it goes wrong for.
        let _ = connection.await;
        drop(share);
    });
    Ok(sender)
}

/// The idle connections of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<HashMap<Key, Vec<Idle>>>,
}

/// What makes two connections interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    endpoint: u64,
    /// 0 for plain text.
    tls: u64,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

impl Key {
    /// For connections of `upstream` to the leased endpoint; `None` where one that has begun with a
    /// client's PROXY header is that client's alone.
    pub fn of(upstream: &Upstream, lease: &Lease) -> Option<Self> {
        let tls = upstream.tls.as_ref().map_or(0, |tls| tls.generation);
        (upstream.reach().send_proxy == SendProxy::Off).then(|| Self {
            endpoint: lease.endpoint().id,
            tls,
        })
    }
}

impl Pool {
    /// Takes the connection that was used last, if one is fit for a request.
    pub fn take(&self, key: Key) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&key)?;
        while let Some(Idle { sender, since }) = connections.pop() {
            if sender.is_ready() && since.elapsed() < IDLE_FOR {
                return Some(sender);
            }
        }
        None
    }

    /// Drops what has lain idle for too long.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|idle| now.duration_since(idle.since) < IDLE_FOR);
            !connections.is_empty()
        });
    }

    /// Drops everything; whether there was anything.
    pub fn clear(&self) -> bool {
        let idle = self.idle.take();
        !idle.is_empty()
    }

    fn put(&self, key: Key, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(key).or_default();
        if connections.len() < IDLE_MOST {
            connections.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }
}

/// What is known of a request's body while it is passed on.
#[derive(Debug)]
pub struct Upload {
    limit: Duration,
    progress: Cell<Instant>,
    /// Whether we wait for the client, rather than it for us.
    waiting: Cell<bool>,
    expired: Cell<bool>,
    broken: Cell<bool>,
}

impl Upload {
    /// When its last piece came, or it began.
    pub fn last_progress(&self) -> Instant {
        self.progress.get()
    }

    /// Whether it is the client that has to go on; [`RequestBody`] sees to that in its own time.
    pub fn is_waiting(&self) -> bool {
        self.waiting.get()
    }

    /// Whether it was given up because no piece came for too long.
    pub fn expired(&self) -> bool {
        self.expired.get()
    }

    /// Whether what the client sent is no body, or ended before its end.
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }
}

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// There is none.
    Empty,
    /// From the client, with a deadline for each piece.
    Upload {
        /// What the client sends.
        body: Incoming,
        /// Seen from outside, too.
        upload: Rc<Upload>,
        /// Wakes when the deadline has passed.
        alarm: Pin<Box<Sleep>>,
        /// Which fields may not come in trailers: those that may not come in the head.
        barred: Barred,
    },
}

/// Fields of a client's that do not go on.
#[derive(Debug, Clone)]
pub struct Barred(pub Rc<[HeaderName]>);

impl Barred {
    fn bars(&self, name: &HeaderName) -> bool {
        hop::is_never_a_trailer(name)
            || forwarding_names::is_forwarding(name)
            || self
                .0
                .iter()
                .any(|barred| same_variable(barred.as_str(), name.as_str()))
    }

    /// Takes them out of trailers.
    fn filter(&self, piece: Frame<Bytes>) -> Frame<Bytes> {
        let mut trailers = match piece.into_trailers() {
            Ok(trailers) => trailers,
            Err(piece) => return piece,
        };
        hop::remove_where(&mut trailers, |name| self.bars(name));
        Frame::trailers(trailers)
    }
}

/// The client sent no piece of its body for too long.
#[derive(Debug, thiserror::Error)]
#[error("no progress of the request's body")]
pub struct UploadStalled;

impl RequestBody {
    /// The client's body; each piece has to come within `limit` of the one before.
    /// Trailers have no fields that are `barred`.
    pub fn new(
        body: Incoming,
        limit: Duration,
        barred: impl FnOnce() -> Barred,
    ) -> (Self, Rc<Upload>) {
        let now = Instant::now();
        let upload = Rc::new(Upload {
            limit,
            progress: Cell::new(now),
            waiting: Cell::new(false),
            expired: Cell::new(false),
            broken: Cell::new(false),
        });
        if body.is_end_stream() {
            return (Self::Empty, upload);
        }
        let alarm = Box::pin(tokio::time::sleep_until(now + limit));
        (
            Self::Upload {
                body,
                upload: Rc::clone(&upload),
                alarm,
                barred: barred(),
            },
            upload,
        )
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// How long it is.
    pub fn length(&self) -> BodyLength {
        match (self, self.size_hint().exact()) {
            (Self::Empty, _) => BodyLength::Nothing,
            (_, Some(length)) => BodyLength::Known(length),
            (_, None) => BodyLength::Unknown,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self::Upload {
            body,
            upload,
            alarm,
            barred,
        } = self.get_mut()
        else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(piece) = Pin::new(body).poll_frame(cx) {
            upload.waiting.set(false);
            upload.progress.set(Instant::now());
            upload.broken.set(matches!(piece, Some(Err(_))));
            return Poll::Ready(piece.map(|piece| {
                let piece = piece.map(|piece| barred.filter(piece));
                piece.map_err(Into::into)
            }));
        }
        if !upload.waiting.replace(true) {
            alarm.as_mut().reset(Instant::now() + upload.limit);
        }
        ready!(alarm.as_mut().poll(cx));
        upload.expired.set(true);
        Poll::Ready(Some(Err(UploadStalled.into())))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload { body, .. } => body.size_hint(),
        }
    }
}

/// A connection that a request has, and where it goes afterwards.
#[derive(Debug)]
pub struct Loan {
    /// The connection.
    pub sender: Sender,
    /// The right to use its endpoint.
    pub lease: Lease,
    /// Where it is given back; `None` for one that must not be used again.
    pub home: Option<(Rc<Pool>, Key)>,
}

impl Loan {
    fn give_back(self) {
        if let Some((pool, key)) = self.home {
            pool.put(key, self.sender);
        }
    }
}

/// The body of an endpoint's reply on its way to the client. Holds the lease, and gives the
/// connection back when it has ended well.
#[derive(Debug)]
pub struct ReplyBody {
    body: Incoming,
    loan: Option<Loan>,
}

impl ReplyBody {
    /// The reply that came over `loan`.
    pub fn new(body: Incoming, loan: Loan) -> Self {
        let mut reply = Self {
            body,
            loan: Some(loan),
        };
        if reply.body.is_end_stream() {
            reply.end();
        }
        reply
    }

    fn end(&mut self) {
        if let Some(loan) = self.loan.take() {
            loan.give_back();
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let piece = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if piece.is_none() || self.body.is_end_stream() {
            self.end();
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
