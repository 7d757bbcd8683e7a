//! Counts with a limit, rate limits, and both per client address; and how often a failure is reported.
//!
//! This module does not know what it counts. The table of addresses has a maximum size, and an
//! address is removed from it once it has no connections and no used-up rate.

pub mod failure_reports;
pub mod shared;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::model::Rate;

/// Client addresses in the table. Further addresses are not limited.
pub const MAX_ADDRESSES: usize = 1 << 18;

/// Shards of the table, each with its lock, so that workers seldom wait for one another.
const SHARDS: usize = 16;

/// How often a full shard is searched for addresses to remove. Without this interval, a flood of
/// new addresses would make every connection search the whole shard.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// A count that can have a limit.
#[derive(Debug, Default)]
pub struct Quota(AtomicUsize);

/// One of the things that a [`Quota`] counts, until it is dropped.
#[derive(Debug)]
pub struct QuotaPermit(Arc<Quota>);

impl Quota {
    /// Takes one more, unless `max` are in use. The limit is a parameter because a reload may
    /// change it while permits are held.
    pub fn take(self: &Arc<Self>, max: usize) -> Option<QuotaPermit> {
        let one_more = |used| (used < max).then_some(used + 1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()
            .map(|_| QuotaPermit(Arc::clone(self)))
    }

    /// How many are in use.
    pub fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nanoseconds between two events at this rate.
fn interval(rate: Rate) -> u64 {
    (1e9 / rate.per_second) as u64
}

/// When the next event of a stream is due, if one at `now` is within the rate; `None` if it is not.
/// This is GCRA (ATM Forum TM-4.0): unlike a token bucket it needs one number per stream.
fn due_after(due: u64, now: u64, rate: Rate) -> Option<u64> {
    let interval = interval(rate);
    let tolerance = interval.saturating_mul(u64::from(rate.burst.get()) - 1);
    let due = due.max(now);
    (due - now <= tolerance).then(|| due.saturating_add(interval))
}

/// Nanoseconds since `since`; enough for centuries.
fn nanos(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

/// One rate limit for all events together.
#[derive(Debug)]
pub struct RateLimiter {
    began: Instant,
    due: AtomicU64,
    /// When the event that was refused last has its turn, if those that are refused come back at the rate.
    last_turn: AtomicU64,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            due: AtomicU64::new(0),
            last_turn: AtomicU64::new(0),
        }
    }
}

impl RateLimiter {
    /// Whether one more event is within `rate`. It counts only if it is.
    pub fn take(&self, rate: Rate) -> bool {
        let now = nanos(self.began);
        let next = |due| due_after(due, now, rate);
        let updated = self
            .due
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        updated.is_ok()
    }

    /// After which time an event that was refused just now has its turn: those that are refused get one after the
    /// other, at the rate, and none a later one than `max`.
    pub fn turn(&self, rate: Rate, max: Duration) -> Duration {
        self.turn_at(nanos(self.began), rate, max)
    }

    fn turn_at(&self, now: u64, rate: Rate, max: Duration) -> Duration {
        let latest = now.saturating_add(max.as_nanos() as u64);
        let after = |last: u64| last.max(now).saturating_add(interval(rate)).min(latest);
        let last = self
            .last_turn
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(after(last))
            })
            .unwrap_or_default();
        Duration::from_nanos(after(last) - now)
    }
}

/// What counts as one client: an IPv4 address, or an IPv6 /64, which is the smallest network that
/// a host has to itself (RFC 4291 section 2.5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum ClientKey {
    V4(u32),
    V6(u64),
}

impl ClientKey {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// What happens at a rate, each kind counted for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RatedEvent {
    /// A WebSocket handshake.
    Handshake,
    /// A plain request.
    Request,
}

/// What one client has in use.
#[derive(Debug, Default)]
struct ClientUsage {
    connections: u32,
    /// When its next handshake is due, for [`due_after`].
    handshake_due: u64,
    /// When its next plain request is due.
    request_due: u64,
}

impl ClientUsage {
    fn due(&mut self, event: RatedEvent) -> &mut u64 {
        match event {
            RatedEvent::Handshake => &mut self.handshake_due,
            RatedEvent::Request => &mut self.request_due,
        }
    }

    /// Whether it still counts for a limit.
    fn is_in_use(&self, now: u64) -> bool {
        self.connections > 0 || self.handshake_due.max(self.request_due) > now
    }
}

/// Connections and the rates of handshakes and requests, per client address.
#[derive(Debug)]
pub struct Addresses {
    began: Instant,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    clients: HashMap<ClientKey, ClientUsage>,
    last_search: Option<Instant>,
}

/// One connection of a client address, until it is dropped.
#[derive(Debug)]
pub struct AddressPermit {
    addresses: Arc<Addresses>,
    client: ClientKey,
}

/// The client address is at its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many")]
pub struct TooMany;

impl Default for Addresses {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl Addresses {
    /// Counts one more connection of `address`, unless it has `max`. Returns `Ok(None)`, and lets
    /// the connection through, if the table is full.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn connect(
        self: &Arc<Self>,
        address: IpAddr,
        max: u32,
    ) -> Result<Option<AddressPermit>, TooMany> {
        let client = ClientKey::of(address);
        let mut shard = self.shard(client);
        let Some(usage) = shard.entry(client, nanos(self.began)) else {
            return Ok(None);
        };
        if usage.connections >= max {
            return Err(TooMany);
        }
        usage.connections += 1;
        Ok(Some(AddressPermit {
            addresses: Arc::clone(self),
            client,
        }))
    }

    /// Whether one more event of `address` is within `rate`. It counts only if it is.
    pub fn happens(&self, event: RatedEvent, address: IpAddr, rate: Rate) -> bool {
        let client = ClientKey::of(address);
        let now = nanos(self.began);
        let mut shard = self.shard(client);
        let Some(usage) = shard.entry(client, now) else {
            return true;
        };
        let due = usage.due(event);
        let next = due_after(*due, now, rate);
        *due = next.unwrap_or(*due);
        next.is_some()
    }

    /// Addresses in the table.
    pub fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| locked(shard).clients.len()).sum()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes the addresses that have no connections and no used-up rate.
    pub fn sweep(&self) {
        let now = nanos(self.began);
        for shard in &self.shards {
            locked(shard).forget(now);
        }
    }

    fn shard(&self, client: ClientKey) -> MutexGuard<'_, Shard> {
        let at = self.hasher.hash_one(client) as usize % SHARDS;
        locked(&self.shards[at])
    }
}

fn locked(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    /// The usage of `client`; `None` if it is new and the shard is full.
    fn entry(&mut self, client: ClientKey, now: u64) -> Option<&mut ClientUsage> {
        let full = self.clients.len() >= MAX_ADDRESSES / SHARDS;
        if full && !self.clients.contains_key(&client) {
            if self
                .last_search
                .is_some_and(|at| at.elapsed() < SEARCH_INTERVAL)
            {
                return None;
            }
            self.last_search = Some(Instant::now());
            self.forget(now);
            if self.clients.len() >= MAX_ADDRESSES / SHARDS {
                return None;
            }
        }
        Some(self.clients.entry(client).or_default())
    }

    fn forget(&mut self, now: u64) {
        self.clients.retain(|_, usage| usage.is_in_use(now));
        // A flood must not keep its memory for ever, and a shard that grows again must not
        // allocate at once.
        let room = self.clients.len() * 2;
        self.clients.shrink_to(room);
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut shard = self.addresses.shard(self.client);
        if let Some(usage) = shard.clients.get_mut(&self.client) {
            usage.connections = usage.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    fn rate(per_second: f64, burst: u32) -> Rate {
        Rate {
            per_second,
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    #[test]
    fn a_quota_is_never_exceeded_and_comes_back() {
        let quota = Arc::<Quota>::default();
        let one = quota.take(2).unwrap();
        let two = quota.take(2).unwrap();
        assert!(quota.take(2).is_none());
        drop(one);
        assert!(quota.take(2).is_some());
        drop(two);
        assert_eq!(quota.used(), 0);
    }

    proptest! {
        /// However events arrive: in any period no more pass than the burst and what the
        /// rate has given since; and a stream that keeps to the rate is never refused.
        #[test]
        fn a_rate_is_enforced_exactly(
            per_second in 1.0..1000.0f64,
            burst in 1..50u32,
            gaps in prop::collection::vec(0..50_000_000u64, 1..200),
        ) {
            let rate = rate(per_second, burst);
            let (mut due, mut now, mut passed) = (0, 0, 0_u64);
            for gap in gaps {
                now += gap;
                if let Some(next) = due_after(due, now, rate) {
                    due = next;
                    passed += 1;
                }
                let given = now as f64 / 1e9 * per_second + f64::from(burst);
                prop_assert!(passed as f64 <= given + 1.0, "{passed} of {given}");
            }
            let interval = (1e9 / per_second) as u64 + 1;
            now = now.max(due);
            for _ in 0..20 {
                now += interval;
                due = due_after(due, now, rate).unwrap();
            }
        }
    }

    #[test]
    fn refused_events_have_their_turns_at_the_rate() {
        let limiter = RateLimiter::default();
        let (rate, max) = (rate(10.0, 5), Duration::from_secs(1));
        let turn = |now: u64| limiter.turn_at(now * 1_000_000, rate, max).as_millis();
        let turns: Vec<u128> = (0..12).map(|_| turn(0)).collect();
        let expected = [
            100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1000, 1000,
        ];
        assert_eq!(turns, expected);
        // Half of them have had theirs, and then all.
        assert_eq!(turn(500), 600);
        assert_eq!(turn(5000), 100);
    }

    #[test]
    fn clients_are_distinguished_by_address_or_network() {
        let addresses = Arc::<Addresses>::default();
        let connect = |text: &str| addresses.connect(text.parse().unwrap(), 1);
        let first = connect("192.0.2.1").unwrap();
        assert!(connect("::ffff:192.0.2.1").is_err());
        let second = connect("192.0.2.2").unwrap();
        let third = connect("2001:db8:0:1::1").unwrap();
        assert!(connect("2001:db8:0:1:ffff::2").is_err(), "the same /64");
        let fourth = connect("2001:db8:0:2::1").unwrap();
        assert_eq!(addresses.len(), 4);
        drop((first, second, third, fourth));
        assert!(connect("192.0.2.1").is_ok());
        addresses.sweep();
        assert!(addresses.is_empty());
    }

    #[test]
    fn each_address_has_its_own_rates() {
        let addresses = Arc::<Addresses>::default();
        let slow = rate(0.001, 3);
        for event in [RatedEvent::Handshake, RatedEvent::Request] {
            let happens = |text: &str| addresses.happens(event, text.parse().unwrap(), slow);
            assert!((0..3).all(|_| happens("192.0.2.1")), "{event:?}");
            assert!(!happens("192.0.2.1") && happens("192.0.2.2"));
        }
        addresses.happens(RatedEvent::Request, [192, 0, 2, 3].into(), slow);
        addresses.sweep();
        assert_eq!(addresses.len(), 3, "all still have to wait");
        let limiter = RateLimiter::default();
        assert!((0..3).all(|_| limiter.take(slow)) && !limiter.take(slow));
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let addresses = Addresses::default();
        let slow = rate(0.001, 1);
        let shake =
            |bytes: [u8; 4]| addresses.happens(RatedEvent::Handshake, IpAddr::from(bytes), slow);
        for number in 0..(MAX_ADDRESSES as u32 + 50_000) {
            shake(number.to_be_bytes());
        }
        assert!(addresses.len() <= MAX_ADDRESSES);
        // Addresses in the table are limited, further ones are not.
        assert!(!shake([0, 0, 0, 1]));
        assert!(shake([255, 0, 0, 1]));
        assert!(shake([255, 0, 0, 1]));
    }
}
