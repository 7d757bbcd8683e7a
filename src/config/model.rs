//! The configuration as meant: typed, checked, complete. Nothing here knows how it was written.
//!
//! A value of these types that came out of [`crate::config`] is valid: names resolve, files were
//! read, keys fit their certificates, durations and weights are in range.

mod admin;
mod headers;
mod listener;
mod log;
mod secret;
mod trust;
mod upstream;

pub use self::admin::Admin;
pub use self::headers::{
    HeaderChanges, Piece, Redirect, Rewrite, Template, Variable, claims_origin, same_variable,
};
pub use self::listener::{
    Bind, Certificate, Listener, ListenerLimits, ListenerTimeouts, ListenerTls, TicketKeysFile,
    TlsVersion,
};
pub use self::log::{AccessLog, LogTo, Traceparent};
pub use self::secret::Secret;
pub use self::trust::{Access, ClientAuth, Family, Net, Nets, Origin, Trust};
pub use self::upstream::{
    Address, Aftermath, AllDown, Balance, Discovery, Ejection, Endpoint, EndpointTls, HashBy,
    HashKey, Health, HttpProbe, Keepalive, Order, Pace, Picking, Probe, Queue, Reach, Rebalance,
    Retry, RetryOn, Roots, SameSite, SendProxy, Sticky, Upstream, UpstreamTimeouts, WebSocketProbe,
};

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Process-wide settings.
    pub server: Server,
    /// Where operators connect.
    pub admin: Admin,
    /// In the order of the file.
    pub listeners: Vec<Listener>,
    /// In the order of the file, which breaks ties between equally specific routes.
    pub routes: Vec<Route>,
    /// In the order of the file.
    pub upstreams: Vec<Upstream>,
    /// Every file that was read, the configuration file first: what a watcher watches.
    pub inputs: Vec<PathBuf>,
}

/// Process-wide settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Data-plane threads.
    pub workers: NonZeroUsize,
    /// What is logged, and how.
    pub log: Log,
    /// Where the events of sessions are logged.
    pub access_log: AccessLog,
    /// How the process stops.
    pub shutdown: Shutdown,
    /// Which changed files apply by themselves.
    pub watch: Watch,
    /// Whether our own answers carry `tidegate-reason`.
    pub reason_header: bool,
    /// The header that carries a request's id.
    pub request_id: Option<HeaderName>,
    /// What becomes of `traceparent`.
    pub traceparent: Traceparent,
    /// Whether a crash may leave an image of the memory behind.
    pub core_dumps: bool,
    /// Tunnels at once; `None` for what the limit on open files carries.
    pub max_tunnels: Option<usize>,
    /// How the process hands over to another one.
    pub upgrade: Upgrade,
}

/// How the process hands over to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upgrade {
    /// Processes that may run at once, old and new.
    pub max_generations: usize,
    /// How long the tunnels of the old one may stay; `None` for as long as they last.
    pub drain: Option<Duration>,
}

/// So many per time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// More than 0.
    pub per_second: f64,
    /// So many at once.
    pub burst: NonZeroU32,
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

/// Severity of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// How the process stops on SIGTERM or SIGINT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long live tunnels may stay.
    pub grace: Duration,
    /// How long connections are still accepted after readiness went down.
    pub delay: Duration,
    /// The code of the Close frames that end tunnels.
    pub close_code: u16,
}

/// Which changed files apply by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// None.
    Off,
    /// Certificates and their keys.
    Certificates,
    /// These, and the configuration file.
    All,
}

/// A match, and what happens to the requests that fit it.
#[derive(Debug, Clone)]
pub struct Route {
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

impl Route {
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

/// What holds for a tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelLimits {
    /// No bytes either way for so long; `None` for no limit.
    pub idle: Option<Duration>,
    /// From the last byte in the direction still open after one side ended; `None` for no limit.
    pub half_closed: Option<Duration>,
    /// Bytes that a message may have, in either direction; `None` for no limit.
    pub message_bytes: Option<u64>,
    /// Messages from the client per second, and so many at once; `None` for no limit.
    pub messages: Option<NonZeroU32>,
    /// Bytes from the client per second, and so many at once; `None` for no limit.
    pub bytes: Option<ByteRate>,
    /// Bytes waited for a side, and it took none for so long; `None` for no limit.
    pub slow_reader: Option<Duration>,
    /// The age at which it is closed; `None` for no limit.
    pub max_age: Option<MaxAge>,
    /// When quiet sides are asked whether they are there; `None` if never.
    pub ping: Option<Ping>,
}

/// When a quiet side of a tunnel is asked whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// When nothing has come from it for so long.
    pub every: Duration,
    /// When it has not answered, nor sent anything else, for so long, it is gone.
    pub pong: Duration,
}

/// The age at which tunnels are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAge {
    /// At most.
    pub age: Duration,
    /// By how much of it, in thousandths, a tunnel may be younger: those that were opened together do
    /// not come back together.
    pub jitter: u16,
}

impl MaxAge {
    /// The age of one tunnel; `chance` is from 0 to 1.
    pub fn of(self, chance: f64) -> Duration {
        let share = 1.0 - f64::from(self.jitter) / 1000.0 * chance;
        self.age.mul_f64(share.clamp(0.0, 1.0))
    }
}

/// So many bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate {
    /// Not 0.
    pub per_second: NonZeroU64,
    /// What happens beyond.
    pub action: RateAction,
}

/// What happens beyond a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateAction {
    /// No more is read for a while.
    Throttle,
    /// The tunnel is closed.
    Close,
}
