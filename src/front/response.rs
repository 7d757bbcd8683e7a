//! The response to a client: an endpoint's, or our own.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::client_io::BusyGuard;
use crate::auth::service::ServiceRefusal;
use crate::config::model::FixedResponse;
use crate::observe::access_log::{self, RequestFacts};
use crate::protocol::header_case::write_field;
use crate::protocol::rejection::Rejection;
use crate::protocol::retry_after::{ClientWait, retry_after};
use crate::session::{Connection, Opening, SessionOutcome, StreamRecord};
use crate::streams::body::{BodyBroken, StreamBody};

/// The header field with the stable token of a rejection.
const REASON: HeaderName = HeaderName::from_static("tidegate-reason");

/// What a client gets for its request.
#[expect(
    clippy::large_enum_variant,
    reason = "most are responses, and each is taken apart at once"
)]
pub enum Answer {
    /// A response.
    Response(Response<Content>),
    /// A tunnel.
    Tunnel(Box<Opening>),
}

/// What the client gets as the result of a session. Rejections name their reason if `reason_header` is set.
pub fn answer(outcome: SessionOutcome, reason_header: bool) -> Answer {
    Answer::Response(match outcome {
        SessionOutcome::Tunnel(opening) => return Answer::Tunnel(opening),
        SessionOutcome::Response(response) => response.map(Content::Endpoint),
        SessionOutcome::Redirect(status, location) => redirect(status, location),
        SessionOutcome::Fixed(response) => fixed(response),
        SessionOutcome::Rejected(reason, wait) => rejection(reason, wait, reason_header),
        SessionOutcome::Refused(refused) => refusal(*refused, reason_header),
    })
}

/// Logs and counts a request that is rejected before it has a session, because its head cannot be read or served.
pub fn log_unserved(connection: &Connection, rejection: Rejection, detail: Option<&str>) {
    let facts = RequestFacts {
        session: connection.worker.next_session(),
        client: connection.peer,
        protocol: connection.protocol,
        listener: &connection.counts,
        route: None,
        is_handshake: false,
        request_id: None,
        trace: None,
        span: None,
        method: None,
        host: None,
        path: None,
        started: Instant::now(),
    };
    access_log::request_rejected(&connection.worker.recorder, facts, rejection, detail);
}

/// Our response to a request that is rejected; the client may have to wait before it comes back.
pub fn rejection(rejection: Rejection, wait: ClientWait, reason_header: bool) -> Response<Content> {
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
    if let Some(seconds) = retry_after(rejection, wait, fastrand::f64()) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if rejection.closes() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if reason_header {
        headers.insert(REASON, HeaderValue::from_static(rejection.token()));
    }
    response
}

/// The response of a service that has refused the request.
fn refusal(refusal: ServiceRefusal, reason_header: bool) -> Response<Content> {
    let ServiceRefusal {
        status,
        fields,
        body,
    } = refusal;
    let denied = Rejection::AuthDenied;
    let mut response = match body {
        Some(body) => Response::new(Content::Own(body)),
        None => rejection(denied, ClientWait::default(), false),
    };
    let has_own_text = !response.headers().is_empty();
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in fields {
        // What describes the body of the service does not describe our own.
        if !(has_own_text && name.as_str().starts_with("content-")) {
            headers.append(name, value);
        }
    }
    if reason_header {
        headers.insert(REASON, HeaderValue::from_static(denied.token()));
    }
    response
}

/// A rejection as bytes, for a request that hyper could not read: the connection ends with it.
pub fn last_rejection(rejected: Rejection, reason_header: bool) -> Vec<u8> {
    let mut response = rejection(rejected, ClientWait::default(), reason_header);
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(rejected.text().len()));
    if let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
        headers.insert(DATE, now);
    }
    for (name, value) in headers {
        write_field(&mut bytes, name, value.as_bytes(), None);
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(rejected.text().as_bytes());
    bytes
}

/// Our response to a request that is redirected.
fn redirect(status: StatusCode, location: HeaderValue) -> Response<Content> {
    let mut response = Response::new(Content::of(""));
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Our response to a request whose route leads to no upstream.
fn fixed(response: FixedResponse) -> Response<Content> {
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
    Endpoint(StreamBody<StreamRecord>),
}

impl Content {
    fn of(text: &'static str) -> Self {
        Self::Own(Bytes::from_static(text.as_bytes()))
    }

    /// Notes that all pieces that have come are on their way to the client.
    pub fn note_passed_on(&self) {
        match self {
            Self::Own(_) => {}
            Self::Endpoint(body) => body.note_passed_on(),
        }
    }

    /// Whether the response is to be broken off although the client accepts no more of it.
    pub fn is_broken_off(&self) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Endpoint(body) => body.exchange().is_broken_off(),
        }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        match self.get_mut() {
            Self::Endpoint(body) => Pin::new(body).poll_frame(cx),
            Self::Own(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Own(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Endpoint(body) => body.is_end_stream(),
            Self::Own(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Endpoint(body) => body.size_hint(),
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// The body of a response. The connection counts as busy until it has been sent: keep-alive begins
/// when the client has the whole response.
#[derive(Debug)]
pub struct ServedBody {
    content: Content,
    busy: BusyGuard,
}

impl ServedBody {
    /// Keeps the connection busy while `content` is sent.
    pub fn new(content: Content, busy: BusyGuard) -> Self {
        if let Content::Endpoint(body) = &content {
            busy.serves(body.exchange());
        }
        Self { content, busy }
    }
}

impl Body for ServedBody {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        let piece = ready!(Pin::new(&mut self.content).poll_frame(cx));
        match &piece {
            Some(Err(_)) => self.busy.broke_off(),
            // hyper has it now, and does not ask again after the last one.
            Some(Ok(_)) => self.content.note_passed_on(),
            None => {}
        }
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
