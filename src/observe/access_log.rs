//! The events of a session in the log: one line when a tunnel opens and one when it ends, one for
//! a plain request, one for a refusal. The session's id ties them together.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counters::Counters;
use crate::net::stream::Peer;
use crate::protocol::rejection::Rejection;
use crate::tunnel::copy::Finished;
use crate::tunnel::forwarder::Side;
use crate::tunnel::table::Meter;
use crate::upstream::endpoint::State;

/// A session's id: unique in the process, unlikely to repeat in the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What log lines of a tunnel tell besides how it went.
#[derive(Debug)]
pub struct TunnelFacts {
    /// The session.
    pub session: SessionId,
    /// Who connected.
    pub client: Peer,
    /// Where.
    pub listener: Arc<str>,
    /// The route taken.
    pub route: Arc<str>,
    /// The host asked for.
    pub host: Box<str>,
    /// The path asked for, without the query: that may hold secrets.
    pub path: Box<str>,
    /// What was agreed on.
    pub subprotocol: Option<Box<str>>,
    /// When the endpoint had agreed.
    pub opened: Instant,
}

/// What is told of a tunnel once, when it opens.
#[derive(Debug, Clone, Copy)]
pub struct TunnelOpening<'a> {
    /// From its request to its 101.
    pub handshake: Duration,
    /// The id that its request came with, if that is believed.
    pub request_id: Option<&'a str>,
}

/// Records that a tunnel to `endpoint` opened.
pub fn tunnel_opened(
    counters: &Counters,
    facts: &TunnelFacts,
    endpoint: &State,
    opening: TunnelOpening<'_>,
) {
    counters.tunnels.add(1);
    tracing::info!(
        session = %facts.session,
        request_id = opening.request_id,
        client = %facts.client,
        listener = &*facts.listener,
        route = &*facts.route,
        upstream = &*endpoint.upstream,
        endpoint = &*endpoint.label,
        host = &*facts.host,
        path = &*facts.path,
        subprotocol = facts.subprotocol.as_deref(),
        handshake_ms = milliseconds(opening.handshake),
        "tunnel opened"
    );
}

/// Records that a tunnel to `endpoint` ended.
pub fn tunnel_ended(
    counters: &Counters,
    facts: &TunnelFacts,
    endpoint: &State,
    meter: &Meter,
    finished: Finished,
) {
    let Finished { ended, closed } = finished;
    let (up, down) = (meter.bytes(Side::Client), meter.bytes(Side::Endpoint));
    counters.ended(ended).add(1);
    counters.bytes_from_clients.add(up);
    counters.bytes_from_endpoints.add(down);
    tracing::info!(
        session = %facts.session,
        client = %facts.client,
        listener = &*facts.listener,
        route = &*facts.route,
        upstream = &*endpoint.upstream,
        endpoint = &*endpoint.label,
        reason = ended.token(),
        bytes_from_client = up,
        bytes_from_endpoint = down,
        messages_from_client = meter.messages(Side::Client),
        messages_from_endpoint = meter.messages(Side::Endpoint),
        close_code = closed.map(|(_, code)| code),
        closed_by = closed.map(|(side, _)| side.name()),
        duration_ms = milliseconds(facts.opened.elapsed()),
        "tunnel ended"
    );
}

/// What log lines tell of a request before and whether or not it came to a route.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The session.
    pub session: SessionId,
    /// Who connected.
    pub client: Peer,
    /// Where.
    pub listener: &'a str,
    /// The id that it came with, if that is believed.
    pub request_id: Option<&'a str>,
    /// When the request had come.
    pub started: Instant,
}

/// Records that we refused a request ourselves, and why in detail if there is more to say.
pub fn rejected(
    counters: &Counters,
    facts: RequestFacts<'_>,
    rejection: Rejection,
    detail: Option<&str>,
) {
    counters.rejected(rejection).add(1);
    let status = rejection.status().as_u16();
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                session = %facts.session,
                request_id = facts.request_id,
                client = %facts.client,
                listener = facts.listener,
                status,
                reason = rejection.token(),
                detail,
                "rejected"
            )
        };
    }
    // What a client did wrong is its own business; what an endpoint did is the operator's.
    if status >= 500 {
        event!(warn)
    } else {
        event!(info)
    }
}

/// Records the reply to a plain request, or to a handshake that was declined: an endpoint's, or a
/// redirect of ours.
pub fn replied(
    counters: &Counters,
    facts: RequestFacts<'_>,
    route: Option<&str>,
    endpoint: Option<&str>,
    status: u16,
) {
    counters.requests.add(1);
    tracing::info!(
        session = %facts.session,
        request_id = facts.request_id,
        client = %facts.client,
        listener = facts.listener,
        route,
        endpoint,
        status,
        duration_ms = milliseconds(facts.started.elapsed()),
        "request"
    );
}

/// Microseconds are as fine as anybody reads it.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
