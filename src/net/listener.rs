//! A listener as its connections see it. A [`Listener`] outlives reloads, which only swap its
//! [`ListenerSettings`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderName;
use rustls::ServerConfig;

use super::listener_limits::Gate;
use crate::config::model::{Http2, Keepalive, ListenerLimits, ListenerTimeouts, Trust};
use crate::drain::Drain;
use crate::protocol::revoked::RevokedCertificates;
use crate::quota::failure_reports::FailureReports;

/// A running listener.
#[derive(Debug)]
pub struct Listener {
    /// The name in the configuration.
    pub name: Arc<str>,
    /// Begins when the listener is removed or drained, or the process stops.
    pub drain: Drain,
    /// The connections of its clients, counted against its limits.
    pub gate: Arc<Gate>,
    /// The causes of failed TLS handshakes and failures to accept that were logged lately, by all workers.
    pub failures: FailureReports,
    /// The settings, swapped by a reload.
    pub settings: ArcSwap<ListenerSettings>,
}

/// The part of a listener that a reload changes.
#[derive(Debug)]
pub struct ListenerSettings {
    /// TLS; `None` for plain text.
    pub tls: Option<Arc<ServerConfig>>,
    /// HTTP/2; `None` for HTTP/1.1 alone.
    pub http2: Option<Http2>,
    /// Maximum number of concurrent TLS handshakes, per worker.
    pub handshakes_at_once: usize,
    /// Which claims about a client's address are trusted.
    pub trust: Trust,
    /// Whether requests are redirected to https.
    pub redirect_to_https: bool,
    /// The header field that describes the client certificate to endpoints.
    pub certificate_header: Option<HeaderName>,
    /// The client certificates that have been revoked, for requests and tunnels on connections that are older than
    /// the lists.
    pub revoked: Arc<RevokedCertificates>,
    /// Limits on connections and handshakes.
    pub limits: ListenerLimits,
    /// TCP keepalive towards clients.
    pub keepalive: Option<Keepalive>,
    /// Timeouts for clients.
    pub timeouts: ListenerTimeouts,
}
