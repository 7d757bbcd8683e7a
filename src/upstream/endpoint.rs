//! Endpoints while they run, and the lease on one.
//!
//! What must outlive reloads, the count of leases above all, is in [`State`], shared by every
//! snapshot that has the same endpoint. Which of them is picked is `group`'s business.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustls::client::ClientConfig;

use super::balance;
use super::handover::{self, Estate, Handed, HandedEndpoint, HandedUpstream};
use super::condition::{Condition, Standing};
use super::queue::Room;
use super::time::micros;
use crate::config::model::{self, Address, Discovery, EndpointTls, Roots, Secret};
use crate::net::tls::{self, TlsError};

/// The least that an endpoint in its slow start gets of its share.
const WARMTH_LEAST: f32 = 0.1;

/// As a weight, that there is none but the configured one.
const AS_CONFIGURED: u32 = u32::MAX;

/// As a time to come back, that of an endpoint whose checks fail.
const DOWN: u64 = u64::MAX;

/// What outlives a reload of one endpoint.
pub struct State {
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
    elsewhere: AtomicUsize,
    /// When it began to be there, in microseconds of the process; 0 for those that always were.
    since: AtomicU64,
    condition: Mutex<Condition>,
    /// When it may get sessions again, in the same measure: 0 if it may, [`DOWN`] if nobody knows.
    out_until: AtomicU64,
    /// An operator has taken it out, until an operator puts it back.
    is_drained: AtomicBool,
    /// What an operator weighs it, until the next reload; or [`AS_CONFIGURED`].
    weight: AtomicU32,
    /// Who waits for it, or for its like.
    room: Arc<Room>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} in flight)", self.label, self.in_flight())
    }
}

impl State {
    fn new(upstream: &Lasting, address: Address, since: u64) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let label: Arc<str> = address.to_string().into();
        Self {
            upstream: Arc::clone(&upstream.name),
            identity: balance::identity(&label),
            label,
            address,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            resolved: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            elsewhere: AtomicUsize::new(0),
            since: AtomicU64::new(since),
            condition: Mutex::default(),
            out_until: AtomicU64::new(0),
            is_drained: AtomicBool::new(false),
            weight: AtomicU32::new(AS_CONFIGURED),
            room: Arc::clone(&upstream.room),
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
        // Ordered with the count of those who wait: see `Room::look`.
        self.in_flight.load(Ordering::SeqCst) + self.elsewhere()
    }

    /// Those of the processes that this one has succeeded.
    pub fn elsewhere(&self) -> usize {
        self.elsewhere.load(Ordering::Relaxed)
    }

    /// Those processes have so many out by now.
    pub fn set_elsewhere(&self, leases: usize) {
        let before = self.elsewhere.swap(leases, Ordering::Relaxed);
        if leases < before {
            self.room.look();
        }
    }

    /// Whether an operator has taken it out: it gets nothing new, and what it has stays.
    pub fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }

    /// For whoever succeeds this process.
    fn hand_over(&self, now: Instant) -> HandedEndpoint {
        let since = self.since.load(Ordering::Relaxed);
        let age = Duration::from_micros(micros(now).saturating_sub(since));
        HandedEndpoint {
            upstream: self.upstream.to_string(),
            address: self.address.clone(),
            in_flight: self.in_flight(),
            age: (since > 0).then_some(age),
            weight: self.weight(),
            condition: locked(&self.condition).remembered(now),
        }
    }

    /// As it was for the process before.
    fn take_over(&self, handed: HandedEndpoint, now: Instant) {
        let age = handed
            .age
            .map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        self.elsewhere.store(handed.in_flight, Ordering::Relaxed);
        self.set_weight(handed.weight);
        self.condition(now, |condition| {
            *condition = Condition::of(handed.condition, now)
        });
        // Last: an ejection has a say in it, too.
        if self.out_until.load(Ordering::Relaxed) == 0 {
            let since = age.map_or(0, |age| micros(now).saturating_sub(age).max(1));
            self.since.store(since, Ordering::Relaxed);
        }
    }

    fn set_drained(&self, is_drained: bool, now: Instant) {
        let was_drained = self.is_drained.swap(is_drained, Ordering::Relaxed);
        if was_drained && !is_drained {
            self.begins(now);
        }
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
        self.room.look();
    }

    /// Looks at its condition, or changes it. What follows from that for picks follows at once.
    pub fn condition<T>(&self, now: Instant, work: impl FnOnce(&mut Condition) -> T) -> T {
        let mut condition = locked(&self.condition);
        let result = work(&mut condition);
        let out_until = match condition.standing(now) {
            Standing::Up => 0,
            Standing::Down { .. } => DOWN,
            Standing::Ejected { until, .. } => micros(until),
        };
        let before = self.out_until.swap(out_until, Ordering::Relaxed);
        match out_until {
            0 if before > micros(now) => self.begins(now),
            0 | DOWN => {}
            // Nobody will say when that is over.
            until => self.since.store(until, Ordering::Relaxed),
        }
        result
    }

    /// Whether checks or ejection keep it out.
    pub(super) fn is_out(&self, now: u64) -> bool {
        now < self.out_until.load(Ordering::Relaxed)
    }

    /// Whether its ejection has ended by itself since this was asked last: whoever waits looks again.
    pub fn is_back(&self, now: Instant) -> bool {
        let out_until = self.out_until.load(Ordering::Relaxed);
        if !(1..=micros(now)).contains(&out_until) {
            return false;
        }
        self.condition(now, |_| ());
        self.room.look();
        true
    }

    /// It comes back now: its slow start begins.
    fn begins(&self, now: Instant) {
        self.since.store(micros(now).max(1), Ordering::Relaxed);
        self.room.look();
    }

    /// How far it has come in a slow start of so long: up to 1.
    pub(super) fn warmth(&self, slow_start: Duration, now: u64) -> f32 {
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 {
            return 1.0;
        }
        let age = Duration::from_micros(now.saturating_sub(since));
        let share = age.as_secs_f32() / slow_start.as_secs_f32().max(f32::MIN_POSITIVE);
        share.clamp(WARMTH_LEAST, 1.0)
    }
}

/// The right to use an endpoint: it counts as load until this is dropped.
#[derive(Debug)]
pub struct Lease {
    state: Arc<State>,
}

impl Lease {
    pub(super) fn on(state: &Arc<State>) -> Self {
        state.in_flight.fetch_add(1, Ordering::SeqCst);
        Self {
            state: Arc::clone(state),
        }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Arc<State> {
        &self.state
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::SeqCst);
        self.state.room.look();
    }
}

/// TLS towards the endpoints of an upstream.
#[derive(Debug)]
pub struct Tls {
    /// What connections are made with.
    pub config: Arc<ClientConfig>,
    /// What it was made from.
    pub settings: EndpointTls,
    /// Tells pooled connections of one TLS set-up from those of another.
    pub generation: u64,
}

impl Tls {
    fn new(settings: &EndpointTls) -> Result<Self, TlsError> {
        static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);
        Ok(Self {
            config: tls::endpoint(settings)?,
            settings: settings.clone(),
            generation: NEXT_GENERATION.fetch_add(1, Ordering::Relaxed),
        })
    }
}

/// What outlives a reload of one upstream.
#[derive(Debug)]
pub struct Lasting {
    /// Its name.
    pub name: Arc<str>,
    /// Who waits for its endpoints.
    pub room: Arc<Room>,
    tls: Mutex<Option<Arc<Tls>>>,
    secret: OnceLock<[u8; 32]>,
    found: Mutex<Option<(Discovery, Vec<model::Endpoint>)>>,
}

impl Lasting {
    fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            room: Arc::default(),
            tls: Mutex::default(),
            secret: OnceLock::new(),
            found: Mutex::default(),
        }
    }

    /// The same as before, sessions that can be resumed included, if it is set up in the same way.
    pub(super) fn tls(&self, settings: &EndpointTls) -> Result<Arc<Tls>, TlsError> {
        let mut known = locked(&self.tls);
        if let Some(before) = known.as_ref()
            && before.settings == *settings
            // The operating system's authorities may have changed: they are read again.
            && settings.roots != Roots::Platform
        {
            return Ok(Arc::clone(before));
        }
        let tls = Arc::new(Tls::new(settings)?);
        *known = Some(Arc::clone(&tls));
        Ok(tls)
    }

    /// A secret of our own.
    pub(super) fn secret(&self) -> &[u8] {
        self.secret.get_or_init(|| {
            let mut secret = [0; 32];
            // It does not fail; if it did, cookies would be of no use to anybody else either.
            let _ = aws_lc_rs::rand::fill(&mut secret);
            secret
        })
    }

    /// For whoever succeeds this process.
    fn hand_over(&self) -> HandedUpstream {
        let secret = self.secret.get();
        let secret = secret.map(|secret| Secret::new(secret.to_vec().into()));
        HandedUpstream {
            name: self.name.to_string(),
            secret,
            found: locked(&self.found).clone(),
        }
    }

    /// As it was for the process before.
    fn take_over(&self, handed: HandedUpstream) {
        let secret = handed
            .secret
            .as_ref()
            .map(|secret| secret.bytes().try_into());
        if let Some(Ok(secret)) = secret {
            // It is the first that is heard of it.
            let _ = self.secret.set(secret);
        }
        *locked(&self.found) = handed.found;
    }

    /// What `discovery` has found so far.
    pub(super) fn found(&self, discovery: &Discovery) -> Option<Vec<model::Endpoint>> {
        let found = locked(&self.found);
        let (of, endpoints) = found.as_ref()?;
        (of == discovery).then(|| endpoints.clone())
    }

    pub(super) fn keep_found(&self, discovery: &Discovery, endpoints: &[model::Endpoint]) {
        *locked(&self.found) = Some((discovery.clone(), endpoints.to_vec()));
    }
}

/// What makes two endpoints the same: the name of the upstream, and the address.
pub(super) type EndpointKey = (Arc<str>, Address);

/// Everything of upstreams that is alive: configured, or no more so but still with leases out. An
/// endpoint that comes back while its tunnels live is the same as before.
#[derive(Debug, Default)]
pub struct Known {
    endpoints: Mutex<HashMap<EndpointKey, Weak<State>>>,
    upstreams: Mutex<HashMap<Arc<str>, Weak<Lasting>>>,
    settled: AtomicBool,
    /// What operators have taken out: it stays out if it goes and comes back.
    drained: Mutex<HashSet<EndpointKey>>,
    /// What the process before has handed over, until it is asked for.
    estate: Mutex<Estate>,
}

impl Known {
    /// Of the process before. What it did not have is new.
    pub fn taken_over(handed: Handed) -> Self {
        let Handed {
            upstreams,
            endpoints,
            drained,
        } = handed;
        Self {
            settled: AtomicBool::new(true),
            drained: Mutex::new(handover::drained(drained)),
            estate: Mutex::new(Estate::new(upstreams, endpoints)),
            ..Self::default()
        }
    }

    /// For whoever succeeds this process.
    pub fn hand_over(&self, now: Instant) -> Handed {
        let endpoints = locked(&self.endpoints);
        let endpoints = endpoints.values().filter_map(Weak::upgrade);
        let upstreams = locked(&self.upstreams);
        let upstreams = upstreams.values().filter_map(Weak::upgrade);
        let drained = locked(&self.drained);
        let drained = drained.iter();
        Handed {
            endpoints: endpoints.map(|state| state.hand_over(now)).collect(),
            upstreams: upstreams.map(|lasting| lasting.hand_over()).collect(),
            drained: drained
                .map(|(upstream, address)| (upstream.to_string(), address.clone()))
                .collect(),
        }
    }

    /// From now on endpoints that appear are new ones, whatever the process before knew of them: that
    /// grows old.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
        *locked(&self.estate) = Estate::default();
    }

    /// Takes an endpoint out, or puts it back: then its slow start begins.
    pub(super) fn set_drained(&self, endpoint: &State, is_drained: bool, now: Instant) {
        let key = (Arc::clone(&endpoint.upstream), endpoint.address.clone());
        let mut drained = locked(&self.drained);
        match is_drained {
            true => drained.insert(key),
            false => drained.remove(&key),
        };
        endpoint.set_drained(is_drained, now);
    }

    /// Forgets those that have died.
    pub fn sweep(&self) {
        locked(&self.endpoints).retain(|_, state| state.strong_count() > 0);
        locked(&self.upstreams).retain(|_, lasting| lasting.strong_count() > 0);
    }

    pub(super) fn upstream(&self, name: &Arc<str>) -> Arc<Lasting> {
        let mut upstreams = locked(&self.upstreams);
        if let Some(lasting) = upstreams.get(name).and_then(Weak::upgrade) {
            return lasting;
        }
        let lasting = Arc::new(Lasting::new(name));
        if let Some(handed) = locked(&self.estate).take_upstream(name) {
            lasting.take_over(handed);
        }
        upstreams.insert(Arc::clone(name), Arc::downgrade(&lasting));
        lasting
    }

    pub(super) fn endpoint(&self, upstream: &Lasting, address: &Address) -> Arc<State> {
        let key = (Arc::clone(&upstream.name), address.clone());
        let mut endpoints = locked(&self.endpoints);
        if let Some(state) = endpoints.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        let since = match self.settled.load(Ordering::Relaxed) {
            true => micros(Instant::now()).max(1),
            false => 0,
        };
        let state = Arc::new(State::new(upstream, address.clone(), since));
        let mut estate = locked(&self.estate);
        if let (Some(handed), Some(at)) = (estate.take_endpoint(&key), estate.at) {
            state.take_over(handed, at);
        }
        drop(estate);
        let is_drained = locked(&self.drained).contains(&key);
        state.is_drained.store(is_drained, Ordering::Relaxed);
        endpoints.insert(key, Arc::downgrade(&state));
        state
    }

    #[cfg(test)]
    pub(super) fn living(&self) -> usize {
        self.sweep();
        locked(&self.endpoints).len()
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
