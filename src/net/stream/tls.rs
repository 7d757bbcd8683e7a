//! TLS over a socket, towards clients and endpoints.
//!
//! Records are received into a buffer that all connections of a thread share, opened there, and their plaintext goes
//! to the reader. What is written is sealed into another one and sent at once; only records that the kernel does not
//! accept are kept, and nothing more is sealed before they are gone.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::server::ServerConfig;
use rustls::{CommonState, Error};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Socket;
use crate::net::tls_engine::{MAX_HELD, MAX_OVERHEAD, MAX_PLAIN, MAX_RECORD, TlsEngine};

/// The most that one connection keeps of sealed records that the kernel has not accepted, in bytes: a message of
/// 64 KiB with its header.
pub const MAX_UNSENT: usize = 5 * (MAX_PLAIN + MAX_OVERHEAD);

/// The most that is received at once, in bytes: eight full records.
const MAX_RECEIVED: usize = 8 * (MAX_PLAIN + MAX_OVERHEAD);

/// The least that is received at once, in bytes: however little the reader has room for, a record is complete after
/// two system calls.
const MIN_RECEIVED: usize = MAX_PLAIN + MAX_OVERHEAD;

/// What is received without any plaintext in it before other tasks have their turn, in system calls.
const ROUNDS: usize = 8;

/// A TLS connection whose handshake is complete. One task reads and writes it.
#[derive(Debug)]
pub struct TlsStream {
    socket: Socket,
    engine: TlsEngine,
    /// Why the connection has failed: the reader gets what came before, and then this.
    failure: Option<Error>,
}

/// A TLS handshake with a client has failed.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FailedHandshake {
    /// Why: an error of rustls has the kind `InvalidData`.
    pub error: io::Error,
    /// Whether the client wanted to validate a name by `tls-alpn-01`, and nothing else.
    pub asked_for_challenge: bool,
}

/// What all connections of a thread use, one after the other: none keeps anything in it.
struct TlsScratch {
    received: Box<[u8]>,
    sealed: Box<[u8]>,
    gathered: Box<[u8]>,
}

thread_local! {
    static SCRATCH: RefCell<TlsScratch> = RefCell::new(TlsScratch {
        received: vec![0; MAX_HELD + MAX_RECORD + MAX_RECEIVED].into(),
        sealed: vec![0; MAX_UNSENT].into(),
        gathered: vec![0; MAX_PLAIN].into(),
    });
}

impl TlsStream {
    /// Performs the handshake with a client.
    ///
    /// # Errors
    /// [`FailedHandshake`].
    pub async fn accept(
        config: Arc<ServerConfig>,
        socket: Socket,
    ) -> Result<Self, FailedHandshake> {
        let failed = |error, asked_for_challenge| FailedHandshake {
            error,
            asked_for_challenge,
        };
        let engine = TlsEngine::server(config).map_err(|error| failed(of_tls(error), false))?;
        let mut stream = Self::new(socket, engine);
        match stream.handshake().await {
            Ok(()) => Ok(stream),
            Err(error) => Err(failed(error, stream.engine.asks_for_challenge())),
        }
    }

    /// Performs the handshake with the server of this name.
    ///
    /// # Errors
    /// The kind is `InvalidData` where the error is one of rustls.
    pub async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        socket: Socket,
    ) -> io::Result<Self> {
        let engine = TlsEngine::client(config, name).map_err(of_tls)?;
        let mut stream = Self::new(socket, engine);
        stream.handshake().await?;
        Ok(stream)
    }

    fn new(socket: Socket, engine: TlsEngine) -> Self {
        Self {
            socket,
            engine,
            failure: None,
        }
    }

    /// What was agreed in the handshake.
    pub fn agreed(&self) -> &CommonState {
        self.engine.agreed()
    }

    /// Whether the peer is a client.
    pub(super) fn is_with_client(&self) -> bool {
        self.engine.is_server()
    }

    /// The name of the server that the client has asked for.
    pub(super) fn server_name(&self) -> Option<&str> {
        self.engine.server_name()
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    async fn handshake(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_handshake(cx)).await
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // What cannot be sent yet does not keep us from reading: the peer may be writing, too.
            let sent = self.poll_send(cx, &mut 0);
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(Err(error));
            }
            if !self.agreed().is_handshaking() {
                return sent;
            }
            // Plaintext that comes with the end of the handshake is kept for the reader.
            let received = ready!(self.poll_receive(cx, &mut ReadBuf::new(&mut [])));
            match received {
                Ok(0) => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof");
                    return Poll::Ready(Err(error));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if let Some(error) = self.failure.clone() {
                let _ = self.poll_send(cx, &mut 0);
                return Poll::Ready(Err(of_tls(error)));
            }
        }
    }

    /// Receives once; returns how many bytes have come, 0 at the end of the stream. What they break is in `failure`.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let held = self.engine.held();
            let size = (into.remaining() + MAX_OVERHEAD).clamp(MIN_RECEIVED, MAX_RECEIVED);
            let Some(place) = scratch.received.get_mut(held..held + size) else {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            };
            let mut buffer = ReadBuf::new(place);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer))?;
            let count = buffer.filled().len();
            if count > 0 {
                let received = scratch.received.get_mut(..held + count);
                let opened = self.engine.receive(received.unwrap_or_default(), into);
                self.failure = opened.err();
            }
            Poll::Ready(Ok(count))
        })
    }

    /// Sends the records that are kept. Adds what the kernel accepts to `moved`, in bytes.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        moved: &mut usize,
    ) -> Poll<io::Result<()>> {
        while !self.engine.unsent().is_empty() {
            let sent = Pin::new(&mut self.socket).poll_write(cx, self.engine.unsent());
            match ready!(sent)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => {
                    self.engine.sent(sent);
                    *moved += sent;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Seals what there is room for of `plain` and sends it, as far as the kernel accepts it. Ready with how many
    /// bytes were sealed: those are sent or kept.
    fn poll_seal(
        &mut self,
        cx: &mut Context<'_>,
        plain: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx, &mut 0))?;
        // For a socket that accepts nothing, nothing is sealed that would have to be kept.
        ready!(self.socket.poll_write_ready(cx))?;
        SCRATCH.with_borrow_mut(|scratch| {
            let TlsScratch {
                sealed, gathered, ..
            } = scratch;
            let (taken, length) = self.engine.seal(plain, sealed, gathered).map_err(of_tls)?;
            let mut records = sealed.get(..length).unwrap_or_default();
            while !records.is_empty() && self.engine.unsent().is_empty() {
                match Pin::new(&mut self.socket).poll_write(cx, records) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(sent)) => records = records.get(sent..).unwrap_or_default(),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            self.engine.keep_unsent(records);
            Poll::Ready(Ok(taken))
        })
    }

    /// Sends what is kept and then what the kernel accepts of `plain`, whether or not the event loop has found the
    /// socket writable. Returns how many bytes of `plain` were sealed, and the bytes of records that were sent.
    pub(super) fn send_now(&mut self, plain: &[u8]) -> (usize, usize) {
        let (mut taken, mut moved) = (0, 0);
        loop {
            while !self.engine.unsent().is_empty() {
                match self.socket.send_now(self.engine.unsent()) {
                    Ok(sent @ 1..) => {
                        self.engine.sent(sent);
                        moved += sent;
                    }
                    Ok(0) | Err(_) => return (taken, moved),
                }
            }
            // One record at a time: all but one are sent that are sealed.
            let left = plain.get(taken..).unwrap_or_default();
            let record = left.get(..left.len().min(MAX_PLAIN)).unwrap_or_default();
            if record.is_empty() {
                return (taken, moved);
            }
            let sealed = SCRATCH.with_borrow_mut(|scratch| {
                let TlsScratch {
                    sealed, gathered, ..
                } = scratch;
                let plain = [IoSlice::new(record)];
                let (count, length) = self.engine.seal(&plain, sealed, gathered)?;
                self.engine
                    .keep_unsent(sealed.get(..length).unwrap_or_default());
                Ok::<_, Error>(count)
            });
            match sealed {
                Ok(count @ 1..) => taken += count,
                Ok(0) | Err(_) => return (taken, moved),
            }
        }
    }
}

fn of_tls(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if stream.engine.unread() > 0 {
            stream.engine.read_unread(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        for _ in 0..ROUNDS {
            if let Some(error) = stream.failure.clone() {
                return Poll::Ready(Err(of_tls(error)));
            }
            if stream.engine.peer_has_ended() {
                return Poll::Ready(Ok(()));
            }
            let received = ready!(stream.poll_receive(cx, buf));
            // An alert, or what TLS 1.2 answers to a renegotiation. If it cannot be sent now, it is with the next
            // record; and after an error, what has caused it says more than that it cannot be sent.
            let _ = stream.poll_send(cx, &mut 0);
            match received {
                // The peer has ended TCP without a close_notify. WebSocket and HTTP/1.1 frame their own messages,
                // so truncation shows there, and the tunnel may pass on an ordinary end.
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx, &mut 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        stream.engine.end();
        ready!(stream.poll_send(cx, &mut 0))?;
        match ready!(Pin::new(&mut stream.socket).poll_shutdown(cx)) {
            // The peer has reset it.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

#[cfg(test)]
mod tests;
