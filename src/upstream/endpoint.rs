//! Upstreams and endpoints while they run, and the lease on an endpoint.
//!
//! An [`Upstream`] belongs to one snapshot. What must outlive reloads, the count of leases above
//! all, is in [`State`], shared by every snapshot that has the same endpoint.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use rustls::client::ClientConfig;

use super::balance::{Balancer, Candidate};
use crate::config::model::{self, Address, EndpointTls, Roots, SendProxy, UpstreamTimeouts};
use crate::net::tls::{self, TlsError};

/// A named group of endpoints.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// How many endpoints are tried for one request.
    pub tries: u32,
    /// `None` for plain text.
    pub tls: Option<Arc<Tls>>,
    /// Whether connections begin with a PROXY header.
    pub send_proxy: SendProxy,
    /// Deadlines towards its endpoints.
    pub timeouts: UpstreamTimeouts,
    endpoints: Vec<Endpoint>,
    balancer: Mutex<Balancer>,
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

#[derive(Debug)]
struct Endpoint {
    weight: u32,
    /// Leases that may be out at once.
    most: usize,
    state: Arc<State>,
}

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
    /// What its name resolved to, and when; empty for addresses that need no resolving.
    pub(super) resolved: Mutex<Option<(Instant, Arc<[SocketAddr]>)>>,
    in_flight: AtomicUsize,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} in flight)", self.label, self.in_flight())
    }
}

impl State {
    fn new(upstream: Arc<str>, address: Address) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Self {
            upstream,
            label: address.to_string().into(),
            address,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            resolved: Mutex::default(),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// What stands in `Host` where it is the endpoint's own; a unix socket has none.
    pub fn host(&self) -> Option<&str> {
        match self.address {
            Address::Unix(_) => None,
            Address::Ip(_) | Address::Name { .. } => Some(&self.label),
        }
    }

    /// Leases out: handshakes waiting for their 101, tunnels, running requests.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// The right to use an endpoint: it counts as load until this is dropped.
#[derive(Debug)]
pub struct Lease {
    state: Arc<State>,
}

impl Lease {
    fn on(state: &Arc<State>) -> Self {
        state.in_flight.fetch_add(1, Ordering::Relaxed);
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
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    /// Builds the upstream, taking over from `known` what outlives a reload.
    ///
    /// # Errors
    /// [`TlsError`], when TLS towards the endpoints cannot be set up.
    pub fn new(settings: &model::Upstream, known: &mut Known) -> Result<Self, TlsError> {
        let endpoints: Vec<Endpoint> = settings
            .endpoints
            .iter()
            .map(|endpoint| Endpoint {
                weight: endpoint.weight.get(),
                most: endpoint.max_tunnels.unwrap_or(usize::MAX),
                state: known.state(&settings.name, &endpoint.address),
            })
            .collect();
        Ok(Self {
            name: Arc::clone(&settings.name),
            tries: settings.tries.get(),
            tls: settings
                .tls
                .as_ref()
                .map(|tls| known.tls(&settings.name, tls))
                .transpose()?,
            send_proxy: settings.send_proxy,
            timeouts: settings.timeouts,
            balancer: Mutex::new(Balancer::new(settings.balance, endpoints.len())),
            endpoints,
        })
    }

    /// Whether some endpoint would be picked, were it not full.
    pub fn is_full(&self, tried: &[u64]) -> bool {
        let mut left = self
            .endpoints
            .iter()
            .filter(|each| !tried.contains(&each.state.id));
        left.any(|endpoint| endpoint.state.in_flight() >= endpoint.most)
    }

    /// Picks an endpoint that is not full and not among `tried`, and leases it. One short lock: two
    /// sessions that pick at once see each other's lease.
    pub fn pick(&self, tried: &[u64]) -> Option<Lease> {
        let candidates = self.endpoints.iter().map(|endpoint| {
            let in_flight = endpoint.state.in_flight();
            let untried = tried.is_empty() || !tried.contains(&endpoint.state.id);
            Candidate {
                weight: endpoint.weight,
                in_flight,
                eligible: untried && in_flight < endpoint.most,
            }
        });
        let mut balancer = self.balancer.lock().unwrap_or_else(PoisonError::into_inner);
        let position = balancer.pick(candidates)?;
        self.endpoints
            .get(position)
            .map(|endpoint| Lease::on(&endpoint.state))
    }

    /// Its endpoints, in the order of the file.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<State>> {
        self.endpoints.iter().map(|endpoint| &endpoint.state)
    }
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

/// Every endpoint that is alive: configured, or no more so but still with leases out. One that comes
/// back while its tunnels live is the same as before.
#[derive(Debug, Default)]
pub struct Known {
    states: HashMap<(Arc<str>, Address), Weak<State>>,
    tls: HashMap<Arc<str>, Arc<Tls>>,
    /// Of the configuration before.
    tls_before: HashMap<Arc<str>, Arc<Tls>>,
}

impl Known {
    /// The same, without those that have died.
    pub fn living(&self) -> Self {
        let living = self.states.iter();
        let living = living.filter(|(_, state)| state.strong_count() > 0);
        Self {
            states: living
                .map(|(key, state)| (key.clone(), Weak::clone(state)))
                .collect(),
            tls: HashMap::new(),
            tls_before: self.tls.clone(),
        }
    }

    /// The same as before, sessions that can be resumed included, if it is set up in the same way.
    fn tls(&mut self, upstream: &Arc<str>, settings: &EndpointTls) -> Result<Arc<Tls>, TlsError> {
        let before = self.tls_before.get(upstream);
        let tls = match before.filter(|before| before.settings == *settings) {
            // The operating system's authorities may have changed: they are read again.
            Some(before) if settings.roots != Roots::Platform => Arc::clone(before),
            _ => Arc::new(Tls::new(settings)?),
        };
        self.tls.insert(Arc::clone(upstream), Arc::clone(&tls));
        Ok(tls)
    }

    fn state(&mut self, upstream: &Arc<str>, address: &Address) -> Arc<State> {
        let key = (Arc::clone(upstream), address.clone());
        if let Some(state) = self.states.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(State::new(Arc::clone(upstream), address.clone()));
        self.states.insert(key, Arc::downgrade(&state));
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Balance;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn settings(addresses: &[&str]) -> model::Upstream {
        model::Upstream {
            name: "chat".into(),
            endpoints: addresses
                .iter()
                .map(|address| model::Endpoint {
                    address: Address::Ip(address.parse().unwrap()),
                    weight: NonZeroU32::MIN,
                    max_tunnels: None,
                })
                .collect(),
            balance: Balance::LeastConnections,
            tries: NonZeroU32::MIN,
            tls: None,
            send_proxy: SendProxy::Off,
            timeouts: UpstreamTimeouts {
                connect: Duration::from_secs(1),
                handshake: Duration::from_secs(1),
                response: Duration::from_secs(1),
            },
        }
    }

    #[test]
    fn a_lease_counts_from_the_pick_until_it_is_dropped() {
        let upstream = Upstream::new(
            &settings(&["127.0.0.1:1", "127.0.0.1:2"]),
            &mut Known::default(),
        )
        .unwrap();
        let first = upstream.pick(&[]).unwrap();
        let second = upstream.pick(&[]).unwrap();
        assert_ne!(first.endpoint().id, second.endpoint().id);
        assert_eq!(first.endpoint().in_flight(), 1);
        let state = Arc::clone(first.endpoint());
        drop(first);
        assert_eq!(state.in_flight(), 0);
        let tried: Vec<u64> = upstream.endpoints().map(|state| state.id).collect();
        assert!(upstream.pick(&tried).is_none());
    }

    #[test]
    fn counts_survive_a_reload() {
        let mut known = Known::default();
        let before = Upstream::new(&settings(&["127.0.0.1:1"]), &mut known).unwrap();
        let held = before.pick(&[]).unwrap();
        drop(before);
        // Gone from the configuration for a while.
        let mut known = known.living();
        Upstream::new(&settings(&["127.0.0.1:3"]), &mut known).unwrap();
        let mut known = known.living();
        let after = Upstream::new(&settings(&["127.0.0.1:1", "127.0.0.1:2"]), &mut known).unwrap();
        let counts: Vec<usize> = after.endpoints().map(|state| state.in_flight()).collect();
        assert_eq!(counts, [1, 0]);
        assert_eq!(&*after.pick(&[]).unwrap().endpoint().label, "127.0.0.1:2");
        drop(held);
        assert_eq!(after.endpoints().next().unwrap().in_flight(), 0);
        drop(after);
        assert!(known.living().states.is_empty());
    }
}
