//! The body of a request that came on an HTTP/2 stream.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// The body of a request. It goes to the task that forwards it, while the stream's own task has the [`UploadReader`].
#[derive(Debug)]
pub struct Upload(Rc<RefCell<IncomingBody>>);

/// Takes in what comes of a body, whether or not it is being forwarded. What stays with the connection frame by frame
/// costs far more memory than its bytes.
#[derive(Debug)]
pub struct UploadReader(Rc<RefCell<IncomingBody>>);

#[derive(Debug)]
struct IncomingBody {
    recv: RecvStream,
    /// What has come and is not forwarded yet. Its bound is the stream's window.
    bytes: BytesMut,
    end: BodyEnd,
    /// Whether the stream's own task takes in what comes.
    has_reader: bool,
    /// The number of bytes to come, if the client has announced it.
    left: Option<u64>,
    /// The task that forwards the body, if it waits.
    forwarder: Option<Waker>,
    demand: BodyDemand,
    /// The stream's own task, until the body is wanted.
    reader: Option<Waker>,
}

/// Whether the body is wanted: a client may wait to hear that (RFC 9110 section 10.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyDemand {
    NotYet,
    /// A task waits for it, and the client does not know yet.
    Wanted,
    Noted,
}

#[derive(Debug)]
enum BodyEnd {
    /// More will come.
    Open,
    /// All bytes have come, and trailers may.
    Trailers,
    /// Everything has come.
    Complete(Option<HeaderMap>),
    Broken(h2::Error),
    /// The end was passed on.
    Passed,
}

impl Upload {
    /// The body that comes on `recv`, with the length that the client has announced.
    pub fn new(recv: RecvStream, length: Option<u64>) -> (Self, UploadReader) {
        let incoming = Rc::new(RefCell::new(IncomingBody {
            end: match recv.is_end_stream() {
                true => BodyEnd::Passed,
                false => BodyEnd::Open,
            },
            recv,
            bytes: BytesMut::new(),
            has_reader: true,
            left: length,
            forwarder: None,
            demand: BodyDemand::NotYet,
            reader: None,
        }));
        (Self(Rc::clone(&incoming)), UploadReader(incoming))
    }
}

impl UploadReader {
    /// Takes in what has come, and has the task woken by what comes next.
    pub fn take_in(&self, cx: &mut Context<'_>) {
        let mut incoming = self.0.borrow_mut();
        if incoming.poll_in(cx).is_ready()
            && let Some(forwarder) = incoming.forwarder.take()
        {
            forwarder.wake();
        }
        if incoming.demand == BodyDemand::NotYet {
            incoming.reader = Some(cx.waker().clone());
        }
    }

    /// Whether a task has begun to wait for the body, of which nothing has come; once.
    pub fn is_awaited(&self) -> bool {
        let mut incoming = self.0.borrow_mut();
        let is_awaited = incoming.demand == BodyDemand::Wanted;
        if is_awaited {
            incoming.demand = BodyDemand::Noted;
        }
        is_awaited
    }
}

impl Drop for UploadReader {
    /// The response is complete, and the endpoint may still want the rest of the body: the task that forwards it has to
    /// take in what comes.
    fn drop(&mut self) {
        let mut incoming = self.0.borrow_mut();
        incoming.has_reader = false;
        if let Some(forwarder) = incoming.forwarder.take() {
            forwarder.wake();
        }
    }
}

impl IncomingBody {
    /// Ready if anything has come.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut has_come = false;
        loop {
            let polled = match self.end {
                BodyEnd::Open => self.recv.poll_data(cx).map(|data| match data {
                    Some(Ok(piece)) => self.bytes.extend_from_slice(&piece),
                    Some(Err(error)) => self.end = BodyEnd::Broken(error),
                    None => self.end = BodyEnd::Trailers,
                }),
                BodyEnd::Trailers => self.recv.poll_trailers(cx).map(|trailers| {
                    self.end = match trailers {
                        Ok(trailers) => BodyEnd::Complete(trailers),
                        Err(error) => BodyEnd::Broken(error),
                    };
                }),
                _ => Poll::Pending,
            };
            match polled {
                Poll::Ready(()) => has_come = true,
                Poll::Pending if has_come => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let mut incoming = self.0.borrow_mut();
        if incoming.demand == BodyDemand::NotYet {
            incoming.demand = match incoming.bytes.is_empty() {
                true => BodyDemand::Wanted,
                false => BodyDemand::Noted,
            };
            if let Some(reader) = incoming.reader.take() {
                reader.wake();
            }
        }
        if !incoming.has_reader {
            let _ = incoming.poll_in(cx);
        }
        if !incoming.bytes.is_empty() {
            let bytes = std::mem::take(&mut incoming.bytes).freeze();
            // It fails if the stream is gone, and then nothing waits for the credit.
            let _ = incoming.recv.flow_control().release_capacity(bytes.len());
            incoming.left = incoming
                .left
                .map(|left| left.saturating_sub(bytes.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match std::mem::replace(&mut incoming.end, BodyEnd::Passed) {
            BodyEnd::Complete(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            BodyEnd::Complete(None) | BodyEnd::Passed => Poll::Ready(None),
            BodyEnd::Broken(error) => Poll::Ready(Some(Err(error))),
            open => {
                incoming.end = open;
                incoming.forwarder = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let incoming = self.0.borrow();
        incoming.bytes.is_empty()
            && matches!(incoming.end, BodyEnd::Passed | BodyEnd::Complete(None))
    }

    fn size_hint(&self) -> SizeHint {
        let incoming = self.0.borrow();
        match (&incoming.end, incoming.left) {
            (BodyEnd::Passed, _) => SizeHint::with_exact(0),
            (_, Some(left)) => SizeHint::with_exact(left),
            (_, None) => SizeHint::default(),
        }
    }
}
