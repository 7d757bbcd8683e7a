//! What outlives a reload: the state of upstreams and endpoints, as long as anything uses it.
//!
//! Every snapshot that has the same endpoint shares its state, so that the count of leases, above
//! all, is right whichever configuration a tunnel was opened under.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Instant;

use rustls::client::ClientConfig;

use super::endpoint::{EndpointKey, EndpointState, locked};
use super::handover::{UnclaimedHandover, UpstreamHandover, UpstreamsHandover};
use super::queue::Queue;
use super::time::micros;
use crate::config::model::{self, Address, Discovery, EndpointTls, Roots, Secret};
use crate::net::tls::{self, TlsError};

/// TLS towards the endpoints of an upstream.
#[derive(Debug)]
pub struct UpstreamTls {
    /// What connections are made with.
    pub config: Arc<ClientConfig>,
    /// What it was made from.
    pub settings: EndpointTls,
    /// Tells pooled connections of one TLS set-up from those of another.
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

/// What outlives a reload of one upstream.
#[derive(Debug)]
pub struct UpstreamState {
    /// Its name.
    pub name: Arc<str>,
    /// Who waits for its endpoints.
    pub queue: Arc<Queue>,
    tls: Mutex<Option<Arc<UpstreamTls>>>,
    secret: OnceLock<[u8; 32]>,
    found: Mutex<Option<(Discovery, Vec<model::EndpointConfig>)>>,
}

impl UpstreamState {
    fn new(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            queue: Arc::default(),
            tls: Mutex::default(),
            secret: OnceLock::new(),
            found: Mutex::default(),
        }
    }

    /// The same as before, sessions that can be resumed included, if it is set up in the same way.
    pub(super) fn tls(&self, settings: &EndpointTls) -> Result<Arc<UpstreamTls>, TlsError> {
        let mut known = locked(&self.tls);
        if let Some(before) = known.as_ref()
            && before.settings == *settings
            // The operating system's authorities may have changed: they are read again.
            && settings.roots != Roots::Platform
        {
            return Ok(Arc::clone(before));
        }
        let tls = Arc::new(UpstreamTls::new(settings)?);
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
    fn hand_over(&self) -> UpstreamHandover {
        let secret = self.secret.get();
        let secret = secret.map(|secret| Secret::new(secret.to_vec().into()));
        UpstreamHandover {
            name: self.name.to_string(),
            secret,
            found: locked(&self.found).clone(),
        }
    }

    /// As it was for the process before.
    fn take_over(&self, handed: UpstreamHandover) {
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
    pub(super) fn found(&self, discovery: &Discovery) -> Option<Vec<model::EndpointConfig>> {
        let found = locked(&self.found);
        let (of, endpoints) = found.as_ref()?;
        (of == discovery).then(|| endpoints.clone())
    }

    pub(super) fn remember_discovered(
        &self,
        discovery: &Discovery,
        endpoints: &[model::EndpointConfig],
    ) {
        *locked(&self.found) = Some((discovery.clone(), endpoints.to_vec()));
    }
}

/// Everything of upstreams that is alive: configured, or no more so but still with leases out. An
/// endpoint that comes back while its tunnels live is the same as before.
#[derive(Debug, Default)]
pub struct Registry {
    endpoints: Mutex<HashMap<EndpointKey, Weak<EndpointState>>>,
    upstreams: Mutex<HashMap<Arc<str>, Weak<UpstreamState>>>,
    settled: AtomicBool,
    /// What operators have taken out: it stays out if it goes and comes back.
    drained: Mutex<HashSet<EndpointKey>>,
    /// What the process before has handed over, until it is asked for.
    estate: Mutex<UnclaimedHandover>,
}

impl Registry {
    /// Of the process before. What it did not have is new.
    pub fn from_predecessor(handed: UpstreamsHandover) -> Self {
        let UpstreamsHandover {
            upstreams,
            endpoints,
            drained,
        } = handed;
        Self {
            settled: AtomicBool::new(true),
            drained: Mutex::new(
                drained
                    .into_iter()
                    .map(|(upstream, address)| (Arc::from(upstream), address))
                    .collect(),
            ),
            estate: Mutex::new(UnclaimedHandover::new(upstreams, endpoints)),
            ..Self::default()
        }
    }

    /// For whoever succeeds this process.
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

    /// From now on endpoints that appear are new ones, whatever the process before knew of them: that
    /// grows old.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
        *locked(&self.estate) = UnclaimedHandover::default();
    }

    /// Takes an endpoint out, or puts it back: then its slow start begins.
    pub(super) fn set_drained(&self, endpoint: &EndpointState, is_drained: bool, now: Instant) {
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
        locked(&self.upstreams).retain(|_, state| state.strong_count() > 0);
    }

    pub(super) fn upstream(&self, name: &Arc<str>) -> Arc<UpstreamState> {
        let mut upstreams = locked(&self.upstreams);
        if let Some(state) = upstreams.get(name).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(UpstreamState::new(name));
        if let Some(handed) = locked(&self.estate).take_upstream(name) {
            state.take_over(handed);
        }
        upstreams.insert(Arc::clone(name), Arc::downgrade(&state));
        state
    }

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
        let since = match self.settled.load(Ordering::Relaxed) {
            true => micros(Instant::now()).max(1),
            false => 0,
        };
        let state = Arc::new(EndpointState::new(
            key.clone(),
            Arc::clone(&upstream.queue),
            since,
        ));
        let mut estate = locked(&self.estate);
        let handed = estate.take_endpoint(&upstream.name, address);
        if let (Some(handed), Some(at)) = (handed, estate.at) {
            state.take_over(handed, at);
        }
        drop(estate);
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
