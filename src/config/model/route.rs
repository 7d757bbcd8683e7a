//! Routes: which requests match, what they require, and where they go.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::{
    Access, HeaderChanges, HostPattern, NamingConfig, Redirect, RequestKey, Rewrite, StreamLimits,
    TunnelLimits, WebSocketProbe, loose_path,
};

/// A route: which requests it matches, and what happens to them.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// The name, which is unique; from the position in the file if none is written.
    pub name: Arc<str>,
    /// The names of the listeners that the route applies to; `None` for all.
    pub listeners: Option<Vec<Arc<str>>>,
    /// The hosts that match; empty for any host.
    pub hosts: Vec<HostPattern>,
    /// The paths that match.
    pub path: PathMatch,
    /// Further conditions.
    pub conditions: Conditions,
    /// Where matching requests go.
    pub leads_to: LeadsTo,
    /// How requests name the endpoint that they go to; `None` if the upstream's policy picks it.
    pub naming: Option<NamingConfig>,
    /// Which clients may use the route.
    pub access: Access,
    /// Changes to the path.
    pub rewrite: Rewrite,
    /// Changes to the headers of requests.
    pub request_headers: HeaderChanges,
    /// Changes to the headers of responses.
    pub response_headers: HeaderChanges,
    /// Whether offers to compress messages are forwarded.
    pub compression: bool,
    /// What happens to plain requests.
    pub http: PlainHttp,
    /// How strictly an endpoint's 101 is checked.
    pub handshake: Strictness,
    /// The `Host` that endpoints receive.
    pub endpoint_host: EndpointHost,
    /// The names of the limits that it shares with other routes.
    pub shared_limits: Box<[Arc<str>]>,
    /// The maximum number of concurrent tunnels.
    pub max_tunnels: Option<usize>,
    /// The maximum size of the body of a plain request, in bytes.
    pub max_body: Option<u64>,
    /// The limits of tunnels.
    pub limits: TunnelLimits,
    /// The limits of streams.
    pub stream_limits: StreamLimits,
    /// The probe of the route at intervals.
    pub probe: Option<RouteProbe>,
}

/// A probe of a route at intervals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteProbe {
    /// The time between probes, less or more by a tenth at random.
    pub interval: Duration,
    /// The time limit of one probe.
    pub timeout: Duration,
    /// The handshake that a client would make. Without a host, it names the endpoint's address.
    pub request: WebSocketProbe,
}

impl RouteConfig {
    /// The name of the route at this position, counted from 0, if the file does not name it.
    pub fn name_at(position: usize) -> String {
        format!("route-{}", position + 1)
    }

    /// Whether `host` (lower case, no port) matches.
    pub fn fits_host(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.fits(host))
    }

    /// Whether requests that this route serves may be refused by `other`, or not reach an endpoint there.
    pub fn is_restricted_by(&self, other: &Self) -> bool {
        self.access != other.access
            || self.http != other.http
            || (!other.leads_to.forwards() && self.leads_to != other.leads_to)
    }

    /// A route with all the defaults.
    pub fn to_upstream(name: &str, upstream: &str) -> Self {
        Self {
            name: name.into(),
            listeners: None,
            hosts: Vec::new(),
            path: PathMatch::Any,
            conditions: Conditions::default(),
            leads_to: LeadsTo::Upstream(upstream.into()),
            naming: None,
            access: Access::default(),
            rewrite: Rewrite::default(),
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
            compression: true,
            http: PlainHttp::Proxy,
            handshake: Strictness::Strict,
            endpoint_host: EndpointHost::Clients,
            max_tunnels: None,
            shared_limits: Box::default(),
            max_body: None,
            limits: TunnelLimits::default(),
            stream_limits: StreamLimits::default(),
            probe: None,
        }
    }
}

/// The destination of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeadsTo {
    /// The upstream with this name.
    Upstream(Arc<str>),
    /// One of several upstreams.
    Split(Split),
    /// A redirect of plain requests; handshakes are rejected.
    Redirect(Redirect),
    /// A response of tidegate itself, also to handshakes.
    Respond(Respond),
}

impl LeadsTo {
    /// Whether requests go to an upstream.
    pub fn forwards(&self) -> bool {
        matches!(self, Self::Upstream(_) | Self::Split(_))
    }

    /// The names of the upstreams that requests may go to.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<str>> {
        let (one, several) = match self {
            Self::Upstream(name) => (Some(name), None),
            Self::Split(split) => (None, Some(&split.branches)),
            Self::Redirect(_) | Self::Respond(_) => (None, None),
        };
        let several = several.into_iter().flatten();
        one.into_iter()
            .chain(several.map(|branch| &branch.upstream))
    }
}

/// How requests are divided among several upstreams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The upstreams; at least two, and at least one with a weight above 0.
    pub branches: Vec<SplitBranch>,
    /// The key that decides; `None` for chance.
    pub by: Option<RequestKey>,
}

/// One of the upstreams of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitBranch {
    /// The name of the upstream.
    pub upstream: Arc<str>,
    /// Its share of new clients, relative to the others.
    pub weight: u32,
}

/// How a route answers requests itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Respond {
    /// Always in the same way.
    Fixed(FixedResponse),
    /// As `/readyz` does: by whether the process accepts new clients.
    Readiness,
}

/// A response that the configuration or the state of the process determines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedResponse {
    /// The status code.
    pub status: StatusCode,
    /// The body, which may be empty.
    pub body: Bytes,
    /// The `Content-Type`, if there is a body.
    pub content_type: Option<HeaderValue>,
    /// The `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
}

/// The conditions of a route in addition to listener, host and path. All of them must be fulfilled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The kind of requests; `None` for both.
    pub only: Option<RequestKind>,
    /// The methods of plain requests; empty for any. Handshakes prefer routes that allow GET.
    pub methods: Vec<Method>,
    /// Headers that must be present, each with this value on one of its lines.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Query parameters that must be present, each with this decoded value.
    pub query: Vec<(Box<str>, Box<str>)>,
    /// Subprotocols of which a handshake must offer one; empty for any handshake.
    pub subprotocols: Vec<Box<str>>,
}

impl Conditions {
    /// The number of conditions: if two routes match, the one with more wins.
    pub fn count(&self) -> usize {
        usize::from(self.only.is_some())
            + usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.query.len()
            + usize::from(!self.subprotocols.is_empty())
    }
}

/// A kind of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// WebSocket handshakes.
    Handshake,
    /// Plain requests.
    Plain,
}

/// The paths that a route matches, in their normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// Every path.
    Any,
    /// This path.
    Exact(Box<str>),
    /// This path and all paths below it, by whole segments. Without a trailing slash.
    Prefix(Box<str>),
}

impl PathMatch {
    /// Whether a normalised path matches.
    pub fn fits(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }

    /// Whether the path itself is one that loose servers read in another way: the route means what is written.
    pub fn is_literal(&self) -> bool {
        match self {
            Self::Any => false,
            Self::Exact(path) | Self::Prefix(path) => loose_path(path).is_some(),
        }
    }
}

/// The `Host` that endpoints receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointHost {
    /// The client's.
    Clients,
    /// The name by which the endpoint is known, or its address, with its port; the client's for a unix socket.
    Own,
    /// This one.
    Fixed(Box<str>),
}

/// What happens to plain requests on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// They are forwarded.
    Proxy,
    /// They are rejected with 426 (Upgrade Required).
    Reject,
}

/// How strictly an endpoint's 101 is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// As RFC 6455 section 4.1 requires of a client.
    Strict,
    /// The same, but the `Connection` token and `Sec-WebSocket-Accept` may be missing, the version may be
    /// HTTP/1.0, and the subprotocol one that was not offered.
    Lenient,
}
