//! The facts about sessions from which log lines and spans are made.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::series::{EndpointSeries, ListenerSeries};
use crate::net::stream::Peer;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::trace_context::TraceId;
use crate::traces::span::SpanIds;

/// The id of a session: unique in the process, and unlikely to be repeated by another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The span of a handshake that is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeSpan {
    /// Its place in the trace.
    pub ids: SpanIds,
    /// When it began.
    pub began: SystemTime,
    /// Whether the client uses TLS.
    pub is_secure: bool,
    /// The port that the request names with its host.
    pub port: Option<u16>,
}

/// The span of a handshake that has not ended, and how far the handshake has come. It ends once, whichever way the
/// handshake goes.
#[derive(Debug)]
pub struct PendingSpan {
    /// The span.
    pub span: HandshakeSpan,
    is_ended: Cell<bool>,
    upstream: RefCell<Option<Arc<str>>>,
    endpoint: RefCell<Option<Arc<str>>>,
}

impl PendingSpan {
    /// The span of a handshake that has just begun.
    pub fn new(span: HandshakeSpan) -> Self {
        Self {
            span,
            is_ended: Cell::new(false),
            upstream: RefCell::default(),
            endpoint: RefCell::default(),
        }
    }

    /// Ends the span. Returns it, the first time.
    pub fn end(&self) -> Option<HandshakeSpan> {
        (!self.is_ended.replace(true)).then_some(self.span)
    }

    /// Notes that the handshake goes to an endpoint of this upstream.
    pub fn asks_upstream(&self, upstream: &Arc<str>) {
        self.upstream.replace(Some(Arc::clone(upstream)));
        self.endpoint.replace(None);
    }

    /// Notes that the handshake goes to the endpoint with this name.
    pub fn asks_endpoint(&self, endpoint: &Arc<str>) {
        self.endpoint.replace(Some(Arc::clone(endpoint)));
    }

    /// The upstream and the endpoint that were asked last, as far as it came.
    pub(super) fn asked(&self) -> (Option<Arc<str>>, Option<Arc<str>>) {
        (
            self.upstream.borrow().clone(),
            self.endpoint.borrow().clone(),
        )
    }
}

/// The facts of a tunnel that its log lines contain, apart from how it ended.
#[derive(Debug)]
pub struct TunnelFacts {
    /// The session.
    pub session: SessionId,
    /// The client.
    pub client: Peer,
    /// The series of its listener, route and endpoint.
    pub series: Arc<EndpointSeries>,
    /// The requested host and path, without the query, which may contain secrets.
    pub target: Box<str>,
    /// The negotiated subprotocol.
    pub subprotocol: Option<Box<str>>,
    /// When the endpoint's 101 came.
    pub opened: Instant,
}

impl TunnelFacts {
    /// The requested host and path.
    pub fn host_and_path(&self) -> (&str, &str) {
        let slash = self.target.find('/').unwrap_or(self.target.len());
        self.target.split_at(slash)
    }
}

/// The facts of a request that its log lines contain, whether or not it matched a route.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// The session.
    pub session: SessionId,
    /// The client.
    pub client: Peer,
    /// The protocol that it speaks.
    pub protocol: ClientProtocol,
    /// The series of its listener.
    pub listener: &'a ListenerSeries,
    /// The route, if one matched.
    pub route: Option<&'a str>,
    /// Whether the request is a WebSocket handshake.
    pub is_handshake: bool,
    /// The request id, if a trusted proxy sent one.
    pub request_id: Option<&'a str>,
    /// The trace of the request.
    pub trace: Option<TraceId>,
    /// The span of the handshake, if it is sampled.
    pub span: Option<&'a PendingSpan>,
    /// The method, if the request could be parsed.
    pub method: Option<&'a str>,
    /// The requested host, if it is valid.
    pub host: Option<&'a str>,
    /// The requested path, if it is valid, without the query, which may contain secrets.
    pub path: Option<&'a str>,
    /// When the request head had been received.
    pub started: Instant,
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::observe::counters::Counters;
    use crate::observe::recorder::Recorder;
    use crate::protocol::trace_context::TraceContext;
    use crate::traces::queue::SpanQueue;
    use crate::upstream::endpoint::EndpointState;

    /// A recorder, the spans of which can be taken from its queue.
    pub(crate) fn recorder() -> Recorder {
        Recorder {
            counters: Arc::default(),
            log: Arc::default(),
            spans: Arc::new(SpanQueue::opened()),
        }
    }

    /// A tunnel that opens now.
    pub(crate) fn tunnel(counters: &Counters) -> TunnelFacts {
        let endpoint = EndpointState::alone("127.0.0.1:9000".parse().unwrap());
        let route = counters.listener(&"public".into()).route("chat");
        TunnelFacts {
            session: SessionId(1),
            client: Peer::Unix,
            series: route.endpoint(&endpoint),
            target: "chat.example.com/chat".into(),
            subprotocol: None,
            opened: Instant::now(),
        }
    }

    /// The span of a handshake that began at this time.
    pub(crate) fn span(began: SystemTime) -> HandshakeSpan {
        let TraceContext { trace, span, .. } = TraceContext::generate([1; 24]);
        HandshakeSpan {
            ids: SpanIds {
                trace,
                span,
                parent: None,
            },
            began,
            is_secure: true,
            port: Some(8443),
        }
    }
}
