//! The body of a response as the client gets it: it ends when its exchange has to.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::ended::StreamEnded;
use super::exchange::{Exchange, StreamOwner};
use super::table::ExchangeSlot;
use crate::protocol::event_stream::EventPosition;
use crate::upstream::http::ResponseBody;

/// Why the body of a response broke off: the client must not take it for complete.
#[derive(Debug, thiserror::Error)]
pub enum BodyBroken {
    /// The endpoint's response broke.
    #[error(transparent)]
    Endpoint(#[from] hyper::Error),
    /// tidegate ended the stream in the middle of its body.
    #[error("the stream was ended: {0}")]
    Ended(StreamEnded),
}

/// The body of a response as the client gets it. An event stream that has to end does so between two events, and
/// is complete then; any other body breaks off.
#[derive(Debug)]
pub struct StreamBody<O: StreamOwner> {
    /// `None` once it has ended. Without it the connection to the endpoint is closed.
    body: Option<ResponseBody>,
    /// The position, if it is an event stream.
    events: Option<EventPosition>,
    /// Whether the last piece has come.
    has_last: bool,
    slot: Rc<ExchangeSlot<O>>,
}

impl<O: StreamOwner> StreamBody<O> {
    /// The body of a response with this status, which may be an event stream by its headers.
    pub fn new(
        body: ResponseBody,
        status: u16,
        is_event_stream: bool,
        slot: Rc<ExchangeSlot<O>>,
    ) -> Self {
        // A body with a known length would not be complete if it ended earlier.
        let is_event_stream = is_event_stream && body.size_hint().exact().is_none();
        slot.exchange().responded(status, is_event_stream);
        if body.is_end_stream() {
            slot.exchange().set_outcome(StreamEnded::Complete);
        }
        Self {
            body: Some(body),
            events: is_event_stream.then(EventPosition::default),
            has_last: false,
            slot,
        }
    }

    /// The exchange that it belongs to.
    pub fn exchange(&self) -> &Rc<Exchange<O>> {
        self.slot.exchange()
    }

    /// Notes that all pieces that have come are on their way to the client. Only with the last one is the response
    /// complete: a client that leaves before has not got it.
    pub fn note_passed_on(&self) {
        if self.has_last {
            self.slot.exchange().set_outcome(StreamEnded::Complete);
        }
    }

    /// Ends the body if its exchange has to end now.
    fn poll_verdict(&mut self) -> Poll<PolledPiece> {
        let exchange = self.slot.exchange();
        let Some(reason) = exchange.verdict().filter(|_| self.body.is_some()) else {
            return Poll::Pending;
        };
        let is_orderly = matches!(reason, StreamEnded::Forced(_));
        if self.events.is_some_and(|it| it.is_between_events()) && is_orderly {
            self.end(reason);
            return Poll::Ready(None);
        }
        if exchange.is_broken_off() {
            self.end(reason);
            return Poll::Ready(Some(Err(BodyBroken::Ended(reason))));
        }
        Poll::Pending
    }

    /// Passes on a piece: of an event stream that has to end, only up to the end of the event.
    fn pass(&mut self, piece: Frame<Bytes>) -> Frame<Bytes> {
        let exchange = self.slot.exchange();
        let verdict = exchange.verdict();
        let data = match piece.into_data() {
            Ok(data) => data,
            Err(trailers) => return trailers,
        };
        let mut length = data.len();
        if let Some(events) = &mut self.events {
            match verdict {
                None => events.advance(&data),
                Some(reason) => {
                    if let Some(end) = events.advance_to_end_of_event(&data) {
                        length = end;
                        self.end(reason);
                    }
                }
            }
        }
        self.slot.exchange().count(length);
        Frame::data(data.slice(..length))
    }

    fn end(&mut self, outcome: StreamEnded) {
        self.slot.exchange().set_outcome(outcome);
        self.body = None;
    }
}

/// What a body returns: a piece, trailers, an error, or its end.
type PolledPiece = Option<Result<Frame<Bytes>, BodyBroken>>;

impl<O: StreamOwner> Body for StreamBody<O> {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<PolledPiece> {
        // Each time: a client that accepts no more keeps the task from asking again.
        self.slot.exchange().set_waker(cx.waker());
        if let Poll::Ready(end) = self.poll_verdict() {
            return Poll::Ready(end);
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let piece = match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(piece) => piece,
            Poll::Pending => {
                self.slot.exchange().awaits_endpoint();
                return Poll::Pending;
            }
        };
        let is_last = body.is_end_stream();
        Poll::Ready(match piece {
            Some(Ok(piece)) => {
                self.has_last = is_last || piece.is_trailers();
                Some(Ok(self.pass(piece)))
            }
            Some(Err(error)) => {
                self.end(StreamEnded::UpstreamReset);
                Some(Err(error.into()))
            }
            None => {
                self.slot.exchange().set_outcome(StreamEnded::Complete);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(ResponseBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
