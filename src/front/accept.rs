//! From an accepted socket to a stream that speaks HTTP: PROXY header and TLS, within their deadline.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::http;
use crate::net::admission::ConnectionPermit;
use crate::net::gate::{LimitReached, ListenerPermit};
use crate::net::handshakes::{PERMIT_TIMEOUT, TooManyHandshakes};
use crate::net::listen::AcceptedSocket;
use crate::net::listener::{Listener, ListenerSettings};
use crate::net::proxy_protocol::{ReceiveError, receive};
use crate::net::stream::{Peer, Socket, Stream};
use crate::observe::labels::Turned;
use crate::observe::series::ListenerSeries;
use crate::session::{Connection, ConnectionGuards, Worker};

/// An accepted connection on its way to a worker.
#[derive(Debug)]
pub struct IncomingConnection {
    /// The socket.
    pub accepted: AcceptedSocket,
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// Its place among the connections of the process.
    pub permit: ConnectionPermit,
}

/// Serves an arrival until its connection, or the tunnel that came of it, has ended.
pub async fn serve(worker: Rc<Worker>, arrival: IncomingConnection) {
    let IncomingConnection {
        accepted,
        listener,
        mut permit,
    } = arrival;
    let counters = &worker.recorder.counters;
    counters.connections.add(1);
    let counts = counters.listener(&listener.name);
    let connected = counts.connected();
    let since = Instant::now();
    let settings = listener.settings.load_full();
    let entrance = Entrance {
        worker: &worker,
        listener: &listener,
        settings: &settings,
        counts: &counts,
        since,
    };
    let mut origin = ConnectionOrigin {
        peer: accepted.peer(),
        local: accepted.local(),
        secure: settings.tls.is_some(),
        is_anonymous: false,
    };
    let prepared = prepare(&entrance, accepted, &mut origin).await;
    let stream = match prepared {
        Ok((stream, pass)) => {
            permit.hold(pass);
            stream
        }
        Err(error) => {
            let client = origin.peer;
            tracing::debug!(%client, listener = %listener.name, %error, "no connection came of it");
            return;
        }
    };
    // TLS had a deadline of its own, and the request's begins when it is up.
    let since = if settings.tls.is_some() {
        Instant::now()
    } else {
        since
    };
    let tls = match stream.tls_facts() {
        Ok(tls) => tls,
        Err(error) => {
            let client = origin.peer;
            tracing::info!(%client, listener = %listener.name, %error, "connection refused");
            return;
        }
    };
    let connection = Connection {
        timeouts: settings.timeouts,
        limits: settings.limits,
        peer: origin.peer,
        local: origin.local,
        secure: origin.secure,
        tls,
        is_anonymous: origin.is_anonymous,
        worker,
        listener,
        counts,
    };
    drop(settings);
    let place = ConnectionGuards { permit, connected };
    http::serve(Rc::new(connection), stream, place, since).await;
}

/// Where a connection comes from.
struct ConnectionOrigin {
    peer: Peer,
    local: Option<SocketAddr>,
    secure: bool,
    is_anonymous: bool,
}

/// Why a socket does not become a connection that speaks HTTP.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("no TLS handshake in time")]
    TlsTimeout,
    #[error("no PROXY header in time")]
    ProxyTimeout,
    #[error("a PROXY header is taken from `trusted_proxies` only")]
    ProxyUntrusted,
    #[error(transparent)]
    Proxy(#[from] ReceiveError),
    #[error(transparent)]
    LimitReached(LimitReached),
    #[error(transparent)]
    TooManyHandshakes(#[from] TooManyHandshakes),
}

/// Where a connection came in, and when.
struct Entrance<'a> {
    worker: &'a Worker,
    listener: &'a Listener,
    settings: &'a ListenerSettings,
    counts: &'a ListenerSeries,
    since: Instant,
}

async fn prepare(
    entrance: &Entrance<'_>,
    accepted: AcceptedSocket,
    origin: &mut ConnectionOrigin,
) -> Result<(Stream, ListenerPermit), PrepareError> {
    let Entrance {
        settings,
        counts,
        since,
        ..
    } = *entrance;
    let socket = register(accepted)?;
    if settings.trust.proxy_protocol
        && let Err(error) = take_proxy_header(&socket, settings, origin, since).await
    {
        counts.turned.at(Turned::ProxyHeader as usize).add(1);
        // Whoever set the listener up so has to know.
        tracing::info!(client = %origin.peer, %error, "connection refused");
        return Err(error);
    }
    let pass = enter(entrance, origin)?;
    let Some(tls) = &settings.tls else {
        return Ok((Stream::Plain(socket), pass));
    };
    // In a box: what a handshake needs is large, and is over soon.
    let result = Box::pin(secure(entrance, tls, socket)).await;
    match &result {
        Ok(stream) => {
            if let Some((version, resumed)) = stream.tls_version() {
                counts.secured(version, resumed);
            }
        }
        Err(PrepareError::TooManyHandshakes(_)) => {
            counts.turned.at(Turned::TlsQueue as usize).add(1)
        }
        Err(_) => counts.turned.at(Turned::Tls as usize).add(1),
    }
    Ok((result?, pass))
}

/// Holds a connection against the listener's limits, now that it is known whose it is.
fn enter(
    entrance: &Entrance<'_>,
    origin: &ConnectionOrigin,
) -> Result<ListenerPermit, PrepareError> {
    let Entrance {
        listener,
        settings,
        counts,
        ..
    } = *entrance;
    // Behind a proxy that we trust there are many clients.
    let single = !settings.trust.proxies.contain(origin.peer.ip());
    let address = origin.peer.ip().filter(|_| single);
    let entered = listener.gate.enter(&settings.limits, address);
    entered.map_err(|limit| {
        let turned = match limit {
            LimitReached::ConnectionsPerIp => Turned::ConnectionsPerIp,
            _ => Turned::Connections,
        };
        counts.turned.at(turned as usize).add(1);
        if let Some(refused) = listener.gate.refused() {
            tracing::warn!(
                listener = %listener.name, client = %origin.peer, refused, reason = %limit,
                "connections refused"
            );
        }
        PrepareError::LimitReached(limit)
    })
}

/// From then on the connection is that of whom the header names.
async fn take_proxy_header(
    socket: &Socket,
    settings: &ListenerSettings,
    origin: &mut ConnectionOrigin,
    since: Instant,
) -> Result<(), PrepareError> {
    let proxies = &settings.trust.proxies;
    if !proxies.is_empty() && !proxies.contain(origin.peer.ip()) {
        return Err(PrepareError::ProxyUntrusted);
    }
    let limit = match &settings.tls {
        Some(_) => settings.timeouts.tls_handshake,
        None => settings.timeouts.request_header,
    };
    let received = tokio::time::timeout_at(since + limit, receive(socket)).await;
    let header = received.map_err(|_| PrepareError::ProxyTimeout)??;
    if let Some((source, destination)) = header.addresses {
        origin.peer = Peer::Ip(source);
        origin.local = Some(destination);
        origin.secure |= header.secure;
    } else {
        origin.is_anonymous = true;
    }
    Ok(())
}

/// Hands the socket to this worker's event loop.
fn register(accepted: AcceptedSocket) -> io::Result<Socket> {
    match accepted {
        AcceptedSocket::Tcp(socket, ..) => TcpStream::from_std(socket).map(Socket::Tcp),
        AcceptedSocket::Unix(socket) => UnixStream::from_std(socket).map(Socket::Unix),
    }
}

async fn secure(
    entrance: &Entrance<'_>,
    tls: &Arc<ServerConfig>,
    socket: Socket,
) -> Result<Stream, PrepareError> {
    let Entrance {
        worker,
        listener,
        settings,
        since,
        ..
    } = *entrance;
    let limit = settings.timeouts.tls_handshake;
    let late = |_| PrepareError::TlsTimeout;
    tokio::time::timeout_at(since + limit, socket.ready(Interest::READABLE))
        .await
        .map_err(late)??;
    // Who waits for us has time: it is the client's that is limited.
    let handshakes = worker.handshakes(&listener.name);
    let place = handshakes.acquire(settings.handshakes_at_once);
    let place = tokio::time::timeout(limit, place).await.map_err(late)??;
    let deadline = Instant::now() + limit;
    let mut handshake = TlsAcceptor::from(Arc::clone(tls)).accept(socket);
    let soon = tokio::time::timeout(PERMIT_TIMEOUT.min(limit), &mut handshake).await;
    drop(place);
    let stream = match soon {
        Ok(stream) => stream?,
        Err(_) => tokio::time::timeout_at(deadline, handshake)
            .await
            .map_err(late)??,
    };
    Ok(Stream::Client(Box::new(stream)))
}
