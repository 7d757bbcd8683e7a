//! The handshake with an endpoint: writes the request, and reads the head of the response.
//!
//! This is done without hyper, because a tunnel needs the socket and the bytes that were read behind
//! the head, and hyper keeps both to itself. `protocol` decides what the response means.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::connect::EndpointConnection;
use super::source::PortPermit;
use super::unanswered::{Unanswered, is_end};
use crate::net::stream::Stream;
use crate::protocol::handshake_response::{ResponseHead, ResponseHeadError};

/// The maximum size of a response head.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The size of the first buffer; responses to handshakes are usually shorter.
const INITIAL_HEAD_BYTES: usize = 1024;

/// The maximum number of interim responses (1xx) that are dropped.
const MAX_INTERIM: usize = 16;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The request could not be written.
    #[error("cannot write the request: {0}")]
    Write(#[source] io::Error),
    /// The response could not be read.
    #[error("cannot read the response: {0}")]
    Read(#[source] io::Error),
    /// The endpoint ended the connection before any byte of a response.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// The endpoint closed the connection within the head of its response.
    #[error("connection closed within the head of the response")]
    Closed,
    /// The response head is too long.
    #[error("the response head is longer than {MAX_HEAD_BYTES} bytes")]
    TooLong,
    /// There were too many interim responses.
    #[error("more than {MAX_INTERIM} interim responses")]
    TooManyInterim,
    /// The bytes are not a valid response head.
    #[error(transparent)]
    Broken(#[from] ResponseHeadError),
}

/// The response of an endpoint, and the connection that it came from.
#[derive(Debug)]
pub struct EndpointResponse {
    /// The connection, read up to the end of [`bytes`](Self::bytes).
    pub connection: EndpointConnection,
    /// The head as received, and the read-ahead behind it.
    pub bytes: Vec<u8>,
    /// The length of the head in [`bytes`](Self::bytes).
    pub head_length: usize,
    /// The status of the response; `None` if there is no such status.
    pub status: Option<StatusCode>,
    /// The number of lines that the head may have.
    max_lines: usize,
}

impl EndpointResponse {
    /// The head, parsed. It was complete and valid when it was read, so this is `Some`. It is parsed
    /// again because it borrows from the bytes beside it.
    pub fn head(&self) -> Option<ResponseHead<'_>> {
        ResponseHead::parse_within(&self.bytes, self.max_lines)
            .ok()
            .flatten()
            .map(|(head, _)| head)
    }

    /// The bytes behind the head.
    pub fn read_ahead(&self) -> &[u8] {
        self.bytes.get(self.head_length..).unwrap_or_default()
    }

    /// The connection as if nothing had been read, for hyper to read the response again.
    pub fn replay(self) -> (ReplayStream, Option<PortPermit>) {
        let EndpointConnection { stream, port } = self.connection;
        let replay = ReplayStream {
            unread: self.bytes.into(),
            stream,
            has_request: false,
            reader: None,
        };
        (replay, port)
    }
}

/// Writes `request` and reads the head of the final response, which may have `max_lines` header lines.
/// Interim responses are dropped.
///
/// # Errors
/// [`ExchangeError`]. The connection cannot be used any more.
pub async fn exchange(
    mut connection: EndpointConnection,
    request: &[u8],
    max_lines: usize,
) -> Result<EndpointResponse, ExchangeError> {
    let stream = &mut connection.stream;
    match write(stream, request).await {
        // The endpoint may have answered before it closed: what it sent can still be read.
        Err(error) if !is_end(&error) => return Err(ExchangeError::Write(error)),
        Ok(()) | Err(_) => {}
    }
    let mut bytes = Vec::with_capacity(INITIAL_HEAD_BYTES);
    let mut interim = 0;
    loop {
        match ResponseHead::parse_within(&bytes, max_lines)? {
            Some((head, length)) if head.is_interim() => {
                bytes.drain(..length);
                interim += 1;
                if interim > MAX_INTERIM {
                    return Err(ExchangeError::TooManyInterim);
                }
                continue;
            }
            Some((head, head_length)) => {
                return Ok(EndpointResponse {
                    connection,
                    status: head.status(),
                    bytes,
                    head_length,
                    max_lines,
                });
            }
            None if bytes.len() >= MAX_HEAD_BYTES => return Err(ExchangeError::TooLong),
            None => {}
        }
        let has_begun = interim > 0 || !bytes.is_empty();
        match stream.read_buf(&mut bytes).await {
            Ok(1..) => {}
            Ok(0) if has_begun => return Err(ExchangeError::Closed),
            Ok(0) => return Err(Unanswered.into()),
            Err(error) if is_end(&error) && !has_begun => return Err(Unanswered.into()),
            Err(error) => return Err(ExchangeError::Read(error)),
        }
    }
}

async fn write(stream: &mut Stream, request: &[u8]) -> io::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await
}

/// A connection whose request has been written and whose response has been read in part. hyper's
/// client reads that part again; the request that it writes is discarded.
#[derive(Debug)]
pub struct ReplayStream {
    unread: Bytes,
    stream: Stream,
    /// Whether hyper has written its request. It treats bytes that arrive before as a protocol error,
    /// so reads are pending until then.
    has_request: bool,
    reader: Option<Waker>,
}

impl AsyncRead for ReplayStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.has_request {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReplayStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.has_request = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
