//! The frames in a tunnel's bytes: counting messages, limiting them, and placing frames of our own.
//!
//! Pure: it sees bytes on their way from one side to the other and decides which of them go on. All do,
//! except the answers to frames that we sent ourselves: the other side did not ask for them. Our frames
//! are placed only where a frame of the sender's has just ended. A stream that does not consist of valid
//! frames is passed on untouched, and nothing is added to it, because nothing shows where a frame
//! could stand.

use std::ops::Range;

use super::side::Side;
use crate::protocol::frame::{Control, Event, Frame, KEPT, Masking, Tracker};

/// Free bytes that [`Framing::filter`] needs in front of what it is given.
//
// The most that is ever held back of a stream: a Pong of ours with the longest header, or a header that
// is not complete yet. With this room in front, it goes before the next bytes without moving them.
pub const HEADROOM: usize = 16;

/// The code of every Close to an endpoint, whatever the reason: some libraries reject codes that RFC 6455
/// does not define, such as 1012.
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

/// The frames from one side.
#[derive(Debug)]
struct Lane {
    tracker: Tracker,
    ping: PingState,
    /// The other side's Ping has passed, and this side has not answered it yet.
    owes_pong: bool,
    /// This side's Close has passed.
    closed: bool,
    /// We have sent a Close to this side: its next Close is the answer.
    close_answer_due: bool,
    /// Nothing more from this side goes on: the other side got our Close in its place.
    cut: bool,
    disposition: Disposition,
    /// Bytes at the end of the last read that may be part of an answer to us.
    held: [u8; HEADROOM],
    held_length: u8,
}

/// The state of our Ping to a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PingState {
    Idle,
    Due(PingPayload),
    Sent(PingPayload),
}

/// What is to become of the control frame that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disposition {
    Pass,
    /// It may be the Pong to our Ping: that is decided when all of its payload is there.
    Hold,
    Swallow,
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
    /// The framing of a new tunnel. With a limit, longer messages end it, and so do bytes that are not
    /// valid frames.
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
                        // By its payload: a Pong to the other side's Ping, or one that was not asked for,
                        // has another one and goes on.
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
                // Without a limit, the tunnel serves what the sides speak, even if it is not WebSocket.
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

    /// Begins to close both sides: the client with `code`, if there is one, then the endpoint; both with
    /// `reason`, which has at most 123 bytes (RFC 6455 section 5.5).
    ///
    /// Nothing is sent where a side has begun a closing handshake itself, or where the stream to a side
    /// does not consist of valid frames.
    //
    // One after the other: what the client sends until it answers still reaches the endpoint, so that
    // nothing of the client's is lost that it sent before it knew.
    pub fn close(&mut self, code: Option<u16>, reason: &str) {
        if self.closing != ClosePhase::Open {
            return;
        }
        // A second Close would follow the first, after which nothing may come (RFC 6455 section 5.5.1).
        let begun = self.from_client.closed || self.from_endpoint.closed;
        // With a limit, invalid bytes were cut off before they went on, so that the stream to the client
        // can still take a frame even if the client's own is broken.
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

    /// Takes a frame of our own that is to go to side `to` now, if one may stand here. The caller must
    /// have nothing unwritten in that direction. `mask` must be unpredictable; it masks a frame to an
    /// endpoint.
    pub fn inject(&mut self, to: Side, mask: [u8; 4]) -> Option<Frame> {
        // Our frame goes between the frames of the other side, so it is that stream that counts. A frame in
        // the middle of another would make it part of its payload.
        let on_the_way = &self.lane(to.other()).tracker;
        if on_the_way.error().is_some() || !on_the_way.at_boundary() {
            return None;
        }
        // To an endpoint we are a client, and clients mask (RFC 6455 section 5.3).
        let mask = (to == Side::Endpoint).then_some(mask);
        match (self.closing, to) {
            (ClosePhase::SendToClient { code }, Side::Client) => {
                // In a stream without valid frames the client's answer cannot be recognized, and a place
                // for a Close to the endpoint cannot be found: done with this one.
                self.closing = match self.from_client.is_unframed() {
                    true => ClosePhase::Done,
                    false => ClosePhase::AwaitClient,
                };
                // Nothing may follow our Close, and the next Close of the client is not for the endpoint.
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

    /// Takes our Ping, if it may be sent: not while the other side's Ping is unanswered, because a side
    /// only has to answer the latest (RFC 6455 section 5.5.3) and ours would replace it; and not after a
    /// Close.
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

impl Lane {
    fn new(masking: Masking) -> Self {
        Self {
            tracker: Tracker::new(masking),
            ping: PingState::Idle,
            owes_pong: false,
            closed: false,
            close_answer_due: false,
            cut: false,
            disposition: Disposition::Pass,
            held: [0; HEADROOM],
            held_length: 0,
        }
    }

    /// Whether the stream has ceased to consist of valid frames.
    fn is_unframed(&self) -> bool {
        self.tracker.error().is_some()
    }

    /// Whether this side may send an answer to a frame of ours.
    fn expects_answer(&self) -> bool {
        self.close_answer_due || matches!(self.ping, PingState::Sent(_))
    }
}

/// The walk over one buffer, frame by frame.
struct BufferScan {
    start: usize,
    /// The end of what the tracker has seen.
    at: usize,
    end: usize,
    /// Where the current control frame begins, or the part of it that is in this buffer.
    frame: usize,
    messages: u32,
    notice: Option<Notice>,
}

impl BufferScan {
    /// Begins a walk, with the bytes that were held back of the last buffer put in front.
    fn new(lane: &mut Lane, buffer: &mut [u8], end: usize) -> Self {
        let held = usize::from(std::mem::take(&mut lane.held_length));
        let start = HEADROOM - held;
        buffer[start..HEADROOM].copy_from_slice(&lane.held[..held]);
        Self {
            start,
            // The tracker has seen the bytes that were held back.
            at: HEADROOM,
            end,
            frame: start,
            messages: 0,
            notice: None,
        }
    }

    fn next(&mut self, lane: &mut Lane, buffer: &[u8]) -> Option<Event> {
        let (length, event) = lane.tracker.step(&buffer[self.at..self.end]);
        self.at += length;
        event
    }

    /// Decides about a control frame whose header was just read.
    fn judge(&mut self, lane: &mut Lane, kind: Control) {
        let frame = self.at.checked_sub(lane.tracker.header_size());
        self.frame = match frame.filter(|frame| *frame >= self.start) {
            Some(frame) => frame,
            None if lane.cut => self.start,
            // It began before an answer was expected, and the first part has gone on: the rest has to
            // follow. It cannot be an answer, because what it would answer was not sent yet.
            None => return,
        };
        // Only a Pong of this length can be ours; what cannot is not held back.
        let ours = lane.tracker.payload_left() == KEPT as u64;
        lane.disposition = match (kind, lane.ping) {
            (Control::Close, _) if lane.close_answer_due => Disposition::Swallow,
            (Control::Pong, PingState::Sent(_)) if ours && !lane.cut => Disposition::Hold,
            _ => Disposition::Pass,
        };
    }

    /// Removes the control frame that has just ended from the buffer.
    fn remove(&mut self, buffer: &mut [u8]) {
        // The rest moves forward: a Pong is rare, and usually the last thing in a read.
        buffer.copy_within(self.at..self.end, self.frame);
        self.end -= self.at - self.frame;
        self.at = self.frame;
    }

    /// Cuts the stream off before the current frame.
    fn cut(&mut self, lane: &mut Lane, notice: Notice) {
        if !lane.cut {
            lane.cut = true;
            // The header is cut off, too; but not what belongs to frames before it, nor what has gone on.
            let frame = self.at.saturating_sub(lane.tracker.header_size());
            self.frame = frame.max(self.start);
            self.notice = Some(notice);
        }
    }

    /// Decides where the bytes that go on end. Everything between there and the end of the buffer is
    /// either dropped or held back until more of it is there.
    fn finish(self, lane: &mut Lane, buffer: &[u8]) -> Filtered {
        // The order matters: a stream that is cut passes nothing, whatever its last frame would have
        // been; only the buffer in which it was cut passes what came before that frame.
        let cut_here = matches!(
            self.notice,
            Some(Notice::MessageTooBig | Notice::ProtocolError)
        );
        let end = match lane.disposition {
            _ if cut_here => self.frame,
            _ if lane.cut => self.start,
            // The part of our answer that is here goes no further; the rest of it is swallowed when it
            // comes.
            Disposition::Swallow => self.frame,
            Disposition::Hold => lane.hold(buffer, self.frame..self.end),
            // The buffer may end within a header, and the next bytes may reveal an answer to us, which
            // must not have gone on in part. Without an answer to expect, nothing is held back.
            Disposition::Pass if lane.expects_answer() => {
                let partial = lane.tracker.partial().min(self.end - self.start);
                lane.hold(buffer, self.end - partial..self.end)
            }
            Disposition::Pass => self.end,
        };
        Filtered {
            pass: self.start..end,
            messages: self.messages,
            notice: self.notice,
        }
    }
}

impl Lane {
    /// Holds these bytes back for the next buffer. Returns where they begin.
    fn hold(&mut self, buffer: &[u8], bytes: Range<usize>) -> usize {
        let start = bytes.start;
        let length = bytes.len();
        self.held[..length].copy_from_slice(&buffer[bytes]);
        // At most the longest header, or a Pong of ours: see HEADROOM.
        self.held_length = length as u8;
        start
    }
}

#[cfg(test)]
mod tests;
