//! The configuration as meant: typed, checked, complete. Nothing here knows how it was written.
//!
//! A value of these types that came out of [`crate::config`] is valid: names resolve, files were
//! read, keys fit their certificates, durations and weights are in range.

mod headers;
mod trust;

pub use self::headers::{
    HeaderChanges, Piece, Redirect, Rewrite, Template, Variable, claims_origin, same_variable,
};
pub use self::trust::{Access, ClientAuth, Family, Net, Nets, Origin, Trust};

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue, Method};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Process-wide settings.
    pub server: Server,
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
    /// How the process stops.
    pub shutdown: Shutdown,
    /// Which changed files apply by themselves.
    pub watch: Watch,
    /// Whether our own answers carry `tidegate-reason`.
    pub reason_header: bool,
    /// The header that carries a request's id.
    pub request_id: Option<HeaderName>,
    /// Whether a crash may leave an image of the memory behind.
    pub core_dumps: bool,
    /// Tunnels at once; `None` for what the limit on open files carries.
    pub max_tunnels: Option<usize>,
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

/// A bound address, or several, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Unique.
    pub name: Arc<str>,
    /// At least one.
    pub binds: Vec<Bind>,
    /// `None` for plain text.
    pub tls: Option<ListenerTls>,
    /// What is believed about where connections come from.
    pub trust: Trust,
    /// Whether plain requests are sent to https, and handshakes refused.
    pub redirect_to_https: bool,
    /// What clients may take.
    pub limits: ListenerLimits,
    /// Deadlines towards clients.
    pub timeouts: ListenerTimeouts,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// An IPv4 or IPv6 address (the latter with V6ONLY set).
    Tcp(SocketAddr),
    /// A unix socket.
    Unix {
        /// Absolute, or relative to the working directory.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// TLS towards clients.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// At least one; the first serves clients whose SNI fits none.
    pub certificates: Vec<Certificate>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// What session tickets are made with; keys of our own without it.
    pub ticket_keys: Option<TicketKeysFile>,
    /// TLS handshakes at once, per worker.
    pub handshakes_at_once: usize,
    /// Certificates that clients show; `None` if nobody asks.
    pub client_auth: Option<ClientAuth>,
}

/// Keys of session tickets that several nodes share.
#[derive(Debug, Clone)]
pub struct TicketKeysFile {
    /// Where they were read.
    pub path: PathBuf,
    /// At least one, oldest first.
    pub secrets: Vec<TicketSecret>,
}

/// What a key of session tickets is made of. Wiped when dropped; its `Debug` shows nothing.
#[derive(Clone)]
pub struct TicketSecret(Zeroizing<Vec<u8>>);

impl TicketSecret {
    /// Bytes of a short one.
    pub const SHORT: usize = 48;
    /// Bytes of a long one.
    pub const LONG: usize = 80;

    /// Of these bytes.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret")
    }
}

/// A certificate chain with the key that fits it.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The file that the chain was read from.
    pub cert: PathBuf,
    /// The file that the key was read from.
    pub key: PathBuf,
    /// Chain and signing key. Its `Debug` shows no secret.
    pub certified: Arc<CertifiedKey>,
    /// DNS names of the end-entity certificate: subject alternative names, else the common name.
    pub names: Vec<HostPattern>,
    /// When the end-entity certificate expires.
    pub not_after: SystemTime,
}

/// A TLS protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Deadlines towards clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// From accept to the end of the TLS handshake.
    pub tls_handshake: Duration,
    /// From accept, the end of TLS, or the first byte of a further request, to the end of its head.
    pub request_header: Duration,
    /// Between an answer and the next request.
    pub keep_alive: Duration,
    /// Between two pieces of a request's body.
    pub request_body: Duration,
}

/// What the clients of a listener may take; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ListenerLimits {
    /// Connections at once.
    pub connections: Option<usize>,
    /// The same, of one client address.
    pub connections_per_ip: Option<u32>,
    /// WebSocket handshakes.
    pub handshakes: Option<Rate>,
    /// The same, of one client address.
    pub handshakes_per_ip: Option<Rate>,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Lines of a request's head.
    pub header_count: usize,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_ip: None,
            handshakes: None,
            handshakes_per_ip: None,
            header_bytes: 16 * 1024,
            header_count: 100,
        }
    }
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

/// A named group of endpoints with a balancing policy.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Unique.
    pub name: Arc<str>,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// How many endpoints are tried for one request.
    pub tries: NonZeroU32,
    /// `None` for plain text.
    pub tls: Option<EndpointTls>,
    /// Whether connections begin with a PROXY header.
    pub send_proxy: SendProxy,
    /// Deadlines towards endpoints.
    pub timeouts: UpstreamTimeouts,
}

/// One address in an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: Address,
    /// Its share, relative to the others.
    pub weight: NonZeroU32,
    /// Tunnels, handshakes and requests at once.
    pub max_tunnels: Option<usize>,
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A name to be resolved, and a port.
    Name {
        /// Lower case.
        host: Box<str>,
        /// Not 0.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// The fewest in flight, relative to weight.
    LeastConnections,
    /// In turn, by weight, evenly interleaved.
    RoundRobin,
}

/// The PROXY header that endpoints get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SendProxy {
    /// None.
    #[default]
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
}

/// TLS towards endpoints.
#[derive(Debug, Clone)]
pub struct EndpointTls {
    /// Whom we believe.
    pub roots: Roots,
    /// The name that is verified and sent as SNI; `None` for the host of the endpoint's address.
    pub server_name: Option<ServerName<'static>>,
    /// What we show when asked.
    pub client: Option<Arc<CertifiedKey>>,
}

/// Two that show the same certificate are equal; whatever its key, that is the same key.
impl PartialEq for EndpointTls {
    fn eq(&self, other: &Self) -> bool {
        fn chain(tls: &EndpointTls) -> Option<&[CertificateDer<'static>]> {
            tls.client.as_ref().map(|certified| &*certified.cert)
        }
        self.roots == other.roots
            && self.server_name == other.server_name
            && chain(self) == chain(other)
    }
}

/// Which authorities are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those of the operating system.
    Platform,
    /// These.
    Given(Vec<CertificateDer<'static>>),
}

/// Deadlines towards endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// For one connection, TLS included.
    pub connect: Duration,
    /// From the written handshake to its answer.
    pub handshake: Duration,
    /// From the written plain request to the head of its answer.
    pub response: Duration,
}
