//! The state of upstreams and endpoints that outlives a reload, as long as anything uses it.
//!
//! Every snapshot that has the same endpoint shares its state. So the number of leases, above all,
//! is right whichever configuration a tunnel was opened under.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use rustls::client::ClientConfig;

use super::agenda::HealthAgenda;
use super::discovery::record::DiscoveryRecord;
use super::endpoint::{EndpointKey, EndpointState, locked};
use super::handover::{UnclaimedHandover, UpstreamHandover, UpstreamsHandover};
use super::queue::Queue;
use super::retry_budget::RetryBudget;
use super::time::micros;
use crate::config::model::{self, Address, Discovery, EndpointTls, Roots, Secret, SharedKeys};
use crate::net::tls::{self, TlsError};

/// TLS for connections to the endpoints of an upstream.
#[derive(Debug)]
pub struct UpstreamTls {
    /// The TLS client configuration.
    pub config: Arc<ClientConfig>,
    /// The settings that it was made from.
    pub settings: EndpointTls,
    /// Distinguishes pooled connections with these settings from those with others.
    pub generation: u64,
}

impl UpstreamTls {
    fn new(settings: &EndpointTls) -> Result<Self, TlsError> {
        static NEXT_GENERATION: AtomicU64 = AtomicU64::new(1);
        Ok(Self {
            config: tls::endpoint(settings)?,
            settings: settings.clone(),
            generation: NEXT_GENERATION.fetch_add(1, Ordering::Relaxed),
        })
    }
}

/// The state of one upstream; it outlives reloads.
#[derive(Debug)]
pub struct UpstreamState {
    /// The name of the upstream.
    pub name: Arc<str>,
    /// Requests that wait for an endpoint.
    pub queue: Arc<Queue>,
    /// How the search for endpoints goes.
    pub discovery: DiscoveryRecord,
    /// How many requests may be sent a second time.
    pub(super) retries: Mutex<RetryBudget>,
    tls: Mutex<Option<Arc<UpstreamTls>>>,
    secret: OnceLock<[u8; 32]>,
    /// What discovery last found, and how.
    discovered: Mutex<Option<(Discovery, Vec<model::EndpointConfig>)>>,
}

impl UpstreamState {
    fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            queue: Arc::default(),
            discovery: DiscoveryRecord::default(),
            retries: Mutex::default(),
            tls: Mutex::default(),
            secret: OnceLock::new(),
            discovered: Mutex::default(),
        }
    }

    /// TLS with these settings. If they have not changed, this is the same as before, so that TLS
    /// sessions can be resumed after a reload.
    pub(super) fn tls(&self, settings: &EndpointTls) -> Result<Arc<UpstreamTls>, TlsError> {
        let mut current = locked(&self.tls);
        if let Some(before) = current.as_ref()
            && before.settings == *settings
            // The operating system's CA certificates may have changed, so they are read again.
            && settings.roots != Roots::Platform
        {
            return Ok(Arc::clone(before));
        }
        let tls = Arc::new(UpstreamTls::new(settings)?);
        *current = Some(Arc::clone(&tls));
        Ok(tls)
    }

    /// The secret for sticky cookies if none is configured: random, made on first use.
    pub(super) fn secret(&self) -> &[u8] {
        self.secret.get_or_init(|| {
            let mut secret = [0; 32];
            // It does not fail. If it did, TLS would not work either, and cookies would only be
            // forgeable.
            let _ = aws_lc_rs::rand::fill(&mut secret);
            secret
        })
    }

    /// The same, if it was used already.
    pub(super) fn known_secret(&self) -> Option<&[u8]> {
        self.secret.get().map(|secret| &secret[..])
    }

    /// The state to hand to a successor.
    fn hand_over(&self) -> UpstreamHandover {
        let secret = self.secret.get();
        let secret = secret.map(|secret| Secret::new(secret.to_vec().into()));
        UpstreamHandover {
            name: self.name.to_string(),
            secret,
            discovered: locked(&self.discovered).clone(),
        }
    }

    /// Continues with the state from a predecessor.
    fn take_over(&self, handed: UpstreamHandover) {
        let secret = handed
            .secret
            .as_ref()
            .map(|secret| secret.bytes().try_into());
        if let Some(Ok(secret)) = secret {
            // Nothing has asked for the secret yet, so none is set.
            let _ = self.secret.set(secret);
        }
        *locked(&self.discovered) = handed.discovered;
    }

    /// The endpoints that `discovery` last found.
    pub fn discovered(&self, discovery: &Discovery) -> Option<Vec<model::EndpointConfig>> {
        let discovered = locked(&self.discovered);
        let (by, endpoints) = discovered.as_ref()?;
        by.finds_the_same(discovery).then(|| endpoints.clone())
    }

    /// Whether `discovery` has found endpoints, or has found that there are none.
    pub fn has_discovered(&self, discovery: &Discovery) -> bool {
        let discovered = locked(&self.discovered);
        discovered
            .as_ref()
            .is_some_and(|(by, _)| by.finds_the_same(discovery))
    }

    /// Remembers what `discovery` has found; returns what it found last.
    pub(super) fn remember_discovered(
        &self,
        discovery: &Discovery,
        endpoints: &[model::EndpointConfig],
    ) -> Option<Vec<model::EndpointConfig>> {
        let found = (discovery.clone(), endpoints.to_vec());
        let (by, before) = locked(&self.discovered).replace(found)?;
        by.finds_the_same(discovery).then_some(before)
    }
}

/// All upstreams and endpoints that are configured, or still have leases. An endpoint that is removed
/// and comes back while its tunnels are open is the same as before.
#[derive(Debug, Default)]
pub struct Registry {
    endpoints: Mutex<HashMap<EndpointKey, Weak<EndpointState>>>,
    upstreams: Mutex<HashMap<Arc<str>, Weak<UpstreamState>>>,
    /// Whether endpoints that appear are new, and so get a slow start: not while the process starts.
    has_settled: AtomicBool,
    /// Endpoints that operators have drained. They stay drained if they are removed and come back, unless something
    /// else may have their address then.
    drained: Mutex<HashSet<EndpointKey>>,
    /// State from a predecessor that has not been claimed yet.
    unclaimed: Mutex<UnclaimedHandover>,
    agenda: HealthAgenda,
    /// The keys of sticky cookies that nodes have agreed on.
    sticky_keys: Mutex<SharedKeys>,
}

impl Registry {
    /// Begins with the state from a predecessor. Endpoints that it did not have are new.
    pub fn from_predecessor(handed: UpstreamsHandover) -> Self {
        let UpstreamsHandover {
            upstreams,
            endpoints,
            drained,
        } = handed;
        Self {
            has_settled: AtomicBool::new(true),
            drained: Mutex::new(
                drained
                    .into_iter()
                    .map(|(upstream, address)| (Arc::from(upstream), address))
                    .collect(),
            ),
            unclaimed: Mutex::new(UnclaimedHandover::new(upstreams, endpoints)),
            ..Self::default()
        }
    }

    /// What the health checks have to learn.
    pub fn agenda(&self) -> &HealthAgenda {
        &self.agenda
    }

    /// The state to hand to a successor.
    pub fn hand_over(&self, now: Instant) -> UpstreamsHandover {
        let endpoints = locked(&self.endpoints);
        let endpoints = endpoints.values().filter_map(Weak::upgrade);
        let upstreams = locked(&self.upstreams);
        let upstreams = upstreams.values().filter_map(Weak::upgrade);
        let drained = locked(&self.drained);
        let drained = drained.iter();
        UpstreamsHandover {
            endpoints: endpoints.map(|state| state.hand_over(now)).collect(),
            upstreams: upstreams.map(|state| state.hand_over()).collect(),
            drained: drained
                .map(|(upstream, address)| (upstream.to_string(), address.clone()))
                .collect(),
        }
    }

    /// The keys that nodes have agreed on for sticky cookies without a key of their own.
    pub fn sticky_keys(&self) -> SharedKeys {
        locked(&self.sticky_keys).clone()
    }

    /// From now on, nodes have agreed on these keys. Upstreams that exist use them once they are asked to.
    pub fn set_sticky_keys(&self, agreed: &SharedKeys) {
        *locked(&self.sticky_keys) = agreed.clone();
    }

    /// The process has started: endpoints that appear from now on are new. What the predecessor knew
    /// of others is dropped, because it gets stale.
    pub fn settle(&self) {
        self.has_settled.store(true, Ordering::Relaxed);
        *locked(&self.unclaimed) = UnclaimedHandover::default();
    }

    /// Drains an endpoint, or undoes that: then its slow start begins.
    pub(super) fn set_drained(&self, endpoint: &EndpointState, is_drained: bool, now: Instant) {
        let key = (Arc::clone(&endpoint.upstream), endpoint.address.clone());
        let mut drained = locked(&self.drained);
        match is_drained {
            true => drained.insert(key),
            false => drained.remove(&key),
        };
        endpoint.set_drained(is_drained, now);
    }

    /// Forgets what operators have set for these endpoints of `upstream`, what these have reported, and how they have
    /// failed: what has their addresses later is something else.
    pub(super) fn forget(
        &self,
        upstream: &Arc<str>,
        is_gone: impl Fn(&Address) -> bool,
        now: Instant,
    ) {
        let is_forgotten = |(name, address): &EndpointKey| *name == *upstream && is_gone(address);
        locked(&self.drained).retain(|key| !is_forgotten(key));
        let endpoints = locked(&self.endpoints);
        // Those that are gone may still have tunnels.
        let states = endpoints.iter().filter(|(key, _)| is_forgotten(key));
        let states: Vec<_> = states.filter_map(|(_, state)| state.upgrade()).collect();
        drop(endpoints);
        for state in states {
            state.forget(now);
        }
    }

    /// The slow start of an endpoint begins now, as far as the process itself has started.
    pub(super) fn begin_slow_start(
        &self,
        upstream: &UpstreamState,
        address: &Address,
        now: Instant,
    ) {
        if self.has_settled.load(Ordering::Relaxed) {
            self.endpoint(upstream, address).begin_slow_start(now);
        }
    }

    /// The state of an endpoint, if anything uses it.
    pub fn find(&self, upstream: &Arc<str>, address: &Address) -> Option<Arc<EndpointState>> {
        let key = (Arc::clone(upstream), address.clone());
        locked(&self.endpoints).get(&key).and_then(Weak::upgrade)
    }

    /// Whether an operator has drained an endpoint, whether it is configured at the moment or not.
    pub fn is_drained(&self, upstream: &Arc<str>, address: &Address) -> bool {
        let key = (Arc::clone(upstream), address.clone());
        locked(&self.drained).contains(&key)
    }

    /// The upstreams of all endpoints that anything uses.
    pub fn upstream_names(&self) -> HashSet<Arc<str>> {
        let endpoints = locked(&self.endpoints);
        let used = endpoints
            .iter()
            .filter(|(_, state)| state.strong_count() > 0);
        used.map(|((upstream, _), _)| Arc::clone(upstream))
            .collect()
    }

    /// Forgets the upstreams and endpoints that nothing uses any more.
    pub fn sweep(&self) {
        locked(&self.endpoints).retain(|_, state| state.strong_count() > 0);
        locked(&self.upstreams).retain(|_, state| state.strong_count() > 0);
    }

    /// The state of the upstream, from a predecessor if it has left one.
    pub fn upstream(&self, name: &Arc<str>) -> Arc<UpstreamState> {
        let mut upstreams = locked(&self.upstreams);
        if let Some(state) = upstreams.get(name).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(UpstreamState::new(name));
        if let Some(handed) = locked(&self.unclaimed).take_upstream(name) {
            state.take_over(handed);
        }
        upstreams.insert(Arc::clone(name), Arc::downgrade(&state));
        state
    }

    /// The state of the endpoint, from a predecessor if it has left one.
    pub(super) fn endpoint(
        &self,
        upstream: &UpstreamState,
        address: &Address,
    ) -> Arc<EndpointState> {
        let key = (Arc::clone(&upstream.name), address.clone());
        let mut endpoints = locked(&self.endpoints);
        if let Some(state) = endpoints.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        let since = match self.has_settled.load(Ordering::Relaxed) {
            true => micros(Instant::now()).max(1),
            false => 0,
        };
        let state = Arc::new(EndpointState::new(
            key.clone(),
            Arc::clone(&upstream.queue),
            since,
        ));
        let mut unclaimed = locked(&self.unclaimed);
        let handed = unclaimed.take_endpoint(&upstream.name, address);
        if let (Some(handed), Some(at)) = (handed, unclaimed.at) {
            state.take_over(handed, at);
        }
        drop(unclaimed);
        let is_drained = locked(&self.drained).contains(&key);
        state.begin_drained(is_drained);
        endpoints.insert(key, Arc::downgrade(&state));
        state
    }

    #[cfg(test)]
    pub(super) fn living(&self) -> usize {
        self.sweep();
        locked(&self.endpoints).len()
    }
}
