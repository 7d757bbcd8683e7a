//! The walk over one buffer: which of its bytes go on, are dropped or held back.

use super::lane::{Disposition, Lane, PingState};
use super::{Filtered, HEADROOM, Notice};
use crate::protocol::frame::{Control, Event, KEPT};

/// The walk over one buffer, frame by frame.
pub(super) struct BufferScan {
    start: usize,
    /// The end of what the tracker has seen.
    at: usize,
    end: usize,
    /// Where the current control frame begins, or the part of it that is in this buffer.
    frame: usize,
    pub(super) messages: u32,
    pub(super) notice: Option<Notice>,
}

impl BufferScan {
    /// Begins a walk, with the bytes that were held back of the last buffer put in front.
    #[inline]
    pub(super) fn new(lane: &mut Lane, buffer: &mut [u8], end: usize) -> Self {
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

    #[inline]
    pub(super) fn next(&mut self, lane: &mut Lane, buffer: &[u8]) -> Option<Event> {
        let (length, event) = lane.tracker.step(&buffer[self.at..self.end]);
        self.at += length;
        event
    }

    /// Decides about a control frame whose header was just read.
    pub(super) fn judge(&mut self, lane: &mut Lane, kind: Control) {
        let frame = self.at.checked_sub(lane.tracker.header_size());
        self.frame = match frame.filter(|frame| *frame >= self.start) {
            Some(frame) => frame,
            None if lane.cut => self.start,
            // It began before an answer was expected, and the first part has gone on: the rest has
            // to follow. It cannot be an answer, because what it would answer was not sent yet.
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
    pub(super) fn remove(&mut self, buffer: &mut [u8]) {
        // The rest moves forward: a Pong is rare, and usually the last thing in a read.
        buffer.copy_within(self.at..self.end, self.frame);
        self.end -= self.at - self.frame;
        self.at = self.frame;
    }

    /// Cuts the stream off before the current frame.
    pub(super) fn cut(&mut self, lane: &mut Lane, notice: Notice) {
        if !lane.cut {
            lane.cut = true;
            // The header is cut off, too; but not what belongs to frames before it, nor what has
            // gone on.
            let frame = self.at.saturating_sub(lane.tracker.header_size());
            self.frame = frame.max(self.start);
            self.notice = Some(notice);
        }
    }

    /// Decides where the bytes that go on end. Everything between there and the end of the buffer
    /// is either dropped or held back until more of it is there.
    #[inline]
    pub(super) fn finish(self, lane: &mut Lane, buffer: &[u8]) -> Filtered {
        // The order matters: a stream that is cut passes nothing, whatever its last frame would
        // have been; only the buffer in which it was cut passes what came before that frame.
        let cut_here = matches!(
            self.notice,
            Some(Notice::MessageTooBig | Notice::ProtocolError)
        );
        let end = match lane.disposition {
            _ if cut_here => self.frame,
            _ if lane.cut => self.start,
            // The part of our answer that is here goes no further; the rest of it is swallowed when
            // it comes.
            Disposition::Swallow => self.frame,
            Disposition::Hold => lane.hold(buffer, self.frame..self.end),
            // The buffer may end within a header, and the next bytes may reveal an answer to us,
            // which must not have gone on in part. Without an answer to expect, nothing is held
            // back.
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
