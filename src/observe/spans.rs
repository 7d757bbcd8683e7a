//! The spans of handshakes and tunnels, of the same facts as their log lines.
//!
//! The names of attributes are those of OpenTelemetry's conventions for HTTP, where there is one; others begin with
//! `tidegate.`, and are called as in the log.

use std::time::{Duration, SystemTime};

use super::facts::{HandshakeSpan, SessionId, TunnelFacts};
use super::labels::HandshakeOutcome;
use super::recorder::Recorder;
use crate::net::stream::Peer;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::rejection::Rejection;
use crate::protocol::trace_context::{SpanId, TraceId};
use crate::traces::span::{Attributes, FinishedSpan, SpanIds, SpanKind};
use crate::tunnel::ended::{Ended, Finished};
use crate::tunnel::meter::Meter;
use crate::tunnel::side::Side;

/// The facts of a handshake that its span contains.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeFacts<'a> {
    /// The session.
    pub session: SessionId,
    /// The client.
    pub client: Peer,
    /// The protocol that it speaks.
    pub protocol: ClientProtocol,
    /// The name of the listener.
    pub listener: &'a str,
    /// The route, if one matched.
    pub route: Option<&'a str>,
    /// The requested host, if it is valid.
    pub host: Option<&'a str>,
    /// The requested path, if it is valid.
    pub path: Option<&'a str>,
    /// How long it took.
    pub took: Duration,
}

/// What a handshake came to.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeResult<'a> {
    outcome: HandshakeOutcome,
    status: Option<u16>,
    reason: Option<&'a str>,
    /// The names of the upstream and the endpoint.
    leads_to: Option<(&'a str, &'a str)>,
}

impl<'a> HandshakeResult<'a> {
    /// The client did not wait for the answer.
    pub const ABANDONED: Self = Self {
        outcome: HandshakeOutcome::Abandoned,
        status: None,
        reason: None,
        leads_to: None,
    };

    /// There was an answer with this status, of this endpoint of an upstream, if it was one's.
    pub fn answered(
        outcome: HandshakeOutcome,
        status: u16,
        leads_to: Option<(&'a str, &'a str)>,
    ) -> Self {
        Self {
            outcome,
            status: Some(status),
            reason: None,
            leads_to,
        }
    }

    /// tidegate has rejected it.
    pub fn rejected(rejection: Rejection, status: u16) -> Self {
        Self {
            reason: Some(rejection.token()),
            ..Self::answered(HandshakeOutcome::Rejected, status, None)
        }
    }
}

/// What the span of an open tunnel will need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelSpan {
    /// The trace.
    pub trace: TraceId,
    /// The span of the handshake.
    pub handshake: SpanId,
}

impl From<HandshakeSpan> for TunnelSpan {
    fn from(span: HandshakeSpan) -> Self {
        Self {
            trace: span.ids.trace,
            handshake: span.ids.span,
        }
    }
}

/// Records the span of a handshake that has been answered, or whose client has left.
pub fn handshake_ended(
    recorder: &Recorder,
    span: &HandshakeSpan,
    facts: HandshakeFacts<'_>,
    result: HandshakeResult<'_>,
) {
    let (method, version) = match facts.protocol {
        ClientProtocol::Http1 => ("GET", "1.1"),
        ClientProtocol::Http2 => ("CONNECT", "2"),
    };
    let mut attributes = Attributes::default();
    attributes.text("http.request.method", method);
    attributes.text("url.scheme", if span.is_secure { "https" } else { "http" });
    attributes.text_if("url.path", facts.path);
    attributes.text_if("server.address", facts.host);
    add_client(&mut attributes, facts.client);
    attributes.text("network.protocol.name", "http");
    attributes.text("network.protocol.version", version);
    if let Some(status) = result.status {
        attributes.number("http.response.status_code", status.into());
    }
    // As for any server: a fault of the client is not one of ours.
    let has_failed = result.status.is_some_and(|status| status >= 500);
    if has_failed || result.outcome == HandshakeOutcome::Abandoned {
        let status = result.status.map(|status| status.to_string());
        let kind = result.reason.or(status.as_deref());
        attributes.text("error.type", kind.unwrap_or(result.outcome.token()));
    }
    attributes.text("tidegate.session", &facts.session.to_string());
    attributes.text("tidegate.listener", facts.listener);
    attributes.text_if("tidegate.route", facts.route);
    if let Some((upstream, endpoint)) = result.leads_to {
        attributes.text("tidegate.upstream", upstream);
        attributes.text("tidegate.endpoint", endpoint);
    }
    attributes.text("tidegate.outcome", result.outcome.token());
    attributes.text_if("tidegate.reason", result.reason);
    let ended = SystemTime::now();
    recorder.spans.push(FinishedSpan {
        ids: span.ids,
        is_parent_remote: span.ids.parent.is_some(),
        kind: SpanKind::Server,
        name: named(method, facts.route),
        began: ended.checked_sub(facts.took).unwrap_or(ended),
        ended,
        attributes,
        has_failed,
    });
}

/// Records the span of a tunnel that has ended.
pub fn tunnel_ended(
    recorder: &Recorder,
    (facts, span): (&TunnelFacts, TunnelSpan),
    meter: &Meter,
    finished: Finished,
) {
    let mut random = [0; 8];
    if aws_lc_rs::rand::fill(&mut random).is_err() {
        return;
    }
    let Finished { ended, closed, .. } = finished;
    let (host, path) = facts.host_and_path();
    let route = &facts.series.route;
    let mut attributes = Attributes::default();
    attributes.text("network.protocol.name", "websocket");
    attributes.text("url.path", path);
    attributes.text("server.address", host);
    add_client(&mut attributes, facts.client);
    if let Some(kind) = error_type(ended) {
        attributes.text("error.type", kind);
    }
    attributes.text("tidegate.session", &facts.session.to_string());
    attributes.text("tidegate.listener", &route.listener);
    attributes.text("tidegate.route", &route.route);
    attributes.text("tidegate.upstream", &facts.series.upstream);
    attributes.text("tidegate.endpoint", &facts.series.endpoint);
    attributes.text_if("tidegate.subprotocol", facts.subprotocol.as_deref());
    attributes.text("tidegate.reason", ended.token());
    if let Some((side, code)) = closed {
        attributes.number("tidegate.close_code", code.into());
        attributes.text("tidegate.closed_by", side.name());
    }
    add_traffic(&mut attributes, meter);
    let now = SystemTime::now();
    recorder.spans.push(FinishedSpan {
        ids: SpanIds {
            trace: span.trace,
            span: SpanId::generate(random),
            parent: Some(span.handshake),
        },
        is_parent_remote: false,
        kind: SpanKind::Internal,
        name: named("tunnel", Some(&route.route)),
        began: now.checked_sub(facts.opened.elapsed()).unwrap_or(now),
        ended: now,
        attributes,
        has_failed: ended.broken_by() == Some(Side::Endpoint),
    });
}

fn add_traffic(attributes: &mut Attributes, meter: &Meter) {
    for (side, bytes, messages) in [
        (
            Side::Client,
            "tidegate.bytes_from_client",
            "tidegate.messages_from_client",
        ),
        (
            Side::Endpoint,
            "tidegate.bytes_from_endpoint",
            "tidegate.messages_from_endpoint",
        ),
    ] {
        attributes.number(bytes, meter.bytes(side));
        attributes.number(messages, meter.messages(side));
    }
}

/// The kind of error with which a tunnel has ended, if one side broke it.
fn error_type(ended: Ended) -> Option<&'static str> {
    ended.broken_by().map(|_| ended.token())
}

fn add_client(attributes: &mut Attributes, client: Peer) {
    if let Some(address) = client.ip() {
        attributes.text("client.address", &address.to_canonical().to_string());
    }
    if let Peer::Ip(address) = client {
        attributes.number("client.port", address.port().into());
    }
}

/// What a span of this route is called.
fn named(what: &str, route: Option<&str>) -> String {
    match route {
        Some(route) => format!("{what} {route}"),
        None => what.to_owned(),
    }
}
