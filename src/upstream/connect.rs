//! Connects to an endpoint: resolves its name, opens the socket, and does the TLS handshake, all
//! within one timeout. The addresses of a name are tried one after the other, each for its share of the time.

use std::borrow::Cow;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::addresses;
use super::endpoint::{EndpointState, locked};
use super::group::Upstream;
use super::lookups::LookupCounters;
use super::registry::UpstreamTls;
use super::resolve::{self, LookUpFn, ResolveError, Resolver};
use super::source::{PortPermit, SourcePorts};
use super::time::later;
use crate::config::model::Address;
use crate::net::certificate_fault::in_words_of_io;
use crate::net::keepalive;
use crate::net::stream::{Socket, Stream, TlsStream};
use crate::quota::failure_reports::warn_once_a_minute;

/// Why connecting failed. No byte of a request was written, so another endpoint may be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The timeout passed.
    #[error("connection timed out after {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The name could not be resolved.
    #[error("cannot resolve the name: {0}")]
    Resolve(#[source] ResolveError),
    /// The endpoint or the network refused the connection.
    #[error("cannot connect: {0}")]
    Refused(#[source] io::Error),
    /// No local address has a free port towards the endpoint.
    #[error("no free local port: {0}")]
    Ports(#[source] io::Error),
    /// This process or the machine has no free file descriptor.
    #[error("out of file descriptors: {0}")]
    Descriptors(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {}", in_words_of_io(.0))]
    Tls(io::Error),
    /// There is no name to verify the endpoint's certificate against.
    #[error("the endpoint's address is not a valid TLS server name: set `server_name`")]
    NoServerName,
}

impl ConnectError {
    /// What distinguishes it from other failures to connect to the same endpoint, for the log: nothing that
    /// differs from one connection to the next.
    pub(crate) fn cause(&self) -> Cow<'static, str> {
        match self {
            Self::Timeout(_) => "timeout".into(),
            Self::Resolve(_) => "resolve".into(),
            Self::Refused(error) => error.kind().to_string().into(),
            Self::Ports(_) => "ports".into(),
            Self::Descriptors(_) => "descriptors".into(),
            Self::Tls(_) => "TLS".into(),
            Self::NoServerName => "server name".into(),
        }
    }

    /// Whether the failure says something about the endpoint. It does not if a local resource is exhausted,
    /// or if the name could not be resolved: then nothing has been asked of the endpoint, and the failure
    /// must not count against it.
    pub fn blames_endpoint(&self) -> bool {
        match self {
            Self::Descriptors(_) | Self::Ports(_) | Self::Resolve(_) => false,
            Self::Refused(error) => !matches!(errno(error), Some(Errno::NOBUFS | Errno::NOMEM)),
            Self::Timeout(_) | Self::Tls(_) | Self::NoServerName => true,
        }
    }
}

/// A connection to an endpoint.
#[derive(Debug)]
pub struct EndpointConnection {
    /// The connection itself.
    pub stream: Stream,
    /// The local port that it uses, to be kept as long as it is open; a unix socket has none.
    pub port: Option<PortPermit>,
}

/// Connects to endpoints: resolves their names, and counts the local ports of the process.
#[derive(Debug, Clone)]
pub struct Connector {
    resolver: Arc<Resolver>,
    sources: Arc<SourcePorts>,
}

impl Default for Connector {
    /// Resolves names as programs on this machine do.
    fn default() -> Self {
        Self::with_look_up(Box::new(resolve::by_system))
    }
}

impl Connector {
    /// Resolves names by `look_up`.
    pub fn with_look_up(look_up: Box<LookUpFn>) -> Self {
        Self {
            resolver: Arc::new(Resolver::new(look_up)),
            sources: Arc::default(),
        }
    }

    /// The local ports in use.
    pub fn sources(&self) -> &SourcePorts {
        &self.sources
    }

    /// The lookups of names so far.
    pub fn lookups(&self) -> &LookupCounters {
        self.resolver.counters()
    }

    /// The addresses of a host that is not an endpoint, with this port: at least one. Nothing is remembered of it.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn resolve(
        &self,
        host: &str,
        port: u16,
        limit: (Duration, Instant),
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let name = self.resolver.name(host, &[]);
        self.resolver.addresses(&name, port, limit).await
    }

    /// How many names of endpoints could not be resolved by their latest lookup.
    pub fn unresolved_names(&self) -> usize {
        self.resolver.unresolved()
    }
}

/// Connects to an endpoint of `upstream` within `limit`, and writes `proxy_header` before TLS begins.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    upstream: &Upstream,
    endpoint: &EndpointState,
    connector: &Connector,
    proxy_header: &[u8],
    limit: Duration,
) -> Result<EndpointConnection, ConnectError> {
    let now = Instant::now();
    let attempt = ConnectAttempt {
        upstream,
        endpoint,
        connector,
        proxy_header,
        limit,
        deadline: Instant::from_std(later(now.into_std(), limit)),
    };
    match &endpoint.address {
        Address::Ip(address) => {
            let opened = attempt.open_tcp(*address, attempt.deadline).await;
            let (socket, port) = opened?;
            attempt.finish(socket, Some(port)).await
        }
        Address::Unix(path) => {
            let connecting = async { UnixStream::connect(path).await.map_err(refused) };
            let socket = attempt.within(attempt.deadline, connecting).await?;
            attempt.finish(Socket::Unix(socket), None).await
        }
        Address::Name { host, port } => attempt.connect_by_name(host, *port).await,
    }
}

/// One attempt to connect to an endpoint, with one deadline for all its steps.
struct ConnectAttempt<'a> {
    upstream: &'a Upstream,
    endpoint: &'a EndpointState,
    connector: &'a Connector,
    proxy_header: &'a [u8],
    limit: Duration,
    deadline: Instant,
}

impl ConnectAttempt<'_> {
    async fn connect_by_name(
        &self,
        host: &str,
        port: u16,
    ) -> Result<EndpointConnection, ConnectError> {
        let resolver = &self.connector.resolver;
        let name = self.endpoint.resolved_name(host, resolver);
        let resolved = resolver
            .addresses(name, port, (self.limit, self.deadline))
            .await;
        let addresses = resolved.map_err(ConnectError::Resolve)?;
        let half = self.limit / 2;
        let was_slow = self.remaining() < half;
        match self.connect_to_one_of(addresses).await {
            // The endpoint had less than half of its time.
            Err(ConnectError::Timeout(_)) if was_slow => {
                Err(ConnectError::Resolve(ResolveError::Timeout(half)))
            }
            result => result,
        }
    }

    /// Tries the addresses one after the other: to race them would use a local port for each.
    async fn connect_to_one_of(
        &self,
        addresses: Vec<SocketAddr>,
    ) -> Result<EndpointConnection, ConnectError> {
        let history = || locked(&self.endpoint.address_history);
        let order = history().order(addresses, Instant::now().into_std());
        let mut failure = None;
        for (tried, address) in order.iter().enumerate() {
            let remaining = self.remaining();
            if remaining.is_zero() {
                break;
            }
            let share = addresses::share(remaining, order.len() - tried);
            match self.open_tcp(*address, Instant::now() + share).await {
                Ok((socket, port)) => {
                    let result = self.finish(socket, Some(port)).await;
                    match &result {
                        Ok(_) => history().succeeded(*address),
                        Err(error) => self.note(*address, error),
                    }
                    return result;
                }
                Err(error @ ConnectError::Descriptors(_)) => return Err(error),
                Err(error) => {
                    self.note(*address, &error);
                    // While one address could not be tried, the endpoint may well be reachable.
                    if failure.as_ref().is_none_or(ConnectError::blames_endpoint) {
                        failure = Some(error);
                    }
                }
            }
        }
        Err(failure.unwrap_or(ConnectError::Timeout(self.limit)))
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Records the failure of an address.
    fn note(&self, address: SocketAddr, error: &ConnectError) {
        if error.blames_endpoint() {
            let now = Instant::now().into_std();
            locked(&self.endpoint.address_history).failed(address, now);
        }
    }

    async fn open_tcp(
        &self,
        to: SocketAddr,
        deadline: Instant,
    ) -> Result<(Socket, PortPermit), ConnectError> {
        let opening = self.open_tcp_from_any(to);
        let (socket, port) = self.within(deadline, opening).await?;
        Ok((Socket::Tcp(socket), port))
    }

    /// Connects from one local address after the other, as long as the only failure is a missing port.
    async fn open_tcp_from_any(
        &self,
        to: SocketAddr,
    ) -> Result<(TcpStream, PortPermit), ConnectError> {
        let (config, sources) = (self.upstream.connecting(), &self.connector.sources);
        let mut failure = io::Error::from(Errno::ADDRNOTAVAIL);
        for from in sources.candidates_for(to, &config.sources) {
            let port = sources.acquire(to, from);
            match open_from(from, to).await {
                Ok(socket) => {
                    port.mark_connected();
                    // Messages are small: Nagle's algorithm would hold each back for the previous one's ACK.
                    socket.set_nodelay(true).map_err(refused)?;
                    // A new socket has none, so that "off" takes no call.
                    if config.keepalive.is_some() {
                        keepalive::set(&socket, config.keepalive).map_err(refused)?;
                    }
                    return Ok((socket, port));
                }
                Err(error) if errno(&error) == Some(Errno::ADDRNOTAVAIL) => {
                    if port.mark_exhausted() {
                        warn_once_a_minute!(
                            self.endpoint.reports,
                            &format!("ports of {from:?}"),
                            "source address unavailable or out of ports",
                            endpoint = %to,
                            source = from.map(tracing::field::display),
                            %error
                        );
                    }
                    failure = error;
                }
                Err(error) => return Err(refused(error)),
            }
        }
        Err(ConnectError::Ports(failure))
    }

    /// The rest after the socket is connected: the PROXY header and TLS.
    async fn finish(
        &self,
        socket: Socket,
        port: Option<PortPermit>,
    ) -> Result<EndpointConnection, ConnectError> {
        let securing = async {
            let mut socket = socket;
            if !self.proxy_header.is_empty() {
                socket.write_all(self.proxy_header).await.map_err(refused)?;
            }
            match &self.upstream.tls {
                None => Ok(Stream::Plain(socket)),
                Some(tls) => secure(tls, &self.endpoint.address, socket).await,
            }
        };
        let stream = self.within(self.deadline, securing).await?;
        Ok(EndpointConnection { stream, port })
    }

    async fn within<T>(
        &self,
        deadline: Instant,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        match timeout_at(deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout(self.limit)),
        }
    }
}

async fn open_from(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect(to).await;
    };
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // With this option the kernel chooses the port in connect(), when it knows the destination, and
    // can use the same port for different endpoints. Chosen in bind(), a port would be used for one
    // connection only, and an address would have one range of ports for all endpoints together.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

fn refused(error: io::Error) -> ConnectError {
    match errno(&error) {
        Some(Errno::MFILE | Errno::NFILE) => ConnectError::Descriptors(error),
        _ => ConnectError::Refused(error),
    }
}

async fn secure(
    tls: &UpstreamTls,
    address: &Address,
    socket: Socket,
) -> Result<Stream, ConnectError> {
    let name = match &tls.settings.server_name {
        Some(name) => name.clone(),
        None => name_of(address).ok_or(ConnectError::NoServerName)?,
    };
    TlsStream::connect(Arc::clone(&tls.config), name, socket)
        .await
        .map(|stream| Stream::Tls(Box::new(stream)))
        .map_err(ConnectError::Tls)
}

fn name_of(address: &Address) -> Option<ServerName<'static>> {
    match address {
        Address::Ip(address) => Some(ServerName::from(address.ip())),
        Address::Name { host, .. } => ServerName::try_from(host.to_string()).ok(),
        Address::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_of_the_endpoint_blame_it() {
        let of = |errno: Errno| refused(io::Error::from(errno));
        for (error, blames) in [
            (ConnectError::Timeout(Duration::ZERO), true),
            (of(Errno::CONNREFUSED), true),
            (of(Errno::HOSTUNREACH), true),
            (ConnectError::Tls(io::ErrorKind::InvalidData.into()), true),
            (ConnectError::NoServerName, true),
            (of(Errno::MFILE), false),
            (of(Errno::NFILE), false),
            (of(Errno::NOBUFS), false),
            (of(Errno::NOMEM), false),
            (ConnectError::Ports(Errno::ADDRNOTAVAIL.into()), false),
            (
                ConnectError::Resolve(ResolveError::Timeout(Duration::ZERO)),
                false,
            ),
        ] {
            assert_eq!(error.blames_endpoint(), blames, "{error}");
        }
    }
}
