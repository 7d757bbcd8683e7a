//! The steps of a connection that tidegate makes by itself to learn whether an endpoint works: a request, a
//! Ping, a Close, all within one timeout.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::connect::{ConnectError, EndpointConnection};
use super::exchange::{EndpointResponse, ExchangeError, exchange};
use super::group::Upstream;
use super::health::CheckOutcome;
use crate::net::stream::Stream;
use crate::protocol::frame::{Control, Event, Frame, FrameError, KEPT, Masking, Tracker};
use crate::protocol::health_request::{HealthResponseError, UnsendableRequest};

/// How long an endpoint may take to close the connection after a passed check.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The size of the read buffer.
const READ_AT_ONCE: usize = 2048;

/// The maximum number of bytes that are read and discarded after a passed check.
const MAX_REST_BYTES: usize = 64 * 1024;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
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

impl CheckError {
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

/// The timeout of a running check. It covers all steps together.
#[derive(Debug)]
pub struct CheckDeadline {
    limit: Duration,
    /// The number of header lines that the response may have.
    max_header_lines: usize,
    /// `None` if the timeout is longer than the clock can express.
    deadline: Option<Instant>,
}

impl CheckDeadline {
    /// A check of an endpoint of `upstream` that begins now, and may take this time.
    pub fn of(upstream: &Upstream, limit: Duration) -> Self {
        Self {
            limit,
            max_header_lines: upstream.settings.max_header_lines,
            deadline: Instant::now().checked_add(limit),
        }
    }

    /// Does a part of the check, which brings `what`.
    ///
    /// # Errors
    /// [`CheckError::Timeout`].
    pub async fn within<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, CheckError> {
        let Some(deadline) = self.deadline else {
            return Ok(work.await);
        };
        let limit = self.limit;
        timeout_at(deadline, work)
            .await
            .map_err(|_| CheckError::Timeout { what, limit })
    }

    /// Sends this request, and waits for the response.
    ///
    /// # Errors
    /// [`CheckError`].
    pub async fn exchange(
        &self,
        connection: EndpointConnection,
        request: &[u8],
    ) -> Result<EndpointResponse, CheckError> {
        let exchanging = exchange(connection, request, self.max_header_lines);
        Ok(self.within("response", exchanging).await??)
    }

    /// Sends a Ping behind a handshake, and waits for its Pong.
    ///
    /// # Errors
    /// [`CheckError`].
    pub async fn ping(&self, response: EndpointResponse) -> Result<EndpointConnection, CheckError> {
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

    async fn send_and_wait(&mut self, stream: &mut Stream) -> Result<(), CheckError> {
        let frame = Frame::control(Control::Ping, &self.payload, Some(random()));
        stream
            .write_all(&frame.into_bytes())
            .await
            .map_err(CheckError::Broken)?;
        stream.flush().await.map_err(CheckError::Broken)?;
        let mut bytes = [0; READ_AT_ONCE];
        loop {
            let length = stream.read(&mut bytes).await.map_err(CheckError::Broken)?;
            let read = bytes.get(..length).unwrap_or_default();
            if read.is_empty() {
                return Err(CheckError::Closed);
            }
            if self.read(read)? {
                return Ok(());
            }
        }
    }

    /// Whether the Pong is in these bytes. Other frames are ignored: many applications send a message
    /// as soon as a client connects.
    fn read(&mut self, mut bytes: &[u8]) -> Result<bool, CheckError> {
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
                        0 | 1 => CheckError::Closed,
                        _ => CheckError::ClosedWith(u16::from_be_bytes([high, low])),
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
pub(super) async fn close_politely(mut stream: Stream, last: &[u8]) {
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

/// Closes the WebSocket of a check that has passed.
pub async fn close_websocket(connection: EndpointConnection) {
    let close = Frame::close(1000, "", Some(random()));
    close_politely(connection.stream, &close.into_bytes()).await;
}

/// Random bytes that cannot be guessed.
pub fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    // It does not fail. If it did, the bytes would be zeros, and the check would still be valid.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}
