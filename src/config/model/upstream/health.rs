//! When an endpoint is left out: checks that it must pass, and failures in use.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::config::model::Origin;

/// Checks that endpoints must pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What a check does.
    pub probe: Probe,
    /// Time between checks.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Checks passed in a row before an endpoint is up; at least 1.
    pub rise: u32,
    /// Checks failed in a row before it is down; at least 1.
    pub fall: u32,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A WebSocket handshake.
    WebSocket(WebSocketProbe),
    /// A plain request.
    Http(HttpProbe),
    /// A connection, TLS included where endpoints have it.
    Tcp,
}

/// A check by a WebSocket handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketProbe {
    /// Path and query.
    pub path: Box<str>,
    /// The Host; `None` for the endpoint's address.
    pub host: Option<Box<str>>,
    /// The Origin.
    pub origin: Option<Origin>,
    /// Subprotocols that are offered.
    pub subprotocols: Vec<Box<str>>,
    /// Further fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether a Ping must be answered, too.
    pub ping: bool,
}

/// A check by a plain request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Path and query.
    pub path: Box<str>,
    /// The Host; `None` for the endpoint's address.
    pub host: Option<Box<str>>,
    /// Status codes that pass.
    pub expect: Vec<RangeInclusive<u16>>,
}

/// When an endpoint is left out because of failures in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ejection {
    /// Failures within the window; at least 1.
    pub failures: u32,
    /// The window.
    pub window: Duration,
    /// How long at first; doubled each time.
    pub base: Duration,
    /// How long at most; at least `base`.
    pub ceiling: Duration,
    /// Share of an upstream's endpoints left out at most: 0 to 1.
    pub max_share: f64,
}
