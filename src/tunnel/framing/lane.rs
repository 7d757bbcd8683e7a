//! The state of the frames from one side.

use std::ops::Range;

use super::PingPayload;
use crate::protocol::frame::{Control, Event, Masking, Tracker};

/// The most that is ever held back: a Pong of ours to a client, or a header of the longest form. Both
/// are held as long as they are not complete.
const MAX_HELD: usize = 14;

/// The frames from one side.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tracker: Tracker,
    pub(super) ping: PingState,
    /// The other side's Ping has passed, and this side has not answered it yet.
    pub(super) owes_pong: bool,
    /// Pings of the other side that have passed, less the Pongs since: the number of Pongs that are
    /// answers.
    pub(super) pongs_due: u16,
    /// This side's Close has passed.
    pub(super) closed: bool,
    /// No Close is awaited from this side: one has come, or nothing comes any more, or none could be
    /// recognized.
    pub(super) finished: bool,
    /// We have sent a Close to this side: its next Close is the answer.
    pub(super) close_sent: bool,
    /// Where nothing more from this side goes on: whether what has gone on ends with a frame.
    pub(super) cut: Option<Boundary>,
    pub(super) disposition: Disposition,
    /// Bytes at the end of the last read that may be part of an answer to us, or of a frame that is
    /// not to go on.
    pub(super) held: [u8; MAX_HELD],
    pub(super) held_length: u8,
}

/// The state of our Ping to a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PingState {
    Idle,
    Due(PingPayload),
    Sent(PingPayload),
}

/// Whether a place in a stream is between two frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boundary {
    BetweenFrames,
    WithinFrame,
}

/// What is to become of the control frame that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Disposition {
    Pass,
    /// It may be the Pong to our Ping: that is decided when all of its payload is there.
    Hold,
    Swallow,
}

impl Lane {
    pub(super) fn new(masking: Masking) -> Self {
        Self {
            tracker: Tracker::new(masking),
            ping: PingState::Idle,
            owes_pong: false,
            pongs_due: 0,
            closed: false,
            finished: false,
            close_sent: false,
            cut: None,
            disposition: Disposition::Pass,
            held: [0; MAX_HELD],
            held_length: 0,
        }
    }

    /// Whether the stream has ceased to consist of valid frames.
    pub(super) fn is_unframed(&self) -> bool {
        self.tracker.error().is_some()
    }

    /// Whether this side may send an answer to a frame of ours.
    pub(super) fn expects_answer(&self) -> bool {
        self.expects_close() || matches!(self.ping, PingState::Sent(_))
    }

    /// Whether the next Close of this side is the answer to ours.
    pub(super) fn expects_close(&self) -> bool {
        self.close_sent && !self.finished
    }

    /// Whether what has gone on ends with a frame, so that one of ours may follow.
    pub(super) fn passed_whole_frames(&self) -> bool {
        match self.cut {
            Some(boundary) => boundary == Boundary::BetweenFrames,
            None if self.is_unframed() => false,
            None => self.tracker.at_boundary() || self.holds_whole_start(),
        }
    }

    /// Whether the frame that is being read is held back from its first byte on.
    fn holds_whole_start(&self) -> bool {
        let held = usize::from(self.held_length);
        held > 0 && (self.disposition == Disposition::Hold || held == self.tracker.partial())
    }

    /// Whether a frame, or a message of several frames, is not complete.
    pub(super) fn is_within_message(&self) -> bool {
        !self.tracker.at_boundary() || self.tracker.in_message()
    }

    /// Lets nothing more go on from here.
    pub(super) fn cut_off(&mut self) {
        let boundary = match self.passed_whole_frames() {
            true => Boundary::BetweenFrames,
            false => Boundary::WithinFrame,
        };
        self.cut.get_or_insert(boundary);
        self.held_length = 0;
    }

    /// Notes that Pings to this side have passed.
    pub(super) fn pings_passed(&mut self, pings: u16) {
        self.owes_pong |= pings > 0;
        self.pongs_due = self.pongs_due.saturating_add(pings);
    }

    /// Follows bytes that do not go on, for the Close that may be among them.
    pub(super) fn discard(&mut self, mut bytes: &[u8]) {
        while !self.finished {
            let (length, event) = self.tracker.step(bytes);
            bytes = bytes.get(length..).unwrap_or_default();
            match event {
                Some(
                    Event::ControlEnd {
                        kind: Control::Close,
                        ..
                    }
                    | Event::Invalid(_),
                ) => self.finished = true,
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Holds these bytes back for the next buffer. Returns where they begin.
    pub(super) fn hold(&mut self, buffer: &[u8], bytes: Range<usize>) -> usize {
        let start = bytes.start;
        let length = bytes.len();
        self.held[..length].copy_from_slice(&buffer[bytes]);
        // At most MAX_HELD.
        self.held_length = length as u8;
        start
    }
}
