//! The exchanges of one worker: finding them, showing them, ending them.
//!
//! All of it is used by one thread, so that cells are enough: no lock, no atomic. There are at most as many as
//! requests that the connections of the worker may have under way.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::ended::StreamEnded;
use super::exchange::{Exchange, StreamOwner};
use crate::config::model::StreamLimits;
use crate::tunnel::clock::{SweepSchedule, TunnelClock};
use crate::tunnel::slots::Slots;

/// The exchanges of one worker, each with its owner: the caller's own record of it.
#[derive(Debug)]
pub struct ExchangeTable<O> {
    pub(super) entries: RefCell<Slots<Rc<Exchange<O>>>>,
    pub(super) clock: TunnelClock,
    pub(super) schedule: SweepSchedule,
}

impl<O> Default for ExchangeTable<O> {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            entries: RefCell::default(),
            clock: TunnelClock::new(now),
            schedule: SweepSchedule::new(now),
        }
    }
}

impl<O: StreamOwner> ExchangeTable<O> {
    /// Enters an exchange that belongs to `owner` and began then.
    pub fn enter(
        self: &Rc<Self>,
        owner: O,
        limits: StreamLimits,
        began: std::time::Instant,
    ) -> ExchangeSlot<O> {
        let exchange = Rc::new(Exchange::new(owner, limits, self.clock.at(began.into())));
        let key = self.entries.borrow_mut().insert(Rc::clone(&exchange));
        ExchangeSlot {
            table: Rc::clone(self),
            key,
            exchange,
        }
    }

    /// Shows about `limit` exchanges to `visit`, beginning with the slot `from`: the slot, the exchange, and for
    /// how long it has been quiet. Returns where to continue, if there is more.
    //
    // An exchange keeps its slot, so that a walk in steps neither misses nor repeats it.
    pub fn page(
        &self,
        from: usize,
        limit: usize,
        mut visit: impl FnMut(usize, &Exchange<O>, Duration),
    ) -> Option<usize> {
        let now = self.clock.at(Instant::now());
        let entries = self.entries.borrow();
        entries.walk(from, limit, |slot, exchange| {
            visit(slot, exchange, exchange.quiet(now));
        })
    }

    /// Ends the exchange in this slot, if its owner satisfies `is_same`. Returns whether it did: false if
    /// another exchange has the slot by now, or if this one was already ending.
    pub fn close(
        &self,
        slot: usize,
        reason: StreamEnded,
        is_same: impl FnOnce(&Exchange<O>) -> bool,
    ) -> bool {
        let entries = self.entries.borrow();
        let exchange = entries.get(slot).filter(|exchange| is_same(exchange));
        exchange.is_some_and(|exchange| exchange.end(reason))
    }

    /// Ends all streams for this reason, which leaves other exchanges alone.
    pub fn end_streams(&self, reason: StreamEnded) {
        self.entries.borrow().for_each(|_, exchange| {
            if exchange.is_stream() || exchange.is_event_stream() {
                exchange.end(reason);
            }
        });
    }

    /// Ends all exchanges for this reason, and gives none of them more time for that.
    pub fn cut_all(&self, reason: StreamEnded) {
        self.entries.borrow().for_each(|_, exchange| {
            exchange.end(reason);
            exchange.cut_off();
        });
    }
}

/// An exchange's slot in its worker's table. Dropping it removes the exchange from the table, and reports a stream
/// as ended.
#[derive(Debug)]
pub struct ExchangeSlot<O: StreamOwner> {
    table: Rc<ExchangeTable<O>>,
    key: usize,
    exchange: Rc<Exchange<O>>,
}

impl<O: StreamOwner> ExchangeSlot<O> {
    /// The exchange.
    pub fn exchange(&self) -> &Rc<Exchange<O>> {
        &self.exchange
    }
}

impl<O: StreamOwner> Drop for ExchangeSlot<O> {
    fn drop(&mut self) {
        self.table.entries.borrow_mut().remove(self.key);
        let exchange = &self.exchange;
        if exchange.is_stream() || exchange.verdict().is_some() {
            let now = self.table.clock.at(Instant::now());
            exchange.owner.stream_ended(exchange.finished(now));
        }
    }
}
