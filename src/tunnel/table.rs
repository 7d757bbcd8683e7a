//! The live tunnels of one worker, and the way to end them.

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
use crate::config::model::TunnelLimits;

/// The live tunnels of one worker, and of each what its owner knows of it.
#[derive(Debug)]
pub struct TunnelTable<O = ()> {
    pub(super) entries: RefCell<Slab<Occupant<O>>>,
    /// Of those whose clients have to keep to a rate; the others need no room for it.
    pub(super) debts: RefCell<HashMap<usize, Debt>>,
    /// When those are too old that may become so, likewise.
    pub(super) deadlines: RefCell<HashMap<usize, Micros>>,
    /// Whether the sides of those are there whose quiet ones are asked.
    pub(super) liveness: RefCell<HashMap<usize, Liveness>>,
    /// What operators have Close frames say, likewise.
    close_messages: RefCell<HashMap<usize, Rc<CloseMessage>>>,
    /// Times are kept as what has passed since then: half the size.
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
            began: Instant::now(),
        }
    }
}

impl<O> TunnelTable<O> {
    /// Enters a tunnel, of which this is known.
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    /// Shows all of them to `visit`.
    pub fn for_each(&self, mut visit: impl FnMut(&TunnelEntry, &O)) {
        for (_, Occupant { entry, owner }) in self.entries.borrow().iter() {
            visit(entry, owner);
        }
    }

    /// Shows up to `most` places, those from `from` on, to `visit`: the place, the tunnel, how long it
    /// has been quiet, and what is known of it. Tells where to go on, if there is more.
    pub fn page(
        &self,
        from: usize,
        limit: usize,
        mut visit: impl FnMut(usize, &TunnelEntry, Duration, &O),
    ) -> Option<usize> {
        let now = self.micros(Instant::now());
        let entries = self.entries.borrow();
        let end = from.saturating_add(limit).min(entries.capacity());
        for place in from..end {
            if let Some(Occupant { entry, owner }) = entries.get(place) {
                visit(place, entry, entry.quiet(now), owner);
            }
        }
        (end < entries.capacity()).then_some(end)
    }

    /// Ends the tunnel in this place with these words, if `is_it`; whether that was so, and nothing else had ended it.
    pub fn close(
        &self,
        place: usize,
        message: &Rc<CloseMessage>,
        is_same: impl FnOnce(&O) -> bool,
    ) -> bool {
        let entries = self.entries.borrow();
        let occupant = entries
            .get(place)
            .filter(|occupant| is_same(&occupant.owner));
        let Some(Occupant { entry, .. }) = occupant.filter(|it| it.entry.verdict().is_none())
        else {
            return false;
        };
        self.close_messages
            .borrow_mut()
            .insert(place, Rc::clone(message));
        entry.end(message.ended);
        true
    }

    pub(super) fn micros(&self, now: Instant) -> Micros {
        // Half a million years.
        now.duration_since(self.began).as_micros() as Micros
    }

    /// Gives those that have been ended no more time to end in order.
    pub fn cut_all(&self) {
        for (_, Occupant { entry, .. }) in self.entries.borrow().iter() {
            entry.overdue.set(SWEEPS_TO_CLOSE);
            entry.wake();
        }
    }

    /// Ends all of them.
    pub fn end_all(&self, reason: Ended) {
        for (_, Occupant { entry, .. }) in self.entries.borrow().iter() {
            entry.end(reason);
        }
    }
}

/// Whoever records what is noticed of a tunnel while it lives.
pub trait TunnelOwner {
    /// `side` has answered a Ping after so long.
    fn ping_answered(&self, side: Side, after: Duration);
}

impl TunnelOwner for () {
    fn ping_answered(&self, _side: Side, _after: Duration) {}
}

/// A tunnel's place in its worker's table; leaves it when dropped.
#[derive(Debug)]
pub struct TableSlot<O = ()> {
    table: Rc<TunnelTable<O>>,
    key: usize,
    entry: Rc<TunnelEntry>,
}

impl<O> TableSlot<O> {
    /// What is shared with the table.
    pub fn entry(&self) -> &Rc<TunnelEntry> {
        &self.entry
    }

    /// A Ping goes to `side`.
    pub fn ping_sent(&self, side: Side) {
        let now = self.table.micros(Instant::now());
        if let Some(state) = self.table.liveness.borrow_mut().get_mut(&self.key) {
            state.ping_sent(side, now);
        }
    }

    /// `side` has answered it.
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

    /// What its Close frame is to say, where that is an operator's words.
    pub fn close_message(&self) -> Option<Rc<CloseMessage>> {
        self.table.close_messages.borrow().get(&self.key).cloned()
    }

    /// Holds what has come from the client against its rates: ends the tunnel, or pauses it.
    pub fn pace(&self, bytes: usize, messages: u32) {
        let limits = &self.entry.limits;
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

    fn place(table: &Rc<TunnelTable>) -> TableSlot {
        table.enter(Arc::default(), Rc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_shown_step_by_step_and_only_who_is_meant_is_killed() {
        let table = Rc::new(TunnelTable::<u32>::default());
        let enter = |known| table.enter(Arc::new(TunnelLimits::default()), Rc::new(known));
        let mut places: Vec<TableSlot<u32>> = (0..10).map(enter).collect();
        places.remove(4);
        let mut seen = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            next = table.page(from, 3, |place, _, _, known| seen.push((place, *known)));
        }
        let expected: Vec<(usize, u32)> = (0..10)
            .filter(|n| *n != 4)
            .map(|n| (n as usize, n))
            .collect();
        assert_eq!(seen, expected);
        // The place has another owner by now.
        places.push(enter(77));
        let words = Rc::new(CloseMessage {
            ended: Ended::Killed,
            code: 4000,
            reason: "moved".into(),
        });
        assert!(!table.close(4, &words, |known| *known == 4));
        assert!(table.close(4, &words, |known| *known == 77));
        assert!(
            !table.close(4, &words, |known| *known == 77),
            "it has ended already"
        );
        let killed = places.last().unwrap();
        assert_eq!(killed.entry().verdict(), Some(Ended::Killed));
        assert_eq!(killed.close_message(), Some(words));
        drop(places);
        assert!(table.close_messages.borrow().is_empty());
    }

    #[tokio::test]
    async fn the_first_verdict_stands_and_places_are_given_up() {
        let table = Rc::new(TunnelTable::<()>::default());
        let (one, two) = (place(&table), place(&table));
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
