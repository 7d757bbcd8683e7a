//! From an accepted socket to a stream that speaks HTTP: PROXY header and TLS, within their
//! deadline.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::http;
use super::http2::{self, CarrierGuards};
use crate::net::admission::ConnectionPermit;
use crate::net::bind::AcceptedSocket;
use crate::net::certificate_fault::in_words_of_io;
use crate::net::first_byte::first_byte;
use crate::net::listener::{Listener, ListenerSettings};
use crate::net::listener_limits::{LimitReached, ListenerPermit};
use crate::net::proxy_protocol::{ReceiveError, receive};
use crate::net::stream::{Peer, Socket, Stream, TlsStream, UnreadableCertificate};
use crate::net::tls_failure::TlsFailure;
use crate::net::tls_handshakes::{PERMIT_TIMEOUT, TooManyHandshakes};
use crate::observe::labels::RefusedConnection;
use crate::observe::series::ListenerSeries;
use crate::protocol::certificate::TlsFacts;
use crate::protocol::client_protocol::ClientProtocol;
use crate::session::{ClientSide, Connection, ConnectionGuards, Worker};

/// How long a peer that must send nothing on a listener with PROXY headers may stay connected.
const UNTRUSTED_TIMEOUT: Duration = Duration::from_secs(1);

/// An accepted connection on its way to a worker.
#[derive(Debug)]
pub struct IncomingConnection {
    /// The socket and its addresses.
    pub accepted: AcceptedSocket,
    /// The listener that accepted the connection.
    pub listener: Arc<Listener>,
    /// The permit that counts it among the connections of the process.
    pub permit: ConnectionPermit,
}

/// Serves an accepted connection until it has ended or has become a tunnel with a task of its own.
pub async fn serve(worker: Rc<Worker>, incoming: IncomingConnection) {
    let IncomingConnection {
        accepted,
        listener,
        mut permit,
    } = incoming;
    let counters = &worker.recorder.counters;
    counters.connections.add(1);
    let counts = counters.listener(&listener.name);
    let connected = counts.open_connection();
    let since = Instant::now();
    // Read once: a reload in the middle must not mix the deadlines of one configuration with the
    // certificates of another.
    let settings = listener.settings.load_full();
    let entrance = Entrance {
        worker: &worker,
        listener: &listener,
        settings: &settings,
        counts: &counts,
        since,
    };
    let mut origin = ConnectionOrigin::of(&accepted, settings.tls.is_some());
    let (stream, tls) = match prepare(&entrance, accepted, &mut origin).await {
        Ok((stream, tls, listener_permit)) => {
            permit.hold(listener_permit);
            (stream, tls)
        }
        Err(error) => {
            tracing::debug!(
                client = %origin.peer, listener = %listener.name, %error,
                "connection closed before its first request"
            );
            return;
        }
    };
    // TLS has a deadline of its own, so the time for the first request begins after it. Without TLS
    // it began at accept: a PROXY header is part of that time.
    let since = settings.tls.as_ref().map_or(since, |_| Instant::now());
    let http2 = settings.http2.filter(|_| stream.alpn_is_h2());
    let connection = Connection {
        protocol: match http2 {
            Some(_) => ClientProtocol::Http2,
            None => ClientProtocol::Http1,
        },
        timeouts: settings.timeouts,
        limits: settings.limits,
        peer: origin.peer,
        local: origin.local,
        secure: origin.secure,
        tls: tls.map(Rc::new),
        is_anonymous: origin.is_anonymous,
        reserved: Rc::new(worker.pool.reserved()),
        interim: Rc::default(),
        worker,
        listener,
        counts,
    };
    // A connection lives for days and must not keep the certificates of an old configuration.
    drop(settings);
    match http2 {
        Some(http2) => {
            let carrier = CarrierGuards { permit, connected };
            // Boxed, because its state is larger, and most connections do not need it.
            Box::pin(http2::serve(connection, stream, carrier, http2, since)).await;
        }
        None => {
            let guards = ConnectionGuards {
                permit,
                side: ClientSide::Connection(connected),
            };
            http::serve(Rc::new(connection), stream, guards, since).await;
        }
    }
}

/// The addresses of a connection, from the socket or from a PROXY header.
struct ConnectionOrigin {
    peer: Peer,
    local: Option<SocketAddr>,
    secure: bool,
    is_anonymous: bool,
}

impl ConnectionOrigin {
    /// The addresses of the socket, until a PROXY header has others.
    fn of(accepted: &AcceptedSocket, secure: bool) -> Self {
        Self {
            peer: accepted.peer(),
            local: accepted.local(),
            secure,
            is_anonymous: false,
        }
    }
}

/// Why an accepted socket is closed before HTTP begins.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the client sent nothing")]
    Empty,
    #[error("the TLS handshake timed out")]
    TlsTimeout,
    #[error("{}", in_words_of_io(.0))]
    Tls(io::Error),
    #[error("no challenge of a certificate authority is open for the name")]
    NoChallenge,
    #[error(transparent)]
    Certificate(#[from] UnreadableCertificate),
    #[error("the TLS handshake waited too long for others to finish (`handshakes_at_once`)")]
    TlsQueueTimeout,
    #[error("no PROXY header was received in time")]
    ProxyTimeout,
    #[error("PROXY headers are accepted from `trusted_proxies` only")]
    ProxyUntrusted,
    #[error(transparent)]
    Proxy(#[from] ReceiveError),
    #[error("a certificate authority has validated a name")]
    Validation,
    #[error(transparent)]
    LimitReached(LimitReached),
    #[error(transparent)]
    TooManyHandshakes(#[from] TooManyHandshakes),
}

/// The worker and listener that accepted a connection, and the time.
struct Entrance<'a> {
    worker: &'a Worker,
    listener: &'a Listener,
    settings: &'a ListenerSettings,
    counts: &'a ListenerSeries,
    since: Instant,
}

/// Brings an accepted socket to where HTTP begins: past its PROXY header, the limits of the listener and TLS.
async fn prepare(
    entrance: &Entrance<'_>,
    accepted: AcceptedSocket,
    origin: &mut ConnectionOrigin,
) -> Result<(Stream, Option<TlsFacts>, ListenerPermit), PrepareError> {
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
        let is_empty = matches!(error, PrepareError::Proxy(ReceiveError::Empty));
        let refused = match is_empty {
            true => RefusedConnection::Empty,
            false => RefusedConnection::ProxyHeader,
        };
        counts.refused.at(refused as usize).add(1);
        // It usually means that listener and load balancer are configured differently, and then no
        // client gets through. A health check that only connects means nothing.
        if !is_empty {
            tracing::info!(client = %origin.peer, %error, "connection refused");
        }
        return Err(error);
    }
    let permit = enter(entrance, origin)?;
    let Some(tls) = &settings.tls else {
        return Ok((Stream::Plain(socket), None, permit));
    };
    // Boxed, because the state of a TLS handshake is large: unboxed, this task would keep room for
    // it as long as the connection lasts.
    let secured = Box::pin(secure(entrance, tls, socket)).await;
    if let Ok(stream) = &secured
        && stream.validates_name()
    {
        // The certificate was what it wanted, and there is nothing else in this protocol (RFC 8737 section 3).
        return Err(PrepareError::Validation);
    }
    let result = secured.and_then(|stream| Ok((stream.tls_facts()?, stream)));
    let (facts, stream) = result.inspect_err(|error| tls_failed(entrance, origin, error))?;
    if let Some((version, resumed)) = stream.tls_version() {
        counts.count_tls_handshake(version, resumed);
    }
    Ok((stream, facts, permit))
}

/// Counts a connection that got no TLS, and logs the first of each cause and minute.
fn tls_failed(entrance: &Entrance<'_>, origin: &ConnectionOrigin, error: &PrepareError) {
    let Entrance {
        listener, counts, ..
    } = *entrance;
    let (refused, failure) = match error {
        PrepareError::Empty => (RefusedConnection::Empty, None),
        PrepareError::TooManyHandshakes(_) | PrepareError::TlsQueueTimeout => {
            (RefusedConnection::TlsQueue, None)
        }
        PrepareError::TlsTimeout => (RefusedConnection::Tls, Some(TlsFailure::Timeout)),
        PrepareError::Certificate(_) => {
            (RefusedConnection::Tls, Some(TlsFailure::ClientCertificate))
        }
        PrepareError::NoChallenge => (RefusedConnection::Tls, Some(TlsFailure::Validation)),
        PrepareError::Tls(error) => (RefusedConnection::Tls, Some(TlsFailure::of(error))),
        _ => (RefusedConnection::Tls, Some(TlsFailure::Closed)),
    };
    counts.refused.at(refused as usize).add(1);
    if let Some(failure) = failure {
        counts.tls_failures.at(failure as usize).add(1);
    }
    // A load balancer that looks whether the port is open, or a connection that a browser opened in
    // advance; or a scanner that tries all protocols.
    if refused == RefusedConnection::Empty || failure == Some(TlsFailure::Validation) {
        return;
    }
    let reason = failure.map_or(refused.token(), TlsFailure::token);
    let now = std::time::Instant::now();
    if let Some(unreported) = listener.failures.admit(reason, now) {
        tracing::warn!(
            listener = %listener.name, client = %origin.peer, reason, %error, unreported,
            hint = failure.map(TlsFailure::hint),
            "TLS handshake failed; each reason is logged at most once a minute"
        );
    }
}

/// Checks the listener's connection limits. This comes after the PROXY header, because only then
/// the client's address is known.
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
    let address = settings.trust.single_client(origin.peer.ip());
    let entered = listener.gate.enter(&settings.limits, address);
    entered.map_err(|limit| {
        let refused = match limit {
            LimitReached::ConnectionsPerIp => RefusedConnection::ConnectionsPerIp,
            _ => RefusedConnection::Connections,
        };
        counts.refused.at(refused as usize).add(1);
        if let Some(refused) = listener.gate.refused() {
            tracing::warn!(
                listener = %listener.name, client = %origin.peer, refused, reason = %limit,
                "connections refused"
            );
        }
        PrepareError::LimitReached(limit)
    })
}

/// Reads the PROXY header. From then on the connection is attributed to the client that it names.
async fn take_proxy_header(
    socket: &Socket,
    settings: &ListenerSettings,
    origin: &mut ConnectionOrigin,
    since: Instant,
) -> Result<(), PrepareError> {
    let limit = match &settings.tls {
        Some(_) => settings.timeouts.tls_handshake,
        None => settings.timeouts.request_header,
    };
    let proxies = &settings.trust.proxies;
    if !proxies.is_empty() && !proxies.contain(origin.peer.ip()) {
        // Health checks often come from other addresses, and only those that send something, or stay, are
        // refused. They connect and close: the connection counts against no limit of the listener.
        let until = since + limit.min(UNTRUSTED_TIMEOUT);
        let has_begun = tokio::time::timeout_at(until, first_byte(socket)).await;
        return Err(match has_begun {
            Ok(Ok(false)) => ReceiveError::Empty.into(),
            Ok(Err(error)) => error.into(),
            Ok(Ok(true)) | Err(_) => PrepareError::ProxyUntrusted,
        });
    }
    let received = tokio::time::timeout_at(since + limit, receive(socket)).await;
    // One deadline for the whole header, from accept on: a client that sends it byte by byte gains
    // no time.
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

/// Registers the socket with this worker's event loop.
fn register(accepted: AcceptedSocket) -> io::Result<Socket> {
    match accepted {
        AcceptedSocket::Tcp(socket, ..) => TcpStream::from_std(socket).map(Socket::Tcp),
        AcceptedSocket::Unix(socket) => UnixStream::from_std(socket).map(Socket::Unix),
    }
}

/// Does the TLS handshake, when the client has begun it and a permit is free.
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
    let has_begun = tokio::time::timeout_at(since + limit, first_byte(&socket)).await;
    if !has_begun.map_err(|_| PrepareError::Empty)?? {
        return Err(PrepareError::Empty);
    }
    // The wait for a permit is ours and not the client's: it has a deadline of its own and does not
    // shorten the client's, which begins when the handshake does. Clients that have sent nothing do
    // not get this far, so they cannot hold permits.
    let handshakes = worker.handshakes(&listener.name);
    let permit = handshakes.acquire(settings.handshakes_at_once);
    let permit = tokio::time::timeout(limit, permit).await;
    let permit = permit.map_err(|_| PrepareError::TlsQueueTimeout)??;
    let deadline = Instant::now() + limit;
    let mut handshake = std::pin::pin!(handshake(tls, socket));
    // The permit limits how many handshakes compete for the CPU. A client that is slow to continue
    // does not use any, so it loses the permit soon and goes on without.
    let soon = tokio::time::timeout(PERMIT_TIMEOUT.min(limit), &mut handshake).await;
    drop(permit);
    let done = match soon {
        Ok(done) => done,
        Err(_) => tokio::time::timeout_at(deadline, handshake)
            .await
            .map_err(|_| PrepareError::TlsTimeout)?,
    };
    Ok(Stream::Tls(Box::new(done?)))
}

async fn handshake(tls: &Arc<ServerConfig>, socket: Socket) -> Result<TlsStream, PrepareError> {
    let done = TlsStream::accept(Arc::clone(tls), socket).await;
    done.map_err(|failed| match TlsFailure::of(&failed.error) {
        TlsFailure::NoCertificate | TlsFailure::Incompatible if failed.asked_for_challenge => {
            PrepareError::NoChallenge
        }
        _ => PrepareError::Tls(failed.error),
    })
}
