//! Connecting to an endpoint: its name resolved, its socket open, TLS up, all within one deadline.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio_rustls::TlsConnector;

use super::endpoint::{State, Tls};
use super::group::Upstream;
use crate::config::model::Address;
use crate::net::stream::{Socket, Stream};

/// How long the addresses of a name are used before it is looked up again.
const RESOLVED_FOR: Duration = Duration::from_secs(5);

/// Why there is no connection. No byte of a request was written: another endpoint may be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The deadline passed.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// The name has no address.
    #[error("cannot resolve: {0}")]
    Resolve(#[source] io::Error),
    /// The endpoint, or the network, refused.
    #[error("cannot connect: {0}")]
    Refused(#[source] io::Error),
    /// This process has no descriptor left.
    #[error("out of file descriptors: {0}")]
    Descriptors(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// There is no name that its certificate could be checked against.
    #[error("the endpoint's address is no name for TLS: set `server_name`")]
    NoServerName,
}

impl ConnectError {
    /// Whether it is we who have run out of something: that says nothing of the endpoint.
    pub fn is_our_own(&self) -> bool {
        match self {
            Self::Descriptors(_) => true,
            Self::Refused(error) => error.kind() == io::ErrorKind::AddrNotAvailable,
            Self::Timeout(_) | Self::Resolve(_) | Self::Tls(_) | Self::NoServerName => false,
        }
    }
}

/// Resolves names on the control runtime, so that no worker waits for a slow name server.
#[derive(Debug, Clone)]
pub struct Resolver {
    control: Handle,
}

impl Resolver {
    /// Look-ups run on `control`.
    pub fn new(control: Handle) -> Self {
        Self { control }
    }

    async fn addresses(
        &self,
        state: &State,
        host: &str,
        port: u16,
    ) -> io::Result<Arc<[SocketAddr]>> {
        if let Some((at, addresses)) = &*state
            .resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < RESOLVED_FOR
        {
            return Ok(Arc::clone(addresses));
        }
        let name = host.to_owned();
        let found = self
            .control
            .spawn(async move {
                tokio::net::lookup_host((name, port))
                    .await
                    .map(Iterator::collect::<Vec<_>>)
            })
            .await
            .map_err(io::Error::other)??;
        if found.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ));
        }
        let addresses: Arc<[SocketAddr]> = found.into();
        *state
            .resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), Arc::clone(&addresses)));
        Ok(addresses)
    }
}

/// Connects to an endpoint of `upstream`; the connection begins with `proxy_header`.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    upstream: &Upstream,
    endpoint: &State,
    resolver: &Resolver,
    proxy_header: &[u8],
) -> Result<Stream, ConnectError> {
    let limit = upstream.timeouts().connect;
    let work = async {
        let mut socket = open(endpoint, resolver).await?;
        if !proxy_header.is_empty() {
            socket.write_all(proxy_header).await.map_err(refused)?;
        }
        match &upstream.tls {
            None => Ok(Stream::Plain(socket)),
            Some(tls) => secure(tls, &endpoint.address, socket).await,
        }
    };
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout(limit)),
    }
}

async fn open(endpoint: &State, resolver: &Resolver) -> Result<Socket, ConnectError> {
    match &endpoint.address {
        Address::Ip(address) => open_tcp(*address).await,
        Address::Unix(path) => UnixStream::connect(path)
            .await
            .map(Socket::Unix)
            .map_err(refused),
        Address::Name { host, port } => {
            let addresses = resolver
                .addresses(endpoint, host, *port)
                .await
                .map_err(ConnectError::Resolve)?;
            let mut failure = None;
            for address in addresses.iter() {
                match open_tcp(*address).await {
                    Ok(socket) => return Ok(socket),
                    Err(error) => failure = Some(error),
                }
            }
            Err(failure.unwrap_or_else(|| refused(io::ErrorKind::NotFound.into())))
        }
    }
}

async fn open_tcp(address: SocketAddr) -> Result<Socket, ConnectError> {
    let socket = TcpStream::connect(address).await.map_err(refused)?;
    socket.set_nodelay(true).map_err(refused)?;
    Ok(Socket::Tcp(socket))
}

fn refused(error: io::Error) -> ConnectError {
    let errno = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    match errno {
        Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => {
            ConnectError::Descriptors(error)
        }
        _ => ConnectError::Refused(error),
    }
}

async fn secure(tls: &Tls, address: &Address, socket: Socket) -> Result<Stream, ConnectError> {
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
