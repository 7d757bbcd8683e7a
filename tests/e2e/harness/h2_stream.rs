//! A stream of an HTTP/2 connection, as a WebSocket library uses a socket.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::within;

/// The client's end of a tunnel. What is not read stays with the connection, and its credit is not given back.
pub(crate) struct H2Stream {
    send: SendStream<Bytes>,
    recv: RecvStream,
    unread: Bytes,
}

impl H2Stream {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self {
            send,
            recv,
            unread: Bytes::new(),
        }
    }

    /// Resets the stream (RST_STREAM).
    pub(crate) fn reset(mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// Waits until the server has reset the stream: the code.
    pub(crate) async fn was_reset(&mut self) -> Reason {
        let reset = std::future::poll_fn(|cx| self.send.poll_reset(cx));
        within("a reset", reset).await.unwrap()
    }
}

/// Resets are [`io::ErrorKind::ConnectionReset`], with the code in the error.
fn failed(error: h2::Error) -> io::Error {
    match error.is_reset() {
        true => io::Error::new(io::ErrorKind::ConnectionReset, error),
        false => io::Error::other(error),
    }
}

impl AsyncRead for H2Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        while stream.unread.is_empty() {
            match ready!(stream.recv.poll_data(cx)) {
                Some(piece) => stream.unread = piece.map_err(failed)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = buf.remaining().min(stream.unread.len());
        buf.put_slice(&stream.unread.split_to(length));
        let credit = stream.recv.flow_control().release_capacity(length);
        Poll::Ready(credit.map_err(failed))
    }
}

impl AsyncWrite for H2Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        stream.send.reserve_capacity(bytes.len());
        while stream.send.capacity() == 0 {
            match ready!(stream.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let length = bytes.len().min(stream.send.capacity());
        let piece = Bytes::copy_from_slice(&bytes[..length]);
        stream.send.send_data(piece, false).map_err(failed)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.get_mut().send.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(failed))
    }
}
