//! The state of the frames from one side.

use std::ops::Range;

use super::{HEADROOM, PingPayload};
use crate::protocol::frame::{Masking, Tracker};

/// The frames from one side.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tracker: Tracker,
    pub(super) ping: PingState,
    /// The other side's Ping has passed, and this side has not answered it yet.
    pub(super) owes_pong: bool,
    /// This side's Close has passed.
    pub(super) closed: bool,
    /// We have sent a Close to this side: its next Close is the answer.
    pub(super) close_answer_due: bool,
    /// Nothing more from this side goes on: the other side got our Close in its place.
    pub(super) cut: bool,
    pub(super) disposition: Disposition,
    /// Bytes at the end of the last read that may be part of an answer to us.
    pub(super) held: [u8; HEADROOM],
    pub(super) held_length: u8,
}

/// The state of our Ping to a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PingState {
    Idle,
    Due(PingPayload),
    Sent(PingPayload),
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
            closed: false,
            close_answer_due: false,
            cut: false,
            disposition: Disposition::Pass,
            held: [0; HEADROOM],
            held_length: 0,
        }
    }

    /// Whether the stream has ceased to consist of valid frames.
    pub(super) fn is_unframed(&self) -> bool {
        self.tracker.error().is_some()
    }

    /// Whether this side may send an answer to a frame of ours.
    pub(super) fn expects_answer(&self) -> bool {
        self.close_answer_due || matches!(self.ping, PingState::Sent(_))
    }

    /// Holds these bytes back for the next buffer. Returns where they begin.
    pub(super) fn hold(&mut self, buffer: &[u8], bytes: Range<usize>) -> usize {
        let start = bytes.start;
        let length = bytes.len();
        self.held[..length].copy_from_slice(&buffer[bytes]);
        // At most the longest header, or a Pong of ours: see HEADROOM.
        self.held_length = length as u8;
        start
    }
}
