//! The socket of a connection while h2 has it, and what has been seen of its traffic.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::opened_streams::OpenedStreams;
use crate::net::stream::Stream;
use crate::net::turns::TurnStream;

/// A client's socket. h2 reads and writes it through a [`SocketHandle`].
#[derive(Debug)]
pub(super) struct ClientSocket {
    stream: RefCell<TurnStream<Stream>>,
    heard: Rc<Cell<Instant>>,
    is_blocked: Cell<bool>,
    opened: RefCell<OpenedStreams>,
}

/// What the kernel accepts beyond what it can send, in bytes. A PING waits behind it, and a client that reads a long
/// response slowly is known to be there as often as half of it has been sent.
const MAX_UNSENT: u32 = 128 * 1024;

impl ClientSocket {
    /// The socket. Notes in `heard` when its client was last known to be there: it has sent something, or accepted what
    /// it had no room for.
    pub(super) fn new(stream: Stream, heard: &Rc<Cell<Instant>>) -> Rc<Self> {
        stream.limit_unsent(MAX_UNSENT);
        Rc::new(Self {
            stream: RefCell::new(TurnStream::new(stream)),
            heard: Rc::clone(heard),
            is_blocked: Cell::new(false),
            opened: RefCell::new(OpenedStreams::new()),
        })
    }

    /// How many streams the client has opened. h2 has seen their heads, unless [bytes wait](Self::is_blocked).
    pub(super) fn opened_streams(&self) -> u64 {
        self.opened.borrow().count()
    }

    /// When the client was last known to be there.
    pub(super) fn heard(&self) -> Instant {
        self.heard.get()
    }

    /// Whether bytes wait that the client does not accept.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    /// The stream itself.
    pub(super) fn into_stream(self) -> Stream {
        self.stream.into_inner().into_inner()
    }

    fn note_write<T>(&self, written: Poll<T>) -> Poll<T> {
        if self.is_blocked.replace(written.is_pending()) && written.is_ready() {
            self.heard.set(Instant::now());
        }
        written
    }
}

/// A socket as h2 reads and writes it.
#[derive(Debug)]
pub(super) struct SocketHandle(pub(super) Rc<ClientSocket>);

impl AsyncRead for SocketHandle {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(cx, buf);
        if result.is_ready() {
            self.0.heard.set(Instant::now());
            let bytes = buf.filled().get(before..).unwrap_or_default();
            self.0.opened.borrow_mut().advance(bytes);
        }
        result
    }
}

impl AsyncWrite for SocketHandle {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.0.stream.borrow_mut()).poll_write(cx, buf);
        self.0.note_write(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.0.stream.borrow_mut()).poll_write_vectored(cx, bufs);
        self.0.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.stream.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut *self.0.stream.borrow_mut()).poll_flush(cx);
        self.0.note_write(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::ioctl_fionread;

    use super::*;
    use crate::net::stream::Socket;

    /// What is asked behind it would wait for all of it.
    #[tokio::test]
    async fn the_kernel_takes_little_that_it_cannot_send() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let reader = tokio::net::TcpStream::connect(address).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let stream = Stream::Plain(Socket::Tcp(socket));
        let heard = Rc::new(Cell::new(Instant::now()));
        let mut writer = SocketHandle(ClientSocket::new(stream, &heard));
        let mut written = 0;
        while !writer.0.is_blocked() {
            let piece = std::future::poll_fn(|cx| {
                Poll::Ready(Pin::new(&mut writer).poll_write(cx, &[0; 16 * 1024]))
            });
            if let Poll::Ready(length) = piece.await {
                written += length.unwrap() as u64;
            }
        }
        let unsent = written - ioctl_fionread(&reader).unwrap();
        assert!(unsent <= u64::from(MAX_UNSENT) * 2, "{unsent} of {written}");
    }
}
