//! Routes: which requests fit, what is required of them, and where they go.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};

use super::{Access, HeaderChanges, Redirect, Rewrite, TunnelLimits};

/// A match, and what happens to the requests that fit it.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// Unique; from its position in the file if not given.
    pub name: Arc<str>,
    /// Names of the listeners it is bound to; `None` for all.
    pub listeners: Option<Vec<Arc<str>>>,
    /// Empty for any host.
    pub hosts: Vec<HostPattern>,
    /// Which paths fit.
    pub path: PathMatch,
    /// What else has to fit.
    pub conditions: Conditions,
    /// What becomes of the requests that fit.
    pub leads_to: LeadsTo,
    /// Who may use it.
    pub access: Access,
    /// What becomes of the path.
    pub rewrite: Rewrite,
    /// Changes towards endpoints.
    pub request_headers: HeaderChanges,
    /// Changes towards clients.
    pub response_headers: HeaderChanges,
    /// Whether offers to compress messages are passed on.
    pub compression: bool,
    /// What plain HTTP requests get.
    pub http: PlainHttp,
    /// How an endpoint's 101 is judged.
    pub handshake: Strictness,
    /// Whether the endpoint sees the client's `Host`, rather than its own address.
    pub preserve_host: bool,
    /// Tunnels at once.
    pub max_tunnels: Option<usize>,
    /// What holds for its tunnels.
    pub limits: TunnelLimits,
}

impl RouteConfig {
    /// What the route in this place is called, counted from 0, if the file does not name it.
    pub fn name_at(position: usize) -> String {
        format!("route-{}", position + 1)
    }

    /// One with all the defaults.
    pub fn to_upstream(name: &str, upstream: &str) -> Self {
        Self {
            name: name.into(),
            listeners: None,
            hosts: Vec::new(),
            path: PathMatch::Any,
            conditions: Conditions::default(),
            leads_to: LeadsTo::Upstream(upstream.into()),
            access: Access::default(),
            rewrite: Rewrite::default(),
            request_headers: HeaderChanges::default(),
            response_headers: HeaderChanges::default(),
            compression: true,
            http: PlainHttp::Proxy,
            handshake: Strictness::Strict,
            preserve_host: true,
            max_tunnels: None,
            limits: TunnelLimits::default(),
        }
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeadsTo {
    /// To the upstream of this name.
    Upstream(Arc<str>),
    /// Somewhere else, where plain requests are sent.
    Redirect(Redirect),
}

/// What has to fit besides listener, host and path. All that are there have to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// If not empty, a plain request has one of these. A handshake prefers routes that take GET.
    pub methods: Vec<Method>,
    /// Each is there with this value, on one of its lines.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Each is there with this value, decoded.
    pub query: Vec<(Box<str>, Box<str>)>,
    /// If not empty, a handshake offers one of these.
    pub subprotocols: Vec<Box<str>>,
}

impl Conditions {
    /// How many there are: of two that fit, more go first.
    pub fn count(&self) -> usize {
        usize::from(!self.methods.is_empty())
            + self.headers.len()
            + self.query.len()
            + usize::from(!self.subprotocols.is_empty())
    }
}

/// A host name, or one level of wildcard below it. Lower case, no port, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name (or IP address, IPv6 in brackets) and no other.
    Exact(Box<str>),
    /// `*.example.com` is kept as `example.com`: fits `a.example.com`, not `example.com` itself
    /// nor `a.b.example.com` (RFC 6125 section 6.4.3).
    Wildcard(Box<str>),
}

impl HostPattern {
    /// Whether `host` (lower case, no port) fits.
    pub fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Wildcard(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == &**parent),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

/// Which paths a route fits. Compared with the normalised path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// Every path.
    Any,
    /// This path.
    Exact(Box<str>),
    /// This path and what lies below it, by whole segments. Without a trailing slash.
    Prefix(Box<str>),
}

impl PathMatch {
    /// Whether a normalised path fits.
    pub fn fits(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

/// What plain HTTP requests get on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// They are proxied.
    Proxy,
    /// 426 Upgrade Required.
    Reject,
}

/// How an endpoint's 101 is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// As RFC 6455 section 4.1 demands of a client.
    Strict,
    /// A missing `Connection` token or a missing `Sec-WebSocket-Accept` is excused.
    Lenient,
}
