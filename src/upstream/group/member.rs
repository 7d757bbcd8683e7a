//! An endpoint of an upstream as others see it: its configuration and its state.

use std::sync::Arc;
use std::time::Instant;

use crate::config::model::EndpointPhase;
use crate::upstream::endpoint::EndpointState;
use crate::upstream::health::{EndpointHealth, HealthStatus};
use crate::upstream::report::ValidReport;
use crate::upstream::time::micros;

/// An endpoint of an upstream as it is now: its configuration and its state.
#[derive(Debug, Clone)]
pub struct Member {
    /// The name by which it may be asked for.
    pub name: Option<Arc<str>>,
    /// The state of the endpoint.
    pub state: Arc<EndpointState>,
    /// The effective weight: an operator's, or the configured one.
    pub weight: u32,
    /// The maximum number of leases; `None` for no limit.
    pub max_in_flight: Option<usize>,
    /// Whether the configuration drains it.
    pub is_drained: bool,
    /// Whether discovery offers it to new sessions.
    pub phase: EndpointPhase,
    /// Whether it serves only while no other endpoint can.
    pub is_backup: bool,
    /// What it reports of its load; `None` if there is no valid report, or reports are ignored.
    pub report: Option<ValidReport>,
    /// The weight with what the endpoint reports: its share relative to the other members.
    pub pick_weight: u32,
}

impl Member {
    /// Whether it accepts new sessions like others: it is not drained, it is healthy, it has room and weight,
    /// and it is not asked last.
    pub fn accepts_sessions(&self, now: Instant) -> bool {
        let has_room = self
            .max_in_flight
            .is_none_or(|max_in_flight| self.state.in_flight() < max_in_flight)
            && !self.is_full_by_report();
        let is_up = |health: &mut EndpointHealth| matches!(health.status(now), HealthStatus::Up);
        let is_asked_last = self.state.is_asked_last(micros(now));
        self.is_offered() && has_room && !is_asked_last && self.state.health(now, is_up)
    }

    /// Whether it has a share of new sessions, full or not. Backups have none, nor have endpoints whose latest
    /// connection failed: tunnels that are moved for their sake would come back.
    pub fn has_share(&self, now: Instant) -> bool {
        let is_in_rotation = !self.state.is_out(micros(now)) && self.state.unreached().is_none();
        self.is_offered() && !self.is_backup && is_in_rotation
    }

    /// Whether it may get sessions at all.
    fn is_offered(&self) -> bool {
        self.is_undrained() && self.phase == EndpointPhase::Ready && self.pick_weight > 0
    }

    /// Whether neither the configuration nor an operator nor its report drains it, and discovery does not report
    /// that it will end.
    pub fn is_undrained(&self) -> bool {
        !self.is_drained
            && !self.state.is_drained()
            && !self.is_drained_by_report()
            && !self.phase.is_terminating()
    }

    /// Whether its report drains it.
    pub fn is_drained_by_report(&self) -> bool {
        self.report.is_some_and(|report| report.is_draining)
    }

    /// Whether it has as many tunnels as its report says it accepts.
    pub fn is_full_by_report(&self) -> bool {
        let own = self.state.in_flight();
        self.report.is_some_and(|report| !report.has_room(own))
    }
}
