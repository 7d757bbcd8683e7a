//! One endpoint while it runs, and the lease on it.
//!
//! [`EndpointState`] outlives reloads: `registry` has every snapshot with the same endpoint share it. Which
//! endpoint is picked is `group`'s business.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::balance;
use super::handover::EndpointHandover;
use super::health::{EndpointHealth, HealthStatus};
use super::queue::Queue;
use super::time::micros;
use crate::config::model::Address;

/// The least that an endpoint in its slow start gets of its share.
const MIN_WARMTH: f32 = 0.1;

/// As a weight, that there is none but the configured one.
const AS_CONFIGURED: u32 = u32::MAX;

/// As a time to come back, that of an endpoint whose checks fail.
const DOWN: u64 = u64::MAX;

/// What makes two endpoints the same: the name of the upstream, and the address.
pub(super) type EndpointKey = (Arc<str>, Address);

/// What outlives a reload of one endpoint.
pub struct EndpointState {
    /// The name of its upstream.
    pub upstream: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// The address, as logs and metrics spell it.
    pub label: Arc<str>,
    /// Unique in the process.
    pub id: u64,
    /// The same on every machine: its place among those that a hash is taken over.
    pub identity: u64,
    /// What its name resolved to, and when; empty for addresses that need no resolving.
    pub(super) resolved: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
    in_flight: AtomicUsize,
    /// Those that the processes have out that this one has succeeded, and that still drain.
    older_generations: AtomicUsize,
    /// When it began to be there, in microseconds of the process; 0 for those that always were.
    since: AtomicU64,
    health: Mutex<EndpointHealth>,
    /// When it may get sessions again, in the same measure: 0 if it may, [`DOWN`] if nobody knows.
    out_until: AtomicU64,
    /// An operator has taken it out, until an operator puts it back.
    is_drained: AtomicBool,
    /// What an operator weighs it, until the next reload; or [`AS_CONFIGURED`].
    weight: AtomicU32,
    /// Who waits for it, or for its like.
    queue: Arc<Queue>,
}

impl fmt::Debug for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} in flight)", self.label, self.in_flight())
    }
}

impl EndpointState {
    pub(super) fn new((upstream, address): EndpointKey, queue: Arc<Queue>, since: u64) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let label: Arc<str> = address.to_string().into();
        Self {
            upstream,
            identity: balance::identity(&label),
            label,
            address,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            resolved: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            older_generations: AtomicUsize::new(0),
            since: AtomicU64::new(since),
            health: Mutex::default(),
            out_until: AtomicU64::new(0),
            is_drained: AtomicBool::new(false),
            weight: AtomicU32::new(AS_CONFIGURED),
            queue,
        }
    }

    /// What stands in `Host` where it is the endpoint's own; a unix socket has none.
    pub fn host(&self) -> Option<&str> {
        match self.address {
            Address::Unix(_) => None,
            Address::Ip(_) | Address::Name { .. } => Some(&self.label),
        }
    }

    /// Where its connections go, as far as that is known.
    pub(super) fn destinations(&self) -> Vec<SocketAddr> {
        match &self.address {
            Address::Ip(address) => vec![*address],
            Address::Unix(_) => Vec::new(),
            Address::Name { .. } => {
                let resolved = locked(&self.resolved);
                resolved
                    .as_ref()
                    .map_or_else(Vec::new, |(_, to)| to.to_vec())
            }
        }
    }

    /// Leases out: handshakes waiting for their 101, tunnels, running requests. With those of processes
    /// that this one has succeeded: the endpoint bears them, too.
    pub fn in_flight(&self) -> usize {
        // Ordered with the count of those who wait: see `Queue::wake_next`.
        self.in_flight.load(Ordering::SeqCst) + self.older_generations()
    }

    /// Those of the processes that this one has succeeded.
    pub fn older_generations(&self) -> usize {
        self.older_generations.load(Ordering::Relaxed)
    }

    /// Those processes have so many out by now.
    pub fn set_older_generations(&self, leases: usize) {
        let before = self.older_generations.swap(leases, Ordering::Relaxed);
        if leases < before {
            self.queue.wake_next();
        }
    }

    /// Whether an operator has taken it out: it gets nothing new, and what it has stays.
    pub fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }

    /// For whoever succeeds this process.
    pub(super) fn hand_over(&self, now: Instant) -> EndpointHandover {
        let since = self.since.load(Ordering::Relaxed);
        let age = Duration::from_micros(micros(now).saturating_sub(since));
        EndpointHandover {
            upstream: self.upstream.to_string(),
            address: self.address.clone(),
            in_flight: self.in_flight(),
            age: (since > 0).then_some(age),
            weight: self.weight(),
            health: locked(&self.health).remembered(now),
        }
    }

    /// As it was for the process before.
    pub(super) fn take_over(&self, handed: EndpointHandover, now: Instant) {
        let age = handed
            .age
            .map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        self.older_generations
            .store(handed.in_flight, Ordering::Relaxed);
        self.set_weight(handed.weight);
        self.health(now, |health| {
            *health = EndpointHealth::of(handed.health, now)
        });
        // Last: an ejection has a say in it, too.
        if self.out_until.load(Ordering::Relaxed) == 0 {
            let since = age.map_or(0, |age| micros(now).saturating_sub(age).max(1));
            self.since.store(since, Ordering::Relaxed);
        }
    }

    pub(super) fn set_drained(&self, is_drained: bool, now: Instant) {
        let was_drained = self.is_drained.swap(is_drained, Ordering::Relaxed);
        if was_drained && !is_drained {
            self.begin_slow_start(now);
        }
    }

    /// Whether an operator had taken it out before it appeared: no slow start follows from that.
    pub(super) fn begin_drained(&self, is_drained: bool) {
        self.is_drained.store(is_drained, Ordering::Relaxed);
    }

    /// What an operator weighs it instead of what is configured.
    pub fn weight(&self) -> Option<u32> {
        let weight = self.weight.load(Ordering::Relaxed);
        (weight != AS_CONFIGURED).then_some(weight)
    }

    /// Weighs it so; without a weight, as configured.
    pub fn set_weight(&self, weight: Option<u32>) {
        let weight = weight.unwrap_or(AS_CONFIGURED);
        self.weight.store(weight, Ordering::Relaxed);
        self.queue.wake_next();
    }

    /// Looks at its health, or changes it. What follows from that for picks follows at once.
    pub fn health<T>(&self, now: Instant, work: impl FnOnce(&mut EndpointHealth) -> T) -> T {
        let mut health = locked(&self.health);
        let result = work(&mut health);
        let out_until = match health.status(now) {
            HealthStatus::Up => 0,
            HealthStatus::Down { .. } => DOWN,
            HealthStatus::Ejected { until, .. } => micros(until),
        };
        let before = self.out_until.swap(out_until, Ordering::Relaxed);
        match out_until {
            0 if before > micros(now) => self.begin_slow_start(now),
            0 | DOWN => {}
            // No event marks the end of an ejection.
            until => self.since.store(until, Ordering::Relaxed),
        }
        result
    }

    /// Whether checks or ejection keep it out.
    pub(super) fn is_out(&self, now: u64) -> bool {
        now < self.out_until.load(Ordering::Relaxed)
    }

    /// Whether its ejection has ended by itself since this was asked last: whoever waits looks again.
    pub fn ejection_has_ended(&self, now: Instant) -> bool {
        let out_until = self.out_until.load(Ordering::Relaxed);
        if !(1..=micros(now)).contains(&out_until) {
            return false;
        }
        self.health(now, |_| ());
        self.queue.wake_next();
        true
    }

    /// It comes back now: its slow start begins.
    fn begin_slow_start(&self, now: Instant) {
        self.since.store(micros(now).max(1), Ordering::Relaxed);
        self.queue.wake_next();
    }

    /// How far it has come in a slow start of so long: up to 1.
    pub(super) fn warmth(&self, slow_start: Duration, now: u64) -> f32 {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            return 1.0;
        }
        let age = Duration::from_micros(now.saturating_sub(since));
        let share = age.as_secs_f32() / slow_start.as_secs_f32().max(f32::MIN_POSITIVE);
        share.clamp(MIN_WARMTH, 1.0)
    }
}

/// The right to use an endpoint: it counts as load until this is dropped.
#[derive(Debug)]
pub struct Lease {
    state: Arc<EndpointState>,
}

impl Lease {
    pub(super) fn on(state: &Arc<EndpointState>) -> Self {
        state.in_flight.fetch_add(1, Ordering::SeqCst);
        Self {
            state: Arc::clone(state),
        }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.state
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.state.queue.wake_next();
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
