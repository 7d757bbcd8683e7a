//! Listeners: where clients connect, by TLS or not, and what they may take.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;

use super::{ClientAuth, HostPattern, Secret, Trust};

/// A bound address, or several, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
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
    /// The sockets that the service manager passes under this name.
    Systemd(Box<str>),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// TLS towards clients.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// At least one; the first serves clients whose SNI fits none.
    pub certificates: Vec<CertificateConfig>,
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
    pub secrets: Vec<Secret>,
}

impl TicketKeysFile {
    /// Bytes of a short key.
    pub const SHORT: usize = 48;
    /// Bytes of a long one.
    pub const LONG: usize = 80;
}

/// A certificate chain with the key that fits it.
#[derive(Debug, Clone)]
pub struct CertificateConfig {
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
    /// While a client takes nothing of an answer that waits for it.
    pub response_body: Duration,
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

/// So many per time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// More than 0.
    pub per_second: f64,
    /// So many at once.
    pub burst: NonZeroU32,
}
