//! The open tunnels of one worker: finding them, showing them, ending them.
//!
//! All of it is used by one thread, so that cells are enough: no lock, no atomic.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bindings::{Bindings, TunnelBinding};
use super::clock::{SweepSchedule, TunnelClock};
use super::ended::{CloseMessage, Ended};
use super::entry::{Flags, Hundredths, TunnelEntry, hundredths_of};
use super::framing::Allowance;
use super::liveness::Micros;
use super::meter::Meter;
use super::rates::Debt;
use super::side::Side;
use super::slots::Slots;
use super::turn::TurnBudget;
use super::unwritten::{RemainderAccount, Remainders};
use crate::config::model::TunnelLimits;
use crate::protocol::certificate::CertificateKey;
use crate::protocol::opcode::FrameCounts;

/// The open tunnels of one worker, each with its owner: the caller's own record of it.
#[derive(Debug)]
pub struct TunnelTable<O = ()> {
    pub(super) entries: RefCell<Slots<Occupant<O>>>,
    /// What tunnels have read and not yet written.
    remainders: Rc<Remainders>,
    /// The slot from which on a sum over all tunnels has not seen them yet, while one is being
    /// formed.
    unseen_from: Cell<usize>,
    turn: TurnBudget,
    pub(super) bindings: Bindings,
    pub(super) clock: TunnelClock,
    pub(super) schedule: SweepSchedule,
}

#[derive(Debug)]
pub(super) struct Occupant<O> {
    pub(super) entry: Rc<TunnelEntry>,
    owner: Rc<O>,
}

impl<O> Default for TunnelTable<O> {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            entries: RefCell::default(),
            remainders: Rc::default(),
            unseen_from: Cell::new(usize::MAX),
            turn: TurnBudget::default(),
            bindings: Bindings::default(),
            clock: TunnelClock::new(now),
            schedule: SweepSchedule::new(now),
        }
    }
}

impl<O> TunnelTable<O> {
    /// Enters a tunnel that belongs to `owner`.
    pub fn enter(self: &Rc<Self>, limits: Arc<TunnelLimits>, owner: Rc<O>) -> TableSlot<O> {
        let now = self.clock.at(Instant::now());
        let entry = Rc::new(TunnelEntry::new(limits, now));
        let occupant = Occupant {
            entry: Rc::clone(&entry),
            owner: Rc::clone(&owner),
        };
        let key = self.entries.borrow_mut().insert(occupant);
        TableSlot {
            table: Rc::clone(self),
            key: u32::try_from(key).unwrap_or(u32::MAX),
            quiet_before_end: Cell::default(),
            entry,
            owner,
        }
    }

    /// The number of open tunnels.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether no tunnel is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows to `visit` the meters of about `limit` tunnels, beginning with the slot `from`: the
    /// next step of a sum over all tunnels, which begins at 0. Returns where to continue, if there
    /// is more.
    ///
    /// A tunnel that ends before it was seen has to be added by its owner: see
    /// [`TableSlot::is_unseen`].
    pub fn sum_step(
        &self,
        from: usize,
        limit: usize,
        mut visit: impl FnMut(&Meter, &O),
    ) -> Option<usize> {
        let entries = self.entries.borrow();
        let next = entries.walk(from, limit, |_, Occupant { entry, owner }| {
            visit(&entry.meter, owner);
        });
        self.unseen_from.set(next.unwrap_or(usize::MAX));
        next
    }

    /// Shows about `limit` tunnels to `visit`, beginning with the slot `from`: the slot, the entry,
    /// for how long the tunnel has been quiet, and its owner. Returns where to continue, if there
    /// is more.
    //
    // A tunnel that stays open keeps its slot, so that a walk in steps neither misses nor repeats
    // it.
    pub fn page(
        &self,
        from: usize,
        limit: usize,
        mut visit: impl FnMut(usize, &TunnelEntry, Duration, &O),
    ) -> Option<usize> {
        let now = self.clock.at(Instant::now());
        let entries = self.entries.borrow();
        entries.walk(from, limit, |slot, Occupant { entry, owner }| {
            visit(slot, entry, entry.quiet(now), owner);
        })
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
            occupant.filter(|occupant| occupant.entry.may_end(message.ended))
        else {
            return false;
        };

        entry.set_close_message(message);
        entry.end(message.ended)
    }

    /// Whether the tunnel in this slot is open, and its owner satisfies `is_same`.
    pub fn is_open(&self, slot: usize, is_same: impl FnOnce(&O) -> bool) -> bool {
        let entries = self.entries.borrow();
        entries.get(slot).is_some_and(|it| is_same(&it.owner))
    }

    /// What the tunnel in this slot is bound to.
    pub fn binding(&self, slot: usize) -> TunnelBinding {
        self.bindings.get(slot)
    }

    /// Whether the tunnel in this slot was opened with a client certificate whose chain satisfies `is_wanted`.
    pub fn has_certificate(
        &self,
        slot: usize,
        is_wanted: impl FnOnce(&[CertificateKey]) -> bool,
    ) -> bool {
        self.bindings.has_certificate(slot, is_wanted)
    }

    /// Moves the end of the tunnel in this slot, if it has one and its owner satisfies `is_same`. Returns whether
    /// it did.
    pub fn extend(&self, slot: usize, ends: NonZeroU32, is_same: impl FnOnce(&O) -> bool) -> bool {
        let entries = self.entries.borrow();
        let occupant = entries.get(slot).filter(|it| is_same(&it.owner));
        let binding = self.bindings.get(slot);
        let may_move = binding.ends.is_some()
            && occupant.is_some_and(|occupant| occupant.entry.verdict().is_none());
        if may_move {
            let ends = Some(ends);
            self.bindings.set(slot, TunnelBinding { ends, ..binding });
        }
        may_move
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

    /// Lets tunnels with much to move on, some in each turn, as long as this is polled. It never
    /// completes.
    pub async fn take_turns(&self) {
        self.turn.attend().await;
    }

    /// Cuts off the tunnels that have been ended: they get no more time to end in order.
    pub fn cut_all(&self) {
        self.entries.borrow().for_each(|_, Occupant { entry, .. }| {
            entry.cut_off();
        });
    }

    /// Ends all tunnels for this reason.
    pub fn end_all(&self, reason: Ended) {
        self.entries.borrow().for_each(|_, Occupant { entry, .. }| {
            entry.end(reason);
        });
    }
}

/// The record of a tunnel that learns what is observed while the tunnel is open.
pub trait TunnelOwner {
    /// `side` has answered a Ping, `after` this time.
    fn ping_answered(&self, side: Side, after: Duration);

    /// These frames of `side` have gone on. It is called with every read that has some, so it must cost nothing
    /// but the counting.
    fn frames_passed(&self, side: Side, frames: &FrameCounts);
}

impl TunnelOwner for () {
    fn ping_answered(&self, _side: Side, _after: Duration) {}

    fn frames_passed(&self, _side: Side, _frames: &FrameCounts) {}
}

/// A tunnel's slot in its worker's table. Dropping it removes the tunnel from the table.
#[derive(Debug)]
pub struct TableSlot<O = ()> {
    table: Rc<TunnelTable<O>>,
    /// The number of the slot: there are fewer descriptors than 32 bits count.
    key: u32,
    /// For how long no byte had come when a side ended its stream, unless one has come since.
    quiet_before_end: Cell<Hundredths>,
    entry: Rc<TunnelEntry>,
    owner: Rc<O>,
}

impl<O> TableSlot<O> {
    /// The caller's own record of the tunnel.
    pub fn owner(&self) -> &Rc<O> {
        &self.owner
    }

    /// The state shared with the table.
    pub fn entry(&self) -> &Rc<TunnelEntry> {
        &self.entry
    }

    /// The number of the slot.
    pub fn place(&self) -> u32 {
        self.key
    }

    /// Binds the tunnel to a credential.
    pub fn bind(&self, binding: TunnelBinding) {
        self.table.bindings.set(self.key as usize, binding);
    }

    /// Binds the tunnel to the client certificate with this chain.
    pub fn bind_certificate(&self, chain: &[CertificateKey]) {
        let slot = self.key as usize;
        self.table.bindings.set_certificate(slot, chain);
    }

    /// The turns of the worker.
    pub(super) fn turn(&self) -> &TurnBudget {
        &self.table.turn
    }

    /// Where the tunnel accounts for what it keeps.
    pub(super) fn remainder_account(&self) -> RemainderAccount<'_> {
        RemainderAccount {
            remainders: &self.table.remainders,
            slot: self.key as usize,
        }
    }

    /// Whether a sum over all tunnels is being formed that has not seen this one: see
    /// [`TunnelTable::sum_step`].
    pub fn is_unseen(&self) -> bool {
        self.key as usize >= self.table.unseen_from.get()
    }

    /// Notes that one side has ended: from the next sweep on, `half_closed` is the limit.
    //
    // To that limit the end is activity. It is not a byte: a tunnel that was cut after a minute
    // without one must show that minute.
    pub fn set_half_closed(&self) {
        if !self.entry.is_half_closed() {
            self.quiet_before_end.set(hundredths_of(self.quiet()));
            self.entry.set_half_closed();
        }
    }

    /// Notes that bytes have come after one side had ended.
    pub(super) fn forget_quiet_before_end(&self) {
        self.quiet_before_end.set(0);
    }

    /// For how long no byte has come from either side. Accurate to a sweep.
    pub fn quiet(&self) -> Duration {
        let now = self.table.clock.at(Instant::now());
        self.entry.quiet(now) + Duration::from_millis(10) * self.quiet_before_end.get()
    }

    /// Notes that a Ping has gone to `side`.
    pub fn ping_sent(&self, side: Side) {
        let now = self.table.clock.at(Instant::now());
        self.entry
            .with_liveness(|liveness| liveness.ping_sent(side, now));
    }

    /// Notes that `side` has answered the Ping.
    pub fn pong_received(&self, side: Side)
    where
        O: TunnelOwner,
    {
        let now = self.table.clock.at(Instant::now());
        let took = self
            .entry
            .with_liveness(|liveness| liveness.pong_received(side, now));
        let entries = self.table.entries.borrow();
        if let (Some(took), Some(occupant)) = (took.flatten(), entries.get(self.key as usize)) {
            occupant.owner.ping_answered(side, took);
        }
    }

    /// What the Close frame is to say, if the tunnel is being closed on purpose.
    pub fn close_message(&self) -> Option<Rc<CloseMessage>> {
        self.entry.close_message().cloned()
    }

    /// What may pass of the client's next bytes, by its rate limits.
    pub fn allowance(&self) -> Allowance {
        let debt = |debt: &mut Debt, now| debt.allowance(&self.entry.limits, now);
        self.with_debt(debt).unwrap_or(Allowance::UNLIMITED)
    }

    /// Charges what has come from the client against its rate limits: may pause the tunnel.
    pub fn charge(&self, bytes: usize, cost: u32) {
        let limits = &self.entry.limits;
        if self.with_debt(|debt, now| debt.charge(limits, now, bytes, cost)) == Some(true) {
            self.entry.flags.set(Flags::PAUSED, true);
        }
    }

    /// Calls `with` with the client's debt and the time, if it has a rate limit.
    fn with_debt<T>(&self, with: impl FnOnce(&mut Debt, Micros) -> T) -> Option<T> {
        let limits = &self.entry.limits;
        // Most tunnels have no such limit; they must not pay for a clock with every read.
        if limits.messages.is_none() && limits.bytes.is_none() {
            return None;
        }
        let now = self.table.clock.at(Instant::now());
        self.entry.with_debt(|debt| with(debt, now))
    }
}

impl<O> Drop for TableSlot<O> {
    fn drop(&mut self) {
        let slot = self.key as usize;
        self.table.bindings.clear(slot);
        self.table.entries.borrow_mut().remove(slot);
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
    }

    #[tokio::test(start_paused = true)]
    async fn a_sum_in_steps_counts_each_tunnel_once_whatever_ends_meanwhile() {
        let table = Rc::new(TunnelTable::<usize>::default());
        let mut slots: Vec<TableSlot<usize>> = (0..1000)
            .map(|owner| table.enter(Arc::default(), Rc::new(owner)))
            .collect();
        let mut seen = vec![0; 1000];
        let mut next = Some(0);
        while let Some(from) = next {
            next = table.sum_step(from, 100, |_, owner| seen[*owner] += 1);
            // One from each end: some have been seen, and some not.
            for slot in [slots.remove(0), slots.pop().unwrap()] {
                let owner = table
                    .entries
                    .borrow()
                    .get(slot.key as usize)
                    .map(|it| *it.owner);
                if slot.is_unseen() {
                    seen[owner.unwrap()] += 1;
                }
            }
        }
        assert!(seen.iter().all(|times| *times == 1), "{seen:?}");
        assert!(!slots[0].is_unseen(), "the sum is complete");
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
