//! The frames in a tunnel's bytes: counting messages, limiting them, and placing frames of our own.
//!
//! Pure: it sees bytes on their way from one side to the other and decides which of them go on. All
//! do, except the answers to frames that we sent ourselves: the other side did not ask for them.
//! Our frames are placed only where a frame of the sender's has just ended. A stream that does not
//! consist of valid frames is passed on untouched, and nothing is added to it, because nothing
//! shows where a frame could stand.

mod lane;
mod scan;

use std::ops::Range;

use self::lane::{Disposition, Lane, PingState};
use self::scan::BufferScan;
use super::side::Side;
use crate::protocol::frame::{Control, Event, Frame, KEPT, Masking};

/// Free bytes that [`Framing::filter`] needs in front of what it is given.
//
// The most that is ever held back of a stream: a Pong of ours with the longest header, or a header
// that is not complete yet. With this room in front, it goes before the next bytes without moving
// them.
pub const HEADROOM: usize = 16;

/// The code of every Close to an endpoint, whatever the reason: some libraries reject codes that
/// RFC 6455 does not define, such as 1012.
const GOING_AWAY: u16 = 1001;

/// The code of a Close that has none (RFC 6455 section 7.1.5).
const NO_CODE: u16 = 1005;

/// Payload of a Ping of ours.
pub type PingPayload = [u8; KEPT];

/// The framing of one tunnel.
#[derive(Debug)]
pub struct Framing {
    from_client: Lane,
    from_endpoint: Lane,
    closing: ClosePhase,
    /// The text of our Close frames.
    reason: Box<str>,
    max_message_bytes: Option<u64>,
}

/// The phase of our own closing handshakes: the client's comes first, then the endpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClosePhase {
    Open,
    SendToClient { code: u16 },
    AwaitClient,
    SendToEndpoint,
    AwaitEndpoint,
    Done,
}

/// The result of filtering bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filtered {
    /// The range of the buffer that goes on.
    pub pass: Range<usize>,
    /// The number of messages that began.
    pub messages: u32,
    /// An event that the tunnel has to know, if there was one.
    pub notice: Option<Notice>,
}

/// An event that the tunnel has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A Close has passed.
    Close {
        /// Its code, or 1005 if it has none.
        code: u16,
    },
    /// Our Ping was answered.
    Pong,
    /// From here on this side's stream does not consist of valid frames.
    Unframed,
    /// A message exceeds the limit. Its last bytes do not go on.
    MessageTooBig,
    /// Bytes are not valid frames, where a limit requires that they are. They do not go on.
    ProtocolError,
}

impl Framing {
    /// The framing of a new tunnel. With a limit, longer messages end it, and so do bytes that are
    /// not valid frames.
    pub fn new(max_message_bytes: Option<u64>) -> Self {
        Self {
            from_client: Lane::new(Masking::Required),
            from_endpoint: Lane::new(Masking::Forbidden),
            closing: ClosePhase::Open,
            reason: Box::default(),
            max_message_bytes,
        }
    }

    /// Filters `buffer[HEADROOM..end]`, the next bytes from side `from`, in place.
    pub fn filter(&mut self, from: Side, buffer: &mut [u8], end: usize) -> Filtered {
        let limit = self.max_message_bytes;
        let (lane, other) = match from {
            Side::Client => (&mut self.from_client, &mut self.from_endpoint),
            Side::Endpoint => (&mut self.from_endpoint, &mut self.from_client),
        };
        let mut scan = BufferScan::new(lane, buffer, end);
        // Applied after the loop, because both concern more than the lane that is borrowed here.
        let mut asks = false;
        let mut answered = false;
        while let Some(event) = scan.next(lane, buffer) {
            match event {
                Event::Data { message_bytes, .. }
                    if limit.is_some_and(|most| message_bytes > most) =>
                {
                    scan.cut(lane, Notice::MessageTooBig);
                }
                Event::Data { begins, .. } => scan.messages += u32::from(begins),
                Event::Control(kind) => scan.judge(lane, kind),
                Event::ControlEnd {
                    kind,
                    length,
                    payload,
                } => {
                    let disposition = std::mem::replace(&mut lane.disposition, Disposition::Pass);
                    match (disposition, kind) {
                        (Disposition::Swallow, _) => {
                            scan.remove(buffer);
                            (lane.close_answer_due, answered) = (false, true);
                        }
                        // By its payload: a Pong to the other side's Ping, or one that was not
                        // asked for, has another one and goes on.
                        (Disposition::Hold, _) if lane.ping == PingState::Sent(payload) => {
                            scan.remove(buffer);
                            lane.ping = PingState::Idle;
                            scan.notice = Some(Notice::Pong);
                        }
                        (_, Control::Close) => {
                            lane.closed = true;
                            scan.notice = Some(Notice::Close {
                                code: code_of(length, payload),
                            });
                        }
                        (_, Control::Ping) => asks = true,
                        (_, Control::Pong) => lane.owes_pong = false,
                    }
                }
                // Without a limit, the tunnel serves what the sides speak, even if it is not
                // WebSocket.
                Event::Invalid(_) if limit.is_some() => scan.cut(lane, Notice::ProtocolError),
                Event::Invalid(_) => scan.notice = Some(Notice::Unframed),
            }
        }
        other.owes_pong |= asks;
        let filtered = scan.finish(lane, buffer);
        if answered {
            self.side_is_done(from);
        }
        filtered
    }

    /// Requests a Ping to `side`, to be sent where a frame may stand.
    pub fn ping(&mut self, side: Side, payload: PingPayload) {
        let lane = self.lane(side);
        if lane.ping == PingState::Idle {
            lane.ping = PingState::Due(payload);
        }
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
        if self.closing != ClosePhase::Open {
            return;
        }
        // A second Close would follow the first, after which nothing may come (RFC 6455 section
        // 5.5.1).
        let begun = self.from_client.closed || self.from_endpoint.closed;
        // With a limit, invalid bytes were cut off before they went on, so that the stream to the
        // client can still take a frame even if the client's own is broken.
        let unspeakable = match self.max_message_bytes {
            Some(_) => self.from_endpoint.is_unframed(),
            None => self.is_unframed(),
        };
        self.reason = reason.into();
        self.closing = match code {
            _ if begun || unspeakable => ClosePhase::Done,
            Some(code) => ClosePhase::SendToClient { code },
            None if self.is_unframed() => ClosePhase::Done,
            None => ClosePhase::SendToEndpoint,
        };
    }

    /// Whether we have begun to close the tunnel.
    pub fn is_closing(&self) -> bool {
        self.closing != ClosePhase::Open
    }

    /// Whether our closing handshakes are done.
    pub fn has_closed(&self) -> bool {
        self.closing == ClosePhase::Done
    }

    /// Notes that nothing more comes from `side`, so that its answer is not waited for.
    pub fn side_is_done(&mut self, side: Side) {
        self.closing = match (self.closing, side) {
            (ClosePhase::AwaitClient, Side::Client) => ClosePhase::SendToEndpoint,
            (ClosePhase::AwaitEndpoint, Side::Endpoint) => ClosePhase::Done,
            (other, _) => other,
        };
    }

    /// Notes that nothing more can be sent to `side`, so that its frames are dropped.
    pub fn give_up(&mut self, side: Side) {
        self.closing = match (self.closing, side) {
            (ClosePhase::SendToClient { .. }, Side::Client) => ClosePhase::SendToEndpoint,
            (ClosePhase::SendToEndpoint, Side::Endpoint) => ClosePhase::Done,
            (other, _) => other,
        };
        self.lane(side).ping = PingState::Idle;
    }

    /// Whether a frame of our own is to go to `side`, now or later.
    pub fn has_frame_for(&self, side: Side) -> bool {
        let closing = match side {
            Side::Client => matches!(self.closing, ClosePhase::SendToClient { .. }),
            Side::Endpoint => matches!(self.closing, ClosePhase::SendToEndpoint),
        };
        let lane = match side {
            Side::Client => &self.from_client,
            Side::Endpoint => &self.from_endpoint,
        };
        closing || matches!(lane.ping, PingState::Due(_))
    }

    /// Takes a frame of our own that is to go to side `to` now, if one may stand here. The caller
    /// must have nothing unwritten in that direction. `mask` must be unpredictable; it masks a
    /// frame to an endpoint.
    pub fn inject(&mut self, to: Side, mask: [u8; 4]) -> Option<Frame> {
        // Our frame goes between the frames of the other side, so that stream has to be at a
        // boundary. A frame in the middle of another would make it part of its payload.
        let on_the_way = &self.lane(to.other()).tracker;
        if on_the_way.error().is_some() || !on_the_way.at_boundary() {
            return None;
        }
        // To an endpoint we are a client, and clients mask (RFC 6455 section 5.3).
        let mask = (to == Side::Endpoint).then_some(mask);
        match (self.closing, to) {
            (ClosePhase::SendToClient { code }, Side::Client) => {
                // In a stream without valid frames the client's answer cannot be recognized, and a
                // place for a Close to the endpoint cannot be found: done with this one.
                self.closing = match self.from_client.is_unframed() {
                    true => ClosePhase::Done,
                    false => ClosePhase::AwaitClient,
                };
                // Nothing may follow our Close, and the next Close of the client is not for the
                // endpoint.
                self.from_endpoint.cut = true;
                self.from_client.close_answer_due = true;
                Some(Frame::close(code, &self.reason, mask))
            }
            (ClosePhase::SendToEndpoint, Side::Endpoint) => {
                self.closing = ClosePhase::AwaitEndpoint;
                self.from_client.cut = true;
                self.from_endpoint.close_answer_due = true;
                Some(Frame::close(GOING_AWAY, &self.reason, mask))
            }
            (ClosePhase::Open, _) if !self.is_unframed() => self.inject_ping(to, mask),
            _ => None,
        }
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

    fn lane(&mut self, from: Side) -> &mut Lane {
        match from {
            Side::Client => &mut self.from_client,
            Side::Endpoint => &mut self.from_endpoint,
        }
    }
}

fn code_of(length: u8, payload: [u8; KEPT]) -> u16 {
    if length < 2 {
        NO_CODE
    } else {
        u16::from_be_bytes([payload[0], payload[1]])
    }
}

#[cfg(test)]
mod tests;
