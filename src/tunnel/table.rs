//! The live tunnels of one worker, and the way to end them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::ended::{Ended, Words};
use super::entry::{Entry, SWEEPS_TO_CLOSE};
use super::liveness::{Liveness, Micros};
use super::rates::Debt;
use super::side::Side;
use crate::config::model::TunnelLimits;

/// The live tunnels of one worker, and of each what its owner knows of it.
#[derive(Debug)]
pub struct Table<K = ()> {
    pub(super) entries: RefCell<Slab<Listed<K>>>,
    /// Of those whose clients have to keep to a rate; the others need no room for it.
    pub(super) debts: RefCell<HashMap<usize, Debt>>,
    /// When those are too old that may become so, likewise.
    pub(super) due: RefCell<HashMap<usize, Micros>>,
    /// Whether the sides of those are there whose quiet ones are asked.
    pub(super) alive: RefCell<HashMap<usize, Liveness>>,
    /// What operators have Close frames say, likewise.
    words: RefCell<HashMap<usize, Rc<Words>>>,
    /// Times are kept as what has passed since then: half the size.
    began: Instant,
}

#[derive(Debug)]
pub(super) struct Listed<K> {
    pub(super) entry: Rc<Entry>,
    known: Rc<K>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self {
            entries: RefCell::default(),
            debts: RefCell::default(),
            due: RefCell::default(),
            alive: RefCell::default(),
            words: RefCell::default(),
            began: Instant::now(),
        }
    }
}

impl<K> Table<K> {
    /// Enters a tunnel, of which this is known.
    pub fn enter(self: &Rc<Self>, limits: Arc<TunnelLimits>, known: Rc<K>) -> Place<K> {
        let now = self.micros(Instant::now());
        let (max_age, ping) = (limits.max_age, limits.ping);
        let entry = Rc::new(Entry::new(limits, now));
        let listed = Listed {
            entry: Rc::clone(&entry),
            known,
        };
        let key = self.entries.borrow_mut().insert(listed);
        if let Some(max_age) = max_age {
            let age = max_age.of(fastrand::f64()).as_micros() as Micros;
            self.due.borrow_mut().insert(key, now.saturating_add(age));
        }
        if ping.is_some() {
            self.alive.borrow_mut().insert(key, Liveness::new(now));
        }
        Place {
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
    pub fn each(&self, mut visit: impl FnMut(&Entry, &K)) {
        for (_, Listed { entry, known }) in self.entries.borrow().iter() {
            visit(entry, known);
        }
    }

    /// Shows up to `most` places, those from `from` on, to `visit`: the place, the tunnel, how long it
    /// has been quiet, and what is known of it. Tells where to go on, if there is more.
    pub fn page(
        &self,
        from: usize,
        most: usize,
        mut visit: impl FnMut(usize, &Entry, Duration, &K),
    ) -> Option<usize> {
        let now = self.micros(Instant::now());
        let entries = self.entries.borrow();
        let end = from.saturating_add(most).min(entries.capacity());
        for place in from..end {
            if let Some(Listed { entry, known }) = entries.get(place) {
                visit(place, entry, entry.quiet(now), known);
            }
        }
        (end < entries.capacity()).then_some(end)
    }

    /// Ends the tunnel in this place with these words, if `is_it`; whether that was so, and nothing else had ended it.
    pub fn close(&self, place: usize, words: &Rc<Words>, is_it: impl FnOnce(&K) -> bool) -> bool {
        let entries = self.entries.borrow();
        let listed = entries.get(place).filter(|listed| is_it(&listed.known));
        let Some(Listed { entry, .. }) = listed.filter(|it| it.entry.verdict().is_none()) else {
            return false;
        };
        self.words.borrow_mut().insert(place, Rc::clone(words));
        entry.end(words.ended);
        true
    }

    pub(super) fn micros(&self, now: Instant) -> Micros {
        // Half a million years.
        now.duration_since(self.began).as_micros() as Micros
    }

    /// Gives those that have been ended no more time to end in order.
    pub fn cut_all(&self) {
        for (_, Listed { entry, .. }) in self.entries.borrow().iter() {
            entry.overdue.set(SWEEPS_TO_CLOSE);
            entry.wake();
        }
    }

    /// Ends all of them.
    pub fn end_all(&self, reason: Ended) {
        for (_, Listed { entry, .. }) in self.entries.borrow().iter() {
            entry.end(reason);
        }
    }
}

/// Whoever records what is noticed of a tunnel while it lives.
pub trait Owner {
    /// `side` has answered a Ping after so long.
    fn answered(&self, side: Side, after: Duration);
}

impl Owner for () {
    fn answered(&self, _side: Side, _after: Duration) {}
}

/// A tunnel's place in its worker's table; leaves it when dropped.
#[derive(Debug)]
pub struct Place<K = ()> {
    table: Rc<Table<K>>,
    key: usize,
    entry: Rc<Entry>,
}

impl<K> Place<K> {
    /// What is shared with the table.
    pub fn entry(&self) -> &Rc<Entry> {
        &self.entry
    }

    /// A Ping goes to `side`.
    pub fn pinged(&self, side: Side) {
        let now = self.table.micros(Instant::now());
        if let Some(liveness) = self.table.alive.borrow_mut().get_mut(&self.key) {
            liveness.sent(side, now);
        }
    }

    /// `side` has answered it.
    pub fn answered(&self, side: Side)
    where
        K: Owner,
    {
        let now = self.table.micros(Instant::now());
        let mut alive = self.table.alive.borrow_mut();
        let took = alive
            .get_mut(&self.key)
            .and_then(|it| it.answered(side, now));
        let entries = self.table.entries.borrow();
        if let (Some(took), Some(listed)) = (took, entries.get(self.key)) {
            listed.known.answered(side, took);
        }
    }

    /// What its Close frame is to say, where that is an operator's words.
    pub fn words(&self) -> Option<Rc<Words>> {
        self.table.words.borrow().get(&self.key).cloned()
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

impl<K> Drop for Place<K> {
    fn drop(&mut self) {
        self.table.entries.borrow_mut().try_remove(self.key);
        let limits = &self.entry.limits;
        if limits.messages.is_some() || limits.bytes.is_some() {
            self.table.debts.borrow_mut().remove(&self.key);
        }
        if limits.max_age.is_some() {
            self.table.due.borrow_mut().remove(&self.key);
        }
        if limits.ping.is_some() {
            self.table.alive.borrow_mut().remove(&self.key);
        }
        if self.entry.verdict().is_some_and(Ended::is_on_purpose) {
            self.table.words.borrow_mut().remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(table: &Rc<Table>) -> Place {
        table.enter(Arc::default(), Rc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn all_are_shown_step_by_step_and_only_who_is_meant_is_killed() {
        let table = Rc::new(Table::<u32>::default());
        let enter = |known| table.enter(Arc::new(TunnelLimits::default()), Rc::new(known));
        let mut places: Vec<Place<u32>> = (0..10).map(enter).collect();
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
        let words = Rc::new(Words {
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
        assert_eq!(killed.words(), Some(words));
        drop(places);
        assert!(table.words.borrow().is_empty());
    }

    #[tokio::test]
    async fn the_first_verdict_stands_and_places_are_given_up() {
        let table = Rc::new(Table::<()>::default());
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
