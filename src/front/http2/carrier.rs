//! What an HTTP/2 connection and its streams share while it is served.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::net::admission::ConnectionPermit;
use crate::observe::labels::Http2Reset;
use crate::observe::series::OpenConnection;
use crate::session::{Connection, SharedConnection};

/// The permits of the connection itself, which it holds until its last stream has ended.
#[derive(Debug)]
pub struct CarrierGuards {
    /// Counts in the process and on the worker.
    pub permit: ConnectionPermit,
    /// Counts in the listener's gauge of open connections.
    pub connected: OpenConnection,
}

/// A connection that carries streams.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) connection: Connection,
    pub(super) shared: Rc<SharedConnection>,
    guards: CarrierGuards,
    /// Streams that have a task: tunnels have one of their own and are not among them.
    streams: Cell<usize>,
    has_had_stream: Cell<bool>,
    /// Handshakes in progress.
    handshakes: Cell<usize>,
    going: Cell<Option<Going>>,
    most_unanswered: usize,
    unanswered: RefCell<UnansweredStreams>,
}

/// A GOAWAY is on its way to the client.
#[derive(Debug, Clone, Copy)]
struct Going {
    since: Instant,
    /// Whether the connection's tunnels are being closed: nothing would close one that is opened now.
    refuses_tunnels: bool,
}

impl Going {
    fn refuses(self, is_tunnel: bool) -> bool {
        self.refuses_tunnels && is_tunnel || self.since.elapsed() > LAST_REQUESTS
    }
}

/// Streams that ended before they had a response, reset by either side: each has cost a request to an endpoint, and the
/// client nothing (CVE-2023-44487).
#[derive(Debug)]
struct UnansweredStreams {
    since: Instant,
    count: usize,
}

/// How many of them a client may have in [`UNANSWERED_TIME`], where as many streams may be open at once: a browser that
/// leaves a page abandons as many requests as it has open, and not much more.
pub(super) fn most_unanswered(streams: u32) -> usize {
    usize::try_from(streams)
        .unwrap_or(usize::MAX)
        .saturating_mul(2)
        .max(200)
}

/// How long after a GOAWAY further requests are served.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

const UNANSWERED_TIME: Duration = Duration::from_secs(10);

impl Carrier {
    /// A connection on which as many streams may be open at once.
    pub(super) fn new(connection: Connection, guards: CarrierGuards, streams: u32) -> Self {
        connection.counts.http2_connections.add(1);
        Self {
            connection,
            shared: Rc::default(),
            guards,
            streams: Cell::new(0),
            has_had_stream: Cell::new(false),
            handshakes: Cell::new(0),
            going: Cell::new(None),
            most_unanswered: most_unanswered(streams),
            unanswered: RefCell::new(UnansweredStreams {
                since: Instant::now(),
                count: 0,
            }),
        }
    }

    /// Counts a stream until the guard is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> StreamGuard {
        self.streams.set(self.streams.get() + 1);
        self.has_had_stream.set(true);
        StreamGuard(Rc::clone(self))
    }

    /// Counts an end of this connection.
    pub(super) fn count_reset(&self, reason: Http2Reset) {
        self.connection.counts.count_http2_reset(reason);
    }

    /// A permit for what a stream costs, unless the process has no room.
    pub(super) fn permit(&self) -> Option<ConnectionPermit> {
        self.guards.permit.for_stream()
    }

    /// Whether the connection carries nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.streams.get() == 0 && self.shared.open_tunnels() == 0
    }

    /// How long the connection may carry nothing.
    pub(super) fn patience(&self) -> Duration {
        match self.has_had_stream.get() {
            true => self.connection.timeouts.keep_alive,
            false => self.connection.timeouts.request_header,
        }
    }

    /// Whether there has been a stream.
    pub(super) fn has_had_stream(&self) -> bool {
        self.has_had_stream.get()
    }

    /// Counts a handshake until the guard is dropped.
    pub(super) fn begin_handshake(self: &Rc<Self>) -> HandshakeGuard {
        self.handshakes.set(self.handshakes.get() + 1);
        HandshakeGuard(Rc::clone(self))
    }

    /// Whether a handshake is in progress.
    pub(super) fn has_handshake(&self) -> bool {
        self.handshakes.get() > 0
    }

    /// Whether a stream with this intention comes too late: a GOAWAY is on its way to the client. A request may have been
    /// sent before the client had it, for a while, and so may a handshake.
    pub(super) fn refuses(&self, is_tunnel: bool) -> bool {
        self.going.get().is_some_and(|it| it.refuses(is_tunnel))
    }

    /// Notes that a GOAWAY is on its way to the client, and whether its tunnels are being closed.
    pub(super) fn go(&self, refuses_tunnels: bool) {
        self.going.set(Some(Going {
            since: Instant::now(),
            refuses_tunnels,
        }));
    }

    /// Notes that a stream ended before it had a response.
    pub(super) fn note_unanswered(&self) {
        let mut unanswered = self.unanswered.borrow_mut();
        if unanswered.since.elapsed() > UNANSWERED_TIME {
            *unanswered = UnansweredStreams {
                since: Instant::now(),
                count: 0,
            };
        }
        unanswered.count += 1;
        if unanswered.count > self.most_unanswered {
            self.shared.note_change();
        }
    }

    /// Whether the client opens streams only to reset them; once.
    pub(super) fn take_abuse(&self) -> bool {
        let mut unanswered = self.unanswered.borrow_mut();
        let is_abused = unanswered.count > self.most_unanswered;
        if is_abused {
            unanswered.count = 0;
        }
        is_abused
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.connection.counts.http2_closed.add(1);
    }
}

/// Counts a stream of a connection.
#[derive(Debug)]
pub(super) struct StreamGuard(Rc<Carrier>);

impl StreamGuard {
    /// The connection that carries the stream.
    pub(super) fn carrier(&self) -> &Rc<Carrier> {
        &self.0
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        if self.0.is_idle() {
            self.0.shared.note_change();
        }
    }
}

/// Counts a handshake of a connection.
#[derive(Debug)]
pub(super) struct HandshakeGuard(Rc<Carrier>);

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
        // A connection that is to go may have waited for it, and closes the tunnel that it has become.
        self.0.shared.note_change();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_crosses_a_goaway_is_served_for_a_while() {
        let [closing, lasting] = [true, false].map(|refuses_tunnels| Going {
            since: Instant::now(),
            refuses_tunnels,
        });
        for going in [closing, lasting] {
            assert!(!going.refuses(false));
            assert_eq!(going.refuses(true), going.refuses_tunnels);
        }
        tokio::time::advance(LAST_REQUESTS).await;
        assert!(!closing.refuses(false) && !lasting.refuses(true));
        tokio::time::advance(Duration::from_millis(1)).await;
        for going in [closing, lasting] {
            assert!(going.refuses(false) && going.refuses(true));
        }
    }
}
