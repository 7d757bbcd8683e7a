//! Upstreams: groups of endpoints, how one is selected, and how tidegate connects to it.

mod displacement;
mod discovery;
mod health;
mod picking;
mod rebalance;

pub use self::discovery::{Discovery, KubernetesService, ServicePort};
pub use self::displacement::{CloseOrder, ClosePace, DisplacementPolicy};
pub use self::health::{Ejection, Health, HttpProbe, Probe, WebSocketProbe};
pub use self::picking::{
    AllDown, Balance, HashBy, Picking, QueueConfig, ReportsConfig, Retry, RetryOn, SameSite, Sticky,
};
pub use self::rebalance::RebalanceConfig;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use super::CertificateFingerprint;

/// A named group of endpoints with a balancing policy.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// The name, which is unique.
    pub name: Arc<str>,
    /// The endpoints that the files list. Without discovery, there is at least one.
    pub endpoints: Vec<EndpointConfig>,
    /// The source of endpoints.
    pub discovery: Discovery,
    /// How an endpoint is selected.
    pub picking: Picking,
    /// The sticky cookie.
    pub sticky: Option<Sticky>,
    /// When another endpoint is tried.
    pub retry: Retry,
    /// Health checks.
    pub health: Option<Health>,
    /// When an endpoint is ejected because of failures in use.
    pub ejection: Option<Ejection>,
    /// What happens to live tunnels of an endpoint that is down.
    pub on_down: DisplacementPolicy,
    /// What happens to live tunnels of an endpoint that was removed.
    pub on_removed: DisplacementPolicy,
    /// What happens to live tunnels of an endpoint that is drained.
    pub on_drain: DisplacementPolicy,
    /// How tunnels are moved away from endpoints that have more than their share.
    pub rebalance: Option<RebalanceConfig>,
    /// How tidegate connects to endpoints.
    pub reach: ConnectConfig,
    /// Timeouts of connections to endpoints.
    pub timeouts: UpstreamTimeouts,
    /// The maximum number of header lines in a response head.
    pub max_header_lines: usize,
}

impl UpstreamConfig {
    /// An upstream with all the defaults.
    pub fn listed(name: &str, endpoints: Vec<EndpointConfig>) -> Self {
        Self {
            name: name.into(),
            endpoints,
            discovery: Discovery::Listed,
            picking: Picking {
                balance: Balance::LeastConnections,
                slow_start: None,
                all_down: AllDown::Refuse,
                queue: None,
                reports: None,
            },
            sticky: None,
            retry: Retry {
                tries: NonZeroU32::MIN.saturating_add(1),
                on: RetryOn::default(),
            },
            health: None,
            ejection: None,
            on_down: DisplacementPolicy::Keep,
            on_removed: DisplacementPolicy::Keep,
            on_drain: DisplacementPolicy::Keep,
            rebalance: None,
            reach: ConnectConfig {
                tls: None,
                send_proxy: SendProxy::Off,
                reuse: true,
                sources: [].into(),
                keepalive: None,
            },
            timeouts: UpstreamTimeouts {
                connect: Duration::from_secs(3),
                handshake: Duration::from_secs(10),
                response: Duration::from_secs(60),
                body: None,
            },
            max_header_lines: 100,
        }
    }
}

/// One address in an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointConfig {
    /// The address that the endpoint listens on.
    pub address: Address,
    /// The name whose lookup found the address; `None` without discovery.
    #[serde(default)]
    pub host: Option<Box<str>>,
    /// The name by which requests and operators may ask for it.
    #[serde(default)]
    pub name: Option<Box<str>>,
    /// The weight, relative to the others; with 0, only a sticky cookie leads to the endpoint.
    pub weight: u32,
    /// The maximum number of concurrent tunnels, handshakes and requests.
    pub max_tunnels: Option<usize>,
    /// Whether the endpoint is drained and receives nothing new.
    pub drain: bool,
    /// Whether the endpoint is used only if no other can be.
    pub backup: bool,
    /// Whether discovery offers it to new sessions. Version 0.1.0 does not know it.
    #[serde(default)]
    pub phase: EndpointPhase,
}

/// Whether discovery offers an endpoint to new sessions. The greater one is the better one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointPhase {
    /// It gets no new session. Its tunnels stay.
    NotReady,
    /// It will end soon, and serves no more. It is drained, and gets no new session.
    TerminatingNotReady,
    /// It still serves, and will end soon. It is drained: clients that are bound to it may return, others get it
    /// only if no endpoint is ready.
    Terminating,
    /// Discovery had it until a moment ago, and removes it if it does not come back soon. Its tunnels stay; as for
    /// new sessions, it is like one that is terminating.
    Unlisted,
    /// It is offered like any other.
    #[default]
    Ready,
}

impl EndpointPhase {
    /// Whether it will end soon, serving or not: its tunnels are drained.
    pub fn is_terminating(self) -> bool {
        matches!(self, Self::TerminatingNotReady | Self::Terminating)
    }

    /// Whether clients that are bound to it get it.
    pub fn serves_bound(self) -> bool {
        !matches!(self, Self::NotReady | Self::TerminatingNotReady)
    }
}

impl EndpointConfig {
    /// An endpoint with all the defaults.
    pub fn at(address: Address) -> Self {
        Self {
            address,
            host: None,
            name: None,
            weight: 1,
            max_tunnels: None,
            drain: false,
            backup: false,
            phase: EndpointPhase::Ready,
        }
    }
}

/// The maximum length of an endpoint's name: that of a DNS name.
pub const MAX_ENDPOINT_NAME: usize = 253;

/// Whether an endpoint may have this name. It may stand in a cookie, a URL, a file of lines and a log as it is.
pub fn is_endpoint_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=MAX_ENDPOINT_NAME).contains(&text.len()) && text.bytes().all(allowed)
}

/// How tidegate connects to endpoints.
#[derive(Debug, Clone)]
pub struct ConnectConfig {
    /// TLS; `None` for plain text.
    pub tls: Option<EndpointTls>,
    /// Whether connections begin with a PROXY header.
    pub send_proxy: SendProxy,
    /// Whether a connection may serve one plain request after another.
    pub reuse: bool,
    /// Local addresses that connections are spread over; if empty, the operating system chooses.
    pub sources: Arc<[IpAddr]>,
    /// TCP keepalive; `None` for the settings of the operating system.
    pub keepalive: Option<Keepalive>,
}

/// TCP keepalive: when a dead peer is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// The silence before the first probe.
    pub idle: Duration,
    /// The time between probes.
    pub interval: Duration,
    /// The number of unanswered probes before the connection is given up.
    pub count: u32,
    /// How long sent bytes may stay unacknowledged.
    pub user_timeout: Duration,
}

/// The address of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A name to be resolved, and a port.
    Name {
        /// The name, in lower case.
        host: Box<str>,
        /// The port, not 0.
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

/// The PROXY header that endpoints receive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SendProxy {
    /// No PROXY header.
    #[default]
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
}

/// TLS of connections to endpoints.
#[derive(Debug, Clone)]
pub struct EndpointTls {
    /// The CA certificates that are trusted.
    pub roots: Roots,
    /// The name that is verified and sent as SNI; `None` for the host of the endpoint's address.
    pub server_name: Option<ServerName<'static>>,
    /// The only certificates that are trusted, whatever they say; empty for those that `roots` trust.
    pub pinned: Vec<CertificateFingerprint>,
    /// The client certificate that tidegate presents on request.
    pub client: Option<Arc<CertifiedKey>>,
}

/// Two with the same client certificate are equal: the same certificate has the same key.
impl PartialEq for EndpointTls {
    fn eq(&self, other: &Self) -> bool {
        fn chain(tls: &EndpointTls) -> Option<&[CertificateDer<'static>]> {
            tls.client.as_ref().map(|certified| &*certified.cert)
        }
        self.roots == other.roots
            && self.pinned == other.pinned
            && self.server_name == other.server_name
            && chain(self) == chain(other)
    }
}

impl Eq for EndpointTls {}

/// The CA certificates that are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// The CA certificates of the operating system.
    Platform,
    /// These CA certificates.
    Given(Vec<CertificateDer<'static>>),
}

/// Timeouts of connections to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    /// For one connection, TLS included.
    pub connect: Duration,
    /// From the end of the handshake request to its response.
    pub handshake: Duration,
    /// From the end of a plain request to the head of its response.
    pub response: Duration,
    /// Between two pieces of the body of a response; `None` for any time.
    pub body: Option<Duration>,
}
