//! The sweep: about once a second a worker checks each of its exchanges for limits that have passed.
//!
//! An exchange has no timer of its own, for the reasons that a tunnel has none. A worker with many of them sweeps
//! them in slices.

use tokio::time::Instant;

use super::exchange::StreamOwner;
use super::table::ExchangeTable;

impl<O: StreamOwner> ExchangeTable<O> {
    /// Sweeps the next exchanges. Returns when to call this again.
    pub fn sweep_slice(&self, now: Instant) -> Instant {
        let entries = self.entries.borrow();
        let (schedule, clock) = (&self.schedule, &self.clock);
        if let Some((from, cost)) = schedule.begin(now, clock, entries.walk_cost()) {
            let time = clock.at(now);
            let next = entries.walk(from, cost, |_, exchange| exchange.sweep(time));
            schedule.end(now, clock, next);
        }
        schedule.due()
    }
}
