//! One pick: which endpoint a session gets, out of those that it may get.
//!
//! All of this happens under the lock of the group, so nothing here waits or logs.

use std::time::Instant;

use super::offered::{Endpoint, NameTag};
use crate::config::model::{AllDown, EndpointPhase, Picking};
use crate::protocol::sticky_cookie::EndpointTag;
use crate::upstream::balance::{Balancer, Candidate, Policy, fleet_scale};
use crate::upstream::endpoint::Lease;
use crate::upstream::report::ValidReport;
use crate::upstream::time::micros;

/// Endpoints, and the state of the balancing over them.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) balancer: Balancer,
    /// From [`fleet_scale`].
    scale: f32,
}

/// What leads a session to one particular endpoint of an upstream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Affinity {
    /// The endpoint that the request names. It is this one or none, whatever else there is.
    pub named: Option<NameTag>,
    /// The hash of the session's key, for the policy `hash`.
    pub hash: Option<u64>,
    /// The endpoint that the session's sticky cookie names.
    pub sticky: Option<EndpointTag>,
    /// The id of the endpoint to which the client has a connection of its own. It comes first, unless the request
    /// names one.
    pub reserved: Option<u64>,
}

/// Why no endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PickError {
    /// No endpoint can be picked, and none of them is merely full.
    NotReady,
    /// No endpoint can be picked, and at least one of them only because it has its maximum of leases.
    Full,
}

/// Whether an upstream can serve a session now, full or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Availability {
    /// An endpoint can.
    Serving,
    /// Only endpoints can that could not be reached a moment ago, or that health keeps out.
    Doubtful,
    /// No endpoint can.
    Down,
}

/// The conditions of one pick.
struct PickContext<'a> {
    tried: &'a [u64],
    now: u64,
    picking: &'a Picking,
    /// Whether endpoints that health keeps out may be picked, too.
    ignore_health: bool,
    /// Whether endpoints that are asked last may be picked, too.
    asks_last: bool,
}

impl PickContext<'_> {
    /// Whether an endpoint may be picked at all, full or not.
    fn may_try(&self, endpoint: &Endpoint) -> bool {
        self.may_try_by(endpoint, &endpoint.report(self.now))
    }

    /// The same, with the report of the endpoint at hand.
    fn may_try_by(&self, endpoint: &Endpoint, report: &ValidReport) -> bool {
        let untried = self.tried.is_empty() || !self.tried.contains(&endpoint.state.id);
        let is_healthy = self.ignore_health || !endpoint.state.is_out(self.now);
        let is_asked = self.asks_last || !endpoint.state.is_asked_last(self.now);
        untried && endpoint.serves_bound(report) && is_healthy && is_asked
    }

    /// Whether an endpoint is offered to everybody, and health does not keep it out: tried or not, full or not.
    fn is_ready(&self, endpoint: &Endpoint) -> bool {
        let is_healthy = self.ignore_health || !endpoint.state.is_out(self.now);
        let report = endpoint.report(self.now);
        endpoint.serves_anyone(&report) && endpoint.pick_weight(&report) > 0 && is_healthy
    }
}

impl Group {
    pub(super) fn new(endpoints: Vec<Endpoint>, picking: &Picking) -> Self {
        // A new seed in every process and after every reload: see `Balancer::new`.
        let seed = fastrand::u64(..);
        let balancer = Balancer::new(Policy::from(&picking.balance), endpoints.len(), seed);
        Self {
            endpoints,
            balancer,
            scale: 1.0,
        }
    }

    /// Finds out how many tunnels all proxies have for each of this process.
    pub(super) fn rescale(&mut self, now: u64) {
        let reports = self.endpoints.iter().filter_map(|it| it.valid_report(now));
        self.scale = fleet_scale(reports.filter_map(|report| report.total));
    }

    /// Whether a session with this affinity can be served.
    pub(super) fn availability(&self, affinity: Affinity, picking: &Picking) -> Availability {
        let now = micros(Instant::now());
        let is_ready = |endpoint: &Endpoint| {
            let report = endpoint.report(now);
            endpoint.serves_anyone(&report)
                && endpoint.pick_weight(&report) > 0
                && !endpoint.state.is_out(now)
        };
        let is_any_ready = self.endpoints.iter().any(is_ready);
        let of = |endpoint: &Endpoint| {
            let is_bound = affinity.named.is_some()
                || affinity.reserved == Some(endpoint.state.id)
                || affinity.sticky.is_some_and(|tag| endpoint.is_tagged(tag));
            let is_last = endpoint.phase != EndpointPhase::Ready;
            let report = endpoint.report(now);
            let serves_others = endpoint.pick_weight(&report) > 0 && !(is_last && is_any_ready);
            if !endpoint.serves_bound(&report) || !(is_bound || serves_others) {
                Availability::Down
            } else if endpoint.state.is_out(now) {
                match picking.all_down {
                    AllDown::TryAny => Availability::Doubtful,
                    AllDown::Refuse => Availability::Down,
                }
            } else if endpoint.state.is_asked_last(now) {
                Availability::Doubtful
            } else {
                Availability::Serving
            }
        };
        let mut best = Availability::Down;
        let may_serve =
            |endpoint: &&Endpoint| affinity.named.is_none_or(|it| endpoint.is_named(it));
        for endpoint in self.endpoints.iter().filter(may_serve) {
            best = best.min(of(endpoint));
            if best == Availability::Serving {
                break;
            }
        }
        best
    }

    /// Picks an endpoint that is not among `tried`, and leases it. If health keeps out all endpoints,
    /// `all_down` decides.
    pub(super) fn pick(
        &mut self,
        affinity: Affinity,
        tried: &[u64],
        picking: &Picking,
    ) -> Result<Lease, PickError> {
        let context = PickContext {
            tried,
            now: micros(Instant::now()),
            picking,
            ignore_health: false,
            asks_last: false,
        };
        match self.pick_by(affinity, &context) {
            Err(PickError::NotReady)
                if picking.all_down == AllDown::TryAny && self.all_are_out(context.now) =>
            {
                self.pick_by(
                    affinity,
                    &PickContext {
                        ignore_health: true,
                        ..context
                    },
                )
            }
            picked => picked,
        }
    }

    /// Picks among the endpoints whose latest connection did not fail a moment ago, backups included; if none
    /// of those has room, among all.
    fn pick_by(
        &mut self,
        affinity: Affinity,
        context: &PickContext<'_>,
    ) -> Result<Lease, PickError> {
        let last = PickContext {
            asks_last: true,
            ..*context
        };
        if let Some(name) = affinity.named {
            return self.pick_named(name, &last);
        }
        // A connection of this client is open there already, whatever new ones do.
        let reserved = affinity.reserved;
        let reserved =
            reserved.and_then(|id| self.pick_bound(&last, |endpoint| endpoint.state.id == id));
        if let Some(lease) = reserved {
            return Ok(lease);
        }
        self.pick_once(affinity, context).or_else(|error| {
            let now = context.now;
            let mut endpoints = self.endpoints.iter();
            match endpoints.any(|endpoint| endpoint.state.is_asked_last(now)) {
                true => self.pick_once(affinity, &last),
                false => Err(error),
            }
        })
    }

    /// An endpoint of this name, whatever its weight. Those of the targets of SRV records may share it. One that was
    /// tried before is tried again if there is no other: a connection may fail once.
    fn pick_named(&self, name: NameTag, context: &PickContext<'_>) -> Result<Lease, PickError> {
        let again = PickContext {
            tried: &[],
            ..*context
        };
        let mut is_full = false;
        for context in [context, &again] {
            let named = self.endpoints.iter().filter(|it| it.is_named(name));
            let ready: Vec<_> = named.filter(|it| context.may_try(it)).collect();
            let with_room = ready.iter().filter(|it| it.has_room(context.now));
            if let Some(endpoint) = with_room.min_by_key(|it| it.state.in_flight()) {
                return Ok(Lease::on(&endpoint.state));
            }
            is_full |= !ready.is_empty();
        }
        Err(match is_full {
            true => PickError::Full,
            false => PickError::NotReady,
        })
    }

    fn pick_once(
        &mut self,
        affinity: Affinity,
        context: &PickContext<'_>,
    ) -> Result<Lease, PickError> {
        let sticky = affinity.sticky;
        let bound =
            sticky.and_then(|tag| self.pick_bound(context, |endpoint| endpoint.is_tagged(tag)));
        if let Some(lease) = bound {
            return Ok(lease);
        }
        // Those that are drained are not tried anyway.
        let is_ready = |endpoint: &Endpoint| endpoint.phase == EndpointPhase::Ready;
        let is_first = |endpoint: &Endpoint| is_ready(endpoint) && !endpoint.is_backup;
        let is_second = |endpoint: &Endpoint| is_ready(endpoint) && endpoint.is_backup;
        let picked = self
            .pick_among(affinity, context, is_first)
            .or_else(|| self.pick_among(affinity, context, is_second))
            .or_else(|| self.pick_leaving(affinity, context));
        picked.ok_or_else(|| {
            let mut remaining = self
                .endpoints
                .iter()
                .filter(|endpoint| context.may_try(endpoint));
            match remaining.any(|endpoint| !endpoint.has_room(context.now)) {
                true => PickError::Full,
                false => PickError::NotReady,
            }
        })
    }

    /// One that will end soon, or that discovery has just lost, if no endpoint is ready: better for a while than
    /// nothing.
    fn pick_leaving(&mut self, affinity: Affinity, context: &PickContext<'_>) -> Option<Lease> {
        let mut endpoints = self.endpoints.iter();
        if endpoints.any(|endpoint| context.is_ready(endpoint)) {
            return None;
        }
        self.pick_among(affinity, context, |_| true)
    }

    /// Whether health keeps out every endpoint that is not drained.
    fn all_are_out(&self, now: u64) -> bool {
        let mut serving = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.serves_bound(&endpoint.report(now)));
        serving.all(|endpoint| endpoint.state.is_out(now))
    }

    /// The endpoint that a client is bound to, whatever its weight: weight 0 keeps new clients away, and
    /// lets the others come back.
    fn pick_bound(
        &self,
        context: &PickContext<'_>,
        is_bound: impl Fn(&Endpoint) -> bool,
    ) -> Option<Lease> {
        let endpoint = self.endpoints.iter().find(|endpoint| is_bound(endpoint))?;
        (endpoint.has_room(context.now) && context.may_try(endpoint))
            .then(|| Lease::on(&endpoint.state))
    }

    fn pick_among(
        &mut self,
        affinity: Affinity,
        context: &PickContext<'_>,
        among: impl Fn(&Endpoint) -> bool + Copy,
    ) -> Option<Lease> {
        let scale = self.scale;
        let candidates = self.endpoints.iter().map(|endpoint| {
            let own = endpoint.state.in_flight();
            let report = endpoint.report(context.now);
            Candidate {
                weight: endpoint.pick_weight(&report),
                in_flight: match endpoint.takes_reports {
                    true => report.load(own, scale),
                    false => own,
                },
                eligible: own < endpoint.max_in_flight
                    && report.has_room(own)
                    && among(endpoint)
                    && context.may_try_by(endpoint, &report),
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
