//! The state of one endpoint, and the lease on it.
//!
//! [`EndpointState`] outlives reloads: `registry` gives the same one to every snapshot that has the
//! endpoint. `group` decides which endpoint a session gets.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::addresses::AddressHistory;
use super::balance::{self, MIN_WARMTH};
use super::handover::EndpointHandover;
use super::health::{EndpointHealth, HealthStatus};
use super::queue::Queue;
use super::reachability::{Reachability, UnreachedEndpoint};
use super::report::ReportState;
use super::resolve::{ResolveError, ResolvedName, Resolver};
use super::time::micros;
use crate::config::model::Address;
use crate::quota::failure_reports::FailureReports;

/// Stands for no weight from an operator: the configured one applies.
const AS_CONFIGURED: u32 = u32::MAX;

/// Stands for the time of return of an endpoint whose checks fail: it is not known.
const DOWN: u64 = u64::MAX;

/// What identifies an endpoint across reloads: the name of its upstream, and its address.
pub(super) type EndpointKey = (Arc<str>, Address);

/// The state of one endpoint; it outlives reloads.
pub struct EndpointState {
    /// The name of its upstream.
    pub upstream: Arc<str>,
    /// Where the endpoint listens.
    pub address: Address,
    /// The address as it appears in logs and metrics.
    pub label: Arc<str>,
    /// A number that is unique in the process. Addresses are not: two upstreams may have the same.
    pub id: u64,
    /// The endpoint's number for hashing, the same on every machine.
    pub identity: u64,
    /// Its name, once it has been looked up; unset if its address is not a name.
    name: OnceLock<Arc<ResolvedName>>,
    /// The name whose lookup has found its address, with its port.
    discovered_host: Mutex<Option<Arc<str>>>,
    /// The addresses that a predecessor knew of its name.
    handed_addresses: OnceLock<Vec<SocketAddr>>,
    /// Which addresses of its name failed lately.
    pub(super) address_history: Mutex<AddressHistory>,
    in_flight: AtomicUsize,
    /// See [`incarnation`](Self::incarnation).
    incarnation: AtomicU64,
    /// Leases held by older generations that still drain.
    older_generations: AtomicUsize,
    /// When its slow start began, in [`micros`]; 0 for an endpoint that was there from the beginning.
    since: AtomicU64,
    health: Mutex<EndpointHealth>,
    /// When health lets it back in rotation, in [`micros`]: 0 if it is in rotation, [`DOWN`] while its
    /// checks fail. It repeats what `health` says, so that a pick needs no lock per endpoint.
    out_until: AtomicU64,
    reachability: Mutex<Reachability>,
    /// Until when it is asked last, in [`micros`]; 0 if the latest connection succeeded. It repeats what
    /// `reachability` says, like `out_until`.
    asked_last_until: AtomicU64,
    /// Whether the latest connection failed: a success then has something to change.
    is_unreached: AtomicBool,
    /// What sessions have reported of it lately, by cause.
    pub reports: FailureReports,
    /// What it says about its own load.
    pub report: ReportState,
    /// Whether an ejection has ended by time and `server/health` does not know yet.
    has_returned: AtomicBool,
    /// An operator has drained it, and it stays so until an operator undoes that.
    is_drained: AtomicBool,
    /// The weight that an operator has set, until the next reload; or [`AS_CONFIGURED`].
    weight: AtomicU32,
    /// The queue of its upstream.
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
            name: OnceLock::new(),
            discovered_host: Mutex::default(),
            handed_addresses: OnceLock::new(),
            address_history: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            incarnation: AtomicU64::new(0),
            older_generations: AtomicUsize::new(0),
            since: AtomicU64::new(since),
            health: Mutex::default(),
            out_until: AtomicU64::new(0),
            has_returned: AtomicBool::new(false),
            reachability: Mutex::default(),
            asked_last_until: AtomicU64::new(0),
            is_unreached: AtomicBool::new(false),
            reports: FailureReports::default(),
            report: ReportState::default(),
            is_drained: AtomicBool::new(false),
            weight: AtomicU32::new(AS_CONFIGURED),
            queue,
        }
    }

    /// The value of `Host` if the endpoint's own is sent: the name by which it is known, or its address. A
    /// unix socket has none.
    pub fn host(&self) -> Option<Arc<str>> {
        match self.address {
            Address::Unix(_) => None,
            Address::Ip(_) => {
                let discovered = locked(&self.discovered_host).clone();
                Some(discovered.unwrap_or_else(|| Arc::clone(&self.label)))
            }
            Address::Name { .. } => Some(Arc::clone(&self.label)),
        }
    }

    /// Sets the name whose lookup has found the endpoint.
    pub(super) fn set_discovered_host(&self, host: Option<&str>) {
        let named = match (&self.address, host) {
            (Address::Ip(address), Some(host)) => Some(format!("{host}:{}", address.port())),
            _ => None,
        };
        *locked(&self.discovered_host) = named.map(Into::into);
    }

    /// The socket addresses of the endpoint; none for a name that has not been looked up.
    pub(super) fn destinations(&self) -> Vec<SocketAddr> {
        match &self.address {
            Address::Ip(address) => vec![*address],
            Address::Unix(_) => Vec::new(),
            Address::Name { port, .. } => match self.name.get() {
                Some(name) => name.addresses(*port),
                None => self.handed_addresses.get().cloned().unwrap_or_default(),
            },
        }
    }

    /// Its name `host`, shared with other endpoints that have the same.
    pub(super) fn resolved_name(&self, host: &str, resolver: &Resolver) -> &Arc<ResolvedName> {
        self.name.get_or_init(|| {
            let handed = self.handed_addresses.get();
            resolver.name(host, handed.map_or(&[], Vec::as_slice))
        })
    }

    /// How the latest lookup of its name failed, if it did.
    pub fn resolve_error(&self) -> Option<ResolveError> {
        self.name.get()?.failure()
    }

    /// Leases: handshakes in progress, tunnels, and plain requests. Those of older generations are
    /// included, because the endpoint carries their load, too.
    pub fn in_flight(&self) -> usize {
        // Ordered with the number of waiting requests: see `Queue::wake_next`.
        self.in_flight.load(Ordering::SeqCst) + self.older_generations()
    }

    /// A number that is another one when something else has its address: what a check or a session has learned of the
    /// one before says nothing about it. In [`health`](Self::health), it is the one whose health that is.
    pub fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// Leases held by older generations.
    pub fn older_generations(&self) -> usize {
        self.older_generations.load(Ordering::Relaxed)
    }

    /// Sets the number of leases held by older generations.
    pub fn set_older_generations(&self, leases: usize) {
        let before = self.older_generations.swap(leases, Ordering::Relaxed);
        if leases < before {
            self.queue.wake_next();
        }
    }

    /// Whether an operator has drained it: it gets no new sessions, and its tunnels stay open.
    pub fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }

    /// Whether its report drains it. It counts only if its upstream takes reports.
    pub fn reports_drain(&self, now: Instant) -> bool {
        let report = self.report.valid(micros(now));
        report.is_some_and(|report| report.is_draining)
    }

    /// The state to hand to a successor.
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
            addresses: match self.address {
                Address::Name { .. } => self.destinations(),
                Address::Ip(_) | Address::Unix(_) => Vec::new(),
            },
            report: self.report.hand_over(now),
        }
    }

    /// Continues with the state from a predecessor.
    pub(super) fn take_over(&self, handed: EndpointHandover, now: Instant) {
        let age = handed
            .age
            .map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        self.older_generations
            .store(handed.in_flight, Ordering::Relaxed);
        self.set_weight(handed.weight);
        if let Some(report) = &handed.report {
            self.report.take_over(report, now);
        }
        if !handed.addresses.is_empty() {
            let _ = self.handed_addresses.set(handed.addresses);
        }
        self.health(now, |health| {
            *health = EndpointHealth::of(handed.health, now)
        });
        // Last, because `health` has set `since` if the endpoint is ejected: its slow start begins
        // when the ejection ends.
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

    /// Sets whether an operator has drained it, before it is used: this begins no slow start.
    pub(super) fn begin_drained(&self, is_drained: bool) {
        self.is_drained.store(is_drained, Ordering::Relaxed);
    }

    /// The weight that an operator has set, if any.
    pub fn weight(&self) -> Option<u32> {
        let weight = self.weight.load(Ordering::Relaxed);
        (weight != AS_CONFIGURED).then_some(weight)
    }

    /// Sets an operator's weight; `None` for the configured one.
    pub fn set_weight(&self, weight: Option<u32>) {
        let weight = weight.unwrap_or(AS_CONFIGURED);
        self.weight.store(weight, Ordering::Relaxed);
        self.queue.wake_next();
    }

    /// Something else has its address from now on: forgets what operators have set for the one before, what that one
    /// has reported, and how it has failed.
    pub(super) fn forget(&self, now: Instant) {
        // First, so that no late result follows what is forgotten here.
        self.incarnation.fetch_add(1, Ordering::Relaxed);
        self.begin_drained(false);
        if self.weight().is_some() {
            self.set_weight(None);
        }
        self.report.forget();
        self.health(now, EndpointHealth::forget);
        // A connection that failed was one to the endpoint before.
        self.connected();
    }

    /// Reads or changes its health. Picks follow a change at once.
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
            0 if before > 0 => {
                self.has_returned.store(true, Ordering::Relaxed);
                self.queue.wake_next();
            }
            0 | DOWN => {}
            // No event marks the end of an ejection: its slow start begins by the clock.
            until => self.since.store(until, Ordering::Relaxed),
        }
        result
    }

    /// Whether its health keeps it out of rotation at `now`.
    pub(super) fn is_out(&self, now: u64) -> bool {
        now < self.out_until.load(Ordering::Relaxed)
    }

    /// A connection to it failed, and not because of this process. With `is_asked_last`, it is asked last for
    /// a short time from now on. Returns whether to report that.
    pub(super) fn connect_failed(&self, why: &str, is_asked_last: bool, now: Instant) -> bool {
        let mut reachability = locked(&self.reachability);
        let is_news = reachability.failed(why, now);
        self.is_unreached.store(true, Ordering::Relaxed);
        drop(reachability);
        if is_asked_last {
            self.ask_last(now);
        }
        is_news
    }

    /// It is asked last for a short time from now on, if the latest connection failed.
    pub(super) fn ask_last(&self, now: Instant) {
        let mut reachability = locked(&self.reachability);
        if let Some(until) = reachability.ask_last(now) {
            self.asked_last_until
                .store(micros(until), Ordering::Relaxed);
        }
    }

    /// A connection to it succeeded. Returns whether to report that it is reachable again.
    pub fn connected(&self) -> bool {
        // Nearly always there is nothing to change, and the lock is not worth it.
        if !self.is_unreached.load(Ordering::Relaxed) {
            return false;
        }
        let mut reachability = locked(&self.reachability);
        self.is_unreached.store(false, Ordering::Relaxed);
        self.asked_last_until.store(0, Ordering::Relaxed);
        reachability.succeeded()
    }

    /// The failure of the latest connection to it, if that failed.
    pub fn unreached(&self) -> Option<UnreachedEndpoint> {
        locked(&self.reachability).failure().cloned()
    }

    /// Whether it is asked last at `now`: only if no other endpoint can be picked.
    pub(super) fn is_asked_last(&self, now: u64) -> bool {
        now < self.asked_last_until.load(Ordering::Relaxed)
    }

    /// Whether its ejection has ended by time since the last call; if so, the queue has been woken. Time passes
    /// without an event, so `server/health` calls this when it is due. Another look at its health, by a scrape
    /// of the metrics for example, may have come first.
    pub fn ejection_has_ended(&self, now: Instant) -> bool {
        let out_until = self.out_until.load(Ordering::Relaxed);
        if (1..=micros(now)).contains(&out_until) {
            self.health(now, |_| ());
        }
        self.has_returned.swap(false, Ordering::Relaxed)
    }

    /// The endpoint is back in rotation: its slow start begins, if it is ejected at the end of that.
    pub(super) fn begin_slow_start(&self, now: Instant) {
        let now = micros(now).max(1);
        let since = match self.out_until.load(Ordering::Relaxed) {
            DOWN => now,
            until => now.max(until),
        };
        self.since.store(since, Ordering::Relaxed);
        self.queue.wake_next();
    }

    /// How far it is in a slow start that lasts `slow_start`: from [`MIN_WARMTH`] to 1.
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

/// The right to use an endpoint: counted as in flight until dropped.
#[derive(Debug)]
pub struct Lease {
    state: Arc<EndpointState>,
}

impl Lease {
    /// Takes a lease. The caller holds the lock of the group: otherwise two picks at once would
    /// both see the last free place of an endpoint with a limit.
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
        // In this order: the request that is woken must see the place that is free.
        self.state.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.state.queue.wake_next();
    }
}

/// Locks; a poisoned mutex is used as it is, since no change is left half done.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl EndpointState {
    /// The endpoint of the upstream `chat` at this address, for tests of other layers.
    pub(crate) fn alone(address: SocketAddr) -> Self {
        Self::new(("chat".into(), Address::Ip(address)), Arc::default(), 0)
    }
}
