//! The walk over one buffer: which of its bytes go on, are dropped or held back.
//!
//! A walk ends at the first place where the stream is cut. What comes behind it in the same buffer
//! changes nothing about that, whatever it is; it is only searched for the side's Close.

use super::allowance::{self, Allowance};
use super::lane::{Boundary, Disposition, Lane, PingState};
use super::{Filtered, HEADROOM, Violation};
use crate::protocol::frame::{Control, Event, KEPT};
use crate::protocol::opcode::Opcode;

/// The walk over one buffer, frame by frame.
pub(super) struct BufferScan {
    start: usize,
    /// The end of what the tracker has seen.
    at: usize,
    end: usize,
    /// Where the current control frame begins, or the part of it that is in this buffer.
    frame: usize,
    /// Where the stream ends for the other side, if it does in this buffer.
    cut: Option<(usize, Boundary)>,
    limits: ScanLimits,
    /// Where the bytes that may pass end, if more have come.
    bytes_end: Option<usize>,
    /// Pings that passed.
    pings: u16,
    result: Filtered,
}

/// What the frames of a buffer are held to.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScanLimits {
    /// The longest message; with such a limit, bytes that are not valid frames do not pass.
    pub(super) message_bytes: Option<u64>,
    pub(super) allowance: Allowance,
}

impl BufferScan {
    /// Begins a walk, with the bytes that were held back of the last buffer put in front.
    #[inline]
    pub(super) fn new(lane: &mut Lane, buffer: &mut [u8], end: usize, limits: ScanLimits) -> Self {
        let held = usize::from(std::mem::take(&mut lane.held_length));
        let start = HEADROOM - held;
        buffer[start..HEADROOM].copy_from_slice(&lane.held[..held]);
        let more = (end - HEADROOM) as u64 > limits.allowance.bytes;
        Self {
            start,
            // The tracker has seen the bytes that were held back.
            at: HEADROOM,
            end,
            frame: start,
            cut: None,
            limits,
            // Fewer than the buffer has, so the cast loses nothing.
            bytes_end: more.then(|| HEADROOM + limits.allowance.bytes as usize),
            pings: 0,
            result: Filtered::default(),
        }
    }

    /// Walks to the end of the buffer, or to where the stream is cut.
    #[inline]
    pub(super) fn walk(&mut self, lane: &mut Lane, buffer: &mut [u8]) {
        if self.passes_too_many_bytes(lane) {
            // It is the frame under way that exceeds the limit, and its beginning has gone on.
            self.violate(None, Violation::ByteRate);
        }
        while self.cut.is_none() {
            let (length, event) = lane.tracker.step(&buffer[self.at..self.end]);
            self.at += length;
            let Some(event) = event else {
                break;
            };
            match event {
                Event::Data {
                    opcode,
                    message_bytes,
                } => self.data(lane, opcode, message_bytes),
                Event::Control(kind) => self.control(lane, kind),
                Event::ControlEnd {
                    kind,
                    length,
                    payload,
                } => self.control_end(lane, buffer, kind, (length, payload)),
                Event::Invalid(_) => {
                    lane.finished = true;
                    // Without a limit, the tunnel serves what the sides speak, even if it is not
                    // WebSocket.
                    if self.limits.message_bytes.is_some() {
                        self.violate(self.header_start(lane), Violation::ProtocolError);
                    } else if self.bytes_end.is_some() {
                        self.violate(self.header_start(lane), Violation::ByteRate);
                    }
                }
            }
        }
        // The last bytes may be the beginning of a header, which no event has shown yet. What is
        // held back does not pass.
        if self.cut.is_none() && lane.disposition == Disposition::Pass {
            let all = self.end - self.start;
            if self.bytes_end.is_some_and(|end| self.end > end) {
                let partial = lane.tracker.partial();
                let frame = (partial <= all).then_some(self.end - partial.min(all));
                self.violate(frame, Violation::ByteRate);
            }
        }
    }

    /// Whether the frame whose header was read last goes beyond the bytes that may pass.
    #[inline]
    fn passes_too_many_bytes(&self, lane: &Lane) -> bool {
        let Some(end) = self.bytes_end else {
            return false;
        };
        let left = usize::try_from(lane.tracker.payload_left()).unwrap_or(usize::MAX);
        let here = match lane.is_unframed() {
            true => self.end,
            false => self.at.saturating_add(left).min(self.end),
        };
        here > end && lane.disposition == Disposition::Pass
    }

    /// Where the frame begins whose header was read last; `None` if its beginning has gone on.
    #[inline]
    fn header_start(&self, lane: &Lane) -> Option<usize> {
        let frame = self.at.checked_sub(lane.tracker.header_size());
        frame.filter(|frame| *frame >= self.start)
    }

    #[inline]
    fn data(&mut self, lane: &mut Lane, opcode: Opcode, message_bytes: u64) {
        let begins = opcode.begins_message();
        let is_last = !lane.tracker.in_message();
        let cost = allowance::of_data(begins, is_last, lane.tracker.payload_left());
        let frame = self.header_start(lane);
        let limit = self.limits.message_bytes;
        if limit.is_some_and(|limit| message_bytes > limit) {
            self.violate(frame, Violation::MessageTooBig);
        } else if self.pay(lane, frame, cost) {
            self.result.messages += u32::from(begins);
            self.result.frames.add(opcode);
        }
    }

    /// Decides about a control frame whose header was just read.
    fn control(&mut self, lane: &mut Lane, kind: Control) {
        // Where it began before an answer was expected, its first part has gone on, and the rest
        // has to follow. It cannot be an answer, because what it would answer was not sent yet.
        let frame = self.header_start(lane);
        self.frame = frame.unwrap_or(self.start);
        // Only a Pong of this length can be ours; what cannot is not held back.
        let ours = lane.tracker.payload_left() == KEPT as u64;
        lane.disposition = match (kind, lane.ping) {
            _ if frame.is_none() => Disposition::Pass,
            (Control::Close, _) if lane.expects_close() => Disposition::Swallow,
            (Control::Pong, PingState::Sent(_)) if ours => Disposition::Hold,
            _ => Disposition::Pass,
        };
        // What may be ours costs nothing; if it is not, that shows at its end.
        if lane.disposition == Disposition::Pass {
            self.pay_for_control(lane, frame, kind);
        }
    }

    /// Charges for a control frame, or cuts the stream before it. Returns whether it may pass.
    fn pay_for_control(&mut self, lane: &mut Lane, frame: Option<usize>, kind: Control) -> bool {
        let is_due = kind == Control::Pong && lane.pongs_due > 0;
        let cost = allowance::of_control(kind, is_due, lane.closed);
        let is_paid = self.pay(lane, frame, cost);
        if is_paid && is_due {
            lane.pongs_due -= 1;
        }
        is_paid
    }

    fn control_end(
        &mut self,
        lane: &mut Lane,
        buffer: &mut [u8],
        kind: Control,
        (length, payload): (u8, [u8; KEPT]),
    ) {
        let disposition = std::mem::replace(&mut lane.disposition, Disposition::Pass);
        match (disposition, kind) {
            (Disposition::Swallow, _) => {
                lane.finished = true;
                // Nothing may follow a Close.
                self.cut_at(self.frame, true);
            }
            // By its payload: a Pong to the other side's Ping, or one that was not asked for, has
            // another one and goes on.
            (Disposition::Hold, _) if lane.ping == PingState::Sent(payload) => {
                self.remove(buffer);
                lane.ping = PingState::Idle;
                self.result.pong = true;
            }
            (Disposition::Hold, _) => {
                if self.pay_for_control(lane, Some(self.frame), kind) {
                    self.result.frames.add(kind.into());
                }
                lane.owes_pong = false;
            }
            (Disposition::Pass, kind) => {
                self.result.frames.add(kind.into());
                match kind {
                    Control::Close => {
                        (lane.closed, lane.finished) = (true, true);
                        self.result.close.get_or_insert(code_of(length, payload));
                    }
                    Control::Ping => self.pings = self.pings.saturating_add(1),
                    Control::Pong => lane.owes_pong = false,
                }
            }
        }
    }

    /// Removes the control frame that has just ended from the buffer.
    fn remove(&mut self, buffer: &mut [u8]) {
        // The rest moves forward: a Pong is rare, and usually the last thing in a read.
        buffer.copy_within(self.at..self.end, self.frame);
        let removed = self.at - self.frame;
        self.end -= removed;
        self.at = self.frame;
        // It counts as read, although it does not go on.
        if let Some(end) = &mut self.bytes_end {
            *end = end.saturating_sub(removed);
        }
    }

    /// Charges for the frame that begins at `frame`, or cuts the stream before it. Returns whether
    /// it may pass.
    #[inline]
    fn pay(&mut self, lane: &Lane, frame: Option<usize>, cost: u32) -> bool {
        let total = self.result.cost.saturating_add(cost);
        if cost > 0 && u64::from(total) > self.limits.allowance.cost {
            self.violate(frame, Violation::MessageRate);
            return false;
        }
        if self.passes_too_many_bytes(lane) {
            self.violate(frame, Violation::ByteRate);
            return false;
        }
        self.result.cost = total;
        true
    }

    /// Cuts the stream off before the frame that begins at `frame`, or within the frame whose
    /// beginning has gone on.
    fn violate(&mut self, frame: Option<usize>, violation: Violation) {
        self.result.violation = Some(violation);
        self.cut_at(frame.unwrap_or(self.start), frame.is_some());
    }

    fn cut_at(&mut self, at: usize, between_frames: bool) {
        let boundary = match between_frames {
            true => Boundary::BetweenFrames,
            false => Boundary::WithinFrame,
        };
        self.cut = Some((at, boundary));
    }

    /// Decides where the bytes that go on end. Everything between there and the end of the buffer
    /// is either dropped or held back until more of it is there. Returns also the Pings that passed.
    #[inline]
    pub(super) fn finish(self, lane: &mut Lane, buffer: &[u8]) -> (Filtered, u16) {
        let end = match (self.cut, lane.disposition) {
            (Some((at, boundary)), _) => {
                lane.cut = Some(boundary);
                lane.discard(&buffer[self.at..self.end]);
                at
            }
            // The part of our answer that is here goes no further; the rest of it is swallowed when
            // it comes.
            (None, Disposition::Swallow) => self.frame,
            (None, Disposition::Hold) => lane.hold(buffer, self.frame..self.end),
            // The buffer may end within a header, and the next bytes may reveal an answer to us, or
            // a frame beyond a limit, which must not have gone on in part. Where neither is
            // expected, nothing is held back.
            (None, Disposition::Pass)
                if self.limits.message_bytes.is_some() || lane.expects_answer() =>
            {
                let partial = lane.tracker.partial().min(self.end - self.start);
                lane.hold(buffer, self.end - partial..self.end)
            }
            (None, Disposition::Pass) => self.end,
        };
        let filtered = Filtered {
            pass: self.start..end,
            ..self.result
        };
        (filtered, self.pings)
    }
}

/// The code of a Close that has none (RFC 6455 section 7.1.5).
const NO_CODE: u16 = 1005;

fn code_of(length: u8, payload: [u8; KEPT]) -> u16 {
    if length < 2 {
        NO_CODE
    } else {
        u16::from_be_bytes([payload[0], payload[1]])
    }
}
