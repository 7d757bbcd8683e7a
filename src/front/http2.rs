//! One client connection in HTTP/2: its streams, our deadlines, its part in a drain (RFC 9113).
//!
//! The task of the connection reads and writes the socket, and starts a task for each stream. A WebSocket (RFC 8441)
//! is a stream that becomes a tunnel: the same one that a connection of HTTP/1.1 becomes, with the stream in place of
//! the socket. h2 speaks the protocol; hyper's server, which is built on it, would end all tunnels of a connection for
//! the fault of one, and copy each message once more.

mod carrier;
mod client_ping;
mod client_socket;
mod opened_streams;
mod receiving;
mod sending;
mod stream;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use h2::Reason;
use h2::server::{Builder, Connection as H2Connection};
use tokio::time::Instant;

pub use self::carrier::CarrierGuards;
use self::carrier::{Carrier, most_unanswered};
use self::client_ping::ClientPing;
use self::client_socket::{ClientSocket, SocketHandle};
use super::http::linger;
use crate::config::model::Http2;
use crate::drain::Urgency;
use crate::net::http2::SendBuffer;
use crate::net::stream::Stream;
use crate::net::turns::TurnTask;
use crate::observe::labels::Http2Reset;
use crate::session::{Connection, TunnelRecord};
use crate::tunnel::ended::{CloseMessage, Ended};

/// What a stream may have waiting to be sent, in bytes.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// What h2 may hold against the small frames of a connection that were not taken in yet, in bytes: each counts as
/// 256. The tasks of its streams take them in once per turn, and a turn reads few, so that no client reaches it by
/// what it is allowed to send.
const SMALL_FRAME_BUDGET: usize = 64 * 1024 * 1024;

/// How long a client may take to answer a GOAWAY, once its connection carries nothing.
const GOODBYE: Duration = Duration::from_secs(1);

/// The most by which a connection's `max_age` is shorter than configured.
const AGE_JITTER: f64 = 0.2;

/// A connection as h2 serves it.
type Served = H2Connection<SocketHandle, SendBuffer>;

/// Serves a connection until it has ended. The deadline of its first request counts from `since`.
pub async fn serve(
    connection: Connection,
    stream: Stream,
    guards: CarrierGuards,
    settings: Http2,
    since: Instant,
) {
    let carrier = Rc::new(Carrier::new(connection, guards, settings.streams));
    let heard = Rc::new(Cell::new(since));
    let socket = ClientSocket::new(stream, &heard);
    let served = TurnTask::new(connected(&carrier, (&socket, heard), settings, since)).await;
    // h2 has let go of it: what it has written must reach the client.
    if !served.as_ref().is_err_and(h2::Error::is_io)
        && let Some(socket) = Rc::into_inner(socket)
    {
        Box::pin(linger(socket.into_stream(), &[])).await;
    }
    if let Err(error) = served {
        if error.is_library() {
            carrier.count_reset(reset_for(error.reason()));
        }
        tracing::debug!(client = %carrier.connection.peer, %error, "connection ended");
    }
}

async fn connected(
    carrier: &Rc<Carrier>,
    (socket, heard): (&Rc<ClientSocket>, Rc<Cell<Instant>>),
    settings: Http2,
    since: Instant,
) -> Result<(), h2::Error> {
    let connection = &carrier.connection;
    let deadline = since + connection.timeouts.request_header;
    let handle = SocketHandle(Rc::clone(socket));
    let handshake = builder(connection, settings).handshake(handle);
    let Ok(served) = tokio::time::timeout_at(deadline, handshake).await else {
        connection.counts.expired.add(1);
        return Ok(());
    };
    let mut served: Served = served?;
    // Connections that were opened together must not end together.
    let shorter = 1.0 - AGE_JITTER * fastrand::f64();
    let oldest = settings
        .max_age
        .map(|age| Instant::now() + age.mul_f64(shorter));
    Driver {
        carrier,
        socket,
        ping: ClientPing::new(served.ping_pong(), heard),
        served,
        stage: ConnectionStage::Open,
        turn: None,
        idle_since: Some(since),
        oldest,
        urgency: None,
        has_newcomer: false,
        handed_over: 0,
    }
    .run()
    .await
}

/// What the client did, by the error code that it gets (RFC 9113 section 7).
fn reset_for(reason: Option<Reason>) -> Http2Reset {
    match reason {
        Some(Reason::FLOW_CONTROL_ERROR) => Http2Reset::FlowControl,
        Some(Reason::FRAME_SIZE_ERROR) => Http2Reset::FrameSize,
        Some(Reason::COMPRESSION_ERROR) => Http2Reset::Compression,
        Some(Reason::ENHANCE_YOUR_CALM) => Http2Reset::Flood,
        _ => Http2Reset::Protocol,
    }
}

fn builder(connection: &Connection, settings: Http2) -> Builder {
    let header_bytes = u32::try_from(connection.limits.header_bytes).unwrap_or(u32::MAX);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(settings.streams)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_header_list_size(header_bytes)
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .data_frame_budget(SMALL_FRAME_BUDGET)
        // Those that were reset before h2 has handed them over are counted as well when it does. Its own limit would be
        // reached by a browser that leaves a page while the worker is busy, and all tunnels with it.
        .max_pending_accept_reset_streams(most_unanswered(settings.streams))
        // h2 counts over the life of a connection, which may last for weeks. `carrier` counts per time.
        .max_local_error_reset_streams(None);
    if settings.websockets {
        builder.enable_connect_protocol();
    }
    builder
}

/// How far a connection has come on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionStage {
    /// It serves.
    Open,
    /// A drain has begun, or the connection has reached its age. It serves as before until its turn. A browser that
    /// gets a GOAWAY may end all its tunnels at once, so that their Close frames come first. Nor may the GOAWAY be late: a
    /// page that has lost its tunnel opens the next one at once, on this connection if it is still there.
    ///
    /// A drain that closes no tunnels brings no turn. There the next handshake is the last one, so that a connection
    /// that always has a tunnel does not last for ever: to refuse it without a GOAWAY would help no client, because
    /// each would try it on the same connection again.
    Ending,
    /// It has sent a GOAWAY, and serves what it has begun.
    Going { since: Instant },
}

/// Closes all tunnels of a connection, unless they are being closed already.
fn close_tunnels(carrier: &Carrier, message: &Rc<CloseMessage>) {
    let tunnels = &carrier.connection.worker.tunnels;
    for (session, place) in carrier.shared.tunnels() {
        let is_it = |record: &TunnelRecord| record.facts.session == session;
        tunnels.close(place, message, is_it);
    }
}

/// Drives a connection.
struct Driver<'a> {
    carrier: &'a Rc<Carrier>,
    socket: &'a ClientSocket,
    served: Served,
    ping: ClientPing,
    stage: ConnectionStage,
    /// What closes its tunnels, once its turn in a drain has come.
    turn: Option<Rc<CloseMessage>>,
    /// Since when the connection has carried nothing.
    idle_since: Option<Instant>,
    /// When it reaches its age.
    oldest: Option<Instant>,
    /// How soon it has to end, once a drain has begun.
    urgency: Option<Urgency>,
    /// Whether the client has begun a handshake during a drain that closes no tunnels.
    has_newcomer: bool,
    /// Streams that h2 has handed over, or rejected by itself.
    handed_over: u64,
}

impl Driver<'_> {
    /// Accepts streams until the connection has ended.
    async fn run(mut self) -> Result<(), h2::Error> {
        let carrier = self.carrier;
        let connection = &carrier.connection;
        let mut drain = connection.listener.drain.watch();
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(Instant::now()));
        loop {
            self.advance();
            let due = self.due();
            if let Some(due) = due.filter(|due| *due != alarm.deadline()) {
                alarm.as_mut().reset(due);
            }
            tokio::select! {
                biased;
                urgency = drain.begun(), if self.urgency.is_none() => {
                    self.urgency = Some(urgency);
                    self.begin_end();
                }
                accepted = std::future::poll_fn(|cx| {
                    let accepted = self.served.poll_accept(cx);
                    self.ping.take_answer(cx);
                    if accepted.is_pending() {
                        self.count_rejected();
                    }
                    accepted
                }) => {
                    let Some(opened) = accepted else {
                        return Ok(());
                    };
                    let opened = opened?;
                    self.handed_over += 1;
                    if self.urgency == Some(Urgency::Unbounded) {
                        self.has_newcomer |= stream::is_handshake(&opened.0);
                    }
                    // Counted at once: what is due in this turn must know of it.
                    let entered = carrier.enter();
                    let stream = stream::serve(entered, opened);
                    connection.worker.tasks.spawn(TurnTask::new(stream));
                }
                // After the connection has sent what the tunnels have written: a GOAWAY follows their Close frames.
                () = carrier.shared.changed() => {}
                () = alarm.as_mut(), if due.is_some() => {
                    if self.is_over() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Counts the streams that h2 has rejected by itself since the last time.
    fn count_rejected(&mut self) {
        let is_going = matches!(self.stage, ConnectionStage::Going { .. });
        // After a GOAWAY it ignores streams; until it has written what it has to, it may not have seen all.
        if is_going || self.socket.is_blocked() {
            return;
        }
        let opened = self.socket.opened_streams();
        for _ in self.handed_over..opened {
            stream::count_rejected(self.carrier);
        }
        self.handed_over = self.handed_over.max(opened);
    }

    fn begin_end(&mut self) {
        if self.stage == ConnectionStage::Open {
            self.stage = ConnectionStage::Ending;
        }
    }

    /// Acts on what has changed.
    fn advance(&mut self) {
        let Carrier { shared, .. } = &**self.carrier;
        if let Some(message) = shared.take_turn()
            && self.stage != ConnectionStage::Open
        {
            // The drain has closed one of them: this is the connection's turn.
            self.turn = Some(message);
        }
        let may_go = match &self.turn {
            Some(message) => {
                // Those of handshakes that were in progress, too: nothing else would close them soon.
                close_tunnels(self.carrier, message);
                shared.has_closed_all()
            }
            None => {
                let has_tunnel = shared.open_tunnels() > 0 || self.carrier.has_handshake();
                self.has_newcomer || !has_tunnel
            }
        };
        if self.stage == ConnectionStage::Ending && may_go {
            self.stage = ConnectionStage::Going {
                since: Instant::now(),
            };
            self.served.graceful_shutdown();
            let closes_tunnels = matches!(self.urgency, Some(Urgency::Low | Urgency::High));
            self.carrier.go(closes_tunnels || self.turn.is_some());
        }
        if self.carrier.take_abuse() {
            self.carrier.count_reset(Http2Reset::Unanswered);
            self.served.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        match self.carrier.is_idle() {
            false => self.idle_since = None,
            true if self.idle_since.is_none() => self.idle_since = Some(Instant::now()),
            true => {}
        }
    }

    /// When something is to be done although nothing happens.
    fn due(&self) -> Option<Instant> {
        let ping = self.carrier.shared.ping();
        let ping = ping.map(|times| self.ping.due(times));
        let due = [self.idle_until(), self.serves_until(), ping];
        due.into_iter().flatten().min()
    }

    /// When the connection reaches its age, also in a drain. What closes its tunnels before leaves nothing to do then.
    fn serves_until(&self) -> Option<Instant> {
        self.oldest.filter(|_| self.turn.is_none())
    }

    /// When a connection that carries nothing ends.
    fn idle_until(&self) -> Option<Instant> {
        let idle = self.idle_since?;
        Some(match self.stage {
            // What h2 still has for the client comes first.
            ConnectionStage::Going { .. } if self.socket.is_blocked() => {
                self.socket.heard() + self.carrier.connection.timeouts.response_body
            }
            ConnectionStage::Going { since } => idle.max(since) + GOODBYE,
            _ => idle + self.carrier.patience(),
        })
    }

    /// Acts on what is due. Returns whether the connection is closed, whatever the client does.
    fn is_over(&mut self) -> bool {
        let now = Instant::now();
        let has_come = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if let Some(times) = self.carrier.shared.ping()
            && self.ping.finds_dead(times, now)
        {
            self.carrier.count_reset(Http2Reset::DeadClient);
            let message = Rc::new(CloseMessage::standard(Ended::DeadClient));
            close_tunnels(self.carrier, &message);
            return true;
        }
        if has_come(self.serves_until()) {
            self.begin_end();
            self.turn = Some(Rc::new(CloseMessage::standard(Ended::MaxAge)));
        }
        if has_come(self.idle_until()) {
            if matches!(self.stage, ConnectionStage::Going { .. }) {
                return true;
            }
            self.carrier.connection.counts.expired.add(1);
            self.begin_end();
            return !self.carrier.has_had_stream();
        }
        false
    }
}
