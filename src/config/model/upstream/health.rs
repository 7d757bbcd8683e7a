//! When an endpoint is taken out of rotation: health checks, and failures in use.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderName, HeaderValue};

use crate::config::model::Origin;

/// Health checks of the endpoints of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The kind of check.
    pub probe: Probe,
    /// The time between checks.
    pub interval: Duration,
    /// The time limit of one check.
    pub timeout: Duration,
    /// The number of successful checks in a row after which an endpoint is up; at least 1.
    pub rise: u32,
    /// The number of failed checks in a row after which an endpoint is down; at least 1.
    pub fall: u32,
}

/// The kind of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A WebSocket handshake.
    WebSocket(WebSocketProbe),
    /// A plain request.
    Http(HttpProbe),
    /// A connection, including TLS if the upstream uses it.
    Tcp,
}

/// A check by a WebSocket handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocketProbe {
    /// Path and query.
    pub path: Box<str>,
    /// The `Host` header; `None` for the endpoint's own name or address.
    pub host: Option<Box<str>>,
    /// The `Origin` header.
    pub origin: Option<Origin>,
    /// Subprotocols that are offered.
    pub subprotocols: Vec<Box<str>>,
    /// Additional headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the endpoint must also answer a Ping.
    pub ping: bool,
}

impl WebSocketProbe {
    /// Adds the `User-Agent` of probes, unless there is one.
    pub fn add_user_agent(&mut self) {
        const AGENT: HeaderValue =
            HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"), " (probe)"));
        if self.headers.iter().all(|(name, _)| *name != USER_AGENT) {
            self.headers.push((USER_AGENT, AGENT));
        }
    }
}

/// A check by a plain request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// Path and query.
    pub path: Box<str>,
    /// The `Host` header; `None` for the endpoint's own name or address.
    pub host: Option<Box<str>>,
    /// The status codes of a successful check.
    pub expect: Vec<RangeInclusive<u16>>,
}

/// When an endpoint is ejected because of failures in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ejection {
    /// The number of failures within `window` that eject an endpoint; at least 1.
    pub failures: u32,
    /// The time for which a failure counts.
    pub window: Duration,
    /// The duration of the first ejection; each further one lasts twice as long.
    pub base: Duration,
    /// The maximum duration of an ejection; at least `base`.
    pub ceiling: Duration,
    /// The maximum fraction of an upstream's endpoints that is ejected at once: 0 to 1.
    pub max_share: f64,
}
