//! One check of an endpoint, over a connection of its own.

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

/// How long an endpoint that has passed may take to end the connection, before it is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes that are read at once.
const READ_AT_ONCE: usize = 2048;

/// Bytes that are read after the last one that matters.
const MAX_REST_BYTES: usize = 64 * 1024;

/// What an endpoint without a name of its own gets as `Host`.
const HOST_OF_UNIX: &str = "localhost";

/// Why an endpoint did not pass.
#[derive(Debug, thiserror::Error)]
pub enum HealthCheckError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Something took too long.
    #[error("no {what} within {limit:?}")]
    Timeout {
        /// What did not come.
        what: &'static str,
        /// The time that the whole check may take.
        limit: Duration,
    },
    /// What is configured cannot be sent.
    #[error(transparent)]
    UnsendableRequest(#[from] UnsendableRequest),
    /// There is no answer.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// There is another one.
    #[error(transparent)]
    ResponseHead(#[from] HealthResponseError),
    /// The connection broke before there was a Pong.
    #[error("no Pong: {0}")]
    Broken(#[source] io::Error),
    /// The endpoint ended the connection before there was a Pong.
    #[error("closed instead of a Pong")]
    Closed,
    /// The same, with a Close frame.
    #[error("closed with {0} instead of a Pong")]
    ClosedWith(u16),
    /// What came is no framing.
    #[error("no Pong: {0}")]
    Framing(#[from] FrameError),
}

impl HealthCheckError {
    /// How it is counted.
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

/// Checks `endpoint` as `settings` say.
///
/// # Errors
/// [`HealthCheckError`], which says in one line why it did not pass.
pub async fn health_check(
    settings: &Health,
    upstream: &Upstream,
    endpoint: &EndpointState,
    connector: &Connector,
) -> Result<(), HealthCheckError> {
    let limit = settings.timeout;
    let check = CheckDeadline {
        limit,
        deadline: Instant::now().checked_add(limit),
    };
    let proxy_header = proxy_header::write(upstream.reach().send_proxy, None);
    let connecting = connect(upstream, endpoint, connector, &proxy_header);
    let reached = check.within("connection", connecting).await??;
    let host = endpoint.host().unwrap_or(HOST_OF_UNIX);
    match &settings.probe {
        Probe::Tcp => {}
        Probe::Http(settings) => {
            let health_request = HealthRequest::plain(settings, host)?;
            let answered = check.answer(reached, &health_request).await?;
            close_politely(answered.reached.stream, &[]).await;
        }
        Probe::WebSocket(settings) => {
            let health_request = HealthRequest::handshake(settings, host, random())?;
            let answered = check.answer(reached, &health_request).await?;
            let reached = check.liveness(answered, settings).await?;
            let close = Frame::close(1000, "", Some(random()));
            close_politely(reached.stream, &close.into_bytes()).await;
        }
    }
    Ok(())
}

/// A check under way.
struct CheckDeadline {
    limit: Duration,
    /// `None` beyond what the clock can tell.
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

    async fn answer(
        &self,
        reached: EndpointConnection,
        health_request: &HealthRequest<'_>,
    ) -> Result<EndpointResponse, HealthCheckError> {
        let request = health_request.to_bytes();
        let exchanging = exchange(reached, &request);
        let answered = self.within("answer", exchanging).await??;
        if let Some(answer) = answered.answer() {
            health_request.check(&answer)?;
        }
        Ok(answered)
    }

    /// Sends a Ping and waits for its Pong, if it is configured so.
    async fn liveness(
        &self,
        answered: EndpointResponse,
        settings: &WebSocketProbe,
    ) -> Result<EndpointConnection, HealthCheckError> {
        if !settings.ping {
            return Ok(answered.reached);
        }
        let mut ping = PingExchange::new();
        ping.read(answered.read_ahead())?;
        let mut reached = answered.reached;
        let playing = ping.play(&mut reached.stream);
        self.within("Pong", playing).await??;
        Ok(reached)
    }
}

/// A Ping of ours, and what came since.
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

    async fn play(&mut self, stream: &mut Stream) -> Result<(), HealthCheckError> {
        let ping = Frame::control(Control::Ping, &self.payload, Some(random()));
        stream
            .write_all(&ping.into_bytes())
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

    /// Whether the Pong is in these bytes. Whatever else the endpoint says is passed over.
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

/// Takes leave of an endpoint that has passed, so that it sees no broken connection: `last` is sent,
/// and what still comes is read, until it ends the connection. Nothing depends on that any more.
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

/// What nobody can guess.
fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    // It does not fail; if it did, the check would still be valid.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}
