//! A handshake: an endpoint that takes the connection, our request to it, its answer judged.

use std::sync::Arc;
use std::time::Instant;

use ::http::request::Parts;
use ::http::{Request, StatusCode};

use super::attempts::Attempts;
use super::outcome::Outcome;
use super::plain;
use super::refusal::Refusal;
use super::relay::Opening;
use super::routed::Session;
use crate::observe::access_log::TunnelFacts;
use crate::protocol::answer::Switch;
use crate::protocol::handshake::{self, Handshake};
use crate::protocol::rejection::Rejection;
use crate::protocol::spelling::Spelling;
use crate::quota::Share;
use crate::upstream::endpoint::Lease;
use crate::upstream::exchange::{Answered, exchange};
use crate::upstream::health::Failure;
use crate::upstream::http::{self, Loan, RequestBody};

/// What a request to an endpoint usually takes.
const REQUEST_USUAL: usize = 1024;

/// Opens a tunnel, or passes on what the endpoint answered instead.
pub(super) async fn open(
    session: &Session<'_>,
    parts: &Parts,
    handshake: &Handshake<'_>,
    first_head: Option<&[u8]>,
    shares: Vec<Share>,
) -> Result<Outcome, Refusal> {
    let (answered, lease) = answer_to(session, parts, first_head).await?;
    let endpoint = Arc::clone(&lease.endpoint().label);
    let Some(answer) = answered.answer() else {
        return Err(Rejection::BadAnswer.into());
    };
    if !answer.is_switch() {
        drop(answer);
        return pass_on(session, answered, lease).await;
    }
    let switch = answer
        .check_switch(handshake, session.route.settings.handshake)
        .map_err(|fault| {
            session.failed(lease.endpoint(), Failure::Handshake);
            Refusal::because(Rejection::BadSwitch, &endpoint, &fault)
        })?;
    session.passed(lease.endpoint());
    if switch.excused().any() {
        session.way(&lease).route.excused.add(1);
        tracing::warn!(
            session = %session.facts.session,
            route = %session.route.settings.name,
            %endpoint,
            excused = %switch.excused(),
            "lenient handshake"
        );
    }
    let facts = facts(session, &lease, &switch);
    let mut to_client = Vec::with_capacity(REQUEST_USUAL);
    switch.write(&mut to_client, &session.response_edit(&lease));
    to_client.extend_from_slice(answered.read_ahead());
    let read_ahead = answered.read_ahead().len();
    Ok(Outcome::Tunnel(Box::new(Opening {
        read_ahead,
        to_client,
        limits: Arc::clone(&session.route.limits),
        handshake: facts.opened - session.facts.started,
        facts,
        lease,
        shares,
        request_id: session.facts.request_id.map(Into::into),
        trace: session.facts.trace,
        endpoint: answered.reached,
    })))
}

/// The answer of an endpoint, the first that is taken or the last that there is.
async fn answer_to(
    session: &Session<'_>,
    parts: &Parts,
    first_head: Option<&[u8]>,
) -> Result<(Answered, Lease), Refusal> {
    let limit = session.upstream.timeouts().handshake;
    let mut attempts = Attempts::new(session);
    let mut lease = attempts.next().await?;
    loop {
        let Some(reached) = attempts.connect(&lease).await else {
            // Its count ends before another is picked.
            drop(lease);
            lease = attempts.next().await?;
            continue;
        };
        let request = write_request(session, parts, &lease, first_head);
        let instead = match tokio::time::timeout(limit, exchange(reached, &request)).await {
            Ok(Ok(answered)) => {
                let status = answered.answer().and_then(|answer| answer.status());
                if let Some(status) = status
                    && status != StatusCode::SWITCHING_PROTOCOLS
                {
                    session.declined(lease.endpoint(), status);
                }
                match status.and_then(|status| attempts.instead_of(&lease, status)) {
                    Some(next) => next,
                    None => return Ok((answered, lease)),
                }
            }
            Ok(Err(error)) => {
                session.failed(lease.endpoint(), Failure::Handshake);
                let endpoint = &lease.endpoint().label;
                return Err(Refusal::because(Rejection::BadAnswer, endpoint, &error));
            }
            Err(_) => {
                session.failed(lease.endpoint(), Failure::Handshake);
                let next = attempts.instead_of_silent(&lease);
                next.ok_or(Rejection::HandshakeTimeout)?
            }
        };
        lease = instead;
    }
}

fn write_request(
    session: &Session<'_>,
    parts: &Parts,
    lease: &Lease,
    first_head: Option<&[u8]>,
) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST_USUAL);
    handshake::Request {
        parts,
        origin_form: session.uri,
        host: session.host_for(lease),
        via: session.via(),
        edit: &session.request_edit(),
        compression: session.route.settings.compression,
        spelling: first_head.and_then(Spelling::of),
    }
    .write(&mut request);
    request
}

fn facts(session: &Session<'_>, lease: &Lease, switch: &Switch<'_>) -> TunnelFacts {
    TunnelFacts {
        session: session.facts.session,
        client: session.facts.client,
        way: session.way(lease),
        target: [session.target.host(), session.target.path()]
            .concat()
            .into(),
        subprotocol: switch.subprotocol().map(Into::into),
        opened: Instant::now(),
    }
}

/// Passes on an answer that is no 101, its body included. hyper reads it once more from the start.
async fn pass_on(
    session: &Session<'_>,
    answered: Answered,
    lease: Lease,
) -> Result<Outcome, Refusal> {
    let endpoint = Arc::clone(&lease.endpoint().label);
    let broken = |error: hyper::Error| Refusal::because(Rejection::BadAnswer, &endpoint, &error);
    let (replay, share) = answered.replay();
    let mut sender = http::open(replay, share, &session.connection.worker.tasks)
        .await
        .map_err(broken)?;
    // It was written long ago: this one goes nowhere.
    let response = sender
        .send_request(Request::new(RequestBody::Empty))
        .await
        .map_err(broken)?;
    plain::reply(
        session,
        response,
        Loan {
            sender,
            lease,
            home: None,
        },
    )
}
