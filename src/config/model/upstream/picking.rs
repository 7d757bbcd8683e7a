//! How an endpoint is picked, and what happens when there is none to pick.

use std::num::NonZeroU32;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::super::Secret;

/// How an endpoint is picked.
#[derive(Debug, Clone, PartialEq)]
pub struct Picking {
    /// By which policy.
    pub balance: Balance,
    /// How long a new endpoint takes to get its share; `None` for no time at all.
    pub slow_start: Option<Duration>,
    /// When none is up.
    pub all_down: AllDown,
    /// Where handshakes wait when all are full.
    pub queue: Option<QueueConfig>,
}

/// A balancing policy. All of them go by weight.
#[derive(Debug, Clone, PartialEq)]
pub enum Balance {
    /// The fewest in flight, relative to weight.
    LeastConnections,
    /// In turn, evenly interleaved.
    RoundRobin,
    /// By chance.
    Random,
    /// The better of two that chance has picked.
    PowerOfTwo,
    /// The same endpoint for the same key.
    Hash(HashBy),
}

/// What a hash is taken of, and how far it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct HashBy {
    /// The key.
    pub key: HashKey,
    /// What an endpoint may have in flight, relative to its fair share; at least 1.
    pub load_factor: f64,
}

/// The key that a hash is taken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address, as far as it is believed.
    ClientIp,
    /// The path, normalised.
    Path,
    /// The host name that the client asked TLS for.
    Sni,
    /// The value of this field.
    Header(HeaderName),
    /// The value of this cookie.
    Cookie(Box<str>),
    /// The value of this query parameter, decoded.
    Query(Box<str>),
}

/// What happens when no endpoint is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllDown {
    /// 503.
    Refuse,
    /// Any is tried.
    TryAny,
}

/// Where handshakes wait when every endpoint is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// So many at once.
    pub size: usize,
    /// So long.
    pub timeout: Duration,
}

/// What happens when an endpoint does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How many endpoints are tried for one request.
    pub tries: NonZeroU32,
    /// After what, besides a connection that did not come about.
    pub on: RetryOn,
}

/// Answers after which another endpoint is tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// These.
    pub statuses: Vec<StatusCode>,
    /// None in time.
    pub timeout: bool,
}

/// A cookie that leads back to the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// Its name, a token.
    pub cookie: Box<str>,
    /// How long it holds.
    pub ttl: Duration,
    /// Its `Path`.
    pub path: Box<str>,
    /// Its `SameSite`.
    pub same_site: SameSite,
    /// What it is signed with; a key of our own without it.
    pub secret: Option<Secret>,
}

/// When a browser sends a cookie along (RFC 6265bis section 5.6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// From pages of the same site.
    Strict,
    /// From these, and when the user follows a link.
    Lax,
    /// Always; with https only.
    None,
}
