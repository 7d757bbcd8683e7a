//! Upstreams: groups of endpoints, and how they are spoken to.

mod displacement;
mod discovery;
mod health;
mod picking;
mod rebalance;

pub use self::discovery::Discovery;
pub use self::displacement::{CloseOrder, ClosePace, DisplacementPolicy};
pub use self::health::{Ejection, Health, HttpProbe, Probe, WebSocketProbe};
pub use self::picking::{
    AllDown, Balance, HashBy, HashKey, Picking, QueueConfig, Retry, RetryOn, SameSite, Sticky,
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

/// A named group of endpoints with a balancing policy.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// Unique.
    pub name: Arc<str>,
    /// Those that are known from the files. Without discovery there is at least one.
    pub endpoints: Vec<EndpointConfig>,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// How an endpoint is picked.
    pub picking: Picking,
    /// The cookie that leads back to an endpoint.
    pub sticky: Option<Sticky>,
    /// What happens when an endpoint does not do.
    pub retry: Retry,
    /// Checks that endpoints must pass.
    pub health: Option<Health>,
    /// When an endpoint is left out because of failures in use.
    pub ejection: Option<Ejection>,
    /// What becomes of the tunnels of an endpoint that is down.
    pub on_down: DisplacementPolicy,
    /// The same, of one that is gone.
    pub on_removed: DisplacementPolicy,
    /// The same, of one that is drained.
    pub on_drain: DisplacementPolicy,
    /// How tunnels are moved from endpoints that have too many.
    pub rebalance: Option<RebalanceConfig>,
    /// How endpoints are connected to.
    pub reach: ConnectConfig,
    /// Deadlines towards endpoints.
    pub timeouts: UpstreamTimeouts,
}

impl UpstreamConfig {
    /// One with all the defaults.
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
                sources: [].into(),
                keepalive: None,
            },
            timeouts: UpstreamTimeouts {
                connect: Duration::from_secs(3),
                handshake: Duration::from_secs(10),
                response: Duration::from_secs(60),
            },
        }
    }
}

/// One address in an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointConfig {
    /// Where it listens.
    pub address: Address,
    /// Its share, relative to the others; with 0 only a cookie leads to it.
    pub weight: u32,
    /// Tunnels, handshakes and requests at once.
    pub max_tunnels: Option<usize>,
    /// Whether it takes nothing new.
    pub drain: bool,
    /// Whether it serves only when no other does.
    pub backup: bool,
}

impl EndpointConfig {
    /// One with all the defaults.
    pub fn at(address: Address) -> Self {
        Self {
            address,
            weight: 1,
            max_tunnels: None,
            drain: false,
            backup: false,
        }
    }
}

/// How endpoints are connected to.
#[derive(Debug, Clone)]
pub struct ConnectConfig {
    /// `None` for plain text.
    pub tls: Option<EndpointTls>,
    /// Whether connections begin with a PROXY header.
    pub send_proxy: SendProxy,
    /// Local addresses that connections are spread over; the system's choice if empty.
    pub sources: Arc<[IpAddr]>,
    /// When TCP notices that they are gone; as the system has it without.
    pub keepalive: Option<Keepalive>,
}

/// When TCP notices that the other end is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Quiet time before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer.
    pub count: u32,
    /// How long sent bytes may stay unacknowledged.
    pub user_timeout: Duration,
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
