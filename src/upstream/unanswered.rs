//! Connections that an endpoint ends before any byte of its answer: it has not begun to answer, so that
//! the request may be sent to another one.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The endpoint ended the connection without any byte of an answer.
#[derive(Debug, thiserror::Error)]
#[error("connection closed before the response")]
pub struct Unanswered;

/// Whether `error`, or one of its causes, is that the endpoint sent no byte of an answer.
pub fn is_unanswered(error: &(dyn Error + 'static)) -> bool {
    let inner = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<Unanswered>()) || error.source().is_some_and(is_unanswered)
}

/// Whether `error` says that the peer has ended the connection.
pub(super) fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            // TLS without a closing alert.
            | io::ErrorKind::UnexpectedEof
    )
}

/// What the sender of requests and the connection that carries them share.
#[derive(Debug, Default)]
pub(super) struct AnswerState {
    /// Whether the next byte of the connection is the first one of an answer, as the sender of a request sets it.
    pub(super) is_awaited: Cell<bool>,
    /// Since when the endpoint accepts no more bytes.
    pub(super) deaf_since: Cell<Option<Instant>>,
}

impl AnswerState {
    /// Whether the endpoint accepts no more bytes.
    pub(super) fn is_deaf(&self) -> bool {
        self.deaf_since.get().is_some()
    }
}

/// A connection on which an end before the first byte of an answer is an error of its own. hyper reports
/// the same error for such an end and for one in the middle of a response head.
///
/// A write to an endpoint that accepts no more is not an error: the endpoint may have answered before, with 413
/// for example, and hyper would drop the answer. What it reads next decides.
#[derive(Debug)]
pub(super) struct AnswerWatch<S> {
    stream: S,
    state: Rc<AnswerState>,
}

impl<S> AnswerWatch<S> {
    pub(super) fn new(stream: S, state: Rc<AnswerState>) -> Self {
        Self { stream, state }
    }

    fn judge(&self, error: io::Error) -> io::Error {
        match self.state.is_awaited.get() && is_end(&error) {
            true => io::Error::other(Unanswered),
            false => error,
        }
    }

    /// Notes that the endpoint accepts no more bytes, if `error` says so. What it does not accept is discarded:
    /// returns `discarded` as if it had been written.
    fn deafened<T>(&self, error: io::Error, discarded: T) -> io::Result<T> {
        if !is_end(&error) {
            return Err(error);
        }
        self.state.deaf_since.set(Some(Instant::now()));
        Ok(discarded)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnswerWatch<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, has_room) = (buf.filled().len(), buf.remaining() > 0);
        match ready!(Pin::new(&mut self.stream).poll_read(cx, buf)) {
            Ok(()) if buf.filled().len() > before => self.state.is_awaited.set(false),
            Ok(()) if has_room && self.state.is_awaited.get() => {
                return Poll::Ready(Err(io::Error::other(Unanswered)));
            }
            Ok(()) => {}
            Err(error) => return Poll::Ready(Err(self.judge(error))),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnswerWatch<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.state.is_deaf() {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(result.or_else(|error| self.deafened(error, buf.len())))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.state.is_deaf() {
            return Poll::Ready(Ok(length));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(result.or_else(|error| self.deafened(error, length)))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.state.is_deaf() {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(result.or_else(|error| self.deafened(error, ())))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
