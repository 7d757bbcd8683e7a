//! One health check of an endpoint, over its own connection.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::{ConnectError, Connector, EndpointConnection, connect};
use super::endpoint::EndpointState;
use super::exchange::{EndpointResponse, ExchangeError, exchange};
use super::group::Upstream;
use super::health::CheckOutcome;
use crate::config::model::{Health, Probe, WebSocketProbe};
use crate::net::stream::Stream;
use crate::protocol::frame::{Control, Event, Frame, FrameError, KEPT, Masking, Tracker};
use crate::protocol::health_request::{HealthRequest, HealthResponseError, UnsendableRequest};
use crate::protocol::proxy_header;

/// How long an endpoint may take to close the connection after a passed check.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The size of the read buffer.
const READ_AT_ONCE: usize = 2048;

/// The maximum number of bytes that are read and discarded after a passed check.
const MAX_REST_BYTES: usize = 64 * 1024;

/// The value of `Host` for a unix socket.
const HOST_OF_UNIX: &str = "localhost";

/// Why a health check failed.
#[derive(Debug, thiserror::Error)]
pub enum HealthCheckError {
    /// Connecting failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The check timed out.
    #[error("no {what} within {}", humantime::format_duration(*limit))]
    Timeout {
        /// What was missing.
        what: &'static str,
        /// The timeout of the whole check.
        limit: Duration,
    },
    /// The configured request cannot be sent.
    #[error(transparent)]
    UnsendableRequest(#[from] UnsendableRequest),
    /// There is no valid response.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The response is not the expected one.
    #[error(transparent)]
    ResponseHead(#[from] HealthResponseError),
    /// The connection failed before a Pong.
    #[error("no Pong: {0}")]
    Broken(#[source] io::Error),
    /// The endpoint closed the connection without a Pong.
    #[error("connection closed without a Pong")]
    Closed,
    /// The endpoint sent a Close frame without a Pong.
    #[error("closed with code {0} without a Pong")]
    ClosedWith(u16),
    /// The bytes are not valid frames.
    #[error("no Pong: {0}")]
    Framing(#[from] FrameError),
}

impl HealthCheckError {
    /// How the failure is counted.
    pub fn outcome(&self) -> CheckOutcome {
        match self {
            Self::Connect(ConnectError::Timeout(_)) | Self::Timeout { .. } => CheckOutcome::Timeout,
            Self::Connect(_) => CheckOutcome::Connect,
            Self::UnsendableRequest(_) | Self::Exchange(_) | Self::ResponseHead(_) => {
                CheckOutcome::Answer
            }
            Self::Broken(_) | Self::Closed | Self::ClosedWith(_) | Self::Framing(_) => {
                CheckOutcome::Pong
            }
        }
    }
}

/// Runs one health check of `endpoint`.
///
/// # Errors
/// [`HealthCheckError`], which says in one line why the check failed.
pub async fn health_check(
    settings: &Health,
    upstream: &Upstream,
    endpoint: &EndpointState,
    connector: &Connector,
) -> Result<(), HealthCheckError> {
    let limit = settings.timeout;
    let check = CheckDeadline {
        limit,
        max_header_lines: upstream.settings.max_header_lines,
        deadline: Instant::now().checked_add(limit),
    };
    let proxy_header = proxy_header::write(upstream.connecting().send_proxy, None);
    // With its own limit rather than within that of the check: each address of a name gets its share of it,
    // and a name that cannot be resolved in time is not a failure of the endpoint.
    let connect_limit = upstream.timeouts().connect.min(limit);
    let connection = connect(upstream, endpoint, connector, &proxy_header, connect_limit).await?;
    let host = endpoint.host();
    let host = host.as_deref().unwrap_or(HOST_OF_UNIX);
    match &settings.probe {
        Probe::Tcp => {}
        Probe::Http(settings) => {
            let health_request = HealthRequest::plain(settings, host)?;
            let response = check.exchange(connection, &health_request).await?;
            close_politely(response.connection.stream, &[]).await;
        }
        Probe::WebSocket(settings) => {
            let health_request = HealthRequest::handshake(settings, host, random())?;
            let response = check.exchange(connection, &health_request).await?;
            let connection = check.liveness(response, settings).await?;
            let close = Frame::close(1000, "", Some(random()));
            close_politely(connection.stream, &close.into_bytes()).await;
        }
    }
    Ok(())
}

/// The timeout of a running check. It covers all steps together.
struct CheckDeadline {
    limit: Duration,
    /// The number of header lines that the response may have.
    max_header_lines: usize,
    /// `None` if the timeout is longer than the clock can express.
    deadline: Option<Instant>,
}

impl CheckDeadline {
    async fn within<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, HealthCheckError> {
        let Some(deadline) = self.deadline else {
            return Ok(work.await);
        };
        let limit = self.limit;
        timeout_at(deadline, work)
            .await
            .map_err(|_| HealthCheckError::Timeout { what, limit })
    }

    async fn exchange(
        &self,
        connection: EndpointConnection,
        health_request: &HealthRequest<'_>,
    ) -> Result<EndpointResponse, HealthCheckError> {
        let request = health_request.to_bytes();
        let exchanging = exchange(connection, &request, self.max_header_lines);
        let response = self.within("response", exchanging).await??;
        if let Some(head) = response.head() {
            health_request.check(&head)?;
        }
        Ok(response)
    }

    /// Sends a Ping and waits for its Pong, if configured.
    async fn liveness(
        &self,
        response: EndpointResponse,
        settings: &WebSocketProbe,
    ) -> Result<EndpointConnection, HealthCheckError> {
        if !settings.ping {
            return Ok(response.connection);
        }
        let mut ping = PingExchange::new();
        ping.read(response.read_ahead())?;
        let mut connection = response.connection;
        let waiting = ping.send_and_wait(&mut connection.stream);
        self.within("Pong", waiting).await??;
        Ok(connection)
    }
}

/// A Ping, and the state of the frames that arrive.
struct PingExchange {
    payload: [u8; KEPT],
    tracker: Tracker,
}

impl PingExchange {
    fn new() -> Self {
        Self {
            payload: random(),
            tracker: Tracker::new(Masking::Forbidden),
        }
    }

    async fn send_and_wait(&mut self, stream: &mut Stream) -> Result<(), HealthCheckError> {
        let frame = Frame::control(Control::Ping, &self.payload, Some(random()));
        stream
            .write_all(&frame.into_bytes())
            .await
            .map_err(HealthCheckError::Broken)?;
        stream.flush().await.map_err(HealthCheckError::Broken)?;
        let mut bytes = [0; READ_AT_ONCE];
        loop {
            let length = stream
                .read(&mut bytes)
                .await
                .map_err(HealthCheckError::Broken)?;
            let read = bytes.get(..length).unwrap_or_default();
            if read.is_empty() {
                return Err(HealthCheckError::Closed);
            }
            if self.read(read)? {
                return Ok(());
            }
        }
    }

    /// Whether the Pong is in these bytes. Other frames are ignored: many applications send a message
    /// as soon as a client connects.
    fn read(&mut self, mut bytes: &[u8]) -> Result<bool, HealthCheckError> {
        loop {
            let (length, event) = self.tracker.step(bytes);
            bytes = bytes.get(length..).unwrap_or_default();
            match event {
                None => return Ok(false),
                Some(Event::Invalid(fault)) => return Err(fault.into()),
                Some(Event::ControlEnd {
                    kind: Control::Pong,
                    payload,
                    length,
                }) if payload == self.payload && usize::from(length) == KEPT => return Ok(true),
                Some(Event::ControlEnd {
                    kind: Control::Close,
                    payload: [high, low, ..],
                    length,
                }) => {
                    return Err(match length {
                        0 | 1 => HealthCheckError::Closed,
                        _ => HealthCheckError::ClosedWith(u16::from_be_bytes([high, low])),
                    });
                }
                Some(_) => {}
            }
        }
    }
}

/// Closes the connection to an endpoint that has passed: sends `last`, and reads until the endpoint
/// closes, too. To drop the socket with unread data would send a reset, which the endpoint may log as
/// an error with every check. The result of the check does not depend on this.
async fn close_politely(mut stream: Stream, last: &[u8]) {
    let work = async {
        stream.write_all(last).await?;
        stream.flush().await?;
        let mut bytes = [0; READ_AT_ONCE];
        let mut rest = 0;
        while rest < MAX_REST_BYTES {
            match stream.read(&mut bytes).await? {
                0 => break,
                length => rest += length,
            }
        }
        io::Result::Ok(())
    };
    let _ = timeout(CLOSE_TIMEOUT, work).await;
}

/// Random bytes that cannot be guessed.
fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    // It does not fail. If it did, the bytes would be zeros, and the check would still be valid.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}
