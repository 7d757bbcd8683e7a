//! The open tunnels of one worker: finding them, showing them, ending them.
//!
//! All of it is used by one thread, so that cells are enough: no lock, no atomic.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::ended::{CloseMessage, Ended};
use super::entry::{SWEEPS_TO_CLOSE, TunnelEntry};
use super::liveness::{Liveness, Micros};
use super::rates::Debt;
use super::side::Side;
use super::unwritten::{RemainderAccount, Remainders};
use crate::config::model::TunnelLimits;

/// The open tunnels of one worker, each with its owner: the caller's own record of it.
#[derive(Debug)]
pub struct TunnelTable<O = ()> {
    pub(super) entries: RefCell<Slab<Occupant<O>>>,
    // What only some tunnels need is here and not in their entries: most routes have no such
    // limits, and without it an entry fits a small size class of the allocator.
    /// What clients owe, for tunnels with a rate limit.
    pub(super) debts: RefCell<HashMap<usize, Debt>>,
    /// When tunnels reach `max_age`, for those that have one.
    pub(super) deadlines: RefCell<HashMap<usize, Micros>>,
    /// When sides were last heard and asked, for tunnels with `ping`.
    pub(super) liveness: RefCell<HashMap<usize, Liveness>>,
    /// What the Close frame is to say, for tunnels that are closed on purpose.
    close_messages: RefCell<HashMap<usize, Rc<CloseMessage>>>,
    /// What tunnels have read and not yet written.
    remainders: Rc<Remainders>,
    /// The origin of [`Micros`]: a time kept relative to it has half the size of an [`Instant`].
    began: Instant,
}

#[derive(Debug)]
pub(super) struct Occupant<O> {
    pub(super) entry: Rc<TunnelEntry>,
    owner: Rc<O>,
}

impl<O> Default for TunnelTable<O> {
    fn default() -> Self {
        Self {
            entries: RefCell::default(),
            debts: RefCell::default(),
            deadlines: RefCell::default(),
            liveness: RefCell::default(),
            close_messages: RefCell::default(),
            remainders: Rc::default(),
            began: Instant::now(),
        }
    }
}

impl<O> TunnelTable<O> {
    /// Enters a tunnel that belongs to `owner`.
    pub fn enter(self: &Rc<Self>, limits: Arc<TunnelLimits>, owner: Rc<O>) -> TableSlot<O> {
        let now = self.micros(Instant::now());
        let (max_age, ping) = (limits.max_age, limits.ping);
        let entry = Rc::new(TunnelEntry::new(limits, now));
        let occupant = Occupant {
            entry: Rc::clone(&entry),
            owner,
        };
        let key = self.entries.borrow_mut().insert(occupant);
        if let Some(max_age) = max_age {
            // The jitter is drawn once, so that tunnels opened together do not end together.
            let age = max_age.of(fastrand::f64()).as_micros() as Micros;
            self.deadlines
                .borrow_mut()
                .insert(key, now.saturating_add(age));
        }
        if ping.is_some() {
            self.liveness.borrow_mut().insert(key, Liveness::new(now));
        }
        TableSlot {
            table: Rc::clone(self),
            key,
            entry,
        }
    }

    /// The number of open tunnels.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether no tunnel is open.
    pub fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    /// Shows all tunnels to `visit`.
    pub fn for_each(&self, mut visit: impl FnMut(&TunnelEntry, &O)) {
        for (_, Occupant { entry, owner }) in self.entries.borrow().iter() {
            visit(entry, owner);
        }
    }

    /// Shows to `visit` the tunnels in the next `limit` slots beginning with `from`: the slot, the
    /// entry, for how long the tunnel has been quiet, and its owner. Returns where to continue, if
    /// there is more.
    //
    // By slots and not by tunnels: a step has a bounded cost however sparse the table is, and a
    // tunnel that stays open keeps its slot, so that a walk in steps neither misses nor repeats it.
    pub fn page(
        &self,
        from: usize,
        limit: usize,
        mut visit: impl FnMut(usize, &TunnelEntry, Duration, &O),
    ) -> Option<usize> {
        let now = self.micros(Instant::now());
        let entries = self.entries.borrow();
        let end = from.saturating_add(limit).min(entries.capacity());
        for slot in from..end {
            if let Some(Occupant { entry, owner }) = entries.get(slot) {
                visit(slot, entry, entry.quiet(now), owner);
            }
        }
        (end < entries.capacity()).then_some(end)
    }

    /// Ends the tunnel in this slot with `message`, if its owner satisfies `is_same`. Returns
    /// whether it did: false if another tunnel has the slot by now, or if this one was already
    /// ending.
    pub fn close(
        &self,
        slot: usize,
        message: &Rc<CloseMessage>,
        is_same: impl FnOnce(&O) -> bool,
    ) -> bool {
        let entries = self.entries.borrow();
        let occupant = entries
            .get(slot)
            .filter(|occupant| is_same(&occupant.owner));
        let Some(Occupant { entry, .. }) =
            occupant.filter(|occupant| occupant.entry.verdict().is_none())
        else {
            return false;
        };

        self.close_messages
            .borrow_mut()
            .insert(slot, Rc::clone(message));
        entry.end(message.ended);
        true
    }

    /// The memory that bytes take which tunnels have read and not yet written.
    pub fn unwritten_bytes(&self) -> usize {
        self.remainders.total()
    }

    /// Ends up to `count` of the tunnels with the largest unwritten remainders, until those that
    /// were ended hold `enough` bytes. Returns how many bytes they hold. Tunnels that are ending
    /// already are passed over, and count as if they had been ended here.
    //
    // The cost is one look at each direction that is waiting, of 16 bytes side by side in memory.
    pub fn end_largest_unwritten(&self, enough: usize, count: usize, reason: Ended) -> usize {
        let entries = self.entries.borrow();
        let mut held = 0;
        for size in self.remainders.largest(count) {
            if held >= enough {
                break;
            }
            if let Some(Occupant { entry, .. }) = entries.get(size.slot) {
                entry.end(reason);
                held += size.bytes;
            }
        }
        held
    }

    pub(super) fn micros(&self, now: Instant) -> Micros {
        // Enough for half a million years.
        now.duration_since(self.began).as_micros() as Micros
    }

    /// Cuts off the tunnels that have been ended: they get no more time to end in order.
    pub fn cut_all(&self) {
        for (_, Occupant { entry, .. }) in self.entries.borrow().iter() {
            entry.overdue.set(SWEEPS_TO_CLOSE);
            entry.wake();
        }
    }

    /// Ends all tunnels for this reason.
    pub fn end_all(&self, reason: Ended) {
        for (_, Occupant { entry, .. }) in self.entries.borrow().iter() {
            entry.end(reason);
        }
    }
}

/// The record of a tunnel that learns what is observed while the tunnel is open.
pub trait TunnelOwner {
    /// `side` has answered a Ping, `after` this time.
    fn ping_answered(&self, side: Side, after: Duration);
}

impl TunnelOwner for () {
    fn ping_answered(&self, _side: Side, _after: Duration) {}
}

/// A tunnel's slot in its worker's table. Dropping it removes the tunnel from the table.
#[derive(Debug)]
pub struct TableSlot<O = ()> {
    table: Rc<TunnelTable<O>>,
    key: usize,
    entry: Rc<TunnelEntry>,
}

impl<O> TableSlot<O> {
    /// The state shared with the table.
    pub fn entry(&self) -> &Rc<TunnelEntry> {
        &self.entry
    }

    /// Where the tunnel accounts for what it keeps.
    pub(super) fn remainder_account(&self) -> RemainderAccount<'_> {
        RemainderAccount {
            remainders: &self.table.remainders,
            slot: self.key,
        }
    }

    /// Notes that a Ping has gone to `side`.
    pub fn ping_sent(&self, side: Side) {
        let now = self.table.micros(Instant::now());
        if let Some(state) = self.table.liveness.borrow_mut().get_mut(&self.key) {
            state.ping_sent(side, now);
        }
    }

    /// Notes that `side` has answered the Ping.
    pub fn pong_received(&self, side: Side)
    where
        O: TunnelOwner,
    {
        let now = self.table.micros(Instant::now());
        let mut liveness = self.table.liveness.borrow_mut();
        let took = liveness
            .get_mut(&self.key)
            .and_then(|state| state.pong_received(side, now));
        let entries = self.table.entries.borrow();
        if let (Some(took), Some(occupant)) = (took, entries.get(self.key)) {
            occupant.owner.ping_answered(side, took);
        }
    }

    /// What the Close frame is to say, if the tunnel is being closed on purpose.
    pub fn close_message(&self) -> Option<Rc<CloseMessage>> {
        self.table.close_messages.borrow().get(&self.key).cloned()
    }

    /// Charges what has come from the client against its rate limits: may end or pause the tunnel.
    pub fn pace(&self, bytes: usize, messages: u32) {
        let limits = &self.entry.limits;
        // Most tunnels have no such limit; they must not pay for a clock and a map with every read.
        if limits.messages.is_none() && limits.bytes.is_none() {
            return;
        }
        let now = self.table.micros(Instant::now());
        let mut debts = self.table.debts.borrow_mut();
        let debt = debts.entry(self.key).or_default();
        debt.charge(&self.entry, now, bytes, messages);
    }
}

impl<O> Drop for TableSlot<O> {
    fn drop(&mut self) {
        // The slab gives the slot to the next tunnel: whatever the maps hold under this key has to
        // go with it. The limits say which maps that can be.
        self.table.entries.borrow_mut().try_remove(self.key);
        let limits = &self.entry.limits;
        if limits.messages.is_some() || limits.bytes.is_some() {
            self.table.debts.borrow_mut().remove(&self.key);
        }
        if limits.max_age.is_some() {
            self.table.deadlines.borrow_mut().remove(&self.key);
        }
        if limits.ping.is_some() {
            self.table.liveness.borrow_mut().remove(&self.key);
        }
        if self.entry.verdict().is_some_and(Ended::is_on_purpose) {
            self.table.close_messages.borrow_mut().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(table: &Rc<TunnelTable>) -> TableSlot {
        table.enter(Arc::default(), Rc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn pages_show_every_tunnel_and_close_only_the_one_named() {
        let table = Rc::new(TunnelTable::<u32>::default());
        let enter = |owner| table.enter(Arc::new(TunnelLimits::default()), Rc::new(owner));
        let mut slots: Vec<TableSlot<u32>> = (0..10).map(enter).collect();
        slots.remove(4);
        let mut seen = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            next = table.page(from, 3, |slot, _, _, owner| seen.push((slot, *owner)));
        }
        let expected: Vec<(usize, u32)> = (0..10)
            .filter(|n| *n != 4)
            .map(|n| (n as usize, n))
            .collect();
        assert_eq!(seen, expected);
        // The slot has another owner by now.
        slots.push(enter(77));
        let message = Rc::new(CloseMessage {
            ended: Ended::Killed,
            code: 4000,
            reason: "moved".into(),
        });
        assert!(!table.close(4, &message, |owner| *owner == 4));
        assert!(table.close(4, &message, |owner| *owner == 77));
        assert!(
            !table.close(4, &message, |owner| *owner == 77),
            "it has ended already"
        );
        let killed = slots.last().unwrap();
        assert_eq!(killed.entry().verdict(), Some(Ended::Killed));
        assert_eq!(killed.close_message(), Some(message));
        drop(slots);
        assert!(table.close_messages.borrow().is_empty());
    }

    #[tokio::test]
    async fn the_first_verdict_stands_and_dropped_slots_are_free() {
        let table = Rc::new(TunnelTable::<()>::default());
        let (one, two) = (slot(&table), slot(&table));
        one.entry().end(Ended::Idle);
        table.end_all(Ended::Shutdown);
        assert_eq!(one.entry().verdict(), Some(Ended::Idle));
        assert_eq!(two.entry().verdict(), Some(Ended::Shutdown));
        drop(one);
        assert_eq!(table.len(), 1);
        drop(two);
        assert!(table.is_empty());
    }
}
