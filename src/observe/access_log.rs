//! The events of sessions in the log: one line when a tunnel opens and one when it ends, one for a
//! plain request, one for a rejection. The id of the session ties them together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tracing::field::display;

use super::facts::HandshakeSpan;
pub use super::facts::{RequestFacts, SessionId, TunnelFacts};
use super::labels::HandshakeOutcome;
use super::log::record::LogRecord;
use super::recorder::{AccessLogTarget, Recorder};
use super::series::{EndpointSeries, RouteSeries};
use super::spans::{self, HandshakeFacts, HandshakeResult};
use crate::net::stream::Peer;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::rejection::Rejection;
use crate::protocol::trace_context::TraceId;
use crate::streams::exchange::FinishedStream;
use crate::tunnel::ended::Finished;
use crate::tunnel::meter::Meter;
use crate::tunnel::side::Side;
use crate::upstream::endpoint::EndpointState;

/// The fields with which every line begins.
struct Subject<'a> {
    session: SessionId,
    request_id: Option<&'a str>,
    trace: Option<TraceId>,
    client: Peer,
    protocol: ClientProtocol,
    listener: &'a str,
    route: Option<&'a str>,
}

/// Records an event that concerns `$subject`: in the log, or in the access log if there is a
/// separate one.
macro_rules! event {
    ($recorder:expr, $level:ident, $what:literal, $subject:expr, { $($name:ident = $value:expr,)+ }) => {{
        let Subject { session, request_id, trace, client, protocol, listener, route } = $subject;
        fields!($recorder, $level, $what, {
            session = display(session),
            request_id = request_id,
            trace = trace.map(display),
            client = display(client),
            protocol = protocol.token(),
            listener = listener,
            route = route,
            $($name = $value,)+
        });
    }};
}

/// Writes these fields to the log or the access log.
//
// A macro, because the fields of a tracing event have to be known at compile time.
macro_rules! fields {
    ($recorder:expr, $level:ident, $what:literal, { $($name:ident = $value:expr,)+ }) => {
        match &**$recorder.log.target() {
            AccessLogTarget::Log => tracing::$level!($($name = $value,)+ $what),
            AccessLogTarget::Off => {}
            AccessLogTarget::Own(lines, format) => {
                let mut record = LogRecord::begin(*format, $what);
                $(record.field(stringify!($name), &$value);)+
                lines.push(record.end().as_bytes());
            }
        }
    };
}

impl TunnelFacts {
    /// The subject of a log line, without the fields that are logged only when the tunnel opens.
    fn subject(&self, protocol: ClientProtocol) -> Subject<'_> {
        Subject {
            session: self.session,
            request_id: None,
            trace: None,
            client: self.client,
            protocol,
            listener: &self.series.route.listener,
            route: Some(&self.series.route.route),
        }
    }

    /// The facts of the handshake.
    fn of_handshake(&self, protocol: ClientProtocol) -> HandshakeFacts<'_> {
        let (host, path) = self.host_and_path();
        HandshakeFacts {
            session: self.session,
            client: self.client,
            protocol,
            listener: &self.series.route.listener,
            route: Some(&self.series.route.route),
            host: Some(host),
            path: Some(path),
            upstream: Some(&self.series.upstream),
            endpoint: Some(&self.series.endpoint),
        }
    }
}

/// The facts of a tunnel that are logged only when it opens.
#[derive(Debug, Clone, Copy)]
pub struct TunnelOpening<'a> {
    /// The protocol that the client speaks.
    pub protocol: ClientProtocol,
    /// The time from the request to the 101.
    pub handshake: Duration,
    /// The request id, if a trusted proxy sent one.
    pub request_id: Option<&'a str>,
    /// The trace of the request.
    pub trace: Option<TraceId>,
    /// The span of the handshake, if it is sampled.
    pub span: Option<HandshakeSpan>,
}

/// Records that a tunnel opened.
pub fn tunnel_opened(recorder: &Recorder, facts: &TunnelFacts, opening: TunnelOpening<'_>) {
    let series = &*facts.series;
    let route = &series.route;
    recorder.counters.tunnels.add(1);
    facts.series.opened.add(1);
    let counted = route.handshakes(HandshakeOutcome::Opened, opening.protocol);
    counted.add(1);
    route.handshake_seconds.observe(opening.handshake);
    let micros = opening.handshake.as_micros().try_into();
    facts
        .series
        .handshake_micros
        .add(micros.unwrap_or_default());
    let (host, path) = facts.host_and_path();
    let subject = Subject {
        request_id: opening.request_id,
        trace: opening.trace,
        ..facts.subject(opening.protocol)
    };
    event!(recorder, info, "tunnel opened", subject, {
        upstream = &*facts.series.upstream,
        endpoint = &*facts.series.endpoint,
        host = host,
        path = path,
        status = 101_u16,
        subprotocol = facts.subprotocol.as_deref(),
        handshake_ms = milliseconds(opening.handshake),
    });
    if let Some(span) = &opening.span {
        let facts = facts.of_handshake(opening.protocol);
        // What the client has got (RFC 8441 section 5).
        let status = match opening.protocol {
            ClientProtocol::Http1 => 101,
            ClientProtocol::Http2 => 200,
        };
        let result = HandshakeResult::answered(HandshakeOutcome::Opened, status);
        spans::handshake_ended(recorder, span, facts, result);
    }
}

/// Records that a client was gone when its endpoint had agreed to a tunnel.
pub fn tunnel_not_opened(recorder: &Recorder, facts: &TunnelFacts, opening: TunnelOpening<'_>) {
    let series = &*facts.series;
    let route = &series.route;
    let counted = route.handshakes(HandshakeOutcome::Abandoned, opening.protocol);
    counted.add(1);
    let (host, path) = facts.host_and_path();
    if let Some(span) = &opening.span {
        let facts = facts.of_handshake(opening.protocol);
        spans::handshake_ended(recorder, span, facts, HandshakeResult::ABANDONED);
    }
    let subject = Subject {
        request_id: opening.request_id,
        trace: opening.trace,
        ..facts.subject(opening.protocol)
    };
    event!(recorder, info, "handshake abandoned", subject, {
        upstream = &*series.upstream,
        endpoint = &*series.endpoint,
        host = host,
        path = path,
        duration_ms = milliseconds(opening.handshake + facts.opened.elapsed()),
    });
}

/// Records that a tunnel ended.
pub fn tunnel_ended(
    recorder: &Recorder,
    (facts, protocol): (&TunnelFacts, ClientProtocol),
    meter: &Meter,
    finished: Finished,
) {
    let Finished {
        ended,
        closed,
        unframed,
        quiet,
    } = finished;
    let lived = facts.opened.elapsed();
    let EndpointSeries { route, .. } = &*facts.series;
    recorder.counters.ended.add(1);
    facts.series.ended.at(ended as usize).add(1);
    facts.series.traffic.add_ended(meter);
    route.ended.add(1);
    route.unframed.add(unframed.into());
    route.tunnel_seconds.observe(lived);
    if let Some((side, code)) = closed {
        facts.series.count_close(side, code);
    }
    event!(recorder, info, "tunnel ended", facts.subject(protocol), {
        upstream = &*facts.series.upstream,
        endpoint = &*facts.series.endpoint,
        reason = ended.token(),
        bytes_from_client = meter.bytes(Side::Client),
        bytes_from_endpoint = meter.bytes(Side::Endpoint),
        messages_from_client = meter.messages(Side::Client),
        messages_from_endpoint = meter.messages(Side::Endpoint),
        close_code = closed.map(|(_, code)| code),
        closed_by = closed.map(|(side, _)| side.name()),
        idle_ms = milliseconds(quiet),
        duration_ms = milliseconds(lived),
    });
}

/// The facts of a stream that its log line contains, apart from how it ended.
#[derive(Debug, Clone, Copy)]
pub struct StreamFacts<'a> {
    /// The session.
    pub session: SessionId,
    /// The client.
    pub client: Peer,
    /// The protocol that it speaks.
    pub protocol: ClientProtocol,
    /// The series of its listener, route and endpoint.
    pub series: &'a EndpointSeries,
    /// When the request head had been received.
    pub started: Instant,
}

/// Counts a plain request as an open stream.
pub fn stream_began(recorder: &Recorder, series: &EndpointSeries) {
    recorder.counters.streams_open.raise();
    series.streams_open.raise();
}

/// Counts a stream as open no more.
pub fn stream_closed(recorder: &Recorder, series: &EndpointSeries) {
    recorder.counters.streams_open.lower();
    series.streams_open.lower();
}

/// Records that a stream ended, or that tidegate ended a plain request before it was one.
pub fn stream_ended(recorder: &Recorder, facts: StreamFacts<'_>, finished: FinishedStream) {
    let EndpointSeries { route, .. } = facts.series;
    facts
        .series
        .streams_ended
        .at(finished.ended.position())
        .add(1);
    let subject = Subject {
        session: facts.session,
        request_id: None,
        trace: None,
        client: facts.client,
        protocol: facts.protocol,
        listener: &route.listener,
        route: Some(&route.route),
    };
    event!(recorder, info, "stream ended", subject, {
        upstream = &*facts.series.upstream,
        endpoint = &*facts.series.endpoint,
        status = finished.status,
        reason = finished.ended.token(),
        bytes_from_client = finished.bytes_from_client,
        bytes_from_endpoint = finished.bytes_from_endpoint,
        idle_ms = milliseconds(finished.quiet),
        duration_ms = milliseconds(facts.started.elapsed()),
    });
}

impl<'a> RequestFacts<'a> {
    fn subject(&self) -> Subject<'a> {
        Subject {
            session: self.session,
            request_id: self.request_id,
            trace: self.trace,
            client: self.client,
            protocol: self.protocol,
            listener: &self.listener.name,
            route: self.route,
        }
    }

    /// Records the span of the handshake, if it is one that is sampled.
    fn end_span(&self, recorder: &Recorder, result: HandshakeResult<'_>) {
        if let Some((pending, span)) = self.span.and_then(|it| Some((it, it.end()?))) {
            let (upstream, endpoint) = pending.asked();
            let facts = HandshakeFacts {
                session: self.session,
                client: self.client,
                protocol: self.protocol,
                listener: &self.listener.name,
                route: self.route,
                host: self.host,
                path: self.path,
                upstream: upstream.as_deref(),
                endpoint: endpoint.as_deref(),
            };
            spans::handshake_ended(recorder, &span, facts, result);
        }
    }

    /// The series of its route.
    fn counted(&self) -> Arc<RouteSeries> {
        self.listener.route(self.route.unwrap_or_default())
    }
}

/// Records that a client disconnected before its handshake was answered.
pub fn handshake_abandoned(recorder: &Recorder, facts: RequestFacts<'_>) {
    let route = facts.counted();
    let counted = route.handshakes(HandshakeOutcome::Abandoned, facts.protocol);
    counted.add(1);
    facts.end_span(recorder, HandshakeResult::ABANDONED);
    event!(recorder, info, "handshake abandoned", facts.subject(), {
        host = facts.host,
        path = facts.path,
        duration_ms = milliseconds(facts.started.elapsed()),
    });
}

/// Ends the span of a handshake, if it is sampled and nothing else has ended it.
pub fn end_span(recorder: &Recorder, facts: RequestFacts<'_>) {
    facts.end_span(recorder, HandshakeResult::ABANDONED);
}

/// Records that tidegate rejected a request, with details if there are any.
pub fn request_rejected(
    recorder: &Recorder,
    facts: RequestFacts<'_>,
    rejection: Rejection,
    detail: Option<&str>,
) {
    rejected_with(recorder, facts, rejection, rejection.status(), detail);
}

/// Records that the service that decides about requests refused one, with this status.
pub fn request_denied(recorder: &Recorder, facts: RequestFacts<'_>, status: StatusCode) {
    rejected_with(recorder, facts, Rejection::AuthDenied, status, None);
}

fn rejected_with(
    recorder: &Recorder,
    facts: RequestFacts<'_>,
    rejection: Rejection,
    status: StatusCode,
    detail: Option<&str>,
) {
    let status = status.as_u16();
    let route = facts.counted();
    recorder.counters.rejections.add(1);
    route.rejections.at(rejection as usize).add(1);
    route.count_response(status);
    // With these, a request that was meant as a handshake did not qualify as one: count it as one
    // still.
    let broken = matches!(
        rejection,
        Rejection::VersionUnsupported | Rejection::KeyInvalid | Rejection::HandshakeBody
    );
    if facts.is_handshake || broken {
        let counted = route.handshakes(HandshakeOutcome::Rejected, facts.protocol);
        counted.add(1);
    }
    let result = HandshakeResult::rejected(rejection, status, detail);
    facts.end_span(recorder, result);
    macro_rules! rejected {
        ($level:ident) => {
            event!(recorder, $level, "rejected", facts.subject(), {
                method = facts.method,
                host = facts.host,
                path = facts.path,
                status = status,
                reason = rejection.token(),
                detail = detail,
            })
        };
    }
    // What clients do wrong is not for an operator to mend, and must not drown what is. Nor is what was ended on
    // purpose.
    let is_meant = rejection == Rejection::StreamEnded;
    if status >= 500 && status != StatusCode::NOT_IMPLEMENTED.as_u16() && !is_meant {
        rejected!(warn)
    } else {
        rejected!(info)
    }
}

/// Records, when called, that the body of a request became larger than its limit after the response had begun.
pub fn body_cut_off(facts: &RequestFacts<'_>) -> impl FnOnce() + use<> {
    let series = facts.counted();
    let (session, client) = (facts.session, facts.client);
    let rejection = Rejection::BodyTooLarge;
    move || {
        series.rejections.at(rejection as usize).add(1);
        tracing::info!(
            %session, %client, listener = %series.listener, route = %series.route, reason = rejection.token(),
            "request body cut off during the response"
        );
    }
}

/// Records the response to a plain request or to a declined handshake: an endpoint's, or one of
/// our own that the configuration asks for.
pub fn response_sent(
    recorder: &Recorder,
    facts: RequestFacts<'_>,
    endpoint: Option<&EndpointState>,
    status: u16,
) {
    recorder.counters.requests.add(1);
    let route = facts.counted();
    route.count_response(status);
    if facts.is_handshake {
        let counted = route.handshakes(HandshakeOutcome::Declined, facts.protocol);
        counted.add(1);
    }
    let result = HandshakeResult::answered(HandshakeOutcome::Declined, status);
    facts.end_span(recorder, result);
    event!(recorder, info, "request", facts.subject(), {
        upstream = endpoint.map(|endpoint| &*endpoint.upstream),
        endpoint = endpoint.map(|endpoint| &*endpoint.label),
        method = facts.method,
        host = facts.host,
        path = facts.path,
        status = status,
        duration_ms = milliseconds(facts.started.elapsed()),
    });
}

/// Milliseconds, to the microsecond.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
