//! The sending half of a plain connection to an endpoint.

use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::request::RequestBody;
use crate::upstream::unanswered::AnswerState;

/// A connection that can send a request.
#[derive(Debug)]
pub struct RequestSender {
    sender: SendRequest<RequestBody>,
    /// Shared with the connection, which notes the first byte of an answer, and the end of its other direction.
    state: Rc<AnswerState>,
}

impl RequestSender {
    pub(super) fn new(sender: SendRequest<RequestBody>, state: Rc<AnswerState>) -> Self {
        Self { sender, state }
    }

    /// Whether a request can be sent now.
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready() && !self.state.is_deaf()
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.state.is_deaf()
    }

    /// Since when the endpoint accepts no more bytes, if it does not. What is written is discarded then.
    pub fn deaf_since(&self) -> Option<Instant> {
        self.state.deaf_since.get()
    }

    /// Sends a request, and waits for the head of its response.
    ///
    /// # Errors
    /// hyper's error, with the request if no byte of it was written. The error is
    /// [unanswered](crate::upstream::unanswered::is_unanswered) if the connection ended before any byte of a
    /// response.
    pub fn try_send_request(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.state.is_awaited.set(true);
        self.sender.try_send_request(request)
    }
}
