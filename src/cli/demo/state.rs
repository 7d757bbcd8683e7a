//! The state of a backend, which outlives stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast;

/// The number of chat messages that a slow reader may be behind by.
pub(super) const ROOM_CAPACITY: usize = 256;

/// The state of one backend.
pub(super) struct BackendState {
    /// Counted from 1.
    pub(super) number: usize,
    messages: AtomicU64,
    /// The chat room, which all backends share.
    pub(super) room: broadcast::Sender<Arc<str>>,
}

impl BackendState {
    pub(super) fn new(number: usize, room: broadcast::Sender<Arc<str>>) -> Self {
        Self {
            number,
            messages: AtomicU64::new(0),
            room,
        }
    }

    /// Counts a message that a client has sent.
    pub(super) fn count_message(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of messages from clients.
    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }
}
