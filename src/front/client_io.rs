//! A client's stream while hyper has it, and the pulse that its deadlines are read from.
//!
//! hyper has one deadline for silence, head and keep-alive alike. Ours are told apart by what the
//! connection is doing and by when bytes came, so the stream notes that. It also keeps the first
//! bytes, because hyper forgets how header names were spelled.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::config::model::ListenerTimeouts;
use crate::net::stream::Stream;

/// What a connection is doing, as its deadlines see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for the end of a head that should have begun, or has.
    Head { since: Instant },
    /// A session has it; that has deadlines of its own.
    Busy,
    /// Answered, and nothing has come since.
    Idle { since: Instant },
}

/// Noted by the stream and the service, read by the connection's task.
#[derive(Debug)]
pub struct Pulse {
    phase: Cell<Phase>,
    /// No request has come yet.
    first_due: Cell<bool>,
    /// hyper wanted to write and could not.
    write_blocked: Cell<bool>,
    /// The first bytes of the connection, up to the end of the first head; `None` once taken, or
    /// when that head is longer than is worth it.
    first_head: RefCell<Option<Vec<u8>>>,
}

/// Bytes of a first head that are kept for the spelling of its names.
const FIRST_HEAD_MOST: usize = 16 * 1024;

impl Pulse {
    /// For a connection whose first request is expected since then.
    pub fn new(since: Instant) -> Self {
        Self {
            phase: Cell::new(Phase::Head { since }),
            first_due: Cell::new(true),
            write_blocked: Cell::new(false),
            first_head: RefCell::new(Some(Vec::new())),
        }
    }

    /// A head has come whole: a session begins. Ends when the result is dropped.
    pub fn busy(self: &Rc<Self>) -> Busy {
        self.phase.set(Phase::Busy);
        self.first_due.set(false);
        Busy(Rc::clone(self))
    }

    /// When the client has to have gone on, if it is its turn.
    pub fn deadline(&self, timeouts: &ListenerTimeouts) -> Option<Instant> {
        match self.phase.get() {
            Phase::Head { since } => Some(since + timeouts.request_header),
            Phase::Idle { since } => Some(since + timeouts.keep_alive),
            Phase::Busy => None,
        }
    }

    /// Whether no request has come yet.
    pub fn awaits_first(&self) -> bool {
        self.first_due.get()
    }

    /// Whether something that hyper wrote may still be with hyper.
    pub fn write_blocked(&self) -> bool {
        self.write_blocked.get()
    }

    /// The first head of the connection as it came, for the first request.
    pub fn take_first_head(&self) -> Option<Vec<u8>> {
        self.first_head.take()
    }

    fn bytes_came(&self, bytes: &[u8]) {
        if matches!(self.phase.get(), Phase::Idle { .. }) && !bytes.is_empty() {
            self.phase.set(Phase::Head {
                since: Instant::now(),
            });
        }
        let mut kept = self.first_head.borrow_mut();
        if let Some(head) = kept.as_mut() {
            if head.len() + bytes.len() > FIRST_HEAD_MOST {
                *kept = None;
            } else {
                head.extend_from_slice(bytes);
            }
        }
    }
}

/// A running session; when it is over, the client is to send its next request.
#[derive(Debug)]
pub struct Busy(Rc<Pulse>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.phase.set(Phase::Idle {
            since: Instant::now(),
        });
    }
}

/// The stream that hyper reads and writes.
#[derive(Debug)]
pub struct ClientIo {
    stream: Stream,
    pulse: Rc<Pulse>,
}

impl ClientIo {
    /// Notes what happens on `stream` in `pulse`.
    pub fn new(stream: Stream, pulse: Rc<Pulse>) -> Self {
        Self { stream, pulse }
    }

    /// The stream, for a tunnel.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    fn note_write<T>(&self, result: Poll<T>) -> Poll<T> {
        self.pulse.write_blocked.set(result.is_pending());
        result
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if result.is_ready() {
            self.pulse
                .bytes_came(buf.filled().get(before..).unwrap_or_default());
        }
        result
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // A flush with nothing before it says nothing about what waits in hyper.
        if result.is_pending() {
            self.note_write(result)
        } else {
            result
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
