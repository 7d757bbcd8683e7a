//! A handshake: an endpoint that takes the connection, our request to it, its answer judged.

use std::sync::Arc;
use std::time::Instant;

use ::http::request::Parts;
use ::http::{Request, StatusCode};

use super::attempts::Attempts;
use super::error::SessionError;
use super::outcome::SessionOutcome;
use super::plain;
use super::relay::Opening;
use super::routed::RoutedRequest;
use crate::observe::access_log::TunnelFacts;
use crate::protocol::handshake::{self, Handshake};
use crate::protocol::handshake_response::Switch;
use crate::protocol::header_case::HeaderCase;
use crate::protocol::rejection::Rejection;
use crate::quota::Share;
use crate::upstream::endpoint::Lease;
use crate::upstream::exchange::{Answered, exchange};
use crate::upstream::health::Failure;
use crate::upstream::http::{self, Loan, RequestBody};

/// What a request to an endpoint usually takes.
const REQUEST_USUAL: usize = 1024;

/// Opens a tunnel, or passes on what the endpoint answered instead.
pub(super) async fn open(
    routed: &RoutedRequest<'_>,
    parts: &Parts,
    handshake: &Handshake<'_>,
    first_head: Option<&[u8]>,
    shares: Vec<Share>,
) -> Result<SessionOutcome, SessionError> {
    let (answered, lease) = answer_to(routed, parts, first_head).await?;
    let endpoint = Arc::clone(&lease.endpoint().label);
    let Some(answer) = answered.answer() else {
        return Err(Rejection::BadAnswer.into());
    };
    if !answer.is_switch() {
        drop(answer);
        return pass_on(routed, answered, lease).await;
    }
    let switch = answer
        .check_switch(handshake, routed.route.settings.handshake)
        .map_err(|fault| {
            routed.failed(lease.endpoint(), Failure::Handshake);
            SessionError::caused_by(Rejection::BadSwitch, &endpoint, &fault)
        })?;
    routed.passed(lease.endpoint());
    if switch.excused().any() {
        routed.endpoint_series(&lease).route.excused.add(1);
        tracing::warn!(
            session = %routed.facts.session,
            route = %routed.route.settings.name,
            %endpoint,
            excused = %switch.excused(),
            "lenient handshake"
        );
    }
    let facts = facts(routed, &lease, &switch);
    let mut to_client = Vec::with_capacity(REQUEST_USUAL);
    switch.write(&mut to_client, &routed.response_edit(&lease));
    to_client.extend_from_slice(answered.read_ahead());
    let read_ahead = answered.read_ahead().len();
    Ok(SessionOutcome::Tunnel(Box::new(Opening {
        read_ahead,
        to_client,
        limits: Arc::clone(&routed.route.limits),
        handshake: facts.opened - routed.facts.started,
        facts,
        lease,
        shares,
        request_id: routed.facts.request_id.map(Into::into),
        trace: routed.facts.trace,
        endpoint: answered.reached,
    })))
}

/// The answer of an endpoint, the first that is taken or the last that there is.
async fn answer_to(
    routed: &RoutedRequest<'_>,
    parts: &Parts,
    first_head: Option<&[u8]>,
) -> Result<(Answered, Lease), SessionError> {
    let limit = routed.upstream.timeouts().handshake;
    let mut attempts = Attempts::new(routed);
    let mut lease = attempts.next().await?;
    loop {
        let Some(reached) = attempts.connect(&lease).await else {
            // Its count ends before another is picked.
            drop(lease);
            lease = attempts.next().await?;
            continue;
        };
        let request = write_request(routed, parts, &lease, first_head);
        let instead = match tokio::time::timeout(limit, exchange(reached, &request)).await {
            Ok(Ok(answered)) => {
                let status = answered.answer().and_then(|answer| answer.status());
                if let Some(status) = status
                    && status != StatusCode::SWITCHING_PROTOCOLS
                {
                    routed.declined(lease.endpoint(), status);
                }
                match status.and_then(|status| attempts.retry_after_status(&lease, status)) {
                    Some(next) => next,
                    None => return Ok((answered, lease)),
                }
            }
            Ok(Err(error)) => {
                routed.failed(lease.endpoint(), Failure::Handshake);
                let endpoint = &lease.endpoint().label;
                return Err(SessionError::caused_by(
                    Rejection::BadAnswer,
                    endpoint,
                    &error,
                ));
            }
            Err(_) => {
                routed.failed(lease.endpoint(), Failure::Handshake);
                let next = attempts.retry_after_timeout(&lease);
                next.ok_or(Rejection::HandshakeTimeout)?
            }
        };
        lease = instead;
    }
}

fn write_request(
    routed: &RoutedRequest<'_>,
    parts: &Parts,
    lease: &Lease,
    first_head: Option<&[u8]>,
) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST_USUAL);
    handshake::HandshakeRequest {
        parts,
        origin_form: routed.uri,
        host: routed.host_for(lease),
        forwarding: routed.forwarding(),
        edit: &routed.request_edit(),
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
        way: routed.endpoint_series(lease),
        target: [routed.target.host(), routed.target.path()].concat().into(),
        subprotocol: switch.subprotocol().map(Into::into),
        opened: Instant::now(),
    }
}

/// Passes on an answer that is no 101, its body included. hyper reads it once more from the start.
async fn pass_on(
    routed: &RoutedRequest<'_>,
    answered: Answered,
    lease: Lease,
) -> Result<SessionOutcome, SessionError> {
    let endpoint = Arc::clone(&lease.endpoint().label);
    let broken =
        |error: hyper::Error| SessionError::caused_by(Rejection::BadAnswer, &endpoint, &error);
    let (replay, share) = answered.replay();
    let mut sender = http::open(replay, share, &routed.connection.worker.tasks)
        .await
        .map_err(broken)?;
    // It was written long ago: this one goes nowhere.
    let response = sender
        .send_request(Request::new(RequestBody::Empty))
        .await
        .map_err(broken)?;
    plain::reply(
        routed,
        response,
        Loan {
            sender,
            lease,
            home: None,
        },
    )
}
