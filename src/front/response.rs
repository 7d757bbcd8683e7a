//! The response to a client: an endpoint's, or our own.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, LOCATION};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::client_io::BusyGuard;
use crate::protocol::rejection::Rejection;
use crate::upstream::http::ResponseBody;

/// The header field with the stable token of a rejection.
const REASON: HeaderName = HeaderName::from_static("tidegate-reason");

/// Our response to a request that is rejected.
pub fn rejection(rejection: Rejection, reason_header: bool) -> Response<Content> {
    let mut response = Response::new(Content::Text(rejection.text()));
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
    let mut response = Response::new(Content::Text(""));
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// The content of a response.
#[derive(Debug)]
pub enum Content {
    /// Our own text.
    Text(&'static str),
    /// An endpoint's response body.
    Endpoint(ResponseBody),
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
            Content::Text("") => Poll::Ready(None),
            Content::Text(text) => {
                let text = std::mem::take(text);
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Endpoint(body) => body.is_end_stream(),
            Content::Text(text) => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Endpoint(body) => body.size_hint(),
            Content::Text(text) => SizeHint::with_exact(text.len() as u64),
        }
    }
}
