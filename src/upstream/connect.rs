//! Connects to an endpoint: resolves its name, opens the socket, and does the TLS handshake, all
//! within one timeout.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;

use super::endpoint::EndpointState;
use super::group::Upstream;
use super::registry::UpstreamTls;
use super::resolve::Resolver;
use super::source::{PortPermit, SourcePorts};
use crate::config::model::{Address, ConnectConfig};
use crate::net::keepalive;
use crate::net::stream::{Socket, Stream};

/// Why connecting failed. No byte of a request was written, so another endpoint may be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The timeout passed.
    #[error("connection timed out after {0:?}")]
    Timeout(Duration),
    /// The name could not be resolved.
    #[error("cannot resolve the name: {0}")]
    Resolve(#[source] io::Error),
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
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// There is no name to verify the endpoint's certificate against.
    #[error("the endpoint's address is not a valid TLS server name: set `server_name`")]
    NoServerName,
}

impl ConnectError {
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

/// Connects to endpoints, and counts the local ports of the process.
#[derive(Debug, Clone)]
pub struct Connector {
    resolver: Resolver,
    sources: Arc<SourcePorts>,
}

impl Connector {
    /// Lookups run on `control`.
    pub fn new(control: Handle) -> Self {
        Self {
            resolver: Resolver::new(control),
            sources: Arc::default(),
        }
    }

    /// The local ports in use.
    pub fn sources(&self) -> &SourcePorts {
        &self.sources
    }
}

/// Connects to an endpoint of `upstream`, and writes `proxy_header` before TLS begins.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    upstream: &Upstream,
    endpoint: &EndpointState,
    connector: &Connector,
    proxy_header: &[u8],
) -> Result<EndpointConnection, ConnectError> {
    let limit = upstream.timeouts().connect;
    let work = async {
        let (mut socket, port) = open(upstream, endpoint, connector).await?;
        if !proxy_header.is_empty() {
            socket.write_all(proxy_header).await.map_err(refused)?;
        }
        let stream = match &upstream.tls {
            None => Stream::Plain(socket),
            Some(tls) => secure(tls, &endpoint.address, socket).await?,
        };
        Ok(EndpointConnection { stream, port })
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout(limit)),
    }
}

async fn open(
    upstream: &Upstream,
    endpoint: &EndpointState,
    connector: &Connector,
) -> Result<(Socket, Option<PortPermit>), ConnectError> {
    let resolved;
    let addresses = match &endpoint.address {
        Address::Ip(address) => std::slice::from_ref(address),
        Address::Unix(path) => {
            let socket = UnixStream::connect(path).await.map_err(refused)?;
            return Ok((Socket::Unix(socket), None));
        }
        Address::Name { host, port } => {
            resolved = connector
                .resolver
                .addresses(endpoint, host, *port)
                .await
                .map_err(ConnectError::Resolve)?;
            &*resolved
        }
    };
    // One after the other, without a race: a name with several addresses is rare, and every attempt
    // shares the one timeout.
    let mut failure = None;
    for address in addresses {
        match open_tcp(*address, upstream.connecting(), &connector.sources).await {
            Ok((socket, port)) => return Ok((Socket::Tcp(socket), Some(port))),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| refused(io::ErrorKind::NotFound.into())))
}

/// Connects from one local address after the other, as long as the only failure is a missing port.
async fn open_tcp(
    to: SocketAddr,
    config: &ConnectConfig,
    sources: &SourcePorts,
) -> Result<(TcpStream, PortPermit), ConnectError> {
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
                    let from = from.map(tracing::field::display);
                    tracing::warn!(
                        endpoint = %to,
                        source = from,
                        %error,
                        "source address unavailable or out of ports"
                    );
                }
                failure = error;
            }
            Err(error) => return Err(refused(error)),
        }
    }
    Err(ConnectError::Ports(failure))
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
    TlsConnector::from(Arc::clone(&tls.config))
        .connect(name, socket)
        .await
        .map(|stream| Stream::Endpoint(Box::new(stream)))
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
            (ConnectError::Resolve(io::ErrorKind::NotFound.into()), false),
        ] {
            assert_eq!(error.blames_endpoint(), blames, "{error}");
        }
    }
}
