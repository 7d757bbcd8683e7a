//! The live tunnels of one worker: their meters, their time limits, and the way to end them.
//!
//! There is no timer per tunnel: once a second [`Table::sweep`] compares each meter with what it
//! was, so that activity costs a tunnel nothing but the counting it does anyway.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::ended::Ended;
use super::forwarder::Side;
use crate::config::model::TunnelLimits;

/// How often limits are looked at, and so how late a tunnel may be ended.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Sweeps that a tunnel may go on after its end was decided: for the last frame to come to its end,
/// and for closing handshakes. After that it ends as it is.
const SWEEPS_TO_CLOSE: u8 = 3;

/// The live tunnels of one worker.
#[derive(Debug)]
pub struct Table {
    entries: RefCell<Slab<Rc<Entry>>>,
    /// Times are kept as what has passed since then: half the size.
    began: Instant,
}

/// Time since the table began, in microseconds.
type Micros = u64;

/// One live tunnel, as seen from outside of it.
pub struct Entry {
    /// What went through it.
    pub meter: Meter,
    /// What holds for it.
    pub limits: Arc<TunnelLimits>,
    half_closed: Cell<bool>,
    /// What the meter showed at the last sweep that saw it move, and when that was.
    seen: Cell<(u64, Micros)>,
    /// Set from outside: the tunnel is to end, as this.
    verdict: Cell<Option<Ended>>,
    /// Sweeps that have seen the verdict.
    overdue: Cell<u8>,
    waker: Cell<Option<Waker>>,
}

/// A tunnel's counters; written by the tunnel alone.
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

    /// Bytes that came from `side`.
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

    /// Messages that came from `side`; none of what is no framing.
    pub fn messages(&self, side: Side) -> u64 {
        match side {
            Side::Client => self.messages_from_client.get(),
            Side::Endpoint => self.messages_from_endpoint.get(),
        }
    }

    fn total(&self) -> u64 {
        self.from_client.get() + self.from_endpoint.get()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("meter", &self.meter)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl Entry {
    fn new(limits: Arc<TunnelLimits>, now: Micros) -> Self {
        Self {
            meter: Meter::default(),
            limits,
            half_closed: Cell::new(false),
            seen: Cell::new((0, now)),
            verdict: Cell::new(None),
            overdue: Cell::new(0),
            waker: Cell::default(),
        }
    }

    /// The tunnel has to be ended, as this.
    pub fn verdict(&self) -> Option<Ended> {
        self.verdict.get()
    }

    /// Whether the tunnel has had its time to end in order.
    pub fn is_overdue(&self) -> bool {
        self.overdue.get() >= SWEEPS_TO_CLOSE
    }

    /// One side has ended: from the next sweep on, `half_closed` is the limit.
    pub fn set_half_closed(&self) {
        self.half_closed.set(true);
    }

    /// Whom to wake when there is a verdict.
    pub fn set_waker(&self, waker: &Waker) {
        let known = self.waker.take();
        let known = known.filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
    }

    /// Ends the tunnel, unless something else already has.
    pub fn end(&self, reason: Ended) {
        if self.verdict.get().is_none() {
            self.verdict.set(Some(reason));
            self.wake();
        }
    }

    fn wake(&self) {
        // It sets another one when it runs.
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Looks at the limits.
    fn sweep(&self, now: Micros) {
        if self.verdict.get().is_some() {
            self.overdue.set(self.overdue.get().saturating_add(1));
            if self.is_overdue() {
                self.wake();
            }
        } else if let Some(reason) = self.expired(now) {
            self.end(reason);
        }
    }

    /// Which limit has passed, if any.
    fn expired(&self, now: Micros) -> Option<Ended> {
        // Moving from open to half-closed is a sign of life too: its clock starts there.
        let moved = self.meter.total() * 2 + u64::from(self.half_closed.get());
        let (seen, since) = self.seen.get();
        if moved != seen {
            self.seen.set((moved, now));
            return None;
        }
        let (limit, reason) = if self.half_closed.get() {
            (self.limits.half_closed?, Ended::HalfClosed)
        } else {
            (self.limits.idle?, Ended::Idle)
        };
        (Duration::from_micros(now.saturating_sub(since)) >= limit).then_some(reason)
    }
}

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: RefCell::default(),
            began: Instant::now(),
        }
    }
}

impl Table {
    /// Enters a tunnel.
    pub fn enter(self: &Rc<Self>, limits: Arc<TunnelLimits>) -> Place {
        let entry = Rc::new(Entry::new(limits, self.micros(Instant::now())));
        let key = self.entries.borrow_mut().insert(Rc::clone(&entry));
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

    fn micros(&self, now: Instant) -> Micros {
        // Half a million years.
        now.duration_since(self.began).as_micros() as Micros
    }

    /// Ends those whose limits have passed.
    pub fn sweep(&self, now: Instant) {
        let now = self.micros(now);
        for (_, entry) in self.entries.borrow().iter() {
            entry.sweep(now);
        }
    }

    /// Gives those that have been ended no more time to end in order.
    pub fn cut_all(&self) {
        for (_, entry) in self.entries.borrow().iter() {
            entry.overdue.set(SWEEPS_TO_CLOSE);
            entry.wake();
        }
    }

    /// Ends all of them.
    pub fn end_all(&self, reason: Ended) {
        for (_, entry) in self.entries.borrow().iter() {
            entry.end(reason);
        }
    }
}

/// A tunnel's place in its worker's table; leaves it when dropped.
#[derive(Debug)]
pub struct Place {
    table: Rc<Table>,
    key: usize,
    entry: Rc<Entry>,
}

impl Place {
    /// What is shared with the table.
    pub fn entry(&self) -> &Rc<Entry> {
        &self.entry
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.entries.borrow_mut().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(10);
    const HALF_CLOSED: Duration = Duration::from_secs(3);

    fn place(table: &Rc<Table>) -> Place {
        table.enter(Arc::new(TunnelLimits {
            idle: Some(IDLE),
            half_closed: Some(HALF_CLOSED),
            message_bytes: None,
        }))
    }

    #[test]
    fn a_tunnels_entry_is_small() {
        // With the counts of its `Rc`, a size class of the allocator.
        assert!(size_of::<Entry>() <= 80, "{} bytes", size_of::<Entry>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_tunnel_is_ended_and_a_busy_one_is_not() {
        let table = Rc::new(Table::default());
        let (quiet, busy) = (place(&table), place(&table));
        let start = Instant::now();
        for second in 1..=10 {
            busy.entry().meter.count(Side::Client, 1);
            assert_eq!(quiet.entry().verdict(), None, "after {second} s");
            table.sweep(start + Duration::from_secs(second));
        }
        assert_eq!(quiet.entry().verdict(), Some(Ended::Idle));
        assert_eq!(busy.entry().verdict(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn half_closed_runs_from_the_last_sign_of_life() {
        let table = Rc::new(Table::default());
        let tunnel = place(&table);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        table.sweep(at(5));
        tunnel.entry().set_half_closed();
        table.sweep(at(6));
        tunnel.entry().meter.count(Side::Endpoint, 1);
        table.sweep(at(8));
        table.sweep(at(10));
        assert_eq!(tunnel.entry().verdict(), None);
        table.sweep(at(11));
        assert_eq!(tunnel.entry().verdict(), Some(Ended::HalfClosed));
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_is_no_end() {
        let table = Rc::new(Table::default());
        let tunnel = table.enter(Arc::new(TunnelLimits {
            idle: None,
            half_closed: None,
            message_bytes: None,
        }));
        table.sweep(Instant::now() + Duration::from_secs(1_000_000));
        assert_eq!(tunnel.entry().verdict(), None);
    }

    #[tokio::test]
    async fn the_first_verdict_stands_and_places_are_given_up() {
        let table = Rc::new(Table::default());
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
