//! The body of a request on its way to an endpoint.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, Sleep};

use crate::config::model::same_variable;
use crate::protocol::hop::BodyLength;
use crate::protocol::{forwarding_names, hop};

/// A connection that can take a request.
pub type RequestSender = SendRequest<RequestBody>;

/// What is known of a request's body while it is passed on.
#[derive(Debug)]
pub struct UploadProgress {
    limit: Duration,
    progress: Cell<Instant>,
    /// Whether we wait for the client, rather than it for us.
    waiting: Cell<bool>,
    expired: Cell<bool>,
    broken: Cell<bool>,
}

impl UploadProgress {
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
        upload: Rc<UploadProgress>,
        /// Wakes when the deadline has passed.
        alarm: Pin<Box<Sleep>>,
        /// Which fields may not come in trailers: those that may not come in the head.
        barred: BlockedFields,
    },
}

/// Fields of a client's that do not go on.
#[derive(Debug, Clone)]
pub struct BlockedFields(pub Rc<[HeaderName]>);

impl BlockedFields {
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
        barred: impl FnOnce() -> BlockedFields,
    ) -> (Self, Rc<UploadProgress>) {
        let now = Instant::now();
        let upload = Rc::new(UploadProgress {
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
