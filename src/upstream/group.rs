//! An upstream as running: its endpoints, and which of them a session gets.
//!
//! An [`Upstream`] belongs to one snapshot; discovery may change its endpoints meanwhile.

mod ejection;
mod member;
mod offered;
mod pick;
mod pods;
mod reports;
mod stickiness;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub use self::member::Member;
pub use self::offered::NameTag;
use self::offered::{Endpoint, TaggedName};
use self::pick::Group;
pub use self::pick::{Affinity, Availability, PickError};
pub use self::stickiness::Stickiness;
use super::discovery::record::DiscoveryRecord;
use super::endpoint::{EndpointState, Lease, locked};
use super::queue::QueueError;
use super::registry::{Registry, UpstreamState, UpstreamTls};
use super::time::{micros, second};
use crate::config::model::{
    self, Balance, ConnectConfig, Picking, QueueConfig, RequestKey, Retry, UpstreamTimeouts,
};
use crate::net::tls::TlsError;
use crate::protocol::retry_after::ClientWait;
use crate::protocol::sticky_cookie::EndpointTag;

/// A named group of endpoints.
#[derive(Debug)]
pub struct Upstream {
    /// The name of the upstream in the configuration.
    pub name: Arc<str>,
    /// The configuration of the upstream.
    pub settings: model::UpstreamConfig,
    /// TLS towards the endpoints; `None` for plain text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The sticky cookie, if configured.
    pub sticky: Option<Stickiness>,
    group: Mutex<Group>,
    /// When the group last found out how much of all tunnels is its own, in [`micros`].
    rescaled_at: AtomicU64,
    state: Arc<UpstreamState>,
    registry: Arc<Registry>,
}

impl Upstream {
    /// Builds the upstream with the state that `registry` has of it.
    ///
    /// # Errors
    /// [`TlsError`], if TLS towards the endpoints cannot be set up.
    pub fn new(
        settings: &model::UpstreamConfig,
        registry: &Arc<Registry>,
    ) -> Result<Self, TlsError> {
        let state = registry.upstream(&settings.name);
        let tls = settings.reach.tls.as_ref();
        let sticky = settings.sticky.as_ref();
        let sticky = sticky.map(|sticky| Stickiness::new(sticky, &state, &registry.sticky_keys()));
        let upstream = Self {
            name: Arc::clone(&settings.name),
            tls: tls.map(|tls| state.tls(tls)).transpose()?,
            sticky,
            group: Mutex::new(Group::new(Vec::new(), &settings.picking)),
            rescaled_at: AtomicU64::new(0),
            state,
            registry: Arc::clone(registry),
            settings: settings.clone(),
        };
        let discovered = upstream.state.discovered(&settings.discovery);
        upstream.replace(discovered.as_deref().unwrap_or(&settings.endpoints));
        Ok(upstream)
    }

    /// The configuration of picking.
    pub fn picking(&self) -> &Picking {
        &self.settings.picking
    }

    /// The configuration of retries.
    pub fn retry(&self) -> &Retry {
        &self.settings.retry
    }

    /// The configuration of connecting.
    pub fn connecting(&self) -> &ConnectConfig {
        &self.settings.reach
    }

    /// Timeouts towards the endpoints.
    pub fn timeouts(&self) -> UpstreamTimeouts {
        self.settings.timeouts
    }

    /// The key of the policy `hash`, if that is configured.
    pub fn hash_key(&self) -> Option<&RequestKey> {
        match &self.picking().balance {
            Balance::Hash(by) => Some(&by.key),
            _ => None,
        }
    }

    /// Replaces the endpoints with those that discovery has found. The state of endpoints that stay is
    /// kept. No tunnel is closed here, not even one of a removed endpoint: that is up to `displace`.
    pub fn set_endpoints(&self, endpoints: &[model::EndpointConfig]) {
        let discovery = &self.settings.discovery;
        let before = self.state.remember_discovered(discovery, endpoints);
        self.follow_pods(before.as_deref(), endpoints, Instant::now());
        self.replace(endpoints);
        self.state.queue.wake_next();
    }

    fn replace(&self, endpoints: &[model::EndpointConfig]) {
        let endpoints = endpoints
            .iter()
            .map(|endpoint| {
                let state = self.registry.endpoint(&self.state, &endpoint.address);
                state.set_discovered_host(endpoint.host.as_deref());
                Endpoint {
                    weight: endpoint.weight,
                    max_in_flight: endpoint.max_tunnels.unwrap_or(usize::MAX),
                    is_drained: endpoint.drain,
                    is_backup: endpoint.backup,
                    phase: endpoint.phase,
                    name: endpoint.name.as_deref().map(TaggedName::new),
                    tags: self.tags_of(&state),
                    takes_reports: self.picking().reports.is_some(),
                    state,
                }
            })
            .collect();
        let mut group = Group::new(endpoints, self.picking());
        group.rescale(micros(Instant::now()));
        let before = std::mem::replace(&mut *locked(&self.group), group);
        // Outside the lock: freeing a thousand endpoints must not hold up picks.
        drop(before);
        self.registry.agenda().endpoints_changed();
        self.limit_ejected(Instant::now());
    }

    /// Whether the endpoints have to be asked for first, and no answer has come yet.
    pub fn awaits_discovery(&self) -> bool {
        let discovery = &self.settings.discovery;
        discovery.is_asked() && !self.state.has_discovered(discovery)
    }

    /// How the search for its endpoints goes.
    pub fn discovery_record(&self) -> &DiscoveryRecord {
        &self.state.discovery
    }

    /// The state of each endpoint.
    pub fn endpoints(&self) -> Vec<Arc<EndpointState>> {
        let group = locked(&self.group);
        let states = group.endpoints.iter();
        states.map(|endpoint| Arc::clone(&endpoint.state)).collect()
    }

    /// The endpoints, each with its configuration and its state.
    pub fn members(&self) -> Vec<Member> {
        let now = micros(Instant::now());
        let group = locked(&self.group);
        let members = group.endpoints.iter().map(|endpoint| Member {
            name: endpoint.name.as_ref().map(|it| Arc::clone(&it.text)),
            state: Arc::clone(&endpoint.state),
            weight: endpoint.weight(),
            max_in_flight: (endpoint.max_in_flight != usize::MAX).then_some(endpoint.max_in_flight),
            is_drained: endpoint.is_drained,
            phase: endpoint.phase,
            is_backup: endpoint.is_backup,
            report: endpoint.valid_report(now),
            pick_weight: endpoint.pick_weight(&endpoint.report(now)),
        });
        members.collect()
    }

    /// Whether `endpoint` is in its slow start, and gets less than its share.
    pub fn is_warming(&self, endpoint: &EndpointState, now: Instant) -> bool {
        self.slow_start(endpoint, now).is_some()
    }

    /// The part of its share that `endpoint` gets, from 0 to 1, while it is in its slow start.
    pub fn slow_start(&self, endpoint: &EndpointState, now: Instant) -> Option<f32> {
        let time = self.picking().slow_start?;
        Some(endpoint.warmth(time, micros(now))).filter(|warmth| *warmth < 1.0)
    }

    /// Drains an endpoint until an operator undoes that: it gets no new sessions, and its tunnels stay.
    pub fn set_drained(&self, endpoint: &EndpointState, is_drained: bool) {
        let now = Instant::now();
        self.registry.set_drained(endpoint, is_drained, now);
        self.limit_ejected(now);
        self.state.queue.wake_next();
    }

    /// Endpoints that serve as long as they are healthy: neither drained nor of weight 0.
    pub(super) fn serving(&self) -> Vec<Arc<EndpointState>> {
        let now = micros(Instant::now());
        let group = locked(&self.group);
        let serving = group.endpoints.iter().filter(|endpoint| {
            let report = endpoint.report(now);
            endpoint.serves_anyone(&report) && endpoint.pick_weight(&report) > 0
        });
        serving
            .map(|endpoint| Arc::clone(&endpoint.state))
            .collect()
    }

    /// Counts a request that begins, for the retry budget.
    pub fn count_request(&self, now: Instant) {
        locked(&self.state.retries).count_request(second(now));
    }

    /// Takes a retry of a request that was sent already out of the upstream's budget; returns whether there
    /// was one left: over ten seconds, a fifth of its requests, or ten if that is more.
    pub fn take_retry(&self, now: Instant) -> bool {
        locked(&self.state.retries).take_retry(second(now))
    }

    /// Requests in the queue.
    pub fn waiting(&self) -> usize {
        self.state.queue.waiting()
    }

    /// The tag of an endpoint in new sticky cookies; `None` if the upstream has none.
    pub fn tag_of(&self, endpoint: &EndpointState) -> Option<EndpointTag> {
        let sticky = self.sticky.as_ref()?;
        Some(sticky.signers().current().tag(&endpoint.label))
    }

    /// The tags of an endpoint in sticky cookies, one for each key.
    pub fn tags_of(&self, endpoint: &EndpointState) -> Box<[EndpointTag]> {
        let sticky = self.sticky.as_ref();
        let tags = sticky.map(|sticky| sticky.signers().tags(&endpoint.label));
        tags.unwrap_or_default()
    }

    /// From now on, sticky cookies without a key of their own are signed as nodes have agreed.
    pub fn share_sticky_keys(&self) {
        let Some(sticky) = &self.sticky else {
            return;
        };
        sticky.share(&self.state, &self.registry.sticky_keys());
        // Outside the lock: it takes a signature for each endpoint and key.
        let endpoints = self.endpoints();
        let tags = endpoints
            .iter()
            .map(|state| (state.id, self.tags_of(state)));
        let tags: HashMap<u64, _> = tags.collect();
        for endpoint in &mut locked(&self.group).endpoints {
            if let Some(tags) = tags.get(&endpoint.state.id) {
                endpoint.tags = tags.clone();
            }
        }
    }

    /// What stands for an endpoint of this name; `None` if there is none.
    pub fn named(&self, name: &str) -> Option<NameTag> {
        let group = locked(&self.group);
        let mut names = group.endpoints.iter().filter_map(|it| it.name.as_ref());
        names.find(|it| *it.text == *name).map(TaggedName::tag)
    }

    /// Picks an endpoint that is not among `tried`, and leases it. Picking and leasing happen under one
    /// short lock: two sessions that pick at once see each other's lease, so neither do both take
    /// the last place of an endpoint, nor do both find the same one the least loaded.
    ///
    /// # Errors
    /// [`PickError`].
    pub fn pick(&self, affinity: Affinity, tried: &[u64]) -> Result<Lease, PickError> {
        locked(&self.group).pick(affinity, tried, self.picking())
    }

    /// Whether a session with this affinity can be served now, full or not.
    pub fn availability(&self, affinity: Affinity) -> Availability {
        locked(&self.group).availability(affinity, self.picking())
    }

    /// The endpoint that a session would get now, without a lease on it.
    ///
    /// # Errors
    /// [`PickError`].
    pub fn preview(&self, affinity: Affinity) -> Result<Arc<EndpointState>, PickError> {
        let mut group = locked(&self.group);
        // A preview must not change whose turn is next.
        let before = group.balancer.clone();
        let picked = group.pick(affinity, &[], self.picking());
        group.balancer = before;
        picked.map(|lease| Arc::clone(lease.endpoint()))
    }

    /// How long a request that finds no room has to wait, as far as the queue shows.
    pub fn queue_wait(&self) -> ClientWait {
        let queue = self.picking().queue;
        queue.map_or_else(ClientWait::default, |QueueConfig { size, timeout }| {
            ClientWait::of_queue(self.waiting(), size, timeout)
        })
    }

    /// Picks like [`pick`](Self::pick), and waits in the queue, if there is one, while all are full.
    ///
    /// # Errors
    /// [`PickError`], after waiting.
    pub async fn pick_in_turn(
        &self,
        affinity: Affinity,
        tried: &[u64],
    ) -> Result<Lease, PickError> {
        let queue = &self.state.queue;
        // A request that names its endpoint does not wait: at the head of the queue, it would hold up all others
        // until that one has room.
        let Some(limits) = self.picking().queue.filter(|_| affinity.named.is_none()) else {
            return self.pick(affinity, tried);
        };
        // A request must not overtake those that already wait. One that enters the queue between
        // this look and the pick may be overtaken once, which a lock would not be worth.
        if queue.waiting() == 0 {
            match self.pick(affinity, tried) {
                Err(PickError::Full) => {}
                picked => return picked,
            }
        }
        let attempt = || match self.pick(affinity, tried) {
            Err(PickError::Full) => None,
            picked => Some(picked),
        };
        match queue.wait(limits, attempt).await {
            Ok(picked) => picked,
            Err(QueueError::Full | QueueError::Timeout) => Err(PickError::Full),
        }
    }
}

#[cfg(test)]
mod tests;
