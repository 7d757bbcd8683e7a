//! Traces.

use http::{HeaderName, HeaderValue, Uri};

use super::Roots;

/// Where spans go, and of which handshakes.
#[derive(Debug, Clone, PartialEq)]
pub struct TracesConfig {
    /// The URL of the collector.
    pub url: Uri,
    /// The CA certificates that its certificate must be issued by; `None` without TLS.
    pub roots: Option<Roots>,
    /// Headers of the requests to it. They may be secrets: they are sensitive, which hides them from `Debug`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The share of handshakes that are sampled where no caller decides.
    pub ratio: f64,
    /// The callers who decide.
    pub parent: DecidingCallers,
    /// What the collector knows this service as.
    pub service_name: Box<str>,
}

/// The callers who decide whether a handshake is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidingCallers {
    /// Trusted proxies.
    Trusted,
    /// All.
    Any,
    /// None.
    None,
}
