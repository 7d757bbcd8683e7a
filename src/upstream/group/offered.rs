//! An endpoint of an upstream as configured in this snapshot, and what picks ask of it.

use std::sync::Arc;

use crate::config::model::EndpointPhase;
use crate::protocol::sticky_cookie::EndpointTag;
use crate::upstream::balance::{self, WEIGHT_PARTS};
use crate::upstream::endpoint::EndpointState;
use crate::upstream::report::ValidReport;

/// An endpoint as configured in this snapshot.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// The configured weight; an operator's may override it.
    pub(super) weight: u32,
    /// The maximum number of leases; `usize::MAX` for no limit.
    pub(super) max_in_flight: usize,
    pub(super) is_drained: bool,
    pub(super) is_backup: bool,
    pub(super) phase: EndpointPhase,
    /// The name by which it may be asked for. The targets of SRV records may share one.
    pub(super) name: Option<TaggedName>,
    /// The endpoint's tags in sticky cookies: one for each key.
    pub(super) tags: Box<[EndpointTag]>,
    /// Whether its reports count.
    pub(super) takes_reports: bool,
    pub(super) state: Arc<EndpointState>,
}

/// The name of an endpoint.
#[derive(Debug)]
pub(super) struct TaggedName {
    pub(super) text: Arc<str>,
    tag: NameTag,
}

impl TaggedName {
    pub(super) fn new(text: &str) -> Self {
        Self {
            text: text.into(),
            tag: NameTag(balance::key_hash(text.as_bytes())),
        }
    }

    pub(super) fn tag(&self) -> NameTag {
        self.tag
    }
}

/// Stands for the name of an endpoint that exists, as picks compare it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameTag(u64);

impl Endpoint {
    /// The effective weight: an operator's, or the configured one.
    pub(super) fn weight(&self) -> u32 {
        self.state.weight().unwrap_or(self.weight)
    }

    /// The weight for picks: with reports, in parts of [`WEIGHT_PARTS`], and times what the endpoint reports,
    /// unless an operator has set it.
    pub(super) fn pick_weight(&self, report: &ValidReport) -> u32 {
        match self.state.weight() {
            _ if !self.takes_reports => self.weight(),
            Some(weight) => weight.saturating_mul(WEIGHT_PARTS),
            None => self.weight.saturating_mul(report.weight_parts()),
        }
    }

    /// Its report, if it is valid and counts.
    pub(super) fn valid_report(&self, now: u64) -> Option<ValidReport> {
        match self.takes_reports {
            true => self.state.report.valid(now),
            false => None,
        }
    }

    /// The same; without a report, one that says nothing.
    pub(super) fn report(&self, now: u64) -> ValidReport {
        self.valid_report(now).unwrap_or_default()
    }

    /// Whether neither the configuration nor an operator nor its report drains it.
    fn is_undrained(&self, report: &ValidReport) -> bool {
        !self.is_drained && !self.state.is_drained() && !report.is_draining
    }

    /// Whether clients that are bound to it get it. Those that are not get it, too, if no endpoint is ready.
    pub(super) fn serves_bound(&self, report: &ValidReport) -> bool {
        self.is_undrained(report) && self.phase.serves_bound()
    }

    /// Whether it is offered to all clients.
    pub(super) fn serves_anyone(&self, report: &ValidReport) -> bool {
        self.is_undrained(report) && self.phase == EndpointPhase::Ready
    }

    pub(super) fn is_tagged(&self, tag: EndpointTag) -> bool {
        self.tags.contains(&tag)
    }

    pub(super) fn is_named(&self, name: NameTag) -> bool {
        self.name.as_ref().is_some_and(|own| own.tag == name)
    }

    pub(super) fn has_room(&self, now: u64) -> bool {
        let own = self.state.in_flight();
        own < self.max_in_flight && self.report(now).has_room(own)
    }
}
