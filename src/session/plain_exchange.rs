//! Sending a plain request to an endpoint, up to the head of the response.

use std::rc::Rc;
use std::sync::Arc;

use ::http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::error::SessionError;
use super::routed::RoutedRequest;
use super::stream_record::StreamRecord;
use crate::protocol::interim_response;
use crate::protocol::rejection::Rejection;
use crate::streams::table::ExchangeSlot;
use crate::upstream::endpoint::Lease;
use crate::upstream::http::{
    InterimResponse, InterimResponses, RequestBody, RequestSender, UploadProgress,
};
use crate::upstream::unanswered::is_unanswered;

/// What passes between client and endpoint after the head of a request and before that of its response.
#[derive(Clone)]
pub(super) struct PlainExchange {
    /// Its place in the worker's table.
    pub(super) slot: Rc<ExchangeSlot<StreamRecord>>,
    /// The progress of the request's body.
    pub(super) upload: Rc<UploadProgress>,
    /// What the endpoint sends before its final response.
    pub(super) interim: Arc<InterimResponses>,
    /// Whether the client accepts interim responses.
    pub(super) has_interim: bool,
}

/// Why a request got no response.
pub(super) enum RequestFailure {
    /// No byte of the request was written: the request.
    Unsent(Box<Request<RequestBody>>),
    /// The endpoint closed the connection, or its response is not valid HTTP.
    NoResponse(hyper::Error),
    /// The client's request body is not valid, or ended early.
    UploadBroken(hyper::Error),
    /// The client stopped sending its request body.
    UploadStalled,
    /// The client's request body is larger than its limit.
    UploadTooLarge,
    /// The endpoint sent no response head in time.
    TooSlow,
}

impl RequestFailure {
    /// Whether the endpoint sent no byte of a response, and ended the connection instead.
    pub(super) fn is_unanswered(&self) -> bool {
        match self {
            Self::NoResponse(error) => {
                is_unanswered(error) || error.is_closed() || error.is_canceled()
            }
            _ => false,
        }
    }

    pub(super) fn into_error(self, lease: &Lease) -> SessionError {
        let endpoint = &lease.endpoint().label;
        match self {
            Self::Unsent(_) => closed_unsent(lease),
            Self::NoResponse(error) if error.is_parse_too_large() => SessionError {
                detail: Some(format!(
                    "{endpoint}: the head of the response is longer than 64 KiB, or has more lines than `limits.header_count` of the upstream"
                )),
                ..Rejection::BadAnswer.into()
            },
            Self::NoResponse(error) => {
                SessionError::caused_by(Rejection::BadAnswer, endpoint, &error)
            }
            Self::UploadBroken(error) => {
                SessionError::caused_by(Rejection::BadRequest, "request body", &error)
            }
            Self::UploadStalled => Rejection::RequestBodyTimeout.into(),
            Self::UploadTooLarge => Rejection::BodyTooLarge.into(),
            Self::TooSlow => SessionError {
                detail: Some(format!("{endpoint}: no response in time")),
                ..Rejection::ResponseTimeout.into()
            },
        }
    }
}

pub(super) fn closed_unsent(lease: &Lease) -> SessionError {
    let endpoint = &lease.endpoint().label;
    SessionError {
        detail: Some(format!("{endpoint}: closed before the request was sent")),
        ..Rejection::BadAnswer.into()
    }
}

/// Sends the request and waits for the response head, for `timeouts.response` after the last piece
/// of the request. While the client is still sending, the endpoint need not respond.
pub(super) async fn send(
    routed: &RoutedRequest<'_>,
    sender: &mut RequestSender,
    mut request: Request<RequestBody>,
    lease: &Lease,
    exchange: &PlainExchange,
) -> Result<Response<Incoming>, RequestFailure> {
    let limit = routed.upstream.timeouts().response;
    let PlainExchange {
        upload, interim, ..
    } = exchange;
    if exchange.has_interim {
        interim.watch(&mut request);
    }
    let mut response = std::pin::pin!(sender.try_send_request(request));
    let mut deadline = Instant::now() + limit;
    loop {
        // In this order: an interim response may come together with the final one.
        let answered = tokio::select! {
            biased;
            heads = interim.next() => {
                pass_on_interim(routed, lease, &heads).await;
                continue;
            }
            answered = tokio::time::timeout_at(deadline, &mut response) => answered,
        };
        match answered {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(mut failure)) => {
                return Err(match failure.take_message() {
                    Some(request) => RequestFailure::Unsent(Box::new(request)),
                    None if upload.expired() => RequestFailure::UploadStalled,
                    None if upload.is_too_large() => RequestFailure::UploadTooLarge,
                    None if upload.is_broken() => {
                        RequestFailure::UploadBroken(failure.into_error())
                    }
                    None => RequestFailure::NoResponse(failure.into_error()),
                });
            }
            Err(_) => {
                // Pieces of the body do not reset the timer, which would cost something each time.
                // When it goes off, the deadline moves to where the last piece puts it.
                let last = match sender.deaf_since() {
                    // More pieces are discarded: only an answer can still come.
                    Some(since) => since,
                    None if upload.is_waiting() => Instant::now(),
                    None => upload.last_progress(),
                };
                if last + limit <= deadline {
                    return Err(RequestFailure::TooSlow);
                }
                deadline = last + limit;
            }
        }
    }
}

/// Passes interim responses on to the client. Its connection ends if it does not read them.
async fn pass_on_interim(routed: &RoutedRequest<'_>, lease: &Lease, responses: &[InterimResponse]) {
    let edit = routed.response_edit(lease);
    let mut heads = Vec::new();
    for response in responses {
        interim_response::write(&mut heads, response.status, &response.headers, &edit);
    }
    routed.connection.interim.write(heads).await;
}
