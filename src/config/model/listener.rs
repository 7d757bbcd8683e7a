//! Listeners: addresses, TLS, timeouts and limits for client connections.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;

use super::{ClientAuth, HostPattern, Http2, Keepalive, ManagedCertificate, Secret, Trust};

/// A listener: one or more addresses that clients connect to.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// The name, which is unique.
    pub name: Arc<str>,
    /// The listen addresses, at least one.
    pub binds: Vec<Bind>,
    /// TLS; `None` for plain text.
    pub tls: Option<ListenerTls>,
    /// HTTP/2, which the listener offers in TLS handshakes; `None` for HTTP/1.1 alone.
    pub http2: Option<Http2>,
    /// Which peers may state a client's address.
    pub trust: Trust,
    /// Whether plain requests are redirected to https, and handshakes rejected.
    pub redirect_to_https: bool,
    /// Limits on clients.
    pub limits: ListenerLimits,
    /// TCP keepalive of client connections; `None` for the settings of the operating system.
    pub keepalive: Option<Keepalive>,
    /// Timeouts of client connections.
    pub timeouts: ListenerTimeouts,
}

/// A listen address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// An IPv4 or IPv6 address (the latter with V6ONLY set).
    Tcp(SocketAddr),
    /// A unix socket.
    Unix {
        /// The path, absolute or relative to the working directory.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// The sockets that systemd passes under this name.
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

/// TLS of client connections.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// The certificates, at least one; the first is for clients whose SNI matches none.
    pub certificates: Vec<ListenerCertificate>,
    /// Which ciphers and key exchanges are accepted.
    pub policy: TlsPolicy,
    /// The oldest TLS version that is accepted.
    pub min_version: TlsVersion,
    /// The keys of session tickets; `None` for generated ones.
    pub ticket_keys: Option<TicketKeysFile>,
    /// The maximum number of concurrent TLS handshakes per worker.
    pub handshakes_at_once: usize,
    /// Client certificates; `None` if clients are not asked for one.
    pub client_auth: Option<ClientAuth>,
}

/// A file of session ticket keys, which several nodes can share.
#[derive(Debug, Clone)]
pub struct TicketKeysFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The keys, at least one, oldest first.
    pub secrets: Vec<Secret>,
}

impl TicketKeysFile {
    /// The size of a short key, in bytes.
    pub const SHORT: usize = 48;
    /// The size of a long key, in bytes.
    pub const LONG: usize = 80;
}

impl ListenerTls {
    /// The certificates that were read from files.
    pub fn from_files(&self) -> impl Iterator<Item = &CertificateConfig> {
        self.certificates.iter().filter_map(|each| match each {
            ListenerCertificate::Files(certificate) => Some(certificate),
            ListenerCertificate::Managed(_) => None,
        })
    }

    /// The certificates that tidegate obtains by itself.
    pub fn managed(&self) -> impl Iterator<Item = &ManagedCertificate> {
        self.certificates.iter().filter_map(|each| match each {
            ListenerCertificate::Files(_) => None,
            ListenerCertificate::Managed(certificate) => Some(certificate),
        })
    }
}

/// A certificate of a listener.
#[derive(Debug, Clone)]
pub enum ListenerCertificate {
    /// It was read from files.
    Files(CertificateConfig),
    /// tidegate obtains it by itself.
    Managed(ManagedCertificate),
}

impl ListenerCertificate {
    /// The DNS names that it is for.
    pub fn names(&self) -> &[HostPattern] {
        match self {
            Self::Files(certificate) => &certificate.names,
            Self::Managed(certificate) => &certificate.names,
        }
    }
}

/// A certificate chain with the key that fits it.
#[derive(Debug, Clone)]
pub struct CertificateConfig {
    /// The file of the chain.
    pub cert: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
    /// The chain and the signing key. Its `Debug` shows no secret.
    pub certified: Arc<CertifiedKey>,
    /// The DNS names of the end-entity certificate: subject alternative names, or else the common name.
    pub names: Vec<HostPattern>,
    /// Who has issued it, as far as that is readable.
    pub issuer: Box<str>,
    /// The time at which the validity of the end-entity certificate begins.
    pub not_before: SystemTime,
    /// The time at which the end-entity certificate expires.
    pub not_after: SystemTime,
}

/// A choice of TLS versions and ciphers, by the names of Mozilla's recommendations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsPolicy {
    /// TLS 1.3 only.
    Modern,
    /// TLS 1.2 with forward secrecy and authenticated encryption as well.
    #[default]
    Intermediate,
}

/// A TLS protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Timeouts of client connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerTimeouts {
    /// From accept to the end of the TLS handshake.
    pub tls_handshake: Duration,
    /// From accept, the end of TLS, or the first byte of a further request, to the end of its head.
    pub request_header: Duration,
    /// Between a response and the next request.
    pub keep_alive: Duration,
    /// Between two parts of a request's body.
    pub request_body: Duration,
    /// While a client accepts no part of a pending response.
    pub response_body: Duration,
}

/// Limits on the clients of a listener; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ListenerLimits {
    /// Concurrent connections.
    pub connections: Option<usize>,
    /// Concurrent connections of one client address.
    pub connections_per_ip: Option<u32>,
    /// The rate of WebSocket handshakes.
    pub handshakes: Option<Rate>,
    /// The rate of WebSocket handshakes of one client address.
    pub handshakes_per_ip: Option<Rate>,
    /// The rate of plain requests of one client address.
    pub requests_per_ip: Option<Rate>,
    /// The maximum size of a request head, in bytes.
    pub header_bytes: usize,
    /// The maximum number of header lines in a request head.
    pub header_count: usize,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: None,
            connections_per_ip: None,
            handshakes: None,
            handshakes_per_ip: None,
            requests_per_ip: None,
            header_bytes: 16 * 1024,
            header_count: 100,
        }
    }
}

/// A limit on how often something may happen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The sustained rate; greater than 0.
    pub per_second: f64,
    /// The number that is allowed in one burst.
    pub burst: NonZeroU32,
}
