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
    BusyGuard,
    /// Answered, and nothing has come since.
    Idle { since: Instant },
}

/// Noted by the stream and the service, read by the connection's task.
#[derive(Debug)]
pub struct ClientActivity {
    phase: Cell<Phase>,
    /// No request has come yet.
    first_due: Cell<bool>,
    /// Since when the client has taken nothing of what hyper has for it.
    blocked_since: Cell<Option<Instant>>,
    /// The first bytes of the connection, up to the end of the first head; `None` once taken, or
    /// when that head is longer than is worth it.
    first_head: RefCell<Option<Vec<u8>>>,
}

/// Bytes of a first head that are kept for the spelling of its names.
const MAX_FIRST_HEAD: usize = 16 * 1024;

impl ClientActivity {
    /// For a connection whose first request is expected since then.
    pub fn new(since: Instant) -> Self {
        Self {
            phase: Cell::new(Phase::Head { since }),
            first_due: Cell::new(true),
            blocked_since: Cell::new(None),
            first_head: RefCell::new(Some(Vec::new())),
        }
    }

    /// A head has come whole: a session begins. Ends when the result is dropped.
    pub fn busy(self: &Rc<Self>) -> BusyGuard {
        self.phase.set(Phase::BusyGuard);
        self.first_due.set(false);
        BusyGuard(Rc::clone(self))
    }

    /// When the client has to have gone on, if it is its turn: to send, or to read.
    pub fn deadline(&self, timeouts: &ListenerTimeouts) -> Option<Instant> {
        if let Some(since) = self.blocked_since.get() {
            return Some(since + timeouts.response_body);
        }
        match self.phase.get() {
            Phase::Head { since } => Some(since + timeouts.request_header),
            Phase::Idle { since } => Some(since + timeouts.keep_alive),
            Phase::BusyGuard => None,
        }
    }

    /// Whether no request has come yet.
    pub fn awaits_first(&self) -> bool {
        self.first_due.get()
    }

    /// Whether something that hyper wrote may still be with hyper.
    pub fn write_blocked(&self) -> bool {
        self.blocked_since.get().is_some()
    }

    /// The first head of the connection as it came, for the first request.
    pub fn take_first_head(&self) -> Option<Vec<u8>> {
        self.first_head.take()
    }

    fn bytes_went(&self) {
        if self.blocked_since.take().is_none() {
            return;
        }
        // What it has of its answer it has only now.
        if matches!(self.phase.get(), Phase::Idle { .. }) {
            self.phase.set(Phase::Idle {
                since: Instant::now(),
            });
        }
    }

    fn bytes_stuck(&self) {
        if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(Instant::now()));
        }
    }

    fn bytes_came(&self, bytes: &[u8]) {
        if matches!(self.phase.get(), Phase::Idle { .. }) && !bytes.is_empty() {
            self.phase.set(Phase::Head {
                since: Instant::now(),
            });
        }
        let mut kept = self.first_head.borrow_mut();
        if let Some(head) = kept.as_mut() {
            if head.len() + bytes.len() > MAX_FIRST_HEAD {
                *kept = None;
            } else {
                head.extend_from_slice(bytes);
            }
        }
    }
}

/// A running session; when it is over, the client is to send its next request.
#[derive(Debug)]
pub struct BusyGuard(Rc<ClientActivity>);

impl Drop for BusyGuard {
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
    activity: Rc<ClientActivity>,
}

impl ClientIo {
    /// Notes what happens on `stream` in `activity`.
    pub fn new(stream: Stream, activity: Rc<ClientActivity>) -> Self {
        Self { stream, activity }
    }

    /// The stream, for a tunnel.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    fn note_write<T>(&self, result: Poll<T>) -> Poll<T> {
        match result {
            Poll::Ready(_) => self.activity.bytes_went(),
            Poll::Pending => self.activity.bytes_stuck(),
        }
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
            self.activity
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const TIMEOUTS: ListenerTimeouts = ListenerTimeouts {
        tls_handshake: Duration::from_secs(1),
        request_header: Duration::from_secs(2),
        keep_alive: Duration::from_secs(3),
        request_body: Duration::from_secs(4),
        response_body: Duration::from_secs(5),
    };

    type Event = fn(&Rc<ClientActivity>, &mut Option<BusyGuard>);

    /// Seconds from the beginning to the deadline, after `events` a second apart.
    async fn due_after(events: &[Event]) -> Option<u64> {
        let began = Instant::now();
        let activity = Rc::new(ClientActivity::new(began));
        let mut busy = None;
        for event in events {
            tokio::time::advance(Duration::from_secs(1)).await;
            event(&activity, &mut busy);
        }
        let deadline = activity.deadline(&TIMEOUTS)?;
        Some(deadline.duration_since(began).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_the_clients_turn_to_send_or_to_read() {
        let comes: Event = |activity, _| activity.bytes_came(b"GET");
        let begins: Event = |activity, busy| *busy = Some(activity.busy());
        let ends: Event = |_, busy| *busy = None;
        let stuck: Event = |activity, _| activity.bytes_stuck();
        let goes: Event = |activity, _| activity.bytes_went();
        for (events, due) in [
            (&[][..], Some(2)),
            // The head has one deadline, however many pieces it comes in.
            (&[comes, comes], Some(2)),
            (&[comes, begins], None),
            (&[comes, begins, ends], Some(3 + 3)),
            (&[comes, begins, ends, comes], Some(4 + 2)),
            // Time runs from when the client took something last.
            (&[comes, begins, stuck], Some(3 + 5)),
            (&[comes, begins, stuck, stuck], Some(3 + 5)),
            (&[comes, begins, stuck, goes], None),
            (&[comes, begins, stuck, goes, stuck], Some(5 + 5)),
            // An answer that has been given to the kernel only in part is not answered.
            (&[comes, begins, stuck, ends], Some(3 + 5)),
            (&[comes, begins, stuck, ends, goes], Some(5 + 3)),
        ] {
            assert_eq!(due_after(events).await, due, "{} events", events.len());
        }
    }
}
