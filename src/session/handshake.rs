//! Forwarding a handshake: an endpoint that accepts the connection, our request to it, its response
//! judged.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ::http::request::Parts;
use ::http::{Request, StatusCode};

use super::agreed_handshake::AgreedHandshake;
use super::attempts::Attempts;
use super::binding;
use super::error::{SessionError, Unserved};
use super::outcome::SessionOutcome;
use super::plain_http;
use super::relay::Opening;
use super::routed::RoutedRequest;
use crate::net::admission::TunnelPermits;
use crate::observe::access_log::TunnelFacts;
use crate::observe::facts::PendingSpan;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::handshake::{self, Handshake};
use crate::protocol::handshake_response::Switch;
use crate::protocol::header_case::HeaderCase;
use crate::protocol::rejection::Rejection;
use crate::quota::failure_reports::warn_once_a_minute;
use crate::upstream::endpoint::Lease;
use crate::upstream::exchange::{EndpointResponse, ExchangeError, exchange};
use crate::upstream::health::SessionFailure;
use crate::upstream::http::{self, BorrowedConnection, RequestBody};

/// Enough for most request and response heads.
const USUAL_HEAD_BYTES: usize = 1024;

/// Opens a tunnel, or passes on the response that the endpoint sent instead of a 101. A tunnel takes the
/// `permits`.
pub(super) async fn open(
    routed: &RoutedRequest<'_>,
    parts: &Parts,
    handshake: &Handshake<'_>,
    first_head: Option<&[u8]>,
    permits: &mut TunnelPermits,
) -> Result<SessionOutcome, Unserved<()>> {
    let (response, lease) = request_tunnel(routed, parts, first_head).await?;
    let endpoint = Arc::clone(&lease.endpoint().label);
    let Some(head) = response.head() else {
        return Err(Rejection::BadAnswer.into());
    };
    if !head.is_switch() {
        drop(head);
        return Ok(pass_on(routed, response, lease).await?);
    }
    let switch = head
        .check_switch(handshake, routed.route.settings.handshake)
        .map_err(|error| {
            routed.failed(lease.endpoint(), SessionFailure::Handshake);
            SessionError::caused_by(Rejection::BadSwitch, &endpoint, &error)
        })?;
    // Only a valid 101 counts as a success: a server that switches protocols in a wrong way is not
    // one that clients can use.
    routed.passed(lease.endpoint());
    if switch.excused().any() {
        routed.endpoint_series(&lease).route.excused.add(1);
        warn_once_a_minute!(
            lease.endpoint().reports,
            &format!("excused: {}", switch.excused()),
            "lenient handshake accepted",
            session = %routed.facts.session,
            route = %routed.route.settings.name,
            %endpoint,
            excused = %switch.excused()
        );
    }
    let facts = facts(routed, &lease, &switch);
    let mut to_client = Vec::with_capacity(USUAL_HEAD_BYTES);
    switch.write(&mut to_client, &routed.response_edit(&lease));
    // An endpoint may send frames right behind its 101. They go out with ours, in one write.
    to_client.extend_from_slice(response.read_ahead());
    let read_ahead = response.read_ahead().len();
    Ok(SessionOutcome::Tunnel(Box::new(Opening {
        read_ahead,
        to_client,
        limits: Arc::clone(match routed.connection.protocol {
            ClientProtocol::Http1 => &routed.route.limits,
            ClientProtocol::Http2 => &routed.route.carried_limits,
        }),
        handshake: AgreedHandshake {
            recorder: Rc::clone(&routed.connection.worker.recorder),
            protocol: routed.connection.protocol,
            took: facts.opened - routed.facts.started,
            request_id: routed.facts.request_id.map(Into::into),
            trace: routed.facts.trace,
            span: routed.facts.span.and_then(PendingSpan::end),
            facts: Some(facts),
        },
        lease,
        permits: std::mem::take(permits),
        binding: binding::of(routed.incoming, routed.route),
        recheck: binding::recheck(routed.incoming, routed.route),
        endpoint: response.connection,
    })))
}

/// The response of an endpoint: the first that no retry replaces.
async fn request_tunnel(
    routed: &RoutedRequest<'_>,
    parts: &Parts,
    first_head: Option<&[u8]>,
) -> Result<(EndpointResponse, Lease), Unserved<()>> {
    let limit = routed.upstream.timeouts().handshake;
    let max_lines = routed.upstream.settings.max_header_lines;
    let mut attempts = Attempts::new(routed);
    let mut is_sent = false;
    let unserved = |error, is_sent: bool| Unserved {
        error,
        unsent: (!is_sent).then_some(()),
    };
    let next = attempts.next().await;
    let mut lease = next.map_err(|error| unserved(error, is_sent))?;
    loop {
        let Some(reached) = attempts.connect(&lease).await else {
            // Dropped first: the next pick must not count an attempt on this endpoint any more.
            drop(lease);
            lease = match attempts.next().await {
                Ok(lease) => lease,
                Err(error) => return Err(unserved(error, is_sent || attempts.found_full())),
            };
            continue;
        };
        is_sent = true;
        let incarnation = lease.endpoint().incarnation();
        let request = write_request(routed, parts, &lease, first_head);
        let exchanging = exchange(reached, &request, max_lines);
        let next_lease = match tokio::time::timeout(limit, exchanging).await {
            Ok(Ok(response)) => {
                attempts.answered();
                routed.reported(&response, &lease, incarnation);
                let status = response.status;
                if let Some(status) = status
                    && status != StatusCode::SWITCHING_PROTOCOLS
                {
                    routed.declined(lease.endpoint(), status);
                }
                match status.and_then(|status| attempts.retry_after_status(&lease, status)) {
                    Some(next) => next,
                    None => return Ok((response, lease)),
                }
            }
            Ok(Err(error)) => {
                // The endpoint may have acted on the request, whatever it did then. That it closed
                // without an answer nearly always means that it did not; a part of an answer means
                // that it did.
                let next = match error {
                    ExchangeError::Unanswered(_) => attempts.retry_unanswered(&lease),
                    _ => {
                        routed.failed(lease.endpoint(), SessionFailure::Handshake);
                        None
                    }
                };
                next.ok_or_else(|| {
                    let endpoint = &lease.endpoint().label;
                    SessionError::caused_by(Rejection::BadAnswer, endpoint, &error)
                })?
            }
            Err(_) => {
                routed.failed(lease.endpoint(), SessionFailure::Handshake);
                let next = attempts.retry_after_timeout(&lease);
                next.ok_or(Rejection::HandshakeTimeout)?
            }
        };
        lease = next_lease;
    }
}

fn write_request(
    routed: &RoutedRequest<'_>,
    parts: &Parts,
    lease: &Lease,
    first_head: Option<&[u8]>,
) -> Vec<u8> {
    let mut request = Vec::with_capacity(USUAL_HEAD_BYTES);
    handshake::HandshakeRequest {
        parts,
        origin_form: routed.uri,
        host: &routed.host_for(lease),
        forwarding: routed.forwarding(),
        edit: routed.request_edit,
        compression: routed.route.settings.compression,
        header_case: first_head.and_then(HeaderCase::of),
    }
    .write(&mut request);
    request
}

fn facts(routed: &RoutedRequest<'_>, lease: &Lease, switch: &Switch<'_>) -> TunnelFacts {
    TunnelFacts {
        session: routed.facts.session,
        client: routed.facts.client,
        series: routed.endpoint_series(lease),
        target: [routed.target.host(), routed.target.path()].concat().into(),
        subprotocol: switch.subprotocol().map(Into::into),
        opened: Instant::now(),
    }
}

/// Passes on a response that is not a 101, including its body. hyper reads it again from the start,
/// because framing bodies is its part.
async fn pass_on(
    routed: &RoutedRequest<'_>,
    response: EndpointResponse,
    lease: Lease,
) -> Result<SessionOutcome, SessionError> {
    let endpoint = Arc::clone(&lease.endpoint().label);
    let broken =
        |error: hyper::Error| SessionError::caused_by(Rejection::BadAnswer, &endpoint, &error);
    let slot = plain_http::enter(routed.incoming, routed.target, routed.route);
    plain_http::asks(routed, &slot, &lease);
    let (replay, share) = response.replay();
    let max_lines = routed.upstream.settings.max_header_lines;
    let mut sender = http::open(replay, share, max_lines, &routed.connection.worker.tasks)
        .await
        .map_err(broken)?;
    // hyper reads no response without a request. The real one was written long ago, and what this
    // one writes is discarded by `ReplayStream`.
    let response = sender
        .try_send_request(Request::new(RequestBody::Empty))
        .await
        .map_err(|error| broken(error.into_error()))?;
    plain_http::pass_back(
        routed,
        response,
        BorrowedConnection {
            sender,
            lease,
            return_to: None,
            refused: None,
        },
        slot,
    )
    .await
}
