//! One step of a direction: the next bytes of a side go to the other.
//!
//! They are read into the worker's scratch buffer, filtered and written; or the kernel passes them on
//! through the worker's pipe, if they need no filter and there are many. The pipe is empty again when the
//! step is over: what the sink has not accepted is read out of it and kept like everything unwritten, so
//! that nothing else has to know of the pipe.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::entry::Flags;
use super::forwarder::Forwarder;
use super::framing::{Allowance, HEADROOM};
use super::scratch::{SCRATCH_BYTES, ScratchParts};
use super::side::Side;
use super::table::{TableSlot, TunnelOwner};
use super::unwritten::Unwritten;
use crate::net::splice_pipe::SplicePipe;
use crate::net::stream::{Socket, Stream};

/// Bytes from which on the pipe costs less than copying.
const MIN_SPLICED: usize = 16 * 1024;

/// A read of this length, of frames of this length, makes the next ones bulk.
const BULK: usize = 32 * 1024;

/// Bytes read at once where a large frame is expected to begin: enough for its header and for a few small
/// frames in front of it. All that is read has to be copied.
const BULK_HEAD: usize = 512;

/// What a step works on: the direction that starts at `side`.
pub(super) struct Transfer<'a, O> {
    pub(super) side: Side,
    pub(super) source: &'a mut Stream,
    pub(super) sink: &'a mut Stream,
    pub(super) unwritten: &'a mut Unwritten,
    pub(super) forwarder: &'a mut Forwarder,
    pub(super) slot: &'a TableSlot<O>,
}

impl<O: TunnelOwner> Transfer<'_, O> {
    /// Moves up to `quantum` bytes. Returns how much of it is used up. Nothing may be unwritten.
    pub(super) fn step(
        &mut self,
        scratch: &mut ScratchParts,
        quantum: usize,
        cx: &mut Context<'_>,
    ) -> Poll<usize> {
        let ScratchParts { buffer, pipe } = scratch;
        let remainders = self.slot.remainder_account().remainders;
        let size = self.unwritten.read_size(remainders.total());
        let room = size.min(quantum);
        self.unwritten.is_bulk =
            self.unwritten.is_bulk && size == SCRATCH_BYTES && pipe.is_usable();
        let mut length = room;
        if self.unwritten.is_bulk {
            // The rest of a turn is not worth a transfer of its own.
            if room < MIN_SPLICED {
                return Poll::Ready(quantum);
            }
            let unseen = self.unseen();
            if unseen >= MIN_SPLICED {
                return self.splice(pipe, whole(unseen, room), 0, cx);
            }
            length = room.min(unseen + BULK_HEAD);
        }
        // Shared by all tunnels of the worker: each is done with it when its poll returns.
        let scratch = buffer.bytes();
        let place = scratch.get_mut(HEADROOM..HEADROOM + length);
        let mut buffer = ReadBuf::new(place.unwrap_or_default());
        let read = Pin::new(&mut *self.source).poll_read(cx, &mut buffer);
        self.note_unread(read.is_ready());
        let read = ready!(read).map(|()| buffer.filled().len());
        let read = match read {
            Err(_) => {
                self.forwarder.source_broke(self.side);
                return Poll::Ready(0);
            }
            Ok(0) => {
                self.forwarder.source_ended(self.side);
                return Poll::Ready(0);
            }
            Ok(read) => read,
        };
        self.slot.turn().charge(read);
        let end = HEADROOM + read;
        let (bytes, frame) = filter(self.forwarder, self.slot, self.side, scratch, end);
        if self.unwritten.is_bulk && read == length {
            let unseen = self.unseen();
            self.unwritten.is_bulk = unseen >= MIN_SPLICED;
            let limit = whole(unseen, room - read);
            if limit >= MIN_SPLICED && pipe.put(bytes) {
                return self.splice(pipe, limit, read, cx);
            }
        } else if read >= BULK && size == SCRATCH_BYTES {
            let frame = frame.max(self.forwarder.unseen(self.side));
            self.unwritten.is_bulk = frame >= BULK as u64 && self.sockets().is_some();
        }
        let account = self.slot.remainder_account();
        if self.unwritten.write(self.sink, bytes, account, cx).is_err() {
            self.forwarder.sink_broke(self.side.other());
        }
        self.note_stall();
        Poll::Ready(read)
    }

    /// Has the kernel pass on up to `limit` bytes, behind those that are in the pipe already, for which
    /// `read` bytes were read.
    fn splice(
        &mut self,
        pipe: &mut SplicePipe,
        limit: usize,
        read: usize,
        cx: &mut Context<'_>,
    ) -> Poll<usize> {
        let Some((source, sink)) = self.sockets() else {
            self.unwritten.is_bulk = false;
            self.keep_rest(pipe);
            return Poll::Ready(read);
        };
        let mut accepted = 0;
        let filled = pipe.poll_fill(source, limit, cx);
        let drained = pipe.poll_drain(sink, &mut accepted, cx);
        self.unwritten.trust(accepted);
        let moved = match &filled {
            Poll::Ready(Ok(moved)) => *moved,
            _ => 0,
        };
        self.pass_unseen(moved);
        self.note_unread(filled.is_ready());
        if let Poll::Ready(Err(error)) = &drained
            && error.kind() != io::ErrorKind::Unsupported
        {
            pipe.discard();
            self.forwarder.sink_broke(self.side.other());
        } else {
            self.keep_rest(pipe);
        }
        match filled {
            Poll::Ready(Ok(0)) => self.forwarder.source_ended(self.side),
            // What comes in small pieces is cheaper to copy.
            Poll::Ready(Ok(_)) => self.unwritten.is_bulk = moved >= limit.min(MIN_SPLICED),
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Unsupported => {}
            Poll::Ready(Err(_)) => self.forwarder.source_broke(self.side),
            Poll::Pending if read == 0 => return Poll::Pending,
            Poll::Pending => {}
        }
        Poll::Ready(read + moved)
    }

    /// Keeps what the sink has not accepted.
    fn keep_rest(&mut self, pipe: &mut SplicePipe) {
        match pipe.take() {
            Ok(rest) => self.unwritten.keep(rest, self.slot.remainder_account()),
            // Not less than it has been promised: the side sees that it has not got everything.
            Err(_) => self.forwarder.sink_broke(self.side.other()),
        }
        self.note_stall();
    }

    /// The two sockets, if there is nothing but them.
    fn sockets(&self) -> Option<(&Socket, &Socket)> {
        match (&*self.source, &*self.sink) {
            (Stream::Plain(source), Stream::Plain(sink)) => Some((source, sink)),
            _ => None,
        }
    }

    /// How many of the next bytes go on whatever they are.
    fn unseen(&self) -> usize {
        let unseen = usize::try_from(self.forwarder.unseen(self.side)).unwrap_or(usize::MAX);
        match self.side {
            Side::Client => {
                let allowed = self.slot.allowance().bytes;
                unseen.min(usize::try_from(allowed).unwrap_or(usize::MAX))
            }
            Side::Endpoint => unseen,
        }
    }

    /// Counts `bytes` that have gone on unseen.
    fn pass_unseen(&mut self, bytes: usize) {
        self.forwarder.pass_unseen(self.side, bytes as u64);
        self.slot.turn().charge(bytes);
        self.slot.entry().meter.count(self.side, bytes);
        if self.side == Side::Client {
            self.slot.charge(bytes, 0);
        }
    }

    /// Notes whether the side may have sent more than was read.
    fn note_unread(&self, may_be: bool) {
        // Only where there is no more has everything been heard that this side has to say.
        let unread = Flags::UNREAD[self.side as usize];
        self.slot.entry().flags.set(unread, may_be);
    }

    fn note_stall(&self) {
        // The clock of `slow_reader` starts with the first bytes that have to wait.
        if self.unwritten.left() > 0 {
            let stalls = &self.slot.entry().stalls;
            stalls.set(self.side.other(), true, false);
        }
    }
}

/// How many bytes to splice of those that may be, where a turn has `room`: a short end of a frame goes with
/// the rest of it.
fn whole(unseen: usize, room: usize) -> usize {
    match unseen.saturating_sub(room) < MIN_SPLICED {
        true => unseen,
        false => room,
    }
}

/// Filters and counts `buffer[HEADROOM..end]`, which has come from `side`; returns what of it goes
/// on, and the length of the last data frame that has begun in it.
pub(super) fn filter<'a, O: TunnelOwner>(
    forwarder: &mut Forwarder,
    slot: &TableSlot<O>,
    side: Side,
    buffer: &'a mut [u8],
    end: usize,
) -> (&'a [u8], u64) {
    let meter = &slot.entry().meter;
    let allowance = match side {
        Side::Client => slot.allowance(),
        Side::Endpoint => Allowance::UNLIMITED,
    };
    let filtered = forwarder.filter(side, buffer, end, allowance);
    // Only what goes on: a Pong to our own Ping does not mean that the tunnel is used, and must not
    // keep it from being idle.
    meter.count(side, filtered.pass.len());
    if filtered.pong {
        slot.pong_received(side);
    }
    if filtered.replaces_ping {
        slot.ping_sent(side.other());
    }
    if filtered.messages > 0 {
        meter.count_messages(side, filtered.messages);
    }
    if side == Side::Client {
        slot.charge(end - HEADROOM, filtered.cost);
    }
    // Through the entry, so that the sweeps count from here and the same path ends every tunnel.
    if let Some(reason) = forwarder.ending() {
        slot.entry().end(reason);
    }
    let bytes = buffer.get(filtered.pass).unwrap_or_default();
    (bytes, filtered.payload)
}
