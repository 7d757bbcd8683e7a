//! The events of a session in the log: one line when a tunnel opens and one when it ends, one for
//! a plain request, one for a refusal. The session's id ties them together.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::field::display;

use super::labels::HandshakeOutcome;
use super::record::LogRecord;
use super::recorder::{AccessLogTarget, Recorder};
use super::series::{EndpointSeries, ListenerSeries, RouteSeries};
use crate::net::stream::Peer;
use crate::protocol::rejection::Rejection;
use crate::protocol::trace::TraceId;
use crate::tunnel::copy::Finished;
use crate::tunnel::meter::Meter;
use crate::tunnel::side::Side;
use crate::upstream::endpoint::EndpointState;

/// The fields that every line begins with.
struct Subject<'a> {
    session: SessionId,
    request_id: Option<&'a str>,
    trace: Option<TraceId>,
    client: Peer,
    listener: &'a str,
    route: Option<&'a str>,
}

/// Records that something happened to `$subject`: in the log, or wherever else events are logged.
macro_rules! event {
    ($recorder:expr, $level:ident, $what:literal, $subject:expr, { $($name:ident = $value:expr,)+ }) => {{
        let Subject { session, request_id, trace, client, listener, route } = $subject;
        fields!($recorder, $level, $what, {
            session = display(session),
            request_id = request_id,
            trace = trace.map(display),
            client = display(client),
            listener = listener,
            route = route,
            $($name = $value,)+
        });
    }};
}

/// Writes these fields to where events are logged.
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
    /// The listener, the route taken and the endpoint, and what is counted of them.
    pub series: Arc<EndpointSeries>,
    /// Host and path asked for, without the query: that may hold secrets.
    pub target: Box<str>,
    /// What was agreed on.
    pub subprotocol: Option<Box<str>>,
    /// When the endpoint had agreed.
    pub opened: Instant,
}

impl TunnelFacts {
    /// Without what is told once, when it opens.
    fn subject(&self) -> Subject<'_> {
        Subject {
            session: self.session,
            request_id: None,
            trace: None,
            client: self.client,
            listener: &self.series.route.listener,
            route: Some(&self.series.route.route),
        }
    }

    /// The host asked for, and the path.
    pub fn host_and_path(&self) -> (&str, &str) {
        let slash = self.target.find('/').unwrap_or(self.target.len());
        self.target.split_at(slash)
    }
}

/// What is told of a tunnel once, when it opens.
#[derive(Debug, Clone, Copy)]
pub struct TunnelOpening<'a> {
    /// From its request to its 101.
    pub handshake: Duration,
    /// The id that its request came with, if that is believed.
    pub request_id: Option<&'a str>,
    /// The trace that its request is part of.
    pub trace: Option<TraceId>,
}

/// Records that a tunnel opened.
pub fn tunnel_opened(recorder: &Recorder, facts: &TunnelFacts, opening: TunnelOpening<'_>) {
    let EndpointSeries { route, .. } = &*facts.series;
    recorder.counters.tunnels.add(1);
    facts.series.opened.add(1);
    route
        .handshakes
        .at(HandshakeOutcome::Opened as usize)
        .add(1);
    route.handshake_seconds.observe(opening.handshake);
    let (host, path) = facts.host_and_path();
    let subject = Subject {
        request_id: opening.request_id,
        trace: opening.trace,
        ..facts.subject()
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
}

/// Records that a tunnel ended.
pub fn tunnel_ended(recorder: &Recorder, facts: &TunnelFacts, meter: &Meter, finished: Finished) {
    let Finished {
        ended,
        closed,
        unframed,
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
        route.count_close(side, code);
    }
    event!(recorder, info, "tunnel ended", facts.subject(), {
        upstream = &*facts.series.upstream,
        endpoint = &*facts.series.endpoint,
        reason = ended.token(),
        bytes_from_client = meter.bytes(Side::Client),
        bytes_from_endpoint = meter.bytes(Side::Endpoint),
        messages_from_client = meter.messages(Side::Client),
        messages_from_endpoint = meter.messages(Side::Endpoint),
        close_code = closed.map(|(_, code)| code),
        closed_by = closed.map(|(side, _)| side.name()),
        duration_ms = milliseconds(lived),
    });
}

/// What log lines tell of a request before and whether or not it came to a route.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The session.
    pub session: SessionId,
    /// Who connected.
    pub client: Peer,
    /// The listener, and what is counted of it.
    pub listener: &'a ListenerSeries,
    /// The route, if it has come to one.
    pub route: Option<&'a str>,
    /// Whether it asks for a tunnel.
    pub is_handshake: bool,
    /// The id that it came with, if that is believed.
    pub request_id: Option<&'a str>,
    /// The trace that it is part of.
    pub trace: Option<TraceId>,
    /// Its method, if it is a request in HTTP.
    pub method: Option<&'a str>,
    /// The host asked for, if it is a valid one.
    pub host: Option<&'a str>,
    /// The path asked for, likewise, without the query: that may hold secrets.
    pub path: Option<&'a str>,
    /// When the request had come.
    pub started: Instant,
}

impl<'a> RequestFacts<'a> {
    fn subject(&self) -> Subject<'a> {
        Subject {
            session: self.session,
            request_id: self.request_id,
            trace: self.trace,
            client: self.client,
            listener: &self.listener.name,
            route: self.route,
        }
    }

    /// What is counted of its route.
    fn counted(&self) -> Arc<RouteSeries> {
        self.listener.route(self.route.unwrap_or_default())
    }
}

/// Records that a client went away before there was an answer to its handshake.
pub fn handshake_abandoned(recorder: &Recorder, facts: RequestFacts<'_>) {
    let route = facts.counted();
    route
        .handshakes
        .at(HandshakeOutcome::Abandoned as usize)
        .add(1);
    event!(recorder, info, "handshake abandoned", facts.subject(), {
        host = facts.host,
        path = facts.path,
        duration_ms = milliseconds(facts.started.elapsed()),
    });
}

/// Records that we refused a request ourselves, and why in detail if there is more to say.
pub fn request_rejected(
    recorder: &Recorder,
    facts: RequestFacts<'_>,
    rejection: Rejection,
    detail: Option<&str>,
) {
    let status = rejection.status().as_u16();
    let route = facts.counted();
    recorder.counters.rejections.add(1);
    route.rejections.at(rejection as usize).add(1);
    route.count_response(status);
    // These are what is wrong with a handshake: it could not become one.
    let broken = matches!(
        rejection,
        Rejection::VersionUnsupported | Rejection::KeyInvalid | Rejection::HandshakeBody
    );
    if facts.is_handshake || broken {
        route
            .handshakes
            .at(HandshakeOutcome::Rejected as usize)
            .add(1);
    }
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
    // What a client did wrong is its own business; what an endpoint did is the operator's.
    if status >= 500 {
        rejected!(warn)
    } else {
        rejected!(info)
    }
}

/// Records the reply to a plain request, or to a handshake that was declined: an endpoint's, or a
/// redirect of ours.
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
        route
            .handshakes
            .at(HandshakeOutcome::Declined as usize)
            .add(1);
    }
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

/// Microseconds are as fine as anybody reads it.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
