//! The facts about sessions from which log lines and spans are made.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

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
    /// Whether the client uses TLS.
    pub is_secure: bool,
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
    pub span: Option<&'a HandshakeSpan>,
    /// The method, if the request could be parsed.
    pub method: Option<&'a str>,
    /// The requested host, if it is valid.
    pub host: Option<&'a str>,
    /// The requested path, if it is valid, without the query, which may contain secrets.
    pub path: Option<&'a str>,
    /// When the request head had been received.
    pub started: Instant,
}
