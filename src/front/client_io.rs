//! A client's stream while hyper owns it, and the record of its activity that deadlines follow
//! from.
//!
//! hyper has one timer for reading a head, and uses it for keep-alive, too. Our deadlines depend on
//! what the connection is doing and on when bytes arrived, so the stream notes both. It also keeps
//! the first bytes, because hyper keeps the case of header names to itself.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::config::model::ListenerTimeouts;
use crate::net::hangup::Hangup;
use crate::net::stream::Stream;
use crate::net::turns::TurnStream;
use crate::session::{InterimHeads, StreamRecord};
use crate::streams::exchange::Exchange;

/// The phase of a connection, which decides about its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for a complete request head, which has begun or is expected now.
    Head { since: Instant },
    /// A session is running; it has deadlines of its own.
    Busy,
    /// The response is complete, and nothing has been received since.
    Idle { since: Instant },
}

/// The activity of a connection: noted by the stream and the service, read by the connection's
/// task.
#[derive(Debug)]
pub struct ClientActivity {
    phase: Cell<Phase>,
    /// No request has been received yet.
    awaits_first: Cell<bool>,
    /// Whether the latest request has a body.
    has_body: Cell<bool>,
    /// Whether hyper waits for bytes of the client. If not, it does not read, because the session does not
    /// take what was read before.
    awaits_bytes: Cell<bool>,
    /// Since when the client is known to have left behind bytes that hyper does not read, and how.
    left: Cell<Option<(Instant, Hangup)>>,
    /// Whether a session has begun whose response is not written to its end.
    owes_response: Cell<bool>,
    /// The exchange whose response is being sent.
    serving: RefCell<Option<Rc<Exchange<StreamRecord>>>>,
    /// Whether the latest request is of HTTP/1.0, to which the end of the connection may be the end of a response.
    is_http_10: Cell<bool>,
    /// Whether the body of the response broke off.
    broke_off: Cell<bool>,
    /// Since when the client has not accepted any of the bytes that hyper has for it.
    blocked_since: Cell<Option<Instant>>,
    /// The first bytes of the connection, up to the end of the first head; `None` once they have
    /// been handed out, or if the head is too long to be kept.
    first_head: RefCell<Option<Vec<u8>>>,
    /// The first line of the head that has begun.
    line: RefCell<FirstLine>,
}

/// The first line of a head that came when no other request was running. Of a pipelined head it is unknown where
/// it begins: that depends on the body before it.
#[derive(Debug, Default)]
struct FirstLine {
    /// What has come of it, if it may have a fragment.
    bytes: Vec<u8>,
    is_complete: bool,
}

impl FirstLine {
    fn add(&mut self, mut bytes: &[u8]) {
        if self.bytes.is_empty() {
            // hyper ignores empty lines before a head.
            let begins = bytes.iter().position(|b| !b"\r\n".contains(b));
            bytes = begins.and_then(|at| bytes.get(at..)).unwrap_or_default();
        }
        let end = bytes.iter().position(|b| *b == b'\n');
        let line = end.and_then(|end| bytes.get(..end)).unwrap_or(bytes);
        self.is_complete = end.is_some();
        // Nothing is copied of an ordinary line, which comes as a whole.
        if !self.is_complete || !self.bytes.is_empty() || line.contains(&b'#') {
            self.bytes.extend_from_slice(line);
        }
    }
}

/// How long a session may take nothing of the body that a client sent before it ended its stream.
const LEFT_LIMIT: Duration = Duration::from_secs(5);

/// The longest first head that is kept for the case of its header names.
const MAX_FIRST_HEAD: usize = 16 * 1024;

impl ClientActivity {
    /// For a connection whose first request has been expected since then.
    pub fn new(since: Instant) -> Self {
        Self {
            phase: Cell::new(Phase::Head { since }),
            awaits_first: Cell::new(true),
            has_body: Cell::new(false),
            awaits_bytes: Cell::new(false),
            left: Cell::new(None),
            owes_response: Cell::new(false),
            serving: RefCell::default(),
            is_http_10: Cell::new(false),
            broke_off: Cell::new(false),
            blocked_since: Cell::new(None),
            first_head: RefCell::new(Some(Vec::new())),
            line: RefCell::default(),
        }
    }

    /// Notes that a head is complete and a session begins; and whether a body follows the head. The session
    /// ends when the guard is dropped.
    pub fn busy(self: &Rc<Self>, has_body: bool) -> BusyGuard {
        self.has_body.set(has_body);
        self.owes_response.set(true);
        self.phase.set(Phase::Busy);
        self.awaits_first.set(false);
        BusyGuard(Rc::clone(self))
    }

    /// Notes the version of the latest request.
    pub fn set_version(&self, version: Version) {
        self.is_http_10.set(version == Version::HTTP_10);
    }

    /// Whether the response is to be broken off although the client accepts no more of it: hyper does not ask for
    /// its body then.
    pub fn is_broken_off(&self) -> bool {
        let serving = self.serving.borrow();
        self.write_blocked() && serving.as_ref().is_some_and(|it| it.is_broken_off())
    }

    /// Whether the body of a response broke off, and the end of the connection would look like the end of the body.
    pub fn must_reset(&self) -> bool {
        self.broke_off.get() && self.is_http_10.get()
    }

    /// The time by which the client has to continue, if it is its turn: to send, or to read.
    pub fn deadline(&self, timeouts: &ListenerTimeouts) -> Option<Instant> {
        // A client that does not read comes first, in every phase: it could otherwise hold the
        // response of a session, and the memory for it, without a limit.
        if let Some(since) = self.blocked_since.get() {
            return Some(since + timeouts.response_body);
        }
        match self.phase.get() {
            Phase::Head { since } => Some(since + timeouts.request_header),
            Phase::Idle { since } => Some(since + timeouts.keep_alive),
            Phase::Busy => None,
        }
    }

    /// Whether a session runs whose client is not read: then its end wakes no task.
    pub fn is_unread(&self) -> bool {
        self.phase.get() == Phase::Busy && !self.awaits_bytes.get()
    }

    /// Whether the client has left a session that does not take what it sent before.
    pub fn has_left(&self) -> bool {
        match self.left.get() {
            None => false,
            Some((_, Hangup::Reset)) => true,
            // The session may still take the rest of a body. Without one, what hyper has not read is the next
            // request of a client that has sent all of its requests and waits for the responses.
            Some((since, Hangup::Ended)) => self.has_body.get() && since.elapsed() >= LEFT_LIMIT,
        }
    }

    fn look_for_hangup(&self, stream: &Stream) {
        if !self.is_unread() {
            return;
        }
        let Some(hangup) = stream.hangup() else {
            return;
        };
        match self.left.get() {
            Some((_, known)) if known == hangup => {}
            _ => self.left.set(Some((Instant::now(), hangup))),
        }
    }

    /// Whether no request has been received yet.
    pub fn awaits_first(&self) -> bool {
        self.awaits_first.get()
    }

    /// Whether bytes for the client may still be in hyper's buffer.
    pub fn write_blocked(&self) -> bool {
        self.blocked_since.get().is_some()
    }

    /// Whether hyper has a response of a session to write. What it writes otherwise is its own response to
    /// a head that it cannot read, which has neither a reason nor a text.
    pub fn owes_response(&self) -> bool {
        self.owes_response.get()
    }

    /// Notes that hyper has nothing left to write.
    fn all_written(&self) {
        if self.phase.get() != Phase::Busy {
            self.owes_response.set(false);
        }
    }

    /// The first head of the connection as received, for the first request.
    pub fn take_first_head(&self) -> Option<Vec<u8>> {
        self.first_head.take()
    }

    /// The first line of the head that is now complete, if it may have a fragment.
    pub fn take_line(&self) -> Option<Vec<u8>> {
        let line = self.line.take();
        Some(line.bytes).filter(|_| line.is_complete)
    }

    fn bytes_accepted(&self) {
        if self.blocked_since.take().is_none() {
            return;
        }
        // The session ended while its response was stuck: the keep-alive time begins only now that
        // the client has accepted more of it.
        if matches!(self.phase.get(), Phase::Idle { .. }) {
            self.phase.set(Phase::Idle {
                since: Instant::now(),
            });
        }
    }

    fn bytes_blocked(&self) {
        if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(Instant::now()));
        }
    }

    fn bytes_received(&self, bytes: &[u8]) {
        // Only the first byte of a head sets its deadline: one that is sent byte by byte gets no
        // more time than any other (slowloris).
        if matches!(self.phase.get(), Phase::Idle { .. }) && !bytes.is_empty() {
            self.phase.set(Phase::Head {
                since: Instant::now(),
            });
            self.line.take();
        }
        let mut line = self.line.borrow_mut();
        if matches!(self.phase.get(), Phase::Head { .. }) && !line.is_complete {
            line.add(bytes);
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

/// The guard of a running session: when it is dropped, the client may send its next request.
#[derive(Debug)]
pub struct BusyGuard(Rc<ClientActivity>);

impl BusyGuard {
    /// Notes the exchange whose response is sent from now on.
    pub fn serves(&self, exchange: &Rc<Exchange<StreamRecord>>) {
        self.0.serving.replace(Some(Rc::clone(exchange)));
    }

    /// Notes that the body of the response broke off.
    pub fn broke_off(&self) {
        self.0.broke_off.set(true);
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.serving.take();
        self.0.phase.set(Phase::Idle {
            since: Instant::now(),
        });
    }
}

/// The stream that hyper reads and writes. What hyper would respond by itself is dropped: `front/http` sees
/// the error that ends the connection, and responds.
#[derive(Debug)]
pub struct ClientIo {
    stream: TurnStream<Stream>,
    activity: Rc<ClientActivity>,
    interim: Rc<InterimHeads>,
}

impl ClientIo {
    /// Notes the activity of `stream` in `activity`, and writes `interim` when hyper has written everything.
    pub fn new(stream: Stream, activity: Rc<ClientActivity>, interim: Rc<InterimHeads>) -> Self {
        Self {
            stream: TurnStream::new(stream),
            activity,
            interim,
        }
    }

    /// The stream, for a tunnel.
    pub fn into_stream(self) -> Stream {
        self.stream.into_inner()
    }

    /// Writes interim responses. hyper flushes only when its buffer is empty, so that these bytes stand between
    /// two responses: the session that has sent them has not responded yet.
    fn poll_write_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let heads = self.interim.unwritten();
            if heads.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let result = Pin::new(&mut self.stream).poll_write(cx, &heads);
            match ready!(self.note_write(result))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.interim.wrote(length, cx),
            }
        }
    }

    fn note_write<T>(&self, result: Poll<T>) -> Poll<T> {
        match result {
            Poll::Ready(_) => self.activity.bytes_accepted(),
            Poll::Pending => self.activity.bytes_blocked(),
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
        let awaits = result.is_pending() && !self.stream.has_had_its_turn();
        self.activity.awaits_bytes.set(awaits);
        self.activity.left.set(None);
        if result.is_ready() {
            self.activity
                .bytes_received(buf.filled().get(before..).unwrap_or_default());
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
        if !self.activity.owes_response() {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.activity.owes_response() {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_interim(cx))?;
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // hyper flushes at the end of each turn, whether or not it has read.
        self.activity.look_for_hangup(self.stream.get_ref());
        // A flush without a write before it says nothing about the bytes in hyper's buffer.
        if result.is_pending() {
            return self.note_write(result);
        }
        // hyper flushes only after it has written all that it has.
        self.activity.all_written();
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: ListenerTimeouts = ListenerTimeouts {
        tls_handshake: Duration::from_secs(1),
        request_header: Duration::from_secs(2),
        keep_alive: Duration::from_secs(3),
        request_body: Duration::from_secs(4),
        response_body: Duration::from_secs(5),
    };

    type ActivityEvent = fn(&Rc<ClientActivity>, &mut Option<BusyGuard>);

    /// Seconds from the beginning to the deadline, after `events` a second apart.
    async fn due_after(events: &[ActivityEvent]) -> Option<u64> {
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
    async fn deadlines_depend_on_whose_turn_it_is() {
        let comes: ActivityEvent = |activity, _| activity.bytes_received(b"GET");
        let begins: ActivityEvent = |activity, busy| *busy = Some(activity.busy(false));
        let ends: ActivityEvent = |_, busy| *busy = None;
        let stuck: ActivityEvent = |activity, _| activity.bytes_blocked();
        let goes: ActivityEvent = |activity, _| activity.bytes_accepted();
        for (events, due) in [
            (&[][..], Some(2)),
            // The head has one deadline, however many pieces it comes in.
            (&[comes, comes], Some(2)),
            (&[comes, begins], None),
            (&[comes, begins, ends], Some(3 + 3)),
            (&[comes, begins, ends, comes], Some(4 + 2)),
            // Time counts from when the client last accepted data.
            (&[comes, begins, stuck], Some(3 + 5)),
            (&[comes, begins, stuck, stuck], Some(3 + 5)),
            (&[comes, begins, stuck, goes], None),
            (&[comes, begins, stuck, goes, stuck], Some(5 + 5)),
            // A response that the kernel has accepted only in part is not complete.
            (&[comes, begins, stuck, ends], Some(3 + 5)),
            (&[comes, begins, stuck, ends, goes], Some(5 + 3)),
        ] {
            assert_eq!(due_after(events).await, due, "{} events", events.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_is_owed_until_it_is_written() {
        let activity = Rc::new(ClientActivity::new(Instant::now()));
        assert!(!activity.owes_response());
        let busy = activity.busy(false);
        // Its first part has been flushed.
        activity.all_written();
        assert!(activity.owes_response());
        drop(busy);
        assert!(activity.owes_response());
        activity.all_written();
        assert!(!activity.owes_response());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_ends_its_stream_has_left_a_body_but_not_its_pipelined_requests() {
        let activity = Rc::new(ClientActivity::new(Instant::now()));
        for (has_body, hangup, has_left) in [
            (true, Hangup::Ended, [false, true]),
            (false, Hangup::Ended, [false, false]),
            (false, Hangup::Reset, [true, true]),
        ] {
            let _busy = activity.busy(has_body);
            activity.left.set(Some((Instant::now(), hangup)));
            let before = activity.has_left();
            tokio::time::advance(LEFT_LIMIT).await;
            assert_eq!([before, activity.has_left()], has_left, "{hangup:?}");
        }
    }
}
