//! One concrete type for every connected byte stream, on either side.
//!
//! It hides the differences between plain text, TLS and a stream of an HTTP/2 connection from the relay.

mod agreed;
mod tls;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

pub(super) use self::agreed::ALPN_HTTP_2;
pub use self::agreed::UnreadableCertificate;
pub use self::tls::{FailedHandshake, MAX_UNSENT, TlsStream};
use super::hangup::Hangup;
use super::http2::TunnelStream;
use crate::protocol::address_text::AddressText;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP over IPv4 or IPv6.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

/// A connected byte stream, as tunnels and HTTP connections use it.
#[derive(Debug)]
pub enum Stream {
    /// Plain text.
    Plain(Socket),
    /// TLS, with a client or an endpoint.
    Tls(Box<TlsStream>),
    /// A stream of an HTTP/2 connection, with a client.
    Http2(Box<TunnelStream>),
}

/// The peer of a client connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// An address and port.
    Ip(SocketAddr),
    /// An address without a port, as a trusted proxy reports it.
    Address(IpAddr),
    /// A process on this machine, connected through a unix socket.
    Unix,
}

impl Peer {
    /// The address; `None` for a unix socket.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Address(address) => Some(address),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => f.pad(AddressText::of_socket(*address).as_str()),
            Self::Address(address) => f.pad(AddressText::of(*address).as_str()),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Socket {
    /// Waits until the socket is ready. Ready for reading means bytes or the end of the stream.
    ///
    /// # Errors
    /// The error of the system.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(socket) => socket.ready(interest).await,
            Self::Unix(socket) => socket.ready(interest).await,
        }
    }

    /// Waits until the kernel accepts bytes.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_write_ready(cx),
            Self::Unix(socket) => socket.poll_write_ready(cx),
        }
    }

    /// Whether the peer has ended or reset the connection. This is for a socket that is not being read: it
    /// takes no system call, and wakes no task later.
    fn hangup(&self) -> Option<Hangup> {
        let any = Interest::READABLE | Interest::WRITABLE | Interest::ERROR;
        let looked = pin!(self.ready(any)).poll(&mut Context::from_waker(Waker::noop()));
        match looked {
            Poll::Ready(Ok(ready)) if ready.is_error() => Some(Hangup::Reset),
            // Both directions are also closed where both sides have ended in order, and where the peer
            // has closed a unix socket.
            Poll::Ready(Ok(ready)) if ready.is_read_closed() => Some(Hangup::Ended),
            Poll::Ready(_) | Poll::Pending => None,
        }
    }

    /// Calls `io` if the socket is ready. `WouldBlock` from it means that it is not ready any more.
    pub(super) fn try_io<T>(
        &self,
        interest: Interest,
        io: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Self::Tcp(socket) => socket.try_io(interest, || io(socket.as_fd())),
            Self::Unix(socket) => socket.try_io(interest, || io(socket.as_fd())),
        }
    }

    /// Sends what the kernel accepts, whether or not it has said that it would.
    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match self {
            Self::Tcp(socket) => rustix::net::send(socket, bytes, flags),
            Self::Unix(socket) => rustix::net::send(socket, bytes, flags),
        };
        Ok(sent?)
    }

    /// Whether the kernel has sent every byte that was written.
    fn is_drained(&self) -> bool {
        let Self::Tcp(socket) = self else {
            return true;
        };
        // With this, a socket counts as writable only if it has nothing left to send.
        if SockRef::from(socket).set_tcp_notsent_lowat(1).is_err() {
            return false;
        }
        let mut sockets = [PollFd::new(socket, PollFlags::OUT)];
        let looked = poll(&mut sockets, Some(&Timespec::default()));
        looked.is_ok_and(|ready| ready > 0)
    }

    fn limit_unsent(&self, bytes: u32) {
        if let Self::Tcp(socket) = self {
            // A kernel that does not know it goes on as before.
            let _ = SockRef::from(socket).set_tcp_notsent_lowat(bytes);
        }
    }

    fn reset_on_close(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => SockRef::from(socket).set_linger(Some(Duration::ZERO)),
            Self::Unix(_) => Ok(()),
        }
    }
}

impl Stream {
    /// Whether an orderly end is a message of its own, and not just the end of the socket.
    pub fn has_end_message(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Takes in what has come on a stream that is not being read, if what has come must not stay where it is.
    pub fn take_in(&mut self, cx: &mut Context<'_>) {
        if let Self::Http2(stream) = self {
            stream.take_in(cx);
        }
    }

    /// Hands everything that TLS holds to the kernel. Adds what the kernel accepts to `moved`, in bytes,
    /// so that progress shows even where it is not complete.
    ///
    /// # Errors
    /// The error of the system.
    pub fn poll_flush_counted(
        &mut self,
        cx: &mut Context<'_>,
        moved: &mut usize,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) | Self::Http2(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => stream.poll_send(cx, moved),
        }
    }

    /// Sends what TLS holds, and then what the kernel accepts of `bytes`, without waiting for the event loop
    /// to find the socket writable: the kernel reports that only when a third of its buffer is free,
    /// which takes a slow reader minutes. Returns how many `bytes` need not be written any more, and how
    /// many of them and of records were sent; 0 if there was no progress, whatever the reason.
    pub fn send_now(&mut self, bytes: &[u8]) -> (usize, usize) {
        match self {
            Self::Plain(socket) => {
                let sent = socket.send_now(bytes).unwrap_or(0);
                (sent, sent)
            }
            // The client has given credit for no more, or the connection sends it as soon as it can.
            Self::Http2(_) => (0, 0),
            Self::Tls(stream) => stream.send_now(bytes),
        }
    }

    /// Makes dropping the stream reset the connection (RST) instead of ending it in order (FIN).
    pub fn reset_on_close(&mut self) {
        // If the option cannot be set, the peer sees a FIN: less clear, but no wrong bytes.
        let _ = match self {
            Self::Plain(socket) => socket.reset_on_close(),
            Self::Tls(stream) => stream.socket().reset_on_close(),
            Self::Http2(stream) => {
                stream.reset();
                Ok(())
            }
        };
    }

    /// Whether the kernel has sent every byte that was written. For a stream that is about to be closed:
    /// it accepts less at once from then on.
    pub fn is_drained(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_drained(),
            Self::Tls(stream) => stream.socket().is_drained(),
            // It is not known. Dropped as it is, the stream is reset when what was written has been sent.
            Self::Http2(_) => false,
        }
    }

    /// Limits how many bytes the kernel accepts before it has sent them, where it can.
    pub fn limit_unsent(&self, bytes: u32) {
        match self {
            Self::Plain(socket) => socket.limit_unsent(bytes),
            Self::Tls(stream) => stream.socket().limit_unsent(bytes),
            Self::Http2(_) => {}
        }
    }

    /// Whether the peer has ended or reset the connection, for a stream that is not being read.
    pub fn hangup(&self) -> Option<Hangup> {
        match self {
            Self::Plain(socket) => socket.hangup(),
            Self::Tls(stream) => stream.socket().hangup(),
            Self::Http2(stream) => stream.hangup(),
        }
    }
}

macro_rules! each_socket {
    ($self:expr, $inner:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($inner) => $call,
            Socket::Unix($inner) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each_socket!(self, inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each_socket!(self, inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs {
            // Mostly it is one buffer: send(2) does less work than writev(2).
            [one] => self.poll_write(cx, one),
            _ => each_socket!(self, inner => Pin::new(inner).poll_write_vectored(cx, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is buffered here: the kernel has every written byte.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_socket!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

macro_rules! each_stream {
    ($self:expr, $inner:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain($inner) => $call,
            Stream::Tls($inner) => $call,
            Stream::Http2($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each_stream!(self, inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each_stream!(self, inner => Pin::new(inner).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_stream!(self, inner => Pin::new(inner).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_stream!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_stream!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn hangup_of(socket: &Socket) -> Hangup {
        loop {
            match socket.hangup() {
                Some(hangup) => return hangup,
                None => tokio::task::yield_now().await,
            }
        }
    }

    async fn tcp() -> (Socket, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let far = TcpStream::connect(address).await.unwrap();
        (Socket::Tcp(listener.accept().await.unwrap().0), far)
    }

    #[tokio::test]
    async fn an_orderly_end_is_not_a_reset() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert_eq!(hangup_of(&Socket::Unix(near)).await, Hangup::Ended);
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"unread").await.unwrap();
        drop(far);
        assert_eq!(hangup_of(&Socket::Unix(near)).await, Hangup::Reset);

        let (mut near, far) = tcp().await;
        near.shutdown().await.unwrap();
        drop(far);
        assert_eq!(hangup_of(&near).await, Hangup::Ended);
        let (near, far) = tcp().await;
        far.set_zero_linger().unwrap();
        drop(far);
        assert_eq!(hangup_of(&near).await, Hangup::Reset);
    }
}
