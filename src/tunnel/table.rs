//! The live tunnels of one worker: their meters, their time limits, and the way to end them.
//!
//! There is no timer per tunnel: once a second [`Table::sweep`] compares each meter with what it
//! was, so that activity costs a tunnel nothing but the counting it does anyway.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::ended::{Ended, Words};
use super::forwarder::Side;
use super::liveness::{Liveness, Micros, Todo};
use crate::config::model::{RateAction, TunnelLimits};

/// How often limits are looked at, and so how late a tunnel may be ended.
pub const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Sweeps that a tunnel may go on after its end was decided: for the last frame to come to its end,
/// and for closing handshakes. After that it ends as it is.
const SWEEPS_TO_CLOSE: u8 = 3;

/// The live tunnels of one worker, and of each what its owner knows of it.
#[derive(Debug)]
pub struct Table<K = ()> {
    entries: RefCell<Slab<Listed<K>>>,
    /// Of those whose clients have to keep to a rate; the others need no room for it.
    debts: RefCell<HashMap<usize, Debt>>,
    /// When those are too old that may become so, likewise.
    due: RefCell<HashMap<usize, Micros>>,
    /// Whether the sides of those are there whose quiet ones are asked.
    alive: RefCell<HashMap<usize, Liveness>>,
    /// What operators have Close frames say, likewise.
    words: RefCell<HashMap<usize, Rc<Words>>>,
    /// Times are kept as what has passed since then: half the size.
    began: Instant,
}

#[derive(Debug)]
struct Listed<K> {
    entry: Rc<Entry>,
    known: Rc<K>,
}

/// One live tunnel, as seen from outside of it.
pub struct Entry {
    /// What went through it.
    pub meter: Meter,
    /// What holds for it.
    pub limits: Arc<TunnelLimits>,
    /// Whether what goes to each side is stuck, and since how many sweeps.
    to_client: Stall,
    to_endpoint: Stall,
    flags: Flags,
    /// What the meter showed at the last sweep that saw it move, and when that was.
    seen: Cell<(u64, Micros)>,
    /// Set from outside: the tunnel is to end, as this.
    verdict: Cell<Option<Ended>>,
    /// Sweeps that have seen the verdict.
    overdue: Cell<u8>,
    waker: Cell<Option<Waker>>,
}

/// What is so of a tunnel or not, in a byte.
#[derive(Debug, Default)]
struct Flags(Cell<u8>);

impl Flags {
    const HALF_CLOSED: u8 = 1;
    /// Nothing is read from the client until the next sweep allows it.
    const PAUSED: u8 = 2;
    /// The client is to be pinged; the endpoint is.
    const ASK: [u8; 2] = [4, 8];

    fn has(&self, flag: u8) -> bool {
        self.0.get() & flag != 0
    }

    fn set(&self, flag: u8, is_so: bool) {
        let others = self.0.get() & !flag;
        self.0.set(if is_so { others | flag } else { others });
    }
}

/// How long what goes to one side has been stuck, in sweeps: 0 if it is not.
#[derive(Debug, Default)]
struct Stall(Cell<u16>);

impl Stall {
    fn set(&self, stuck: bool, moved: bool) {
        let seen = self.0.get();
        self.0.set(match stuck {
            true if moved || seen == 0 => 1,
            true => seen,
            false => 0,
        });
    }

    /// For how long it has been stuck at least.
    fn time(&self) -> Duration {
        // It may have begun right before the first sweep.
        SWEEP_EVERY * u32::from(self.0.get().saturating_sub(1))
    }

    /// One more sweep: for how long it has been stuck at least.
    fn sweep(&self) -> Duration {
        let seen = self.0.get();
        if seen > 0 {
            self.0.set(seen.saturating_add(1));
        }
        SWEEP_EVERY * u32::from(seen.saturating_sub(1))
    }
}

/// What a client has sent lately, as debt: time that it has to wait until it has kept to the rate.
#[derive(Debug, Default)]
struct Debt {
    messages: Micros,
    bytes: Micros,
}

/// What may be sent at once: as much as in this time at the rate.
const BURST: Micros = 1_000_000;

impl Debt {
    /// Adds `count` to what is owed, at so many per second; whether that is within the burst.
    fn add(owed: &mut Micros, now: Micros, count: u64, per_second: u64) -> bool {
        let time = count.saturating_mul(1_000_000) / per_second;
        *owed = (*owed).max(now).saturating_add(time);
        *owed - now <= BURST
    }
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
            to_client: Stall::default(),
            to_endpoint: Stall::default(),
            flags: Flags::default(),
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
        self.flags.set(Flags::HALF_CLOSED, true);
    }

    /// Whether something is left that `side` has not taken; `moved` if it has taken some.
    pub fn set_stuck(&self, side: Side, left: bool, moved: bool) {
        let stall = match side {
            Side::Client => &self.to_client,
            Side::Endpoint => &self.to_endpoint,
        };
        stall.set(left, moved);
    }

    /// Whether nothing is to be read from the client now.
    pub fn is_paused(&self) -> bool {
        self.flags.has(Flags::PAUSED)
    }

    /// Whether `side` is to be pinged, as was not told before.
    pub fn takes_ask(&self, side: Side) -> bool {
        let flag = Flags::ASK[side as usize];
        let asks = self.flags.has(flag);
        self.flags.set(flag, false);
        asks
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

    /// How long nothing has come from either side, to the second: it is the sweep that notices.
    fn quiet(&self, now: Micros) -> Duration {
        let (seen, since) = self.seen.get();
        match self.moved() == seen {
            true => Duration::from_micros(now.saturating_sub(since)),
            false => Duration::ZERO,
        }
    }

    /// What changes with every sign of life.
    fn moved(&self) -> u64 {
        // Moving from open to half-closed is one, too: its clock starts there.
        self.meter.total() * 2 + u64::from(self.flags.has(Flags::HALF_CLOSED))
    }

    /// Looks at the limits.
    fn sweep(&self, now: Micros) {
        if self.verdict.get().is_some() {
            self.overdue.set(self.overdue.get().saturating_add(1));
            if self.is_overdue() {
                self.wake();
            }
        } else if let Some(reason) = self.slow().or_else(|| self.expired(now)) {
            self.end(reason);
        }
    }

    /// Whether a side has not taken anything for too long.
    fn slow(&self) -> Option<Ended> {
        let (client, endpoint) = (self.to_client.sweep(), self.to_endpoint.sweep());
        let limit = self.limits.slow_reader?;
        if client >= limit {
            Some(Ended::SlowClient)
        } else if endpoint >= limit {
            Some(Ended::SlowUpstream)
        } else {
            None
        }
    }

    /// Which limit has passed, if any.
    fn expired(&self, now: Micros) -> Option<Ended> {
        let moved = self.moved();
        let (seen, since) = self.seen.get();
        if moved != seen {
            self.seen.set((moved, now));
            return None;
        }
        let (limit, reason) = if self.flags.has(Flags::HALF_CLOSED) {
            (self.limits.half_closed?, Ended::HalfClosed)
        } else {
            (self.limits.idle?, Ended::Idle)
        };
        (Duration::from_micros(now.saturating_sub(since)) >= limit).then_some(reason)
    }
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

    fn micros(&self, now: Instant) -> Micros {
        // Half a million years.
        now.duration_since(self.began).as_micros() as Micros
    }

    /// Ends those whose limits have passed.
    pub fn sweep(&self, now: Instant) {
        let now = self.micros(now);
        let (debts, due) = (self.debts.borrow(), self.due.borrow());
        for (key, Listed { entry, .. }) in self.entries.borrow().iter() {
            if entry.limits.max_age.is_some() && due.get(&key).is_some_and(|due| *due <= now) {
                entry.end(Ended::MaxAge);
            }
            entry.sweep(now);
            self.look(key, entry, now);
            let owed = debts.get(&key).map_or(0, |debt| debt.bytes);
            if entry.flags.has(Flags::PAUSED) && owed <= now + BURST {
                entry.flags.set(Flags::PAUSED, false);
                entry.wake();
            }
        }
    }

    /// Whether the sides of a tunnel are still there, where that is asked.
    fn look(&self, key: usize, entry: &Entry, now: Micros) {
        let Some(times) = entry.limits.ping.filter(|_| entry.verdict().is_none()) else {
            return;
        };
        let mut alive = self.alive.borrow_mut();
        let Some(liveness) = alive.get_mut(&key) else {
            return;
        };
        for side in [Side::Client, Side::Endpoint] {
            let (stall, gone) = match side {
                Side::Client => (&entry.to_client, Ended::DeadClient),
                Side::Endpoint => (&entry.to_endpoint, Ended::DeadUpstream),
            };
            match liveness.look(side, entry.meter.bytes(side), stall.time(), (now, times)) {
                Todo::Nothing => {}
                Todo::Ask => {
                    entry.flags.set(Flags::ASK[side as usize], true);
                    entry.wake();
                }
                Todo::GiveUp => entry.end(gone),
            }
        }
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
        if let Some(rate) = limits.messages {
            let rate = u64::from(rate.get());
            if messages > 0 && !Debt::add(&mut debt.messages, now, u64::from(messages), rate) {
                self.entry.end(Ended::MessageRate);
            }
        }
        if let Some(rate) = limits.bytes
            && !Debt::add(&mut debt.bytes, now, bytes as u64, rate.per_second.get())
        {
            match rate.action {
                RateAction::Close => self.entry.end(Ended::ByteRate),
                RateAction::Throttle => self.entry.flags.set(Flags::PAUSED, true),
            }
        }
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
    use crate::config::model::{ByteRate, MaxAge};

    const IDLE: Duration = Duration::from_secs(10);
    const HALF_CLOSED: Duration = Duration::from_secs(3);

    fn place(table: &Rc<Table>) -> Place {
        table.enter(
            Arc::new(TunnelLimits {
                idle: Some(IDLE),
                half_closed: Some(HALF_CLOSED),
                ..TunnelLimits::default()
            }),
            Rc::default(),
        )
    }

    #[test]
    fn a_tunnels_entry_is_small() {
        // With the counts of its `Rc`, a size class of the allocator.
        assert!(size_of::<Entry>() <= 80, "{} bytes", size_of::<Entry>());
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

    #[tokio::test(start_paused = true)]
    async fn a_quiet_tunnel_is_ended_and_a_busy_one_is_not() {
        let table = Rc::new(Table::<()>::default());
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
    async fn a_tunnel_that_is_old_is_ended_however_busy_and_not_all_at_once() {
        let table = Rc::new(Table::default());
        let aging = || {
            let limits = TunnelLimits {
                max_age: Some(MaxAge {
                    age: Duration::from_secs(100),
                    jitter: 500,
                }),
                ..TunnelLimits::default()
            };
            table.enter(Arc::new(limits), Rc::default())
        };
        let tunnels: Vec<Place<()>> = (0..100).map(|_| aging()).collect();
        let start = Instant::now();
        let ended_by = |second| {
            for tunnel in &tunnels {
                tunnel.entry().meter.count(Side::Client, 1);
            }
            table.sweep(start + Duration::from_secs(second));
            let verdicts = tunnels.iter().map(|tunnel| tunnel.entry().verdict());
            verdicts.filter(|it| *it == Some(Ended::MaxAge)).count()
        };
        assert_eq!(ended_by(49), 0);
        // Chance has it: half of them, give or take five standard deviations.
        let half = ended_by(75);
        assert!((25..=75).contains(&half), "{half}");
        assert_eq!(ended_by(100), 100);
        drop(tunnels);
        assert!(table.due.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn half_closed_runs_from_the_last_sign_of_life() {
        let table = Rc::new(Table::<()>::default());
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
    async fn a_side_that_takes_nothing_for_too_long_is_slow() {
        let table = Rc::new(Table::<()>::default());
        let limited = || {
            table.enter(
                Arc::new(TunnelLimits {
                    slow_reader: Some(Duration::from_secs(3)),
                    ..TunnelLimits::default()
                }),
                Rc::default(),
            )
        };
        let (client, endpoint, slow, done) = (limited(), limited(), limited(), limited());
        client.entry().set_stuck(Side::Client, true, false);
        endpoint.entry().set_stuck(Side::Endpoint, true, false);
        done.entry().set_stuck(Side::Client, true, false);
        done.entry().set_stuck(Side::Client, false, true);
        for second in 1..=4 {
            // It takes a little now and then.
            slow.entry().set_stuck(Side::Client, true, second % 2 == 0);
            assert_eq!(client.entry().verdict(), None, "after {second} s");
            table.sweep(Instant::now() + Duration::from_secs(second));
        }
        assert_eq!(client.entry().verdict(), Some(Ended::SlowClient));
        assert_eq!(endpoint.entry().verdict(), Some(Ended::SlowUpstream));
        assert_eq!(
            (slow.entry().verdict(), done.entry().verdict()),
            (None, None)
        );
    }

    fn paced(table: &Rc<Table>, messages: u32, bytes: u64, action: RateAction) -> Place {
        table.enter(
            Arc::new(TunnelLimits {
                messages: messages.try_into().ok(),
                bytes: bytes
                    .try_into()
                    .ok()
                    .map(|per_second| ByteRate { per_second, action }),
                ..TunnelLimits::default()
            }),
            Rc::default(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_too_much_is_ended_or_paused() {
        let table = Rc::new(Table::<()>::default());
        let messages = paced(&table, 10, 0, RateAction::Close);
        let bytes = paced(&table, 0, 1000, RateAction::Close);
        let slowed = paced(&table, 0, 1000, RateAction::Throttle);
        for _ in 0..10 {
            messages.pace(1, 1);
            bytes.pace(100, 0);
            slowed.pace(100, 0);
        }
        assert_eq!(messages.entry().verdict(), None);
        assert_eq!(
            (bytes.entry().verdict(), slowed.entry().is_paused()),
            (None, false)
        );
        for place in [&messages, &bytes, &slowed] {
            place.pace(1500, 1);
        }
        assert_eq!(messages.entry().verdict(), Some(Ended::MessageRate));
        assert_eq!(bytes.entry().verdict(), Some(Ended::ByteRate));
        // 2500 bytes at 1000 a second: goes on when less than a second is owed.
        for (second, paused) in [(1, true), (2, false)] {
            table.sweep(Instant::now() + Duration::from_secs(second));
            assert_eq!(slowed.entry().is_paused(), paused, "after {second} s");
        }
        assert_eq!(slowed.entry().verdict(), None);
        drop((messages, bytes, slowed));
        assert!(table.debts.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_is_no_end() {
        let table = Rc::new(Table::<()>::default());
        let tunnel = table.enter(Arc::default(), Rc::default());
        table.sweep(Instant::now() + Duration::from_secs(1_000_000));
        assert_eq!(tunnel.entry().verdict(), None);
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
