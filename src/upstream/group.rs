//! An upstream as running: its endpoints, and which of them a session gets.
//!
//! An [`Upstream`] belongs to one snapshot; its endpoints may change while it runs.

mod ejection;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::balance::{Balancer, Candidate, Policy};
use super::endpoint::{EndpointState, Lease, locked};
use super::health::{EndpointHealth, HealthStatus};
use super::queue::QueueError;
use super::registry::{Registry, UpstreamState, UpstreamTls};
use super::time::micros;
use crate::config::model::{
    self, AllDown, Balance, ConnectConfig, HashKey, Picking, Retry, Sticky, UpstreamTimeouts,
};
use crate::net::tls::TlsError;
use crate::protocol::sticky_cookie::{CookieSigner, EndpointTag};

/// A named group of endpoints.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// As configured.
    pub settings: model::UpstreamConfig,
    /// `None` for plain text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The cookie that leads back to an endpoint.
    pub sticky: Option<Stickiness>,
    group: Mutex<Group>,
    state: Arc<UpstreamState>,
    known: Arc<Registry>,
}

/// The cookie that leads back to an endpoint.
#[derive(Debug)]
pub struct Stickiness {
    /// As configured.
    pub settings: Sticky,
    /// Makes and reads it.
    pub signer: CookieSigner,
}

/// Endpoints, and where the rotation over them stands.
#[derive(Debug)]
struct Group {
    endpoints: Vec<Endpoint>,
    balancer: Balancer,
}

#[derive(Debug)]
struct Endpoint {
    weight: u32,
    /// Leases that may be out at once.
    max_in_flight: usize,
    is_drained: bool,
    is_backup: bool,
    /// What stands for it in cookies.
    tag: Option<EndpointTag>,
    state: Arc<EndpointState>,
}

/// An endpoint of an upstream, as it stands.
#[derive(Debug, Clone)]
pub struct Member {
    /// The endpoint.
    pub state: Arc<EndpointState>,
    /// Its weight, an operator's or the configured one.
    pub weight: u32,
    /// Leases that may be out at once; `None` for no limit.
    pub max_in_flight: Option<usize>,
    /// The configuration has it take nothing new.
    pub is_drained: bool,
    /// It is for when the others cannot.
    pub is_backup: bool,
}

impl Member {
    /// Whether it accepts new sessions: nobody has taken it out, it is fit, and has room and weight.
    pub fn accepts_sessions(&self, now: Instant) -> bool {
        let is_in = !self.is_drained && !self.state.is_drained() && self.weight > 0;
        let has_room = self
            .max_in_flight
            .is_none_or(|max_in_flight| self.state.in_flight() < max_in_flight);
        let is_fit = |it: &mut EndpointHealth| matches!(it.status(now), HealthStatus::Up);
        is_in && has_room && self.state.health(now, is_fit)
    }

    /// Whether it has a share of what is new, full or not: backups have none.
    pub fn has_share(&self, now: Instant) -> bool {
        let is_in = !self.is_drained && !self.state.is_drained() && self.weight > 0;
        is_in && !self.is_backup && !self.state.is_out(micros(now))
    }
}

/// What a session wants of an upstream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Affinity {
    /// The hash of its key, where endpoints are picked by one.
    pub hash: Option<u64>,
    /// The endpoint that its cookie leads to.
    pub sticky: Option<EndpointTag>,
}

/// Why there is no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickError {
    /// None is ready.
    NotReady,
    /// Some are, but have all that they may.
    Full,
}

impl Upstream {
    /// Builds the upstream, taking over from `known` what outlives a reload.
    ///
    /// # Errors
    /// [`TlsError`], when TLS towards the endpoints cannot be set up.
    pub fn new(settings: &model::UpstreamConfig, known: &Arc<Registry>) -> Result<Self, TlsError> {
        let state = known.upstream(&settings.name);
        let tls = settings.reach.tls.as_ref();
        let sticky = settings.sticky.as_ref().map(|sticky| {
            let secret = sticky.secret.as_ref();
            let secret = secret.map_or_else(|| state.secret(), |secret| secret.bytes());
            Stickiness {
                settings: sticky.clone(),
                signer: CookieSigner::new(secret, &settings.name),
            }
        });
        let upstream = Self {
            name: Arc::clone(&settings.name),
            tls: tls.map(|tls| state.tls(tls)).transpose()?,
            sticky,
            group: Mutex::new(Group::new(Vec::new(), &settings.picking)),
            state,
            known: Arc::clone(known),
            settings: settings.clone(),
        };
        let found = upstream.state.found(&settings.discovery);
        upstream.replace(found.as_deref().unwrap_or(&settings.endpoints));
        Ok(upstream)
    }

    /// How its endpoints are picked.
    pub fn picking(&self) -> &Picking {
        &self.settings.picking
    }

    /// What happens when one does not do.
    pub fn retry(&self) -> &Retry {
        &self.settings.retry
    }

    /// How they are connected to.
    pub fn reach(&self) -> &ConnectConfig {
        &self.settings.reach
    }

    /// Deadlines towards them.
    pub fn timeouts(&self) -> UpstreamTimeouts {
        self.settings.timeouts
    }

    /// The key that they are picked by, if they are.
    pub fn hash_key(&self) -> Option<&HashKey> {
        match &self.picking().balance {
            Balance::Hash(by) => Some(&by.key),
            _ => None,
        }
    }

    /// Takes these endpoints, as discovery has found them, instead of those that it has. What is
    /// known of those that stay is kept; their tunnels, and those of the others, live on.
    pub fn set_endpoints(&self, endpoints: &[model::EndpointConfig]) {
        self.state
            .remember_discovered(&self.settings.discovery, endpoints);
        self.replace(endpoints);
        self.state.queue.wake_next();
    }

    fn replace(&self, endpoints: &[model::EndpointConfig]) {
        let endpoints = endpoints
            .iter()
            .map(|endpoint| {
                let state = self.known.endpoint(&self.state, &endpoint.address);
                let sticky = self.sticky.as_ref();
                Endpoint {
                    weight: endpoint.weight,
                    max_in_flight: endpoint.max_tunnels.unwrap_or(usize::MAX),
                    is_drained: endpoint.drain,
                    is_backup: endpoint.backup,
                    tag: sticky.map(|sticky| sticky.signer.tag(&state.label)),
                    state,
                }
            })
            .collect();
        let group = Group::new(endpoints, self.picking());
        let before = std::mem::replace(&mut *locked(&self.group), group);
        // Not while others wait for the lock.
        drop(before);
        self.limit_ejected(Instant::now());
    }

    /// Its endpoints.
    pub fn endpoints(&self) -> Vec<Arc<EndpointState>> {
        let group = locked(&self.group);
        let states = group.endpoints.iter();
        states.map(|endpoint| Arc::clone(&endpoint.state)).collect()
    }

    /// The same, with what is configured of each.
    pub fn members(&self) -> Vec<Member> {
        let group = locked(&self.group);
        let members = group.endpoints.iter().map(|endpoint| Member {
            state: Arc::clone(&endpoint.state),
            weight: endpoint.weight(),
            max_in_flight: (endpoint.max_in_flight != usize::MAX).then_some(endpoint.max_in_flight),
            is_drained: endpoint.is_drained,
            is_backup: endpoint.is_backup,
        });
        members.collect()
    }

    /// Whether `endpoint` is in its slow start, and gets less than its share.
    pub fn is_warming(&self, endpoint: &EndpointState, now: Instant) -> bool {
        let slow_start = self.picking().slow_start;
        slow_start.is_some_and(|time| endpoint.warmth(time, micros(now)) < 1.0)
    }

    /// Takes an endpoint out, until an operator puts it back: it gets nothing new, and what it has stays.
    pub fn set_drained(&self, endpoint: &EndpointState, is_drained: bool) {
        let now = Instant::now();
        self.known.set_drained(endpoint, is_drained, now);
        self.limit_ejected(now);
        self.state.queue.wake_next();
    }

    /// Endpoints that take something new, as far as they are fit.
    pub(super) fn serving(&self) -> Vec<Arc<EndpointState>> {
        let group = locked(&self.group);
        let serving = group
            .endpoints
            .iter()
            .filter(|it| it.is_undrained() && it.weight() > 0);
        serving
            .map(|endpoint| Arc::clone(&endpoint.state))
            .collect()
    }

    /// Sessions that wait for an endpoint that is not full.
    pub fn waiting(&self) -> usize {
        self.state.queue.waiting()
    }

    /// What stands in cookies for an endpoint, where there are any.
    pub fn tag_of(&self, endpoint: &EndpointState) -> Option<EndpointTag> {
        let sticky = self.sticky.as_ref()?;
        Some(sticky.signer.tag(&endpoint.label))
    }

    /// Picks an endpoint that is not among `tried`, and leases it. One short lock: two sessions
    /// that pick at once see each other's lease.
    ///
    /// # Errors
    /// [`PickError`].
    pub fn pick(&self, affinity: Affinity, tried: &[u64]) -> Result<Lease, PickError> {
        self.pick_from(&mut locked(&self.group), affinity, tried)
    }

    fn pick_from(
        &self,
        group: &mut Group,
        affinity: Affinity,
        tried: &[u64],
    ) -> Result<Lease, PickError> {
        let context = PickContext {
            tried,
            now: micros(Instant::now()),
            picking: self.picking(),
            ignore_health: false,
        };
        match group.pick(affinity, &context) {
            Err(PickError::NotReady)
                if context.picking.all_down == AllDown::TryAny
                    && group.all_are_out(context.now) =>
            {
                group.pick(
                    affinity,
                    &PickContext {
                        ignore_health: true,
                        ..context
                    },
                )
            }
            decided => decided,
        }
    }

    /// Which endpoint a session would get now, without a lease on it.
    ///
    /// # Errors
    /// [`PickError`].
    pub fn preview(&self, affinity: Affinity) -> Result<Arc<EndpointState>, PickError> {
        let mut group = locked(&self.group);
        // Nobody's turn is taken by a context.
        let before = group.balancer.clone();
        let picked = self.pick_from(&mut group, affinity, &[]);
        group.balancer = before;
        picked.map(|lease| Arc::clone(lease.endpoint()))
    }

    /// The same; where all are full, waits for its turn as far as the configuration lets it.
    ///
    /// # Errors
    /// [`PickError`], after the wait.
    pub async fn pick_in_turn(
        &self,
        affinity: Affinity,
        tried: &[u64],
    ) -> Result<Lease, PickError> {
        let queue = &self.state.queue;
        let Some(limits) = self.picking().queue else {
            return self.pick(affinity, tried);
        };
        // Where others wait, nobody overtakes them.
        if queue.waiting() == 0 {
            match self.pick(affinity, tried) {
                Err(PickError::Full) => {}
                decided => return decided,
            }
        }
        let attempt = || match self.pick(affinity, tried) {
            Err(PickError::Full) => None,
            decided => Some(decided),
        };
        match queue.wait(limits, attempt).await {
            Ok(decided) => decided,
            Err(QueueError::Full | QueueError::Timeout) => Err(PickError::Full),
        }
    }
}

/// What one pick goes by.
struct PickContext<'a> {
    tried: &'a [u64],
    now: u64,
    picking: &'a Picking,
    /// Even those that checks or ejection keep out.
    ignore_health: bool,
}

impl PickContext<'_> {
    /// Whether it may be picked at all, full or not.
    fn may_try(&self, endpoint: &Endpoint) -> bool {
        let untried = self.tried.is_empty() || !self.tried.contains(&endpoint.state.id);
        let is_in = self.ignore_health || !endpoint.state.is_out(self.now);
        untried && endpoint.is_undrained() && is_in
    }
}

impl Endpoint {
    fn weight(&self) -> u32 {
        self.state.weight().unwrap_or(self.weight)
    }

    /// Whether neither the configuration nor an operator has it take nothing new.
    fn is_undrained(&self) -> bool {
        !self.is_drained && !self.state.is_drained()
    }
}

impl Group {
    fn new(endpoints: Vec<Endpoint>, picking: &Picking) -> Self {
        // Another one in every process, and after every reload: see there.
        let seed = fastrand::u64(..);
        let balancer = Balancer::new(Policy::from(&picking.balance), endpoints.len(), seed);
        Self {
            endpoints,
            balancer,
        }
    }

    fn pick(&mut self, affinity: Affinity, context: &PickContext<'_>) -> Result<Lease, PickError> {
        if let Some(lease) = affinity
            .sticky
            .and_then(|tag| self.pick_sticky(tag, context))
        {
            return Ok(lease);
        }
        let first = self.pick_among(affinity, context, |endpoint| !endpoint.is_backup);
        let picked =
            first.or_else(|| self.pick_among(affinity, context, |endpoint| endpoint.is_backup));
        picked.ok_or_else(|| {
            let mut left = self.endpoints.iter().filter(|each| context.may_try(each));
            match left.any(|endpoint| endpoint.state.in_flight() >= endpoint.max_in_flight) {
                true => PickError::Full,
                false => PickError::NotReady,
            }
        })
    }

    /// Whether checks or ejection keep out everybody who would take something.
    fn all_are_out(&self, now: u64) -> bool {
        let mut others = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.is_undrained());
        others.all(|endpoint| endpoint.state.is_out(now))
    }

    /// The endpoint that a cookie leads to, whatever its weight.
    fn pick_sticky(&self, tag: EndpointTag, context: &PickContext<'_>) -> Option<Lease> {
        let endpoint = self.endpoints.iter().find(|each| each.tag == Some(tag))?;
        let has_room = endpoint.state.in_flight() < endpoint.max_in_flight;
        (has_room && context.may_try(endpoint)).then(|| Lease::on(&endpoint.state))
    }

    fn pick_among(
        &mut self,
        affinity: Affinity,
        context: &PickContext<'_>,
        among: impl Fn(&Endpoint) -> bool + Copy,
    ) -> Option<Lease> {
        let candidates = self.endpoints.iter().map(|endpoint| {
            let in_flight = endpoint.state.in_flight();
            Candidate {
                weight: endpoint.weight(),
                in_flight,
                eligible: in_flight < endpoint.max_in_flight
                    && among(endpoint)
                    && context.may_try(endpoint),
                warmth: context
                    .picking
                    .slow_start
                    .map(|slow_start| endpoint.state.warmth(slow_start, context.now)),
                identity: endpoint.state.identity,
            }
        });
        let position = self.balancer.pick(candidates, affinity.hash)?;
        let endpoint = self.endpoints.get(position)?;
        Some(Lease::on(&endpoint.state))
    }
}

#[cfg(test)]
mod tests;
