//! A handshake: an endpoint that takes the connection, our request to it, its answer judged.

use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};

use super::{Opening, Outcome, Refusal, Session};
use crate::net::stream::Stream;
use crate::observe::access_log::{self, TunnelFacts};
use crate::protocol::answer::Switch;
use crate::protocol::handshake::{Handshake, HostHeader, Spelling};
use crate::protocol::hop;
use crate::protocol::rejection::Rejection;
use crate::upstream::connect::connect;
use crate::upstream::endpoint::Lease;
use crate::upstream::exchange::{Answered, ExchangeError, exchange};
use crate::upstream::http::{self, Loan, ReplyBody, RequestBody};

/// What a request to an endpoint usually takes.
const REQUEST_USUAL: usize = 1024;

/// Connects to an endpoint that takes the connection. Others are tried as long as no byte of the
/// request was written, which up to here is always.
pub(super) async fn dial(session: &Session<'_>) -> Result<(Stream, Lease), Refusal> {
    let upstream = &session.route.upstream;
    let mut tried = Vec::new();
    let mut refusal = Refusal::from(Rejection::NoEndpoint);
    for _ in 0..upstream.tries {
        let Some(lease) = upstream.pick(&tried) else { break };
        let endpoint = Arc::clone(lease.endpoint());
        match connect(upstream, &endpoint, session.connection.worker.resolver()).await {
            Ok(stream) => return Ok((stream, lease)),
            Err(error) => {
                refusal = Refusal::unreachable(&endpoint.label, &error);
                tracing::warn!(
                    session = %session.facts.session,
                    upstream = %upstream.name,
                    endpoint = %endpoint.label,
                    %error,
                    "endpoint not reached"
                );
                tried.push(endpoint.id);
            }
        }
    }
    Err(refusal)
}

/// Opens a tunnel, or passes on what the endpoint answered instead.
pub(super) async fn open(
    session: &Session<'_>,
    parts: &Parts,
    handshake: &Handshake,
    first_head: Option<&[u8]>,
) -> Result<Outcome, Refusal> {
    let (stream, lease) = dial(session).await?;
    let endpoint = Arc::clone(&lease.endpoint().label);
    let request = write_request(session, parts, &endpoint, first_head);
    let limit = session.route.upstream.timeouts.handshake;
    let answered = match tokio::time::timeout(limit, exchange(stream, &request)).await {
        Ok(answered) => answered.map_err(|error| broken(&endpoint, &error))?,
        Err(_) => return Err(Rejection::HandshakeTimeout.into()),
    };
    drop(request);
    if !answered.answer.is_switch() {
        session.connection.worker.counters.declined.add(1);
        return pass_on(session, answered, lease).await;
    }
    let switch = answered
        .answer
        .check_switch(handshake, session.route.handshake)
        .map_err(|fault| Refusal::because(Rejection::BadSwitch, &fault))?;
    if switch.excused().any() {
        session.connection.worker.counters.excused.add(1);
        tracing::warn!(
            session = %session.facts.session,
            route = %session.route.name,
            %endpoint,
            excused = %switch.excused(),
            "lenient handshake"
        );
    }
    let facts = facts(session, &switch, &endpoint);
    let mut to_client = Vec::with_capacity(REQUEST_USUAL);
    switch.write(&mut to_client);
    to_client.extend_from_slice(answered.read_ahead());
    let read_ahead = answered.read_ahead().len();
    Ok(Outcome::Tunnel(Box::new(Opening {
        read_ahead,
        to_client,
        timeouts: session.route.timeouts,
        facts,
        lease,
        endpoint: answered.stream,
    })))
}

fn write_request(
    session: &Session<'_>,
    parts: &Parts,
    endpoint: &str,
    first_head: Option<&[u8]>,
) -> Vec<u8> {
    let spelling = first_head.and_then(Spelling::of);
    let host = if session.route.preserve_host { HostHeader::Client } else { HostHeader::Other(endpoint) };
    let mut request = Vec::with_capacity(REQUEST_USUAL);
    Handshake::write_request(
        &mut request,
        parts,
        session.target,
        host,
        &session.via(),
        spelling.as_ref(),
    );
    request
}

fn facts(session: &Session<'_>, switch: &Switch<'_>, endpoint: &Arc<str>) -> Box<TunnelFacts> {
    Box::new(TunnelFacts {
        session: session.facts.session,
        client: session.facts.client,
        listener: Arc::clone(&session.connection.listener.name),
        route: Arc::clone(&session.route.name),
        upstream: Arc::clone(&session.route.upstream.name),
        endpoint: Arc::clone(endpoint),
        host: session.target.host().into(),
        path: session.target.path().into(),
        subprotocol: switch.subprotocol().map(Into::into),
        started: session.facts.started,
        opened: Instant::now(),
    })
}

fn broken(endpoint: &str, error: &ExchangeError) -> Refusal {
    Refusal { rejection: Rejection::BadAnswer, detail: Some(format!("{endpoint}: {error}")) }
}
