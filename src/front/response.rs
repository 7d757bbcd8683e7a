//! The response to a client: an endpoint's, or our own.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::client_io::BusyGuard;
use crate::config::model::FixedResponse;
use crate::protocol::rejection::Rejection;
use crate::upstream::http::ResponseBody;

/// The header field with the stable token of a rejection.
const REASON: HeaderName = HeaderName::from_static("tidegate-reason");

/// Our response to a request that is rejected.
pub fn rejection(rejection: Rejection, reason_header: bool) -> Response<Content> {
    let mut response = Response::new(Content::of(rejection.text()));
    *response.status_mut() = rejection.status();
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    for (name, value) in rejection.headers() {
        headers.insert(name, value);
    }
    if rejection.closes() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if reason_header {
        headers.insert(REASON, HeaderValue::from_static(rejection.token()));
    }
    response
}

/// Our response to a request that is redirected.
pub fn redirect(status: StatusCode, location: HeaderValue) -> Response<Content> {
    let mut response = Response::new(Content::of(""));
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Our response to a request whose route leads to no upstream.
pub fn fixed(response: FixedResponse) -> Response<Content> {
    let FixedResponse {
        status,
        body,
        content_type,
        retry_after,
    } = response;
    let mut response = Response::new(Content::Own(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, content_type);
    }
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status == StatusCode::UPGRADE_REQUIRED {
        // Such a response must say which protocol is required (RFC 9110 section 15.5.22).
        for (name, value) in Rejection::WebSocketRequired.headers() {
            headers.insert(name, value);
        }
    }
    response
}

/// The content of a response.
#[derive(Debug)]
pub enum Content {
    /// Our own.
    Own(Bytes),
    /// An endpoint's response body.
    Endpoint(ResponseBody),
}

impl Content {
    fn of(text: &'static str) -> Self {
        Self::Own(Bytes::from_static(text.as_bytes()))
    }
}

/// The body of a response. The connection counts as busy until it has been sent: keep-alive begins
/// when the client has the whole response.
#[derive(Debug)]
pub struct ServedBody {
    content: Content,
    _busy: BusyGuard,
}

impl ServedBody {
    /// Keeps the connection busy while `content` is sent.
    pub fn new(content: Content, busy: BusyGuard) -> Self {
        Self {
            content,
            _busy: busy,
        }
    }
}

impl Body for ServedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.content {
            Content::Endpoint(body) => Pin::new(body).poll_frame(cx),
            Content::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Endpoint(body) => body.is_end_stream(),
            Content::Own(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Endpoint(body) => body.size_hint(),
            Content::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}
