//! Plain HTTP: a request is forwarded and its response passed back, both streaming.
//!
//! Long polling and event streams come this way, so nothing is buffered, in either direction.

use std::rc::Rc;
use std::sync::Arc;

use ::http::header::{CONNECTION, EXPECT, HOST};
use ::http::request::Parts;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use super::attempts::Attempts;
use super::error::{SessionError, Unserved};
use super::incoming::IncomingRequest;
use super::outcome::SessionOutcome;
use super::plain_exchange::{PlainExchange, RequestFailure, closed_unsent, send};
use super::routed::{RequestOnRoute, RoutedRequest};
use super::stream_record::StreamRecord;
use crate::net::client_body::ClientBody;
use crate::observe::access_log;
use crate::protocol::edit::Edit;
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;
use crate::protocol::{connection_auth, event_stream, forwarded, hop_by_hop};
use crate::snapshot::Route;
use crate::streams::body::StreamBody;
use crate::streams::table::ExchangeSlot;
use crate::upstream::endpoint::Lease;
use crate::upstream::http::{
    self, BlockedFields, BorrowedConnection, InterimResponses, PoolKey, RefusedBody, RequestBody,
    RequestSender, ResponseBody, ReturnTo, UploadLimits,
};

/// A plain request of which no byte was written yet.
pub(super) struct PlainRequest {
    request: Request<RequestBody>,
    exchange: PlainExchange,
}

impl PlainRequest {
    /// Its place in the worker's table.
    pub(super) fn slot(&self) -> Rc<ExchangeSlot<StreamRecord>> {
        Rc::clone(&self.exchange.slot)
    }

    /// The request that the client sends, if its body may be forwarded.
    pub(super) fn new(
        on_route: &RequestOnRoute<'_>,
        edit: &Edit<'_>,
        parts: Parts,
        body: ClientBody,
    ) -> Result<Self, SessionError> {
        if !hop_by_hop::is_plain_or_chunked(&parts.headers) {
            return Err(Rejection::TransferCoding.into());
        }
        let limits = UploadLimits {
            silence: on_route.incoming.connection.timeouts.request_body,
            bytes: on_route.route.settings.max_body,
        };
        // Before anything is sent, if the client has said how much will come.
        let announced = body.size_hint().lower();
        if limits.bytes.is_some_and(|max| announced > max) {
            return Err(Rejection::BodyTooLarge.into());
        }
        // HTTP/1.0 has neither interim responses nor expectations.
        let has_interim = parts.version == Version::HTTP_11;
        let expects = has_interim && hop_by_hop::expects_continue(&parts.headers);
        let (mut body, upload) = RequestBody::new(body, limits, || {
            BlockedFields(edit.blocked().cloned().collect())
        });
        let interim = InterimResponses::new(expects && !body.is_empty());
        if expects {
            body.hold(&interim);
        }
        let slot = enter(on_route.incoming, on_route.target, on_route.route);
        if !body.is_empty() {
            slot.exchange().set_upload(&upload);
        }
        Ok(Self {
            request: Request::from_parts(parts, body),
            exchange: PlainExchange {
                slot,
                upload,
                interim,
                has_interim,
            },
        })
    }
}

/// Enters an exchange into the worker's table.
pub(super) fn enter(
    incoming: &IncomingRequest<'_>,
    target: &Target,
    route: &Route,
) -> Rc<ExchangeSlot<StreamRecord>> {
    let (connection, facts) = (incoming.connection, incoming.facts());
    let (worker, settings) = (&connection.worker, &route.settings);
    let (listener, name) = (&connection.counts, &settings.name);
    let record = StreamRecord::new(&worker.recorder, &facts, listener, name, target)
        .of_subject(incoming.subject_tag());
    let exchange = worker
        .exchanges
        .enter(record, settings.stream_limits, facts.started);
    Rc::new(exchange)
}

/// Notes that the request goes to the leased endpoint.
pub(super) fn asks(routed: &RoutedRequest<'_>, slot: &ExchangeSlot<StreamRecord>, lease: &Lease) {
    let exchange = slot.exchange();
    exchange.owner.lead_to(lease.endpoint());
    exchange.asked(routed.upstream.timeouts().body);
}

/// Forwards the request and passes the response back.
pub(super) async fn proxy(
    routed: &RoutedRequest<'_>,
    plain: PlainRequest,
) -> Result<SessionOutcome, Unserved<PlainRequest>> {
    let PlainRequest {
        mut request,
        exchange,
    } = plain;
    let unserved = |error, unsent: Option<Request<RequestBody>>| {
        let exchange = exchange.clone();
        let unsent = unsent.map(|request| PlainRequest { request, exchange });
        Unserved { error, unsent }
    };
    let mut attempts = Attempts::new(routed);
    let mut is_repeated = false;
    let mut lease = match attempts.next().await {
        Ok(lease) => lease,
        Err(error) => return Err(unserved(error, Some(request))),
    };
    loop {
        prepare(routed, &mut request, &lease)?;
        asks(routed, &exchange.slot, &lease);
        let repeatable_copy = repeatable_copy(&request);
        let outgoing = Outgoing {
            request,
            copy: repeatable_copy.as_ref(),
            exchange: &exchange,
        };
        let attempt = try_endpoint(routed, &mut attempts, &lease, outgoing).await;
        if let PlainAttempt::Responded(response, _) = &attempt {
            routed.responded(lease.endpoint(), response.status());
        }
        let next = repeatable_copy
            .and_then(|copy| Some((copy, next_after(&attempt, &mut attempts, &lease)?)));
        match (next, attempt) {
            (Some(next), _) => {
                (request, lease) = next;
                is_repeated = true;
            }
            (None, PlainAttempt::Responded(response, connection)) => {
                return Ok(finish(routed, response, connection, lease, &exchange).await?);
            }
            (None, PlainAttempt::Failed(failure)) => return Err(failure.into_error(&lease).into()),
            (None, PlainAttempt::NotReached(unsent, was_sent)) => {
                // Dropped first: the next pick must not count an attempt on this endpoint any more.
                drop(lease);
                request = *unsent;
                is_repeated |= was_sent;
                lease = match attempts.next().await {
                    Ok(lease) => lease,
                    Err(error) => {
                        let is_unsent = !is_repeated && !attempts.found_full();
                        return Err(unserved(error, is_unsent.then_some(request)));
                    }
                };
            }
        }
    }
}

/// Leases another endpoint, if a request that may be sent twice is to be sent again.
fn next_after(attempt: &PlainAttempt, attempts: &mut Attempts<'_>, lease: &Lease) -> Option<Lease> {
    match attempt {
        PlainAttempt::Responded(response, _) => {
            attempts.retry_after_status(lease, response.status())
        }
        PlainAttempt::Failed(RequestFailure::TooSlow) => attempts.retry_after_timeout(lease),
        PlainAttempt::Failed(failure) if failure.is_unanswered() => {
            attempts.retry_after_close(lease)
        }
        PlainAttempt::Failed(_) | PlainAttempt::NotReached(..) => None,
    }
}

/// A request on its way to an endpoint.
struct Outgoing<'a> {
    request: Request<RequestBody>,
    /// A copy of it, if it may be sent twice.
    copy: Option<&'a Request<RequestBody>>,
    exchange: &'a PlainExchange,
}

/// The result of one attempt.
enum PlainAttempt {
    Responded(Response<Incoming>, UsedConnection),
    Failed(RequestFailure),
    /// No byte of the request was written to a new connection: the request, and whether it was sent over an idle
    /// one before, which ended without a response.
    NotReached(Box<Request<RequestBody>>, bool),
}

/// The connection that a response came over.
struct UsedConnection {
    sender: RequestSender,
    /// Whether it is or becomes the client's own, because it is authenticated.
    is_reserved: bool,
    /// Set if the endpoint has responded without the body.
    refused: Option<RefusedBody>,
}

impl UsedConnection {
    /// After `response`, which may have begun the authentication.
    fn after(
        response: &Response<Incoming>,
        sender: RequestSender,
        is_reserved: bool,
        exchange: &PlainExchange,
    ) -> Self {
        let begins = connection_auth::is_in_response(response.headers());
        Self {
            sender,
            is_reserved: is_reserved || begins,
            refused: exchange.interim.finish(),
        }
    }
}

/// Sends the request to the leased endpoint, over an idle connection or a new one.
async fn try_endpoint(
    routed: &RoutedRequest<'_>,
    attempts: &mut Attempts<'_>,
    lease: &Lease,
    outgoing: Outgoing<'_>,
) -> PlainAttempt {
    let Outgoing {
        mut request,
        copy,
        exchange,
    } = outgoing;
    let worker = &routed.connection.worker;
    let authenticates = connection_auth::is_in_request(request.headers());
    let reserved = routed.connection.reserved.take(routed.upstream, lease);
    let is_reserved = reserved.is_some() || authenticates;
    let pooled = || worker.pool.take(PoolKey::of(routed.upstream, lease)?);
    let mut was_sent = false;
    if let Some(mut sender) = reserved.or_else(pooled) {
        // The endpoint may be closing a connection that was used before right now (RFC 9112 section
        // 9.3.1). A request that it cannot have acted on is sent again.
        match send(routed, &mut sender, request, lease, exchange).await {
            Ok(response) => {
                let used = UsedConnection::after(&response, sender, is_reserved, exchange);
                return PlainAttempt::Responded(response, used);
            }
            Err(RequestFailure::Unsent(unsent)) => request = *unsent,
            Err(failure) => match copy.filter(|_| failure.is_unanswered()) {
                Some(copy) => {
                    request = copy_of(copy);
                    was_sent = true;
                }
                None => return PlainAttempt::Failed(failure),
            },
        }
    }
    let Some(reached) = attempts.connect(lease).await else {
        return PlainAttempt::NotReached(Box::new(request), was_sent);
    };
    let max_lines = routed.upstream.settings.max_header_lines;
    match http::open(reached.stream, reached.port, max_lines, &worker.tasks).await {
        Err(error) => PlainAttempt::Failed(RequestFailure::NoResponse(error)),
        Ok(mut sender) => match send(routed, &mut sender, request, lease, exchange).await {
            Ok(response) => {
                let used = UsedConnection::after(&response, sender, authenticates, exchange);
                PlainAttempt::Responded(response, used)
            }
            Err(RequestFailure::Unsent(unsent)) => {
                attempts.note(closed_unsent(lease));
                PlainAttempt::NotReached(unsent, was_sent)
            }
            Err(failure) => PlainAttempt::Failed(failure),
        },
    }
}

/// A copy of the request, if it may be sent twice: GET or HEAD, which are safe (RFC 9110 section
/// 9.2.1), without a body, which could be read only once.
fn repeatable_copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    (safe && request.body().is_empty()).then(|| copy_of(request))
}

/// A copy of the request, without its body.
fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

/// Turns the client's request into ours to this endpoint.
fn prepare(
    routed: &RoutedRequest<'_>,
    request: &mut Request<RequestBody>,
    lease: &Lease,
) -> Result<(), SessionError> {
    *request.uri_mut() = routed.uri.parse().map_err(|_| Rejection::BadTarget)?;
    *request.version_mut() = Version::HTTP_11;
    let (length, is_held) = (request.body().length(), request.body().is_held());
    let headers = request.headers_mut();
    // The order matters: what a client sent under names of ours is gone before we write them, and
    // the configured changes come last, so that they can override all of it but the `Host`.
    hop_by_hop::strip_request(headers);
    hop_by_hop::frame_request(headers, length);
    if is_held {
        headers.insert(EXPECT, hop_by_hop::CONTINUE);
    }
    forwarded::write(headers, &routed.forwarding());
    routed.request_edit.apply(headers);
    let host = routed.host_for(lease);
    headers.insert(
        HOST,
        HeaderValue::from_str(&host).map_err(|_| Rejection::BadHost)?,
    );
    Ok(())
}

/// Passes back the response of the leased endpoint. Its connection serves further requests after that, if it can.
async fn finish(
    routed: &RoutedRequest<'_>,
    response: Response<Incoming>,
    connection: UsedConnection,
    lease: Lease,
    exchange: &PlainExchange,
) -> Result<SessionOutcome, SessionError> {
    let store = match connection.is_reserved {
        true => ReturnTo::Client(Rc::clone(&routed.connection.reserved)),
        false => ReturnTo::Pool(Rc::clone(&routed.connection.worker.pool)),
    };
    let return_to = PoolKey::of(routed.upstream, &lease).map(|key| (store, key));
    // Without the body, the next request would be read as a part of it.
    let return_to = return_to.filter(|_| connection.refused.is_none());
    let outcome = pass_back(
        routed,
        response,
        BorrowedConnection {
            sender: connection.sender,
            lease,
            return_to,
            refused: connection.refused,
        },
        Rc::clone(&exchange.slot),
    )
    .await?;
    exchange
        .upload
        .when_too_large(|| access_log::body_cut_off(&routed.facts));
    Ok(outcome)
}

/// Turns an endpoint's response into ours to the client.
pub(super) async fn pass_back(
    routed: &RoutedRequest<'_>,
    response: Response<Incoming>,
    connection: BorrowedConnection,
    slot: Rc<ExchangeSlot<StreamRecord>>,
) -> Result<SessionOutcome, SessionError> {
    let (mut parts, body) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Rejection::UnexpectedSwitch.into());
    }
    if let Some(fault) = hop_by_hop::framing_error(&parts.headers) {
        return Err(SessionError {
            detail: Some(format!("{}: {fault}", connection.lease.endpoint().label)),
            ..Rejection::BadAnswer.into()
        });
    }
    hop_by_hop::strip_response(&mut parts.headers);
    let is_event_stream = event_stream::is_event_stream(&parts.headers);
    let endpoint = Arc::clone(connection.lease.endpoint());
    routed
        .response_edit(&connection.lease)
        .apply(&mut parts.headers);
    parts.version = Version::HTTP_11;
    if connection.refused.is_some() {
        // The client may still send the body or not: what follows cannot be read (RFC 9110 section 10.1.1).
        let close = HeaderValue::from_static("close");
        parts.headers.insert(CONNECTION, close);
    }
    // As long as the client has nothing of the response, it can still have a 502 instead.
    let body = ResponseBody::begin(body, connection)
        .await
        .map_err(|error| SessionError::caused_by(Rejection::BadAnswer, &endpoint.label, &error))?;
    access_log::response_sent(
        &routed.connection.worker.recorder,
        routed.facts,
        Some(&endpoint),
        parts.status.as_u16(),
    );
    let body = StreamBody::new(body, parts.status.as_u16(), is_event_stream, slot);
    Ok(SessionOutcome::Response(Response::from_parts(parts, body)))
}
