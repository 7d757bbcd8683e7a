//! How an endpoint is selected, and what happens when none is available.

use std::num::NonZeroU32;
use std::time::Duration;

use http::StatusCode;

use super::super::{RequestKey, Secret};

/// How an endpoint is selected.
#[derive(Debug, Clone, PartialEq)]
pub struct Picking {
    /// The balancing policy.
    pub balance: Balance,
    /// The time over which the share of a new endpoint grows; `None` for its full share at once.
    pub slow_start: Option<Duration>,
    /// What happens when no endpoint is up.
    pub all_down: AllDown,
    /// The queue for requests when all endpoints are full.
    pub queue: Option<QueueConfig>,
    /// Reports of endpoints about their load; `None` if they are ignored.
    pub reports: Option<ReportsConfig>,
}

/// Reports of endpoints about their load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportsConfig {
    /// For how long a report is valid.
    pub max_age: Duration,
}

/// A balancing policy. Every policy respects weights.
#[derive(Debug, Clone, PartialEq)]
pub enum Balance {
    /// The fewest in flight, relative to weight.
    LeastConnections,
    /// In turn, evenly interleaved.
    RoundRobin,
    /// At random.
    Random,
    /// The better of two random ones.
    PowerOfTwo,
    /// The same endpoint for the same key.
    Hash(HashBy),
}

/// Balancing by a hash key.
#[derive(Debug, Clone, PartialEq)]
pub struct HashBy {
    /// The key.
    pub key: RequestKey,
    /// The multiple of its fair share that an endpoint may have in flight; at least 1.
    pub load_factor: f64,
}

/// What happens when no endpoint is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllDown {
    /// Requests are rejected with 503.
    Refuse,
    /// Any endpoint is tried.
    TryAny,
}

/// The queue for requests when every endpoint is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// The maximum number of waiting requests.
    pub size: usize,
    /// The maximum time that a request waits.
    pub timeout: Duration,
}

/// When another endpoint is tried for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The maximum number of endpoints that are tried for one request.
    pub tries: NonZeroU32,
    /// Responses after which another endpoint is tried, in addition to failed connections.
    pub on: RetryOn,
}

/// Responses after which another endpoint is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOn {
    /// These status codes.
    pub statuses: Vec<StatusCode>,
    /// An end or a reset of the connection before any byte of a response.
    pub closed: bool,
    /// No response in time.
    pub timeout: bool,
}

impl Default for RetryOn {
    fn default() -> Self {
        Self {
            statuses: Vec::new(),
            closed: true,
            timeout: false,
        }
    }
}

/// A cookie that brings clients back to the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// The name, which is a token.
    pub cookie: Box<str>,
    /// The time for which the cookie is valid.
    pub ttl: Duration,
    /// The `Domain` attribute; `None` for the host of the request alone.
    pub domain: Option<Box<str>>,
    /// The `Path` attribute.
    pub path: Box<str>,
    /// The `SameSite` attribute.
    pub same_site: SameSite,
    /// The `Partitioned` attribute (CHIPS): a page that is embedded in another site gets a cookie of its own
    /// there.
    pub partitioned: bool,
    /// The secret that signs the cookie; `None` for a generated one.
    pub secret: Option<Secret>,
}

/// When a browser sends a cookie (RFC 6265bis section 5.6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// With requests from pages of the same site.
    Strict,
    /// Also when the user follows a link from another site.
    Lax,
    /// Always; with https only.
    None,
}
