//! The handshake with an endpoint: our request written, the head of its answer read.
//!
//! Nothing of hyper is in the way here: a tunnel needs the socket and what was read past the head,
//! and no more. What the answer means is `protocol`'s business.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::connect::EndpointConnection;
use super::source::PortPermit;
use crate::net::stream::Stream;
use crate::protocol::handshake_response::{ResponseHead, ResponseHeadError};

/// Bytes that the head of an answer may have.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What a first read takes; answers to handshakes are shorter.
const INITIAL_HEAD_BYTES: usize = 1024;

/// Interim answers (1xx) that are dropped before an endpoint is taken for broken.
const MAX_INTERIM: usize = 16;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The request could not be written.
    #[error("cannot write the request: {0}")]
    Write(#[source] io::Error),
    /// The answer could not be read.
    #[error("cannot read the answer: {0}")]
    Read(#[source] io::Error),
    /// The endpoint closed the connection before it had answered.
    #[error("closed before the answer")]
    Closed,
    /// The head has no end.
    #[error("the head of the answer is longer than {MAX_HEAD_BYTES} bytes")]
    TooLong,
    /// One interim answer after the other.
    #[error("more than {MAX_INTERIM} interim answers")]
    TooManyInterim,
    /// What came is no answer.
    #[error(transparent)]
    Broken(#[from] ResponseHeadError),
}

/// An answer and where it came from.
#[derive(Debug)]
pub struct EndpointResponse {
    /// The connection, read up to the end of [`bytes`](Self::bytes).
    pub reached: EndpointConnection,
    /// The head as received, and whatever came with it.
    pub bytes: Vec<u8>,
    /// Length of the head in [`bytes`](Self::bytes).
    pub head: usize,
}

impl EndpointResponse {
    /// The head, parsed. It was found whole and valid when it was read.
    pub fn answer(&self) -> Option<ResponseHead<'_>> {
        ResponseHead::parse(&self.bytes)
            .ok()
            .flatten()
            .map(|(answer, _)| answer)
    }

    /// What came behind the head.
    pub fn read_ahead(&self) -> &[u8] {
        self.bytes.get(self.head..).unwrap_or_default()
    }

    /// The connection as if nothing had been read, for a reader that wants the head too.
    pub fn replay(self) -> (ReplayStream, Option<PortPermit>) {
        let EndpointConnection { stream, port } = self.reached;
        let replay = ReplayStream {
            unread: self.bytes.into(),
            stream,
            asked: false,
            reader: None,
        };
        (replay, port)
    }
}

/// Writes `request` and reads the head of the final answer. Interim answers are dropped.
///
/// # Errors
/// [`ExchangeError`]. The connection is of no further use.
pub async fn exchange(
    mut reached: EndpointConnection,
    request: &[u8],
) -> Result<EndpointResponse, ExchangeError> {
    let stream = &mut reached.stream;
    stream
        .write_all(request)
        .await
        .map_err(ExchangeError::Write)?;
    stream.flush().await.map_err(ExchangeError::Write)?;
    let mut bytes = Vec::with_capacity(INITIAL_HEAD_BYTES);
    let mut interim = 0;
    loop {
        match ResponseHead::parse(&bytes)? {
            Some((answer, head)) if answer.is_interim() => {
                bytes.drain(..head);
                interim += 1;
                if interim > MAX_INTERIM {
                    return Err(ExchangeError::TooManyInterim);
                }
                continue;
            }
            Some((_, head)) => {
                return Ok(EndpointResponse {
                    reached,
                    bytes,
                    head,
                });
            }
            None if bytes.len() >= MAX_HEAD_BYTES => return Err(ExchangeError::TooLong),
            None => {}
        }
        if stream
            .read_buf(&mut bytes)
            .await
            .map_err(ExchangeError::Read)?
            == 0
        {
            return Err(ExchangeError::Closed);
        }
    }
}

/// A connection whose request has been written and whose answer has been read in part: hyper's
/// client reads that part again, and what it writes for the request goes nowhere.
#[derive(Debug)]
pub struct ReplayStream {
    unread: Bytes,
    stream: Stream,
    /// hyper takes bytes that come before it has asked for a protocol error.
    asked: bool,
    reader: Option<Waker>,
}

impl AsyncRead for ReplayStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
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
        self.asked = true;
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
