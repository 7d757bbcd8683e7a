//! The driver of a tunnel: moves its bytes by readiness, over any [`Stream`].
//!
//! Bytes are read into a scratch buffer that belongs to the worker and written to the other side at
//! once. Only what that side does not accept is kept, in a box, and its direction reads nothing
//! more until the box is empty. So a tunnel that is quiet, or whose peers keep up, holds no buffer.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::SWEEP_INTERVAL;
use super::ended::{CloseMessage, Ended, Finished};
use super::entry::{Flags, TunnelEntry};
use super::forwarder::{Forwarder, NextStep};
use super::framing::HEADROOM;
use super::meter::Meter;
use super::passing::filter;
use super::scratch::{SCRATCH_BYTES, Scratch};
use super::side::Side;
use super::table::{TableSlot, TunnelOwner};
use super::turn::SMALL_QUANTUM;
use super::unwritten::{RemainderAccount, Unwritten};
use crate::net::stream::Stream;

/// Maximum number of reads of one direction, and of bytes, before the other tunnels of the worker
/// get their turns: a sender at full speed must not hold up thousands of others.
const ROUNDS: usize = 8;
const TURN_QUANTUM: usize = SCRATCH_BYTES;

/// Bytes to be written before anything is relayed.
#[derive(Debug, Default)]
pub struct InitialBytes {
    /// The head of our 101, followed by the read-ahead of the endpoint.
    pub to_client: Vec<u8>,
    /// The length of that read-ahead.
    pub from_endpoint: usize,
    /// The read-ahead of the client: what came right behind its request.
    pub to_endpoint: Vec<u8>,
}

/// A tunnel: a future that completes when the tunnel has ended.
//
// A struct with a hand-written poll: an async block would keep everything that is alive across an
// await, and a worker has tens of thousands of idle tunnels for a few that move bytes.
#[derive(Debug)]
pub struct Tunnel<O = ()> {
    client: Stream,
    endpoint: Stream,
    to_client: Unwritten,
    to_endpoint: Unwritten,
    forwarder: Forwarder,
    slot: TableSlot<O>,
    scratch: Scratch,
}

impl<O: TunnelOwner> Tunnel<O> {
    /// A tunnel that relays between `client` and `endpoint`, after the `initial` bytes.
    pub fn new(
        client: Stream,
        endpoint: Stream,
        initial: InitialBytes,
        slot: TableSlot<O>,
        scratch: Scratch,
    ) -> Self {
        let mut tunnel = Self {
            client,
            endpoint,
            to_client: Unwritten::default(),
            to_endpoint: Unwritten::default(),
            forwarder: Forwarder::new(&slot.entry().limits),
            slot,
            scratch,
        };
        // The read-ahead is filtered like everything after it: a frame may begin in it and end in
        // the first read. The head of our 101 is not part of the stream of frames and goes around.
        let mut to_client = initial.to_client;
        let early = to_client.split_off(to_client.len().saturating_sub(initial.from_endpoint));
        to_client.extend(tunnel.filter_early(Side::Endpoint, &early));
        let account = tunnel.slot.remainder_account();
        tunnel.to_client.keep(to_client.into(), account);
        let early = tunnel.filter_early(Side::Client, &initial.to_endpoint);
        let account = tunnel.slot.remainder_account();
        tunnel.to_endpoint.keep(early.into(), account);
        tunnel
    }

    /// Bytes and messages so far.
    pub fn meter(&self) -> &Meter {
        &self.slot.entry().meter
    }

    /// The caller's own record of it.
    pub fn owner(&self) -> &Rc<O> {
        self.slot.owner()
    }

    /// What our Close said, if the tunnel was closed on purpose and none is left to send to the client.
    pub fn sent_close(&self) -> Option<Rc<CloseMessage>> {
        let is_sent = self.to_client.is_clear() && self.forwarder.has_sent_close(Side::Client);
        is_sent.then(|| self.slot.close_message()).flatten()
    }

    /// Whether a sum over all tunnels is being formed that has not seen this one.
    pub fn is_unseen(&self) -> bool {
        self.slot.is_unseen()
    }

    /// Filters read-ahead; returns what of it goes on.
    fn filter_early(&mut self, side: Side, bytes: &[u8]) -> Vec<u8> {
        let mut passed = Vec::with_capacity(bytes.len());
        let mut scratch = self.scratch.0.borrow_mut();
        let scratch = scratch.bytes();
        for piece in bytes.chunks(SCRATCH_BYTES) {
            let end = HEADROOM + piece.len();
            if let Some(place) = scratch.get_mut(HEADROOM..end) {
                place.copy_from_slice(piece);
            }
            passed.extend_from_slice(filter(&mut self.forwarder, &self.slot, side, scratch, end));
        }
        passed
    }

    /// Moves bytes from `side` to the other, at most `quantum`, until it would have to wait.
    //
    // The order is what keeps a slow reader from costing memory: first deliver what was kept, and
    // only then read. Whenever this returns Pending, what it waits for (the sink, the source, the
    // turn, or the next sweep for a paused client) has the waker, so that a tunnel is not polled in
    // vain.
    fn pump(&mut self, side: Side, mut quantum: usize, cx: &mut Context<'_>) -> Poll<()> {
        let (source, sink, unwritten) = match side {
            Side::Client => (&mut self.client, &mut self.endpoint, &mut self.to_endpoint),
            Side::Endpoint => (&mut self.endpoint, &mut self.client, &mut self.to_client),
        };
        let entry = self.slot.entry();
        for _ in 0..ROUNDS {
            if quantum == 0 {
                break;
            }
            let step = self.forwarder.next_step(side);
            let unread = Flags::UNREAD[side as usize];
            entry.flags.set(unread, step == NextStep::Relay);
            if step == NextStep::Done {
                // If the sink is gone, the box is freed now: the other direction may go on for
                // hours.
                unwritten.forget();
                entry.stalls.set(side.other(), false, false);
                return Poll::Ready(());
            }
            let account = self.slot.remainder_account();
            let delivered = deliver(unwritten, sink, (entry, side.other()), account, cx);
            if delivered.is_pending() {
                // The end of a side that is not read cannot be read either: the sweep has to know.
                source.take_in(cx);
                entry.set_hangup(side, source.hangup());
            }
            if ready!(delivered).is_err() {
                // Not the end of the tunnel: what that side sent before it broke may still be
                // unread.
                self.forwarder.sink_broke(side.other());
                continue;
            }
            if step == NextStep::PassEnd {
                // Nothing was an answer to us that has not come in full.
                if let Some(held) = self.forwarder.take_held(side) {
                    entry.meter.count(side, held.len());
                    unwritten.keep(held, self.slot.remainder_account());
                    continue;
                }
                ready!(pass_end(&mut self.forwarder, side, sink, cx));
                continue;
            }
            // Nothing is registered here: the sweep wakes the tunnel when the client may go on.
            // Until then its bytes stay in the kernel, whose window slows it down.
            if step == NextStep::Ignore || (side == Side::Client && entry.is_paused()) {
                source.take_in(cx);
                return Poll::Pending;
            }
            let size = unwritten.read_size(account.remainders.total()).min(quantum);
            // Shared by all tunnels of the worker: each is done with it when its poll returns.
            let mut scratch = self.scratch.0.borrow_mut();
            let scratch = scratch.bytes();
            let place = scratch.get_mut(HEADROOM..HEADROOM + size);
            let mut buffer = ReadBuf::new(place.unwrap_or_default());
            let read = Pin::new(&mut *source).poll_read(cx, &mut buffer);
            // Only where there is no more has everything been heard that this side has to say.
            entry.flags.set(unread, read.is_ready());
            match ready!(read) {
                Err(_) => self.forwarder.source_broke(side),
                Ok(()) if buffer.filled().is_empty() => self.forwarder.source_ended(side),
                Ok(()) => {
                    let length = buffer.filled().len();
                    quantum = quantum.saturating_sub(length);
                    self.slot.turn().charge(length);
                    let end = HEADROOM + length;
                    let bytes = filter(&mut self.forwarder, &self.slot, side, scratch, end);
                    if unwritten.write(sink, bytes, account, cx).is_err() {
                        self.forwarder.sink_broke(side.other());
                    }
                    // The clock of `slow_reader` starts with the first bytes that have to wait.
                    if unwritten.left() > 0 {
                        entry.stalls.set(side.other(), true, false);
                    }
                }
            }
        }
        // The source may have more, but has not registered the waker, because no read was Pending.
        self.slot.turn().wait(entry);
        Poll::Pending
    }

    /// How many bytes a direction may move now.
    fn quantum(&self, is_admitted: bool) -> usize {
        // A tunnel that a socket has woken may have a small message, which waits for nothing.
        match is_admitted || self.slot.turn().has_left() {
            true => TURN_QUANTUM,
            false => SMALL_QUANTUM,
        }
    }

    /// Sends frames of our own, where a frame of the sender's has just ended and nothing is
    /// unwritten.
    //
    // After both pumps: only then is it known what is unwritten. With a remainder, the end of the
    // last frame read is not the end of what the sink has got.
    fn send_own_frames(&mut self, cx: &mut Context<'_>) {
        for side in [Side::Client, Side::Endpoint] {
            if self.slot.entry().take_ping_request(side)
                && !self.forwarder.ping(side, random_bytes())
            {
                // The Close that has gone to this side takes its place: it asks for an answer, too.
                self.slot.ping_sent(side);
            }
            let unwritten = match side {
                Side::Client => &mut self.to_client,
                Side::Endpoint => &mut self.to_endpoint,
            };
            if unwritten.is_clear()
                && let Some(frame) = self.forwarder.inject(side, random_mask)
            {
                if frame.is_ping() {
                    // The round trip is timed from here: the request may have waited for a long
                    // message to end.
                    self.slot.ping_sent(side);
                }
                unwritten.keep_own(frame.into_bytes().into(), self.slot.remainder_account());
                let _ = self.pump(side.other(), SMALL_QUANTUM, cx);
            }
        }
    }

    /// Ends the tunnel for this reason, with the message of the operator or job that closes it, if
    /// any.
    fn end(&mut self, verdict: Ended) {
        match verdict {
            // That side is gone, and the other one accepts nothing: neither gets a Close.
            Ended::ClientReset => return self.forwarder.abandon(Side::Client),
            Ended::UpstreamReset => return self.forwarder.abandon(Side::Endpoint),
            _ => {}
        }
        let message = verdict.is_on_purpose().then(|| self.slot.close_message());
        match message.flatten() {
            Some(message) => {
                let CloseMessage { code, reason, .. } = &*message;
                self.forwarder.end_with_close(verdict, Some(*code), reason);
            }
            None => self.forwarder.end(verdict),
        }
    }

    fn finish(&mut self, ended: Ended, cx: &mut Context<'_>) -> Poll<Finished> {
        let verdict = self.slot.entry().verdict();
        match ended {
            // The kernel would keep its full send buffer for a peer that does not read.
            Ended::SlowClient => self.client.reset_on_close(),
            Ended::SlowUpstream => self.endpoint.reset_on_close(),
            _ if verdict == Some(Ended::MemoryFull) => {
                if !self.to_client.is_clear() {
                    self.client.reset_on_close();
                }
                if !self.to_endpoint.is_clear() {
                    self.endpoint.reset_on_close();
                }
            }
            _ => {}
        }
        // Found by a sweep: the other side has taken nothing for a while, and nothing is owed to it.
        let gives_up = matches!(verdict, Some(Ended::ClientReset | Ended::UpstreamReset));
        match self.forwarder.reset_to() {
            Some(Side::Client) if gives_up => self.client.reset_on_close(),
            Some(Side::Endpoint) if gives_up => self.endpoint.reset_on_close(),
            Some(Side::Client) => self.scratch.pass_reset(&mut self.client, cx),
            Some(Side::Endpoint) => self.scratch.pass_reset(&mut self.endpoint, cx),
            // Both sides have ended, and each end was passed on to the other.
            None if !self.forwarder.has_closed() => {}
            None => {
                // Over TLS this sends close_notify. It is tried once: a side that cannot accept it
                // now is not worth waiting for, because the tunnel has had its time.
                let _ = Pin::new(&mut self.client).poll_shutdown(cx);
                let _ = Pin::new(&mut self.endpoint).poll_shutdown(cx);
            }
        }
        Poll::Ready(Finished {
            ended,
            closed: self.forwarder.closed(),
            unframed: self.forwarder.is_unframed(),
            quiet: self.slot.quiet(),
        })
    }
}

/// Passes the end of the stream from `side` on to `sink`, after everything that came before it.
fn pass_end(
    forwarder: &mut Forwarder,
    side: Side,
    sink: &mut Stream,
    cx: &mut Context<'_>,
) -> Poll<()> {
    // No orderly end where a reset is to follow: the peer would take what it has for complete. The
    // last end needs no shutdown, closing the socket sends it; except over TLS, where close_notify
    // is a message of its own and a stream without it looks truncated, and over HTTP/2.
    let last = forwarder.next_step(side.other()) == NextStep::Done && !sink.has_end_message();
    if !last && forwarder.reset_to() != Some(side.other()) {
        // A failure changes nothing: reading from that side shows whether it is gone.
        let _ = ready!(Pin::new(sink).poll_shutdown(cx));
    }
    forwarder.end_passed(side);
    Poll::Ready(())
}

/// Delivers what is kept for the sink, which is this side of the tunnel.
fn deliver(
    unwritten: &mut Unwritten,
    sink: &mut Stream,
    (entry, side): (&TunnelEntry, Side),
    account: RemainderAccount<'_>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if unwritten.is_clear() {
        return Poll::Ready(Ok(()));
    }
    let mut moved = 0;
    if entry.flags.take(Flags::PUSH[side as usize]) {
        moved = unwritten.push(sink, account);
    }
    if entry.stalls.time(side) > SWEEP_INTERVAL {
        unwritten.distrust();
    }
    let delivered = unwritten.deliver(sink, &mut moved, cx);
    // Whether a reader is slow is judged by progress and not by emptiness: a client that accepts a
    // little now and then is slow, but not stuck.
    let clear = unwritten.is_clear();
    entry.stalls.set(side, !clear, clear || moved > 0);
    // A Ping of ours does not mean that the tunnel is used.
    if moved > 0 && !unwritten.is_own() {
        entry.flags.set(Flags::DELIVERED, true);
    }
    delivered
}

/// An unpredictable mask: otherwise a payload could be chosen to look like something else to an
/// intermediary (RFC 6455 section 10.3).
fn random_mask() -> [u8; 4] {
    random_bytes()
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // This does not fail in practice; if it did, the frame would still be valid.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

impl<O: TunnelOwner> Future for Tunnel<O> {
    type Output = Finished;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Finished> {
        let tunnel = self.get_mut();
        tunnel.slot.entry().set_waker(cx.waker());
        if let Some(verdict) = tunnel.slot.entry().verdict() {
            tunnel.end(verdict);
            if tunnel.slot.entry().is_overdue() {
                // Time is up. A client that has not answered is not waited for any longer, but the
                // endpoint still gets its Close.
                tunnel.forwarder.stop_waiting();
                tunnel.send_own_frames(cx);
                let ended = tunnel.forwarder.reason().unwrap_or(verdict);
                return tunnel.finish(ended, cx);
            }
        }
        let is_admitted = tunnel.slot.entry().flags.take(Flags::ADMITTED);
        // Whether bytes come matters only to a tunnel that is half closed.
        let is_half_closed = tunnel.slot.entry().is_half_closed();
        let before = is_half_closed.then(|| tunnel.meter().total());
        for side in [Side::Client, Side::Endpoint] {
            let _ = tunnel.pump(side, tunnel.quantum(is_admitted), cx);
        }
        tunnel.send_own_frames(cx);
        if before.is_some_and(|before| tunnel.meter().total() != before) {
            tunnel.slot.forget_quiet_before_end();
        }
        if tunnel.forwarder.is_half_closed() {
            tunnel.slot.set_half_closed();
        }
        if tunnel.forwarder.ending().is_some() {
            let waits = tunnel.forwarder.waits_for_message() || !tunnel.to_client.is_clear();
            tunnel.slot.entry().set_unfinished(waits);
        }
        // Where we have closed, our last frame has to leave first. Ends that were merely passed on
        // were passed on after everything else, and a broken side must not hold the tunnel up.
        let delivered = tunnel.to_client.is_clear() && tunnel.to_endpoint.is_clear();
        match tunnel.forwarder.ended() {
            Some(ended) if delivered || !tunnel.forwarder.has_closed() => tunnel.finish(ended, cx),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::TunnelLimits;
    use crate::net::stream::Socket;
    use crate::tunnel::scratch::NARROW_BYTES;
    use crate::tunnel::table::TunnelTable;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Both ends of a connection: ours first.
    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (near, _) = listener.accept().await.unwrap();
        (Stream::Plain(Socket::Tcp(near)), far)
    }

    struct Ends {
        tunnel: Tunnel,
        client: TcpStream,
        endpoint: TcpStream,
        table: Rc<TunnelTable>,
    }

    async fn ends(initial: InitialBytes) -> Ends {
        ends_in(&Rc::default(), initial, TunnelLimits::default()).await
    }

    async fn ends_in(table: &Rc<TunnelTable>, initial: InitialBytes, limits: TunnelLimits) -> Ends {
        let ((near_client, client), (near_endpoint, endpoint)) = (pair().await, pair().await);
        let table = Rc::clone(table);
        let slot = table.enter(Arc::new(limits), Rc::default());
        let tunnel = Tunnel::new(near_client, near_endpoint, initial, slot, Scratch::new());
        Ends {
            tunnel,
            client,
            endpoint,
            table,
        }
    }

    #[test]
    fn a_tunnel_is_small() {
        // Two sockets, a remainder for each direction, the state of the framing, a slot in the
        // table with the owner.
        assert!(size_of::<Tunnel>() <= 360, "{} bytes", size_of::<Tunnel>());
    }

    #[tokio::test]
    async fn initial_bytes_come_first() {
        let initial = InitialBytes {
            to_client: b"101 ".to_vec(),
            from_endpoint: 0,
            to_endpoint: b"early ".to_vec(),
        };
        let Ends {
            tunnel,
            mut client,
            mut endpoint,
            ..
        } = ends(initial).await;
        client.write_all(b"up").await.unwrap();
        client.shutdown().await.unwrap();
        endpoint.write_all(b"down").await.unwrap();
        endpoint.shutdown().await.unwrap();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let (Finished { ended, .. }, _, _) = tokio::join!(
            tunnel,
            async { endpoint.read_to_end(&mut up).await.unwrap() },
            async { client.read_to_end(&mut down).await.unwrap() },
        );
        assert_eq!(
            (up.as_slice(), down.as_slice()),
            (&b"early up"[..], &b"101 down"[..])
        );
        assert!(matches!(ended, Ended::ClientEof | Ended::UpstreamEof));
    }

    #[tokio::test]
    async fn a_reader_that_stalls_stops_the_other_side_and_loses_nothing() {
        let Ends {
            tunnel,
            client,
            endpoint,
            table,
        } = ends(InitialBytes::default()).await;
        const TOTAL: usize = 32 << 20;
        let pattern = |at: usize| (at % 251) as u8;
        let (mut client_read, client_write) = client.into_split();
        let stalled = Rc::new(tokio::sync::Notify::new());
        let writer = {
            let stalled = Rc::clone(&stalled);
            async move {
                let mut endpoint = endpoint;
                let mut sent = 0;
                while sent < TOTAL {
                    let chunk: Vec<u8> = (sent..TOTAL.min(sent + 60_000)).map(pattern).collect();
                    let write = endpoint.write_all(&chunk);
                    tokio::pin!(write);
                    // The kernel's buffers are full once a write has to wait.
                    if futures_util::poll!(&mut write).is_pending() {
                        stalled.notify_one();
                        write.await.unwrap();
                    }
                    sent += chunk.len();
                }
                endpoint.shutdown().await.unwrap();
            }
        };
        let reader = async move {
            stalled.notified().await;
            assert!(table.len() == 1);
            let mut all = Vec::with_capacity(TOTAL);
            client_read.read_to_end(&mut all).await.unwrap();
            assert!(all.len() == TOTAL && all.iter().enumerate().all(|(at, &b)| b == pattern(at)));
            drop(client_write);
        };
        let (Finished { ended, .. }, (), ()) = tokio::join!(tunnel, writer, reader);
        assert_eq!(ended, Ended::UpstreamEof);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_after_the_end_of_one_side_ends_the_quiet_before_it() {
        const QUIET: Duration = Duration::from_secs(60);
        for (last_byte, expected) in [(true, Duration::ZERO), (false, QUIET)] {
            let Ends {
                tunnel,
                mut client,
                mut endpoint,
                table,
            } = ends(InitialBytes::default()).await;
            let entry = Rc::clone(tunnel.slot.entry());
            let (finished, ()) = tokio::join!(tunnel, async {
                client.write_all(b"x").await.unwrap();
                endpoint.read_exact(&mut [0]).await.unwrap();
                table.sweep(tokio::time::Instant::now());
                tokio::time::advance(QUIET).await;
                table.sweep(tokio::time::Instant::now());
                client.shutdown().await.unwrap();
                assert_eq!(endpoint.read(&mut [0]).await.unwrap(), 0);
                assert!(entry.is_half_closed());
                if last_byte {
                    endpoint.write_all(b"y").await.unwrap();
                    client.read_exact(&mut [0]).await.unwrap();
                }
                endpoint.shutdown().await.unwrap();
            });
            assert_eq!(finished.quiet, expected, "{last_byte}");
        }
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_after_what_came_before_it() {
        let Ends {
            tunnel,
            mut client,
            endpoint,
            ..
        } = ends(InitialBytes::default()).await;
        client.write_all(b"last words").await.unwrap();
        let mut endpoint = endpoint;
        let (Finished { ended, .. }, ()) = tokio::join!(tunnel, async {
            let mut words = [0; 10];
            endpoint.read_exact(&mut words).await.unwrap();
            assert_eq!(&words, b"last words");
            client.set_zero_linger().unwrap();
            drop(client);
            let error = endpoint.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
        assert_eq!(ended, Ended::ClientReset);
    }

    #[tokio::test]
    async fn a_paced_close_waits_for_a_message_that_moves() {
        let Ends {
            tunnel,
            mut client,
            mut endpoint,
            table,
        } = ends(InitialBytes::default()).await;
        let (finished, ()) = tokio::join!(tunnel, async {
            endpoint.write_all(b"\x82\x14").await.unwrap();
            client.read_exact(&mut [0; 2]).await.unwrap();
            table.end_all(Ended::Drain);
            for _ in 0..20 {
                endpoint.write_all(b"x").await.unwrap();
                client.read_exact(&mut [0]).await.unwrap();
                table.sweep(tokio::time::Instant::now());
                tokio::task::yield_now().await;
            }
            let mut close = [0; 9];
            client.read_exact(&mut close).await.unwrap();
            assert_eq!(&close, b"\x88\x07\x03\xf4drain");
            client.write_all(b"\x88\x80\0\0\0\0").await.unwrap();
            endpoint.read_exact(&mut [0; 13]).await.unwrap();
            endpoint.write_all(b"\x88\0").await.unwrap();
        });
        assert_eq!(finished.ended, Ended::Drain);
    }

    /// What an endpoint has sent before it resets its connection arrives, also if it is still in the
    /// kernel because the client is slow.
    #[tokio::test]
    async fn a_reset_discards_nothing_that_was_read_before_it() {
        const TOTAL: usize = 300_000;
        let Ends {
            tunnel,
            mut client,
            mut endpoint,
            ..
        } = ends(InitialBytes::default()).await;
        let narrow = socket2::SockRef::from(&client).set_recv_buffer_size(4096);
        narrow.unwrap();
        let table = Rc::clone(tunnel.slot.entry());
        let (finished, ()) = tokio::join!(tunnel, async {
            endpoint.write_all(&[b'x'; TOTAL]).await.unwrap();
            while table.meter.bytes(Side::Endpoint) < TOTAL as u64 {
                tokio::task::yield_now().await;
            }
            endpoint.set_zero_linger().unwrap();
            drop(endpoint);
        });
        assert_eq!(finished.ended, Ended::UpstreamReset);
        let mut all = Vec::new();
        let _ = client.read_to_end(&mut all).await;
        assert_eq!(all.len(), TOTAL);
    }

    #[tokio::test]
    async fn a_verdict_closes_the_client_and_then_the_endpoint() {
        let Ends {
            tunnel,
            mut client,
            mut endpoint,
            table,
        } = ends(InitialBytes::default()).await;
        let (finished, ()) = tokio::join!(tunnel, async {
            table.end_all(Ended::Shutdown);
            let mut close = [0; 12];
            client.read_exact(&mut close).await.unwrap();
            assert_eq!(&close, b"\x88\x0a\x03\xf4shutdown");
            // What the client still sends arrives; its answer is for us.
            client.write_all(b"\x82\x81\0\0\0\0x").await.unwrap();
            client.write_all(b"\x88\x82\0\0\0\0\x03\xf4").await.unwrap();
            let mut rest = [0; 7 + 6 + 10];
            endpoint.read_exact(&mut rest).await.unwrap();
            assert_eq!(&rest[..7], b"\x82\x81\0\0\0\0x");
            assert_eq!(&rest[7..9], b"\x88\x8a");
            endpoint.write_all(b"\x88\x02\x03\xe9").await.unwrap();
            assert_eq!(client.read(&mut close).await.unwrap(), 0);
        });
        assert_eq!(finished.ended, Ended::Shutdown);
        assert_eq!(finished.closed, None, "no Close of a side passed");
        assert!(table.is_empty());
    }

    #[tokio::test]
    async fn what_a_stalled_reader_leaves_unwritten_is_counted_and_can_be_ended() {
        let Ends {
            tunnel,
            client,
            mut endpoint,
            table,
        } = ends(InitialBytes::default()).await;
        let (finished, ()) = tokio::join!(tunnel, async {
            let chunk = vec![0x82; 60_000];
            while table.unwritten_bytes() == 0 {
                let write = endpoint.write_all(&chunk);
                tokio::pin!(write);
                let _ = futures_util::poll!(&mut write);
                tokio::task::yield_now().await;
            }
            let held = table.unwritten_bytes();
            assert!(held <= NARROW_BYTES, "{held}");
            assert_eq!(table.end_largest_unwritten(1, 8, Ended::SlowClient), held);
            while !table.is_empty() {
                table.sweep(tokio::time::Instant::now());
                tokio::task::yield_now().await;
            }
            assert_eq!(table.unwritten_bytes(), 0);
        });
        assert_eq!(finished.ended, Ended::SlowClient);
        drop(client);
    }

    /// Between a message and its echo, other tunnels move what a few turns allow, however many they
    /// are and however much they have.
    #[tokio::test]
    async fn a_message_waits_for_a_few_turns_of_the_tunnels_beside_it() {
        const BESIDE: usize = 24;
        const ECHOES: usize = 20;
        let tasks = tokio::task::LocalSet::new();
        let table = Rc::<TunnelTable>::default();
        let spawn = |ends: Ends| {
            let entry = Rc::clone(ends.tunnel.slot.entry());
            tasks.spawn_local(ends.tunnel);
            (ends.client, ends.endpoint, entry)
        };
        let open = || ends_in(&table, InitialBytes::default(), TunnelLimits::default());
        let mut meters = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..BESIDE {
            let (client, endpoint, entry) = spawn(open().await);
            meters.push(entry);
            sockets.push((client.into_std().unwrap(), endpoint.into_std().unwrap()));
        }
        let (mut client, mut endpoint, _) = spawn(open().await);
        let attended = Rc::clone(&table);
        tasks.spawn_local(async move { attended.take_turns().await });
        // Senders and readers at full speed, on threads of their own.
        for (mut client, mut endpoint) in sockets {
            use std::io::{Read, Write};
            client.set_nonblocking(false).unwrap();
            endpoint.set_nonblocking(false).unwrap();
            std::thread::spawn(move || while endpoint.write_all(&[7; 256 << 10]).is_ok() {});
            std::thread::spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                while client.read(&mut buffer).is_ok_and(|read| read > 0) {}
            });
        }
        let moved = || {
            meters
                .iter()
                .map(|entry| entry.meter.bytes(Side::Endpoint))
                .sum::<u64>()
        };
        let echoes = async {
            // The threads of the senders have to run first.
            while meters
                .iter()
                .any(|entry| entry.meter.bytes(Side::Endpoint) == 0)
            {
                tokio::task::yield_now().await;
            }
            let mut beside = Vec::new();
            let mut buffer = [0; 8];
            for _ in 0..ECHOES {
                let before = moved();
                client.write_all(b"\x82\x82\0\0\0\0hi").await.unwrap();
                endpoint.read_exact(&mut buffer).await.unwrap();
                endpoint.write_all(b"\x82\x02hi").await.unwrap();
                client.read_exact(&mut buffer[..4]).await.unwrap();
                beside.push((moved() - before) >> 20);
            }
            beside.sort_unstable();
            // Four looks at the sockets: one for each end that the message reaches.
            assert!(beside[ECHOES / 2] <= 24, "{beside:?} MiB");
        };
        tasks.run_until(echoes).await;
    }

    #[tokio::test]
    async fn a_side_that_ends_behind_unread_bytes_does_not_stay_for_ever() {
        let limits = TunnelLimits {
            half_closed: Some(Duration::from_secs(5)),
            ..TunnelLimits::default()
        };
        let ((near_client, mut client), (near_endpoint, _endpoint)) = (pair().await, pair().await);
        // The endpoint reads nothing, and its buffers are small; those of the client are not.
        let Stream::Plain(Socket::Tcp(socket)) = &near_endpoint else {
            unreachable!("a pair is plain TCP")
        };
        socket2::SockRef::from(socket)
            .set_send_buffer_size(4096)
            .unwrap();
        let Stream::Plain(Socket::Tcp(socket)) = &near_client else {
            unreachable!("a pair is plain TCP")
        };
        socket2::SockRef::from(socket)
            .set_recv_buffer_size(1 << 20)
            .unwrap();
        let table = Rc::new(TunnelTable::default());
        let slot = table.enter(Arc::new(limits), Rc::new(()));
        let initial = InitialBytes::default();
        let mut tunnel = Tunnel::new(near_client, near_endpoint, initial, slot, Scratch::new());
        // Sent until the tunnel has stalled: the rest is at the side that does not read, with room for
        // the end of the stream behind it.
        while tunnel.to_endpoint.left() == 0 {
            client.write_all(&[7; 16 * 1024]).await.unwrap();
            assert!(futures_util::poll!(&mut tunnel).is_pending());
            tokio::task::yield_now().await;
        }
        client.write_all(&[7; 16 * 1024]).await.unwrap();
        client.shutdown().await.unwrap();
        drop(client);
        let began = tokio::time::Instant::now();
        let (finished, ()) = tokio::join!(tunnel, async {
            for second in 0.. {
                if table.is_empty() {
                    break;
                }
                table.sweep(began + Duration::from_secs(second));
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(finished.ended, Ended::HalfClosed);
    }

    #[tokio::test]
    async fn a_tunnel_ends_even_if_neither_side_answers() {
        let Ends {
            tunnel,
            client,
            endpoint,
            table,
        } = ends(InitialBytes::default()).await;
        let (finished, ()) = tokio::join!(tunnel, async {
            table.end_all(Ended::Idle);
            while !table.is_empty() {
                table.sweep(tokio::time::Instant::now());
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(finished.ended, Ended::Idle);
        drop((client, endpoint));
    }

    /// A tunnel of which neither side reads, with as much sent as fits.
    async fn stuck(limits: TunnelLimits) -> (Tunnel, TcpStream, TcpStream, Rc<TunnelTable>) {
        let Ends {
            mut tunnel,
            client,
            endpoint,
            table,
        } = ends_in(&Rc::default(), InitialBytes::default(), limits).await;
        let mut idle = 0;
        while idle < 20 {
            let sent = [&client, &endpoint].map(|end| end.try_write(&[7; 60_000]).is_ok());
            idle = if sent.contains(&true) { 0 } else { idle + 1 };
            assert!(futures_util::poll!(&mut tunnel).is_pending());
            tokio::task::yield_now().await;
        }
        (tunnel, client, endpoint, table)
    }

    #[tokio::test]
    async fn a_side_that_takes_nothing_after_a_reset_is_reset() {
        let (mut tunnel, client, mut endpoint, table) = stuck(TunnelLimits::default()).await;
        let entry = Rc::clone(tunnel.slot.entry());
        assert!(entry.stalls.is_waiting(Side::Client));
        client.set_zero_linger().unwrap();
        drop(client);
        let start = tokio::time::Instant::now();
        let mut second = 0;
        let finished = loop {
            if let Poll::Ready(finished) = futures_util::poll!(&mut tunnel) {
                break finished;
            }
            second += 1;
            assert!(second < 100);
            table.sweep(start + Duration::from_secs(second));
            tokio::task::yield_now().await;
            if second == 3 {
                assert!(entry.stalls.is_waiting(Side::Endpoint));
                let is_waiting = entry.stalls.is_waiting(Side::Client);
                assert!(!is_waiting, "nothing waits for a side that is gone");
            }
        };
        assert_eq!(finished.ended, Ended::ClientReset);
        drop(tunnel);
        let end = endpoint.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn an_operator_ends_a_tunnel_that_is_being_closed_at_a_pace() {
        let Ends {
            tunnel,
            mut client,
            mut endpoint,
            table,
        } = ends(InitialBytes::default()).await;
        let (finished, ()) = tokio::join!(tunnel, async {
            endpoint.write_all(b"\x82\x7e\x10\0").await.unwrap();
            client.read_exact(&mut [0; 4]).await.unwrap();
            table.end_all(Ended::Drain);
            let message = Rc::new(CloseMessage::standard(Ended::Killed));
            for sweep in 0..8 {
                client.write_all(b"\x82\x81\0\0\0\0x").await.unwrap();
                endpoint.write_all(b"x").await.unwrap();
                client.read_exact(&mut [0]).await.unwrap();
                if sweep < 5 {
                    endpoint.read_exact(&mut [0; 7]).await.unwrap();
                }
                table.sweep(tokio::time::Instant::now());
                if sweep == 4 {
                    assert!(table.close(0, &message, |()| true));
                    assert!(!table.close(0, &message, |()| true), "once");
                }
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(finished.ended, Ended::Drain);
        assert!(table.is_empty());
        let mut rest = Vec::new();
        endpoint.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.starts_with(b"\x82"), "nothing more passes: {rest:?}");
    }
}
