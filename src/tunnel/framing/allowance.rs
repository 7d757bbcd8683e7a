//! What frames cost against a limit on messages per second, and how much may still pass.

use crate::protocol::frame::Control;

/// The cost of a message, and of a control frame.
pub const MESSAGE_COST: u32 = 64;

/// The cost of a short fragment that is not empty: 64 of them cost as much as a message.
const SHORT_FRAGMENT_COST: u32 = 1;

/// Shorter fragments cost something. Longer ones are few: a limit on bytes is the one for them.
const SHORT_FRAGMENT: u64 = 1024;

/// What may pass of the bytes that have just been read from a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The cost of the frames that may pass, see [`MESSAGE_COST`].
    pub cost: u64,
    /// The bytes that may pass.
    pub bytes: u64,
}

impl Allowance {
    /// No limit.
    pub const UNLIMITED: Self = Self {
        cost: u64::MAX,
        bytes: u64::MAX,
    };
}

/// The cost of a data frame. The first of a message counts as the message. Of the others the last
/// one is free, because there is at most one for each message.
pub(super) fn of_data(begins: bool, is_last: bool, payload: u64) -> u32 {
    match payload {
        _ if begins => MESSAGE_COST,
        _ if is_last => 0,
        0 => MESSAGE_COST,
        1..SHORT_FRAGMENT => SHORT_FRAGMENT_COST,
        _ => 0,
    }
}

/// The cost of a control frame. The first Close is free: it ends the stream. So is a Pong that was
/// asked for.
pub(super) fn of_control(kind: Control, is_free_pong: bool, has_closed: bool) -> u32 {
    match kind {
        Control::Close if !has_closed => 0,
        Control::Pong if is_free_pong => 0,
        _ => MESSAGE_COST,
    }
}
