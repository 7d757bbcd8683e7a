//! What clients do next, in a list for each tick: four bytes for each event.

/// Future events of clients.
pub(super) struct Agenda {
    ends: Vec<Vec<u32>>,
    returns: Vec<Vec<u32>>,
}

impl Agenda {
    /// An agenda of this many ticks. What would happen later is dropped.
    pub(super) fn new(ticks: u32) -> Self {
        let lists = || vec![Vec::new(); ticks as usize];
        Self {
            ends: lists(),
            returns: lists(),
        }
    }

    /// The client ends at this tick.
    pub(super) fn end(&mut self, client: u32, at: u32) {
        push(&mut self.ends, client, at);
    }

    /// The client reconnects at this tick.
    pub(super) fn come_back(&mut self, client: u32, at: u32) {
        push(&mut self.returns, client, at);
    }

    pub(super) fn take_ends(&mut self, now: u32) -> Vec<u32> {
        take(&mut self.ends, now)
    }

    pub(super) fn take_returns(&mut self, now: u32) -> Vec<u32> {
        take(&mut self.returns, now)
    }
}

fn push(lists: &mut [Vec<u32>], client: u32, at: u32) {
    if let Some(list) = lists.get_mut(at as usize) {
        list.push(client);
    }
}

fn take(lists: &mut [Vec<u32>], now: u32) -> Vec<u32> {
    lists
        .get_mut(now as usize)
        .map(std::mem::take)
        .unwrap_or_default()
}
