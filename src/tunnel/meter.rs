//! The byte and message counters of a tunnel, kept by the tunnel itself.

use std::cell::Cell;

use super::side::Side;

// Plain cells and not atomics: a tunnel and the sweep that reads its meter live on one thread, and
// this is counted with every read.
/// A tunnel's counters. Only the tunnel writes them; its worker may read them at any time.
#[derive(Debug, Default)]
pub struct Meter {
    from_client: Cell<u64>,
    from_endpoint: Cell<u64>,
    messages_from_client: Cell<u64>,
    messages_from_endpoint: Cell<u64>,
}

impl Meter {
    /// Counts bytes that were read from `side`.
    pub fn count(&self, side: Side, bytes: usize) {
        let counter = match side {
            Side::Client => &self.from_client,
            Side::Endpoint => &self.from_endpoint,
        };
        counter.set(counter.get() + bytes as u64);
    }

    /// Bytes that came from `side` and were passed on.
    pub fn bytes(&self, side: Side) -> u64 {
        match side {
            Side::Client => self.from_client.get(),
            Side::Endpoint => self.from_endpoint.get(),
        }
    }

    /// Counts messages that began to come from `side`.
    pub fn count_messages(&self, side: Side, messages: u32) {
        let counter = match side {
            Side::Client => &self.messages_from_client,
            Side::Endpoint => &self.messages_from_endpoint,
        };
        counter.set(counter.get() + u64::from(messages));
    }

    /// Messages that came from `side`. Bytes that are not valid frames hold none.
    pub fn messages(&self, side: Side) -> u64 {
        match side {
            Side::Client => self.messages_from_client.get(),
            Side::Endpoint => self.messages_from_endpoint.get(),
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.from_client.get() + self.from_endpoint.get()
    }
}
