//! The endpoints of a configuration, and whose tunnels are to be closed because of what has happened to
//! them: one answer for the configuration that runs and for one that a reload would apply.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::live_tunnels::LiveTunnels;
use crate::config::model::{self, Config, DisplacementPolicy, UpstreamConfig};
use crate::snapshot::{self, Snapshot};
use crate::tunnel::ended::Ended;
use crate::upstream::endpoint::EndpointState;
use crate::upstream::group::{Member, Upstream};
use crate::upstream::health::HealthStatus;
use crate::upstream::registry::Registry;

/// An upstream, and the address of an endpoint in it.
pub type EndpointName = (Arc<str>, Arc<str>);

/// The endpoints of a configuration.
#[derive(Debug)]
pub struct Fleet {
    /// The upstreams, in the order of the file.
    pub upstreams: Vec<FleetUpstream>,
    /// `on_removed` of upstreams that were removed while they had tunnels.
    on_removed: HashMap<Arc<str>, DisplacementPolicy>,
}

/// An upstream, and what happens to tunnels of those of its endpoints that go.
#[derive(Debug)]
pub struct FleetUpstream {
    /// Its name.
    pub name: Arc<str>,
    /// Its endpoints; `None` if they have to be looked up first, so that none of them counts as removed.
    pub endpoints: Option<Vec<FleetEndpoint>>,
    on_down: DisplacementPolicy,
    on_removed: DisplacementPolicy,
    on_drain: DisplacementPolicy,
}

/// An endpoint of an upstream.
#[derive(Debug)]
pub struct FleetEndpoint {
    /// Its address.
    pub label: Arc<str>,
    /// Whether the configuration or discovery drains it.
    pub is_drained: bool,
    /// Its limit of sessions at once.
    pub max_tunnels: Option<usize>,
    is_drained_by_operator: bool,
    is_drained_by_report: bool,
    is_down: bool,
}

/// An endpoint whose tunnels are to be closed.
#[derive(Debug, Clone, PartialEq)]
pub struct DueEviction {
    /// The endpoint.
    pub endpoint: EndpointName,
    /// The reason that its tunnels end with.
    pub ended: Ended,
    /// How they are closed; never [`DisplacementPolicy::Keep`].
    pub policy: DisplacementPolicy,
}

impl Fleet {
    /// What runs now.
    pub fn running(snapshot: &Snapshot, now: Instant) -> Self {
        let upstreams = snapshot.upstreams().iter();
        Self {
            upstreams: upstreams
                .map(|upstream| {
                    let endpoints = (!upstream.awaits_discovery())
                        .then(|| members(upstream, &upstream.settings, now));
                    FleetUpstream::new(&upstream.settings, endpoints)
                })
                .collect(),
            on_removed: snapshot.on_removed().clone(),
        }
    }

    /// What would run after a reload that applies `config`.
    pub fn planned(config: &Config, running: &Snapshot, now: Instant) -> Self {
        let upstreams = config.upstreams.iter();
        Self {
            upstreams: upstreams
                .map(|settings| FleetUpstream::new(settings, planned(settings, running, now)))
                .collect(),
            on_removed: snapshot::on_removed(config, running),
        }
    }

    /// Whether the running configuration closes no tunnels, whatever happens to their endpoints.
    pub fn keeps_all(snapshot: &Snapshot) -> bool {
        let is_keep = |policy: &DisplacementPolicy| *policy == DisplacementPolicy::Keep;
        let mut upstreams = snapshot.upstreams().iter().map(|it| &it.settings);
        snapshot.on_removed().values().all(is_keep)
            && upstreams.all(|it| [it.on_down, it.on_removed, it.on_drain].iter().all(is_keep))
    }

    /// The upstream of this name.
    pub fn upstream(&self, name: &str) -> Option<&FleetUpstream> {
        self.upstreams.iter().find(|it| *it.name == *name)
    }

    /// The endpoints of live tunnels whose tunnels are to be closed.
    pub fn evictions(&self, live: &LiveTunnels) -> Vec<DueEviction> {
        let mut due = Vec::new();
        let mut present: HashSet<(&str, &str)> = HashSet::new();
        for upstream in &self.upstreams {
            for endpoint in upstream.endpoints.iter().flatten() {
                present.insert((&upstream.name, &endpoint.label));
                if let Some((ended, policy)) = upstream.cause(endpoint) {
                    let endpoint = (Arc::clone(&upstream.name), Arc::clone(&endpoint.label));
                    due.push(DueEviction {
                        endpoint,
                        ended,
                        policy,
                    });
                }
            }
        }
        for (upstream, label) in live.endpoints() {
            if !present.contains(&(&**upstream, &**label)) {
                due.push(DueEviction {
                    endpoint: (Arc::clone(upstream), Arc::clone(label)),
                    ended: Ended::EndpointRemoved,
                    policy: self.policy_for_removed(upstream),
                });
            }
        }
        due.retain(|it| {
            let (upstream, label) = &it.endpoint;
            it.policy != DisplacementPolicy::Keep && live.of_endpoint(upstream, label) > 0
        });
        due
    }

    /// What happens to tunnels of an endpoint that this upstream does not have any more.
    fn policy_for_removed(&self, name: &str) -> DisplacementPolicy {
        match self.upstream(name) {
            // Its endpoints are not known: nothing can be said about any.
            Some(upstream) if upstream.endpoints.is_none() => DisplacementPolicy::Keep,
            Some(upstream) => upstream.on_removed,
            None => self.on_removed.get(name).copied().unwrap_or_default(),
        }
    }
}

impl FleetUpstream {
    fn new(settings: &UpstreamConfig, endpoints: Option<Vec<FleetEndpoint>>) -> Self {
        Self {
            name: Arc::clone(&settings.name),
            endpoints,
            on_down: settings.on_down,
            on_removed: settings.on_removed,
            on_drain: settings.on_drain,
        }
    }

    /// Why tunnels of an endpoint may have to be closed, and the policy for that case.
    fn cause(&self, endpoint: &FleetEndpoint) -> Option<(Ended, DisplacementPolicy)> {
        if endpoint.is_drained || endpoint.is_drained_by_operator || endpoint.is_drained_by_report {
            return Some((Ended::Drain, self.on_drain));
        }
        endpoint
            .is_down
            .then_some((Ended::EndpointDown, self.on_down))
    }
}

/// The endpoints of a running upstream, if it had these settings.
fn members(upstream: &Upstream, settings: &UpstreamConfig, now: Instant) -> Vec<FleetEndpoint> {
    let endpoint = |member: Member| FleetEndpoint {
        label: Arc::clone(&member.state.label),
        is_drained: member.is_drained || member.phase.is_terminating(),
        max_tunnels: member.max_in_flight,
        is_drained_by_operator: member.state.is_drained(),
        is_drained_by_report: settings.picking.reports.is_some() && member.state.reports_drain(now),
        is_down: is_down(&member.state, settings, now),
    };
    upstream.members().into_iter().map(endpoint).collect()
}

/// Without checks, the state of earlier ones is forgotten.
fn is_down(state: &EndpointState, settings: &UpstreamConfig, now: Instant) -> bool {
    settings.health.is_some()
        && state.health(now, |health| {
            matches!(health.status(now), HealthStatus::Down { .. })
        })
}

/// The endpoints that an upstream would have; `None` if they have to be looked up first.
fn planned(
    settings: &UpstreamConfig,
    running: &Snapshot,
    now: Instant,
) -> Option<Vec<FleetEndpoint>> {
    if settings.discovery.is_asked() {
        let before = running.upstream(&settings.name)?;
        let is_same = before
            .settings
            .discovery
            .finds_the_same(&settings.discovery);
        return is_same.then(|| members(before, settings, now));
    }
    let registry: &Registry = running.registry();
    let endpoint = |endpoint: &model::EndpointConfig| {
        let state = registry.find(&settings.name, &endpoint.address);
        FleetEndpoint {
            label: endpoint.address.to_string().into(),
            is_drained: endpoint.drain || endpoint.phase.is_terminating(),
            max_tunnels: endpoint.max_tunnels,
            is_drained_by_operator: registry.is_drained(&settings.name, &endpoint.address),
            is_drained_by_report: settings.picking.reports.is_some()
                && state.as_ref().is_some_and(|state| state.reports_drain(now)),
            is_down: state.is_some_and(|state| is_down(&state, settings, now)),
        }
    };
    Some(settings.endpoints.iter().map(endpoint).collect())
}
