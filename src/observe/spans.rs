//! The spans of handshakes and tunnels, of the same facts as their log lines.
//!
//! The names of attributes are those of OpenTelemetry's conventions for HTTP, where there is one; others begin with
//! `tidegate.`, and are called as in the log.

use std::time::SystemTime;

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
    /// The upstream that it led to, if it came so far.
    pub upstream: Option<&'a str>,
    /// The endpoint that it led to, if it came so far.
    pub endpoint: Option<&'a str>,
}

/// What a handshake came to.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeResult<'a> {
    outcome: HandshakeOutcome,
    status: Option<u16>,
    reason: Option<&'a str>,
    detail: Option<&'a str>,
}

impl<'a> HandshakeResult<'a> {
    /// The client did not wait for the answer.
    pub const ABANDONED: Self = Self {
        outcome: HandshakeOutcome::Abandoned,
        status: None,
        reason: None,
        detail: None,
    };

    /// There was an answer with this status.
    pub fn answered(outcome: HandshakeOutcome, status: u16) -> Self {
        Self {
            outcome,
            status: Some(status),
            reason: None,
            detail: None,
        }
    }

    /// tidegate has rejected it, with this detail.
    pub fn rejected(rejection: Rejection, status: u16, detail: Option<&'a str>) -> Self {
        Self {
            reason: Some(rejection.token()),
            detail,
            ..Self::answered(HandshakeOutcome::Rejected, status)
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
    /// When the tunnel opened. The clock of its duration stands still while the machine is suspended, and the other one
    /// may be set: only the time itself is right.
    pub began: SystemTime,
    /// The port that the request named with its host.
    pub port: Option<u16>,
}

impl TunnelSpan {
    /// That of a tunnel which has opened at the time `began`, after the handshake with this span.
    pub fn after(span: HandshakeSpan, began: SystemTime) -> Self {
        Self {
            trace: span.ids.trace,
            handshake: span.ids.span,
            began,
            port: span.port,
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
    add_port(&mut attributes, facts.host.and(span.port));
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
    attributes.text_if("tidegate.upstream", facts.upstream);
    attributes.text_if("tidegate.endpoint", facts.endpoint);
    attributes.text("tidegate.outcome", result.outcome.token());
    attributes.text_if("tidegate.reason", result.reason);
    attributes.text_if("tidegate.detail", result.detail);
    recorder.spans.push(FinishedSpan {
        ids: span.ids,
        is_parent_remote: span.ids.parent.is_some(),
        kind: SpanKind::Server,
        name: named(method, facts.route),
        began: span.began,
        ended: SystemTime::now(),
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
    add_port(&mut attributes, span.port);
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
    recorder.spans.push(FinishedSpan {
        ids: SpanIds {
            trace: span.trace,
            span: SpanId::generate(random),
            parent: Some(span.handshake),
        },
        is_parent_remote: false,
        kind: SpanKind::Internal,
        name: named("tunnel", Some(&route.route)),
        began: span.began,
        ended: SystemTime::now(),
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

fn add_port(attributes: &mut Attributes, port: Option<u16>) {
    if let Some(port) = port {
        attributes.number("server.port", port.into());
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::facts::testing;
    use crate::traces::span::AttributeValue;

    #[test]
    fn a_tunnel_begins_when_it_has_opened_whatever_its_clock_says() {
        let recorder = testing::recorder();
        // The machine was suspended for an hour right after it.
        let facts = testing::tunnel(&recorder.counters);
        let began = SystemTime::now() - Duration::from_secs(3600);
        let span = TunnelSpan::after(testing::span(began), began);
        let finished = Finished {
            ended: Ended::Idle,
            closed: None,
            unframed: false,
            quiet: Duration::ZERO,
        };
        tunnel_ended(&recorder, (&facts, span), &Meter::default(), finished);
        let spans = recorder.spans.taken();
        let [span] = &spans[..] else {
            panic!("{spans:?}");
        };
        assert_eq!(span.began, began);
        assert!(span.ended >= began + Duration::from_secs(3600));
        let port = ("server.port", AttributeValue::Number(8443));
        assert!(span.attributes.iter().any(|it| *it == port), "{span:?}");
    }
}
