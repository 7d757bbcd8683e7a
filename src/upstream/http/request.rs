//! The body of a plain request on its way to an endpoint.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::interim::{BodyRefused, InterimResponses, PERMISSION_TIMEOUT};
use super::merged::MergedBody;
use crate::config::model::same_variable;
use crate::net::client_body::ClientBody;
use crate::protocol::hop_by_hop::BodyLength;
use crate::protocol::{forwarding_names, hop_by_hop};

/// The limits of a request body.
#[derive(Debug, Clone, Copy)]
pub struct UploadLimits {
    /// The longest time between two pieces.
    pub silence: Duration,
    /// The maximum size in bytes; `None` for no limit.
    pub bytes: Option<u64>,
}

/// The progress of a request body, readable while hyper owns the body.
#[derive(Debug)]
pub struct UploadProgress {
    limits: UploadLimits,
    has_body: bool,
    /// The bytes that have arrived so far.
    arrived: Cell<u64>,
    too_large: Cell<bool>,
    /// What to do when the body becomes larger than its limit after the response has begun.
    when_too_large: Notice,
    progress: Cell<Instant>,
    /// Whether the next piece has to come from the client. Otherwise the endpoint accepts no more, and
    /// the client is not to blame.
    waiting: Cell<bool>,
    expired: Cell<bool>,
    broken: Cell<bool>,
}

/// What to do once, if it comes to that.
#[derive(Default)]
struct Notice(Cell<Option<Box<dyn FnOnce()>>>);

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notice")
    }
}

impl UploadProgress {
    /// Calls the notice if the body becomes larger than its limit from now on: the session has ended with the head
    /// of the response, and cannot respond to that. It is made only for a body that may become too large.
    pub fn when_too_large<N: FnOnce() + 'static>(&self, notice: impl FnOnce() -> N) {
        if self.has_body && self.limits.bytes.is_some() {
            self.when_too_large.0.set(Some(Box::new(notice())));
        }
    }

    /// When the last piece arrived, or the body began.
    pub fn last_progress(&self) -> Instant {
        self.progress.get()
    }

    /// Whether the next piece has to come from the client. [`RequestBody`] enforces the deadline then.
    pub fn is_waiting(&self) -> bool {
        self.waiting.get()
    }

    /// Whether the body was aborted because no piece arrived in time.
    pub fn expired(&self) -> bool {
        self.expired.get()
    }

    /// Whether the body was aborted because it is larger than its limit.
    pub fn is_too_large(&self) -> bool {
        self.too_large.get()
    }

    /// Whether the body is still within its limit with this piece.
    fn admits(&self, piece: &Frame<Bytes>) -> bool {
        let length = piece.data_ref().map_or(0, |data| data.len() as u64);
        let arrived = self.arrived.get().saturating_add(length);
        self.arrived.set(arrived);
        self.limits.bytes.is_none_or(|max| arrived <= max)
    }

    /// The bytes that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived.get()
    }

    /// Whether the client sent an invalid or incomplete body.
    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }
}

/// The progress of a body, for the one who sends it.
#[derive(Debug)]
pub struct UploadReporter(Rc<UploadProgress>);

impl Drop for UploadReporter {
    fn drop(&mut self) {
        // The endpoint accepts no more of it, or has all of it.
        self.0.waiting.set(false);
    }
}

/// The body of a request on its way to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    /// No body.
    Empty,
    /// A body from the client, with a deadline for each piece.
    Upload {
        /// The body as the client sends it, but for small pieces.
        body: Box<MergedBody<ClientBody>>,
        /// Its progress, shared with the session.
        upload: UploadReporter,
        /// Wakes the task at the deadline.
        alarm: Pin<Box<Sleep>>,
        /// The fields that are removed from trailers: those that are removed from the head, too.
        blocked: BlockedFields,
        /// Where the endpoint permits the body, as long as it has not.
        held: Option<HeldBody>,
    },
}

/// A body that waits for the endpoint's permission.
#[derive(Debug)]
pub struct HeldBody {
    interim: Arc<InterimResponses>,
    /// Whether the time for a decision runs: hyper has written the head, and asks for the body.
    is_timed: bool,
}

impl HeldBody {
    /// Waits for the permission, or for the time after which none is needed.
    fn poll_permitted(
        &mut self,
        mut alarm: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BodyRefused>> {
        if let Poll::Ready(decided) = self.interim.poll_permission(cx) {
            return Poll::Ready(decided);
        }
        if !self.interim.is_undecided() {
            return Poll::Pending;
        }
        if !std::mem::replace(&mut self.is_timed, true) {
            alarm.as_mut().reset(Instant::now() + PERMISSION_TIMEOUT);
        }
        ready!(alarm.poll(cx));
        self.interim.permit_body();
        Poll::Ready(Ok(()))
    }
}

/// Fields of a client that are not forwarded.
#[derive(Debug, Clone)]
pub struct BlockedFields(pub Rc<[HeaderName]>);

impl BlockedFields {
    fn blocks(&self, name: &HeaderName) -> bool {
        hop_by_hop::is_never_a_trailer(name)
            || forwarding_names::is_forwarding(name)
            || self
                .0
                .iter()
                .any(|blocked| same_variable(blocked.as_str(), name.as_str()))
    }

    /// Removes the fields from trailers. Otherwise a client could send as a trailer what it cannot send
    /// in the head, and many servers merge the two.
    fn filter(&self, piece: Frame<Bytes>) -> Frame<Bytes> {
        let mut trailers = match piece.into_trailers() {
            Ok(trailers) => trailers,
            Err(piece) => return piece,
        };
        hop_by_hop::remove_where(&mut trailers, |name| self.blocks(name));
        Frame::trailers(trailers)
    }
}

/// The client sent no piece of the request body in time.
#[derive(Debug, thiserror::Error)]
#[error("the request body made no progress")]
pub struct UploadStalled;

/// The request body is larger than its limit.
#[derive(Debug, thiserror::Error)]
#[error("the request body is larger than `limits.body_bytes`")]
pub struct UploadTooLarge;

impl RequestBody {
    /// The body of the client, within these limits. The `blocked` fields are removed from its trailers.
    pub fn new(
        body: ClientBody,
        limits: UploadLimits,
        blocked: impl FnOnce() -> BlockedFields,
    ) -> (Self, Rc<UploadProgress>) {
        let now = Instant::now();
        let upload = Rc::new(UploadProgress {
            limits,
            has_body: !body.is_end_stream(),
            arrived: Cell::new(0),
            too_large: Cell::new(false),
            when_too_large: Notice::default(),
            progress: Cell::new(now),
            waiting: Cell::new(false),
            expired: Cell::new(false),
            broken: Cell::new(false),
        });
        if !upload.has_body {
            return (Self::Empty, upload);
        }
        let alarm = Box::pin(tokio::time::sleep_until(now + limits.silence));
        (
            Self::Upload {
                body: Box::new(MergedBody::new(body)),
                upload: UploadReporter(Rc::clone(&upload)),
                alarm,
                blocked: blocked(),
                held: None,
            },
            upload,
        )
    }

    /// Holds the body back until the endpoint permits it.
    pub fn hold(&mut self, interim: &Arc<InterimResponses>) {
        if let Self::Upload { held, .. } = self {
            *held = Some(HeldBody {
                interim: Arc::clone(interim),
                is_timed: false,
            });
        }
    }

    /// Whether the body is held back.
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Upload { held: Some(_), .. })
    }

    /// Whether there is no body.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// The length of the body.
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
            blocked,
            held,
        } = self.get_mut()
        else {
            return Poll::Ready(None);
        };
        let upload = &*upload.0;
        if let Some(waiting) = held {
            if let Err(refused) = ready!(waiting.poll_permitted(alarm.as_mut(), cx)) {
                return Poll::Ready(Some(Err(refused.into())));
            }
            *held = None;
        }
        if let Poll::Ready(piece) = Pin::new(&mut **body).poll_frame(cx) {
            upload.waiting.set(false);
            upload.progress.set(Instant::now());
            upload.broken.set(matches!(piece, Some(Err(_))));
            if let Some(Ok(piece)) = &piece
                && !upload.admits(piece)
            {
                upload.too_large.set(true);
                if let Some(notice) = upload.when_too_large.0.take() {
                    notice();
                }
                return Poll::Ready(Some(Err(UploadTooLarge.into())));
            }
            return Poll::Ready(piece.map(|piece| {
                let piece = piece.map(|piece| blocked.filter(piece));
                piece.map_err(Into::into)
            }));
        }
        if body.holds_bytes() {
            return Poll::Pending;
        }
        // The deadline begins when the wait begins, not with the last piece: while the endpoint accepted
        // nothing, hyper did not poll, and that time is not the client's.
        if !upload.waiting.replace(true) {
            alarm.as_mut().reset(Instant::now() + upload.limits.silence);
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
