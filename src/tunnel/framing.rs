//! The frames in a tunnel's bytes: counting messages, limiting them, and placing frames of our own.
//!
//! Pure: it sees bytes on their way from one side to the other and decides which of them go on. All
//! do, except the answers to frames that we sent ourselves: the other side did not ask for them.
//! Our frames are placed only where a frame of the sender's has just ended. A stream that does not
//! consist of valid frames is passed on untouched, and nothing is added to it, because nothing
//! shows where a frame could stand.

mod allowance;
mod lane;
mod scan;

use std::ops::Range;

pub use self::allowance::{Allowance, MESSAGE_COST};
use self::lane::{Lane, PingState};
use self::scan::{BufferScan, ScanLimits};
use super::side::Side;
use crate::protocol::frame::{Control, Frame, KEPT, Masking};
use crate::protocol::opcode::FrameCounts;

/// Free bytes that [`Framing::filter`] needs in front of what it is given.
//
// The most that is ever held back of a stream: a Pong of ours with the longest header, or a header
// that is not complete yet. With this room in front, it goes before the next bytes without moving
// them.
pub const HEADROOM: usize = 16;

/// The code of every Close to an endpoint, whatever the reason: some libraries reject codes that
/// RFC 6455 does not define, such as 1012.
const GOING_AWAY: u16 = 1001;

/// The bytes of a client that are read and dropped once nothing more of its stream goes on. They are
/// read for the sake of the Close that answers ours; a client that sends more before it is not read
/// any longer, so that it costs nothing until its time is over.
pub const DISCARD_BYTES: u32 = 4 << 20;

/// Payload of a Ping of ours.
pub type PingPayload = [u8; KEPT];

/// The framing of one tunnel.
#[derive(Debug)]
pub struct Framing {
    from_client: Lane,
    from_endpoint: Lane,
    /// Whether we have begun to close the tunnel.
    closing: bool,
    /// The code of our Close to the client; `None` if it gets none.
    code: Option<u16>,
    /// The text of our Close frames.
    reason: Box<str>,
    /// The longest message, if `is_strict`.
    max_message_bytes: u64,
    /// Whether bytes that are not valid frames violate a limit.
    is_strict: bool,
    /// Sides to which nothing more can be sent.
    unreachable: [bool; 2],
    /// A message of the client was under way when our Close went there, and still is.
    client_finishes: bool,
    /// Bytes of the client that did not go on, once nothing of its stream did.
    discarded: u32,
}

/// The result of filtering bytes.
//
// Several things can happen in one buffer, so that each has a field: one must never hide another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filtered {
    /// The range of the buffer that goes on.
    pub pass: Range<usize>,
    /// The number of messages that began, of those that go on.
    pub messages: u32,
    /// The frames of those that go on: data frames whose header does, control frames that do to their end.
    pub frames: FrameCounts,
    /// The cost of the frames that go on, see [`MESSAGE_COST`].
    pub cost: u32,
    /// The code of the first Close that goes on, 1005 if it has none.
    pub close: Option<u16>,
    /// Whether our Ping was answered.
    pub pong: bool,
    /// Whether the Close goes on in place of a Ping of ours, which has no place behind it.
    pub replaces_ping: bool,
    /// Why nothing more of this side goes on, if that is since this buffer.
    pub violation: Option<Violation>,
}

/// Why nothing more of a side's stream goes on. The frame that violates a limit is the first that
/// does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A message exceeds the limit.
    MessageTooBig,
    /// Bytes are not valid frames, where a limit requires that they are.
    ProtocolError,
    /// The frames cost more than the allowance.
    MessageRate,
    /// There are more bytes than the allowance has.
    ByteRate,
}

impl Framing {
    /// The framing of a new tunnel. With a limit, longer messages end it, and so do bytes that are
    /// not valid frames.
    pub fn new(max_message_bytes: Option<u64>) -> Self {
        Self {
            from_client: Lane::new(Masking::Required),
            from_endpoint: Lane::new(Masking::Forbidden),
            closing: false,
            code: None,
            reason: Box::default(),
            max_message_bytes: max_message_bytes.unwrap_or_default(),
            is_strict: max_message_bytes.is_some(),
            unreachable: [false; 2],
            client_finishes: false,
            discarded: 0,
        }
    }

    /// Filters `buffer[HEADROOM..end]`, the next bytes from side `from`, in place. No more than the
    /// `allowance` goes on.
    pub fn filter(
        &mut self,
        from: Side,
        buffer: &mut [u8],
        end: usize,
        allowance: Allowance,
    ) -> Filtered {
        let limits = ScanLimits {
            message_bytes: self.is_strict.then_some(self.max_message_bytes),
            allowance,
        };
        let (lane, other) = match from {
            Side::Client => (&mut self.from_client, &mut self.from_endpoint),
            Side::Endpoint => (&mut self.from_endpoint, &mut self.from_client),
        };
        if lane.cut.is_some() {
            lane.discard(buffer.get(HEADROOM..end).unwrap_or_default());
            if from == Side::Client {
                // A worker's read is far shorter than that.
                self.discarded = self.discarded.saturating_add((end - HEADROOM) as u32);
            }
            return Filtered::default();
        }
        let mut scan = BufferScan::new(lane, buffer, end, limits);
        scan.walk(lane, buffer);
        let (mut filtered, pings) = scan.finish(lane, buffer);
        other.pings_passed(pings);
        if lane.closed && matches!(other.ping, PingState::Due(_)) {
            // The Close asks for an answer, too.
            other.ping = PingState::Idle;
            filtered.replaces_ping = true;
        }
        if from == Side::Client {
            self.client_finishes &= filtered.messages == 0 && lane.is_within_message();
        }
        filtered
    }

    /// Requests a Ping to `side`, to be sent where a frame may stand. Returns whether there can be
    /// such a place: none behind a Close, which asks for an answer itself.
    pub fn ping(&mut self, side: Side, payload: PingPayload) -> bool {
        if self.side(side.other()).closed {
            return false;
        }
        let lane = self.lane(side);
        if lane.ping == PingState::Idle {
            lane.ping = PingState::Due(payload);
        }
        true
    }

    /// Begins to close both sides: the client with `code`, if there is one, then the endpoint; both
    /// with `reason`, which has at most 123 bytes (RFC 6455 section 5.5).
    ///
    /// Nothing is sent where a side has begun a closing handshake itself, or where the stream to a
    /// side does not consist of valid frames.
    //
    // One after the other: what the client sends until it answers still reaches the endpoint, so
    // that nothing of the client's is lost that it sent before it knew.
    pub fn close(&mut self, code: Option<u16>, reason: &str) {
        if self.closing {
            return;
        }
        (self.closing, self.code) = (true, code);
        self.reason = reason.into();
        // With a limit, invalid bytes were cut off before they went on, so that the streams can
        // still take a frame. Without, a side may speak something that has no Close.
        if !self.is_strict && self.is_unframed() {
            for side in [Side::Client, Side::Endpoint] {
                self.give_up(side);
                self.side_is_done(side);
            }
        }
    }

    /// Lets nothing more of the client's go on.
    //
    // If that is in the middle of a frame, there is no place for a Close to the endpoint, which then
    // sees its connection end within a message: the only other way would be to let a client that has
    // exceeded a limit finish a message of any length.
    pub fn cut_off_client(&mut self) {
        self.from_client.cut_off();
    }

    /// Whether we have begun to close the tunnel.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether we have begun to close the tunnel, and no Close is left to send or to wait for.
    pub fn has_closed(&self) -> bool {
        let sides = [Side::Client, Side::Endpoint];
        self.closing
            && sides
                .into_iter()
                .all(|side| !self.is_close_due(side) && !self.is_close_awaited(side))
    }

    /// Whether we have begun to close the tunnel, and no Close is left to send to `side`.
    pub fn has_sent_close(&self, side: Side) -> bool {
        self.closing && !self.is_close_due(side)
    }

    /// Whether both sides have sent a Close that passed.
    pub fn has_passed_both_closes(&self) -> bool {
        self.from_client.closed && self.from_endpoint.closed
    }

    /// Whether our closing of the tunnel waits for a message under way: one to the client, between
    /// whose frames our Close has no place yet, or one of the client's, behind which its answer
    /// comes.
    pub fn waits_for_message(&self) -> bool {
        let client_is_last = self.is_close_awaited(Side::Client) && self.client_finishes;
        let has_no_place =
            self.is_close_due(Side::Client) && !self.from_endpoint.passed_whole_frames();
        client_is_last || has_no_place
    }

    /// Whether nothing more that comes from `side` goes on.
    pub fn discards(&self, side: Side) -> bool {
        self.side(side).cut.is_some()
    }

    /// Whether nothing that still comes from `side` matters, so that it need not be read.
    pub fn ignores(&self, side: Side) -> bool {
        let lane = self.side(side);
        let is_too_much = side == Side::Client && self.discarded >= DISCARD_BYTES;
        lane.cut.is_some() && (lane.finished || is_too_much)
    }

    /// Whether a Close of ours is to go to `side`, now or as soon as there is a place.
    fn is_close_due(&self, to: Side) -> bool {
        let (lane, on_the_way) = (self.side(to), self.side(to.other()));
        let is_possible = match on_the_way.cut {
            Some(_) => on_the_way.passed_whole_frames(),
            None => !on_the_way.is_unframed(),
        };
        // A second Close would follow the first, after which nothing may come (RFC 6455 section
        // 5.5.1).
        if !self.closing
            || !is_possible
            || lane.close_sent
            || self.unreachable[to as usize]
            || on_the_way.closed
        {
            return false;
        }
        match to {
            // A client that has closed by itself gets the endpoint's answer, unless that cannot
            // pass any more.
            Side::Client => self.code.is_some() && (!lane.closed || on_the_way.cut.is_some()),
            Side::Endpoint => {
                let client_is_done =
                    !self.is_close_due(Side::Client) && !self.is_close_awaited(Side::Client);
                on_the_way.cut.is_some() || client_is_done
            }
        }
    }

    /// Whether a Close of `side` is still to come: the answer to ours, or to the other side's.
    fn is_close_awaited(&self, from: Side) -> bool {
        let lane = self.side(from);
        !lane.finished && (lane.close_sent || self.side(from.other()).closed)
    }

    /// Notes that nothing more comes from `side`, so that its answer is not waited for.
    pub fn side_is_done(&mut self, side: Side) {
        self.lane(side).finished = true;
    }

    /// Notes that nothing more can be sent to `side`, so that its frames are dropped.
    pub fn give_up(&mut self, side: Side) {
        self.unreachable[side as usize] = true;
        self.lane(side).ping = PingState::Idle;
    }

    /// Takes the bytes from `side` that were held back, because its stream has ended: they are part
    /// of no answer to us.
    pub fn take_held(&mut self, side: Side) -> Option<Box<[u8]>> {
        let lane = self.lane(side);
        let length = usize::from(std::mem::take(&mut lane.held_length));
        let held = lane.held.get(..length).filter(|held| !held.is_empty());
        held.map(Into::into)
    }

    /// Whether a frame of our own is to go to `side`, now or later.
    pub fn has_frame_for(&self, side: Side) -> bool {
        self.is_close_due(side) || matches!(self.side(side).ping, PingState::Due(_))
    }

    /// Takes a frame of our own that is to go to side `to` now, if one may stand here. The caller
    /// must have nothing unwritten in that direction. `mask` must be unpredictable; it masks a
    /// frame to an endpoint.
    pub fn inject(&mut self, to: Side, mask: [u8; 4]) -> Option<Frame> {
        // Our frame goes between the frames of the other side. A frame in the middle of another
        // would make it part of its payload.
        if !self.side(to.other()).passed_whole_frames() {
            return None;
        }
        // To an endpoint we are a client, and clients mask (RFC 6455 section 5.3).
        let mask = (to == Side::Endpoint).then_some(mask);
        if self.is_close_due(to) {
            let code = match to {
                Side::Client => self.code?,
                Side::Endpoint => GOING_AWAY,
            };
            // Nothing may follow our Close, and the next one of this side is for us.
            self.lane(to.other()).cut_off();
            let lane = self.lane(to);
            lane.close_sent = true;
            let finishes = lane.cut.is_none() && lane.is_within_message();
            self.client_finishes |= to == Side::Client && finishes;
            return Some(Frame::close(code, &self.reason, mask));
        }
        if self.closing || self.is_unframed() {
            return None;
        }
        self.inject_ping(to, mask)
    }

    /// Takes our Ping, if it may be sent: not while the other side's Ping is unanswered, because a
    /// side only has to answer the latest (RFC 6455 section 5.5.3) and ours would replace it; and
    /// not after a Close.
    fn inject_ping(&mut self, to: Side, mask: Option<[u8; 4]>) -> Option<Frame> {
        if self.lane(to.other()).closed {
            return None;
        }
        let lane = self.lane(to);
        match lane.ping {
            PingState::Due(payload) if !lane.owes_pong => {
                lane.ping = PingState::Sent(payload);
                Some(Frame::control(Control::Ping, &payload, mask))
            }
            _ => None,
        }
    }

    /// Whether either stream has ceased to consist of valid frames.
    pub fn is_unframed(&self) -> bool {
        self.from_client.is_unframed() || self.from_endpoint.is_unframed()
    }

    fn side(&self, from: Side) -> &Lane {
        match from {
            Side::Client => &self.from_client,
            Side::Endpoint => &self.from_endpoint,
        }
    }

    fn lane(&mut self, from: Side) -> &mut Lane {
        match from {
            Side::Client => &mut self.from_client,
            Side::Endpoint => &mut self.from_endpoint,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
