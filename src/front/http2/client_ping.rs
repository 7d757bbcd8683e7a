//! Whether a client that is silent is still there: one PING for all tunnels of its connection (RFC 9113 section 6.7).

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::config::model::PingConfig;
use crate::net::stream::Stream;
use crate::net::turns::TurnStream;

/// Asks the client of a connection that carries tunnels.
#[derive(Debug)]
pub(super) struct ClientPing {
    /// `None` if h2 has none to give, which it has for the first who asks.
    pings: Option<PingPong>,
    /// When the client was asked, if it has not answered.
    asked: Option<Instant>,
    heard: Rc<Cell<Instant>>,
}

impl ClientPing {
    /// For the connection that `heard` notes the bytes of.
    pub(super) fn new(pings: Option<PingPong>, heard: Rc<Cell<Instant>>) -> Self {
        Self {
            pings,
            asked: None,
            heard,
        }
    }

    /// When the client is to be asked, or given up.
    pub(super) fn due(&self, times: PingConfig) -> Instant {
        let quiet = self.heard.get() + times.every;
        match self.asked {
            // What has come since shows that it is there, also if the answer itself is not among it yet.
            Some(asked) => (asked + times.pong).max(quiet),
            None => quiet,
        }
    }

    /// Asks the client if it has been silent for too long. Returns whether it is dead: it was asked, and is silent
    /// still.
    pub(super) fn finds_dead(&mut self, times: PingConfig, now: Instant) -> bool {
        if self.due(times) > now {
            return false;
        }
        if self.asked.is_some_and(|asked| self.heard.get() <= asked) {
            return true;
        }
        // A PING that is under way asks, too.
        let _ = self
            .pings
            .as_mut()
            .map(|pings| pings.send_ping(Ping::opaque()));
        self.asked = Some(now);
        false
    }

    /// Takes the answer, so that the client can be asked again.
    pub(super) fn take_answer(&mut self, cx: &mut Context<'_>) {
        if self.asked.is_some()
            && let Some(pings) = &mut self.pings
            && pings.poll_pong(cx).is_ready()
        {
            self.asked = None;
        }
    }
}

/// A client's stream that notes when bytes have come.
#[derive(Debug)]
pub(super) struct HeardStream {
    stream: TurnStream<Stream>,
    /// Whether the client accepted nothing of the last write.
    is_blocked: bool,
    heard: Rc<Cell<Instant>>,
}

impl HeardStream {
    /// Notes in `heard` when bytes have come on `stream`.
    pub(super) fn new(stream: Stream, heard: &Rc<Cell<Instant>>) -> Self {
        Self {
            stream: TurnStream::new(stream),
            is_blocked: false,
            heard: Rc::clone(heard),
        }
    }
}

impl HeardStream {
    /// A client that accepts what it had no room for is there, although it may have nothing to say.
    fn note_write<T>(&mut self, written: Poll<T>) -> Poll<T> {
        if std::mem::replace(&mut self.is_blocked, written.is_pending()) && written.is_ready() {
            self.heard.set(Instant::now());
        }
        written
    }
}

impl AsyncRead for HeardStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if result.is_ready() {
            self.heard.set(Instant::now());
        }
        result
    }
}

impl AsyncWrite for HeardStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const TIMES: PingConfig = PingConfig {
        every: Duration::from_secs(25),
        pong: Duration::from_secs(20),
        clients: false,
    };

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_asked_once_and_then_given_up() {
        let began = Instant::now();
        let mut ping = ClientPing::new(None, Rc::new(Cell::new(began)));
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(ping.due(TIMES), after(25));
        assert!(!ping.finds_dead(TIMES, after(24)) && ping.asked.is_none());
        assert!(!ping.finds_dead(TIMES, after(25)) && ping.asked.is_some());
        assert_eq!(ping.due(TIMES), after(45));
        assert!(!ping.finds_dead(TIMES, after(44)));
        assert!(ping.finds_dead(TIMES, after(45)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_anything_is_there() {
        let began = Instant::now();
        let mut ping = ClientPing::new(None, Rc::new(Cell::new(began)));
        let after = |seconds| began + Duration::from_secs(seconds);
        assert!(!ping.finds_dead(TIMES, after(25)));
        ping.heard.set(after(30));
        assert!(!ping.finds_dead(TIMES, after(45)));
        assert_eq!(ping.due(TIMES), after(55));
        // Asked again, and silent from then on.
        assert!(!ping.finds_dead(TIMES, after(55)));
        assert!(ping.finds_dead(TIMES, after(75)));
    }
}
