//! Upstreams: groups of endpoints, and how they are spoken to.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;

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
