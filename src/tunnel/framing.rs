//! What framing makes possible: messages counted and held to a limit, and frames of our own between
//! theirs.
//!
//! Pure: sees bytes on their way from one side to the other, and says which of them go on. All do,
//! but for the answers to what we sent ourselves, which are nobody else's business. Frames of ours
//! go only where a frame has just ended. A stream that is no framing is left alone: then nothing is
//! known, and nothing is added.

use std::ops::Range;

use super::side::Side;
use crate::protocol::frame::{Control, Event, Frame, KEPT, Masking, Tracker};

/// Free bytes that [`Framing::filter`] needs in front of what it is given.
pub const HEADROOM: usize = 16;

/// What an endpoint is told, whatever the reason: some refuse other codes.
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
    /// What our Close frames say besides their codes.
    reason: Box<str>,
    max_message_bytes: Option<u64>,
}

/// The frames from one side.
#[derive(Debug)]
struct Lane {
    tracker: Tracker,
    ping: PingState,
    /// The other side's Ping has passed, and this side has not answered yet.
    owes_pong: bool,
    /// This side's Close has passed.
    closed: bool,
    /// A Close of this side is the answer to ours.
    close_answer_due: bool,
    /// Nothing more of this side goes on.
    cut: bool,
    disposition: Disposition,
    /// Bytes that may be part of an answer to us.
    held: [u8; HEADROOM],
    held_length: u8,
}

/// Our Ping to a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PingState {
    Idle,
    Due(PingPayload),
    Sent(PingPayload),
}

/// What becomes of the control frame at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disposition {
    Pass,
    /// It may be the Pong to our Ping.
    Hold,
    Swallow,
}

/// How far our own closing handshakes have come: the client's first, then the endpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClosePhase {
    Open,
    SendToClient { code: u16 },
    AwaitClient,
    SendToEndpoint,
    AwaitEndpoint,
    Done,
}

/// What comes of bytes that were filtered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filtered {
    /// Where in the buffer those that go on are.
    pub pass: Range<usize>,
    /// Messages that began.
    pub messages: u32,
    /// What happened besides.
    pub notice: Option<Notice>,
}

/// Something that the tunnel has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A Close has passed, the first of its side.
    Close {
        /// Its code, or 1005.
        code: u16,
    },
    /// Our Ping was answered.
    Pong,
    /// From here on this side's stream is no framing.
    Unframed,
    /// A message is longer than the limit; it does not go on.
    MessageTooBig,
    /// No framing, where there is a limit: it would be the way around that.
    ProtocolError,
}

impl Framing {
    /// Of a tunnel at its beginning; longer messages than `max_message_bytes` bytes end it.
    pub fn new(max_message_bytes: Option<u64>) -> Self {
        Self {
            from_client: Lane::new(Masking::Required),
            from_endpoint: Lane::new(Masking::Forbidden),
            closing: ClosePhase::Open,
            reason: Box::default(),
            max_message_bytes,
        }
    }

    /// Looks at `buffer[HEADROOM..end]`, the next bytes from side `from`.
    pub fn filter(&mut self, from: Side, buffer: &mut [u8], end: usize) -> Filtered {
        let limit = self.max_message_bytes;
        let (lane, other) = match from {
            Side::Client => (&mut self.from_client, &mut self.from_endpoint),
            Side::Endpoint => (&mut self.from_endpoint, &mut self.from_client),
        };
        let mut scan = BufferScan::new(lane, buffer, end);
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

    /// Wants a Ping to go to `side` when it can.
    pub fn ping(&mut self, side: Side, payload: PingPayload) {
        let lane = self.lane(side);
        if lane.ping == PingState::Idle {
            lane.ping = PingState::Due(payload);
        }
    }

    /// Wants to close both sides: the client with `code`, if it is to be told, then the endpoint;
    /// both for this reason, which has at most 123 bytes (RFC 6455 section 5.5).
    /// There is nothing to say where a closing handshake has begun without us, or where what goes to
    /// them is no framing.
    pub fn close(&mut self, code: Option<u16>, reason: &str) {
        if self.closing != ClosePhase::Open {
            return;
        }
        let begun = self.from_client.closed || self.from_endpoint.closed;
        // Where there is a limit, nothing that is no framing has gone on: the client can be told.
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

    /// Whether we are closing, or have closed.
    pub fn is_closing(&self) -> bool {
        self.closing != ClosePhase::Open
    }

    /// Whether nothing is left to say to either side.
    pub fn has_closed(&self) -> bool {
        self.closing == ClosePhase::Done
    }

    /// Nothing more comes from `side`: its answer is not waited for.
    pub fn side_is_done(&mut self, side: Side) {
        self.closing = match (self.closing, side) {
            (ClosePhase::AwaitClient, Side::Client) => ClosePhase::SendToEndpoint,
            (ClosePhase::AwaitEndpoint, Side::Endpoint) => ClosePhase::Done,
            (other, _) => other,
        };
    }

    /// Nothing more can go to `side`: it will not be told.
    pub fn give_up(&mut self, side: Side) {
        self.closing = match (self.closing, side) {
            (ClosePhase::SendToClient { .. }, Side::Client) => ClosePhase::SendToEndpoint,
            (ClosePhase::SendToEndpoint, Side::Endpoint) => ClosePhase::Done,
            (other, _) => other,
        };
        self.lane(side).ping = PingState::Idle;
    }

    /// Whether there is a frame of ours for `side`, now or later.
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

    /// A frame of ours that goes to `side` now. Only to be asked for when nothing is unwritten in
    /// that direction. `mask` is what a frame towards an endpoint is masked with; unpredictable.
    pub fn inject(&mut self, to: Side, mask: [u8; 4]) -> Option<Frame> {
        let on_the_way = &self.lane(to.other()).tracker;
        if on_the_way.fault().is_some() || !on_the_way.at_boundary() {
            return None;
        }
        let mask = (to == Side::Endpoint).then_some(mask);
        match (self.closing, to) {
            (ClosePhase::SendToClient { code }, Side::Client) => {
                // The answer of a client whose stream is no framing cannot be told from anything, and
                // nobody knows where a Close for the endpoint could stand.
                self.closing = match self.from_client.is_unframed() {
                    true => ClosePhase::Done,
                    false => ClosePhase::AwaitClient,
                };
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

    /// None while theirs is unanswered: only the latest has to be answered (RFC 6455 section 5.5.3),
    /// so ours would take its place. None after a Close.
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

    /// Whether a stream is no framing: nothing is known of it any more.
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

    /// Whether it is no framing.
    fn is_unframed(&self) -> bool {
        self.tracker.fault().is_some()
    }

    /// Whether an answer to us may come.
    fn expects_answer(&self) -> bool {
        self.close_answer_due || matches!(self.ping, PingState::Sent(_))
    }
}

/// One buffer on its way through a lane.
struct BufferScan {
    start: usize,
    /// What the tracker has seen.
    at: usize,
    end: usize,
    /// Where the control frame at hand begins, or what of it is in this buffer.
    frame: usize,
    messages: u32,
    notice: Option<Notice>,
}

impl BufferScan {
    /// Puts what was held back in front.
    fn new(lane: &mut Lane, buffer: &mut [u8], end: usize) -> Self {
        let held = usize::from(std::mem::take(&mut lane.held_length));
        let start = HEADROOM - held;
        buffer[start..HEADROOM].copy_from_slice(&lane.held[..held]);
        Self {
            start,
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

    /// Decides about a control frame whose header has been read.
    fn judge(&mut self, lane: &mut Lane, kind: Control) {
        let frame = self.at.checked_sub(lane.tracker.header_size());
        self.frame = match frame.filter(|frame| *frame >= self.start) {
            Some(frame) => frame,
            None if lane.cut => self.start,
            // It began before we were watching and has gone on in part: all of it has to.
            None => return,
        };
        let ours = lane.tracker.payload_left() == KEPT as u64;
        lane.disposition = match (kind, lane.ping) {
            (Control::Close, _) if lane.close_answer_due => Disposition::Swallow,
            (Control::Pong, PingState::Sent(_)) if ours && !lane.cut => Disposition::Hold,
            _ => Disposition::Pass,
        };
    }

    /// Takes the control frame that has just ended out of the buffer.
    fn remove(&mut self, buffer: &mut [u8]) {
        buffer.copy_within(self.at..self.end, self.frame);
        self.end -= self.at - self.frame;
        self.at = self.frame;
    }

    /// Lets nothing go on from the frame at hand.
    fn cut(&mut self, lane: &mut Lane, notice: Notice) {
        if !lane.cut {
            lane.cut = true;
            let frame = self.at.saturating_sub(lane.tracker.header_size());
            self.frame = frame.max(self.start);
            self.notice = Some(notice);
        }
    }

    fn finish(self, lane: &mut Lane, buffer: &[u8]) -> Filtered {
        let cut_here = matches!(
            self.notice,
            Some(Notice::MessageTooBig | Notice::ProtocolError)
        );
        let end = match lane.disposition {
            _ if cut_here => self.frame,
            _ if lane.cut => self.start,
            Disposition::Swallow => self.frame,
            Disposition::Hold => lane.hold(buffer, self.frame..self.end),
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
    /// Keeps these bytes for later; tells where they begin.
    fn hold(&mut self, buffer: &[u8], bytes: Range<usize>) -> usize {
        let start = bytes.start;
        let length = bytes.len();
        self.held[..length].copy_from_slice(&buffer[bytes]);
        // At most the longest header, or a Pong of ours.
        self.held_length = length as u8;
        start
    }
}

#[cfg(test)]
mod tests;
