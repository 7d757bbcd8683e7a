//! What a connection knows of where it came in: a [`Listener`] outlives reloads, which only swap its
//! [`ListenerSettings`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderName;
use rustls::ServerConfig;

use super::gate::Gate;
use crate::config::model::{ListenerLimits, ListenerTimeouts, Trust};
use crate::drain::Drain;

/// A listener while it runs.
#[derive(Debug)]
pub struct Listener {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Begins when the listener is removed or drained, or the process stops.
    pub drain: Drain,
    /// What its clients have open.
    pub gate: Arc<Gate>,
    /// What a reload changes.
    pub settings: ArcSwap<ListenerSettings>,
}

/// What a reload changes of a listener.
#[derive(Debug)]
pub struct ListenerSettings {
    /// `None` for plain text.
    pub tls: Option<Arc<ServerConfig>>,
    /// TLS handshakes at once, per worker.
    pub handshakes_at_once: usize,
    /// What is believed about where connections come from.
    pub trust: Trust,
    /// Whether plain requests are sent to https.
    pub redirect_to_https: bool,
    /// The field that tells endpoints about client certificates.
    pub certificate_header: Option<HeaderName>,
    /// What clients may take.
    pub limits: ListenerLimits,
    /// Deadlines towards clients.
    pub timeouts: ListenerTimeouts,
}
