//! What an admin connection is doing: its deadline follows from that, and which connection is closed to
//! make room for a new one.

use std::cmp::Reverse;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::net::stream::Stream;
use crate::net::turns::TurnStream;

/// How long a client may take to send a request head.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be idle after a response. Longer than the usual interval between two scrapes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a client may accept no byte of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection is doing, and since when.
#[derive(Debug, Clone, Copy)]
enum AdminPhase {
    /// Waiting for a complete request head.
    Head(Instant),
    /// Waiting for the body of a request; the service has a deadline for it.
    Body(Instant),
    /// A request is being served; its service has deadlines of its own.
    Serving(Instant),
    /// The response is complete, and nothing has been received since.
    Idle(Instant),
}

/// How costly it is to close a connection, the least first; and since when it is in that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EvictionCost {
    /// It has no complete request, or none at all. The oldest is the least loss.
    Waiting(Instant),
    /// Its client does not read the response. The oldest is the least loss.
    Stuck(Instant),
    /// A request is being served. The youngest is the least loss: if the oldest were closed, a flood of
    /// requests would leave none that is finished.
    Serving(Reverse<Instant>),
}

#[derive(Debug)]
struct ActivityState {
    phase: AdminPhase,
    /// Since when the client has accepted none of the bytes for it.
    stuck_since: Option<Instant>,
}

/// The activity of one admin connection.
#[derive(Debug)]
pub struct AdminActivity(Mutex<ActivityState>);

impl AdminActivity {
    /// For a connection that has just been accepted.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(ActivityState {
            phase: AdminPhase::Head(Instant::now()),
            stuck_since: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request is served until the guard is dropped.
    pub(super) fn serving(&self) -> ServingGuard<'_> {
        self.state().phase = AdminPhase::Serving(Instant::now());
        ServingGuard(self)
    }

    /// Notes that the service waits for the body of its request while `receiving`.
    pub async fn while_receiving<T>(&self, receiving: impl Future<Output = T>) -> T {
        self.state().phase = AdminPhase::Body(Instant::now());
        let received = receiving.await;
        self.state().phase = AdminPhase::Serving(Instant::now());
        received
    }

    /// The time by which the client has to send or read something, if it is its turn.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        if let Some(since) = state.stuck_since {
            return Some(since + WRITE_TIMEOUT);
        }
        match state.phase {
            AdminPhase::Head(since) => Some(since + HEAD_TIMEOUT),
            AdminPhase::Idle(since) => Some(since + IDLE_TIMEOUT),
            AdminPhase::Body(_) | AdminPhase::Serving(_) => None,
        }
    }

    /// How costly it would be to close the connection now.
    pub(super) fn eviction(&self) -> EvictionCost {
        let state = self.state();
        match (state.stuck_since, state.phase) {
            (Some(since), _) => EvictionCost::Stuck(since),
            (None, AdminPhase::Serving(since)) => EvictionCost::Serving(Reverse(since)),
            (None, AdminPhase::Head(since) | AdminPhase::Body(since) | AdminPhase::Idle(since)) => {
                EvictionCost::Waiting(since)
            }
        }
    }

    fn bytes_received(&self) {
        let mut state = self.state();
        // Only the first byte of a head counts: one that comes byte by byte has no more time.
        if matches!(state.phase, AdminPhase::Idle(_)) {
            state.phase = AdminPhase::Head(Instant::now());
        }
    }

    fn note_write<T>(&self, result: Poll<T>) -> Poll<T> {
        let mut state = self.state();
        if result.is_ready() {
            state.stuck_since = None;
        } else if state.stuck_since.is_none() {
            state.stuck_since = Some(Instant::now());
        }
        result
    }
}

/// The guard of a request that is being served.
#[derive(Debug)]
pub(super) struct ServingGuard<'a>(&'a AdminActivity);

impl Drop for ServingGuard<'_> {
    fn drop(&mut self) {
        self.0.state().phase = AdminPhase::Idle(Instant::now());
    }
}

/// The stream that hyper reads and writes.
#[derive(Debug)]
pub(super) struct AdminIo {
    stream: TurnStream<Stream>,
    is_tls: bool,
    activity: Arc<AdminActivity>,
}

impl AdminIo {
    /// Notes the activity of `stream`.
    pub(super) fn new(stream: Stream, activity: Arc<AdminActivity>) -> Self {
        Self {
            is_tls: stream.has_end_message(),
            stream: TurnStream::new(stream),
            activity,
        }
    }
}

impl AsyncRead for AdminIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.bytes_received();
        }
        result
    }
}

impl AsyncWrite for AdminIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.activity.note_write(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.activity.note_write(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // TLS has a buffer. Sockets have none of their own, so a flush of one says nothing about its client.
        match self.is_tls {
            true => self.activity.note_write(result),
            false => result,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deadline_and_eviction_follow_from_what_the_connection_does() {
        let second = Duration::from_secs(1);
        let began = Instant::now();
        let activity = AdminActivity::new();
        let serving = |since| EvictionCost::Serving(Reverse(since));
        let is = |cost: fn(Instant) -> EvictionCost, due: Option<Duration>, since: Duration| {
            assert_eq!(activity.deadline(), due.map(|due| began + due));
            assert_eq!(activity.eviction(), cost(began + since));
        };
        is(EvictionCost::Waiting, Some(HEAD_TIMEOUT), Duration::ZERO);
        tokio::time::advance(second).await;
        activity.bytes_received();
        is(EvictionCost::Waiting, Some(HEAD_TIMEOUT), Duration::ZERO);
        let guard = activity.serving();
        is(serving, None, second);
        activity
            .while_receiving(async { is(EvictionCost::Waiting, None, second) })
            .await;
        is(serving, None, second);
        assert!(activity.note_write(Poll::<()>::Pending).is_pending());
        is(EvictionCost::Stuck, Some(second + WRITE_TIMEOUT), second);
        drop(guard);
        tokio::time::advance(second).await;
        assert!(activity.note_write(Poll::<()>::Pending).is_pending());
        is(EvictionCost::Stuck, Some(second + WRITE_TIMEOUT), second);
        assert!(activity.note_write(Poll::Ready(())).is_ready());
        is(EvictionCost::Waiting, Some(second + IDLE_TIMEOUT), second);
        activity.bytes_received();
        is(
            EvictionCost::Waiting,
            Some(2 * second + HEAD_TIMEOUT),
            2 * second,
        );
    }
}
