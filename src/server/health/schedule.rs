//! Which endpoints have something due: a health check, or the end of an ejection or of a report.
//!
//! A look costs what is due, not what is configured: all endpoints are looked at only when the snapshot or the
//! endpoints of an upstream have changed.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::random_fraction;
use crate::config::model::Health;
use crate::snapshot::Snapshot;
use crate::upstream::endpoint::EndpointState;
use crate::upstream::group::Upstream;
use crate::upstream::health::{EndpointHealth, HealthStatus};

/// A check of one endpoint that is due. It has begun.
#[derive(Debug)]
pub(super) struct DueCheck {
    pub(super) settings: Health,
    pub(super) upstream: Arc<Upstream>,
    pub(super) endpoint: Arc<EndpointState>,
    /// What had the address when the check began.
    pub(super) incarnation: u64,
    /// How many times all endpoints had been looked at.
    rebuilds: u64,
}

/// A check that has ended.
#[derive(Debug)]
pub(super) struct EndedCheck {
    endpoint: Arc<EndpointState>,
    rebuilds: u64,
}

impl DueCheck {
    /// It has ended, whatever its result.
    pub(super) fn end(self) -> EndedCheck {
        EndedCheck {
            endpoint: self.endpoint,
            rebuilds: self.rebuilds,
        }
    }
}

/// When an endpoint has something due.
#[derive(Debug)]
struct Appointment {
    at: Instant,
    upstream: Weak<Upstream>,
    endpoint: Weak<EndpointState>,
}

impl Ord for Appointment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Appointment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Appointment {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Appointment {}

/// What is due, in the order of time. A check that runs has no appointment; it gets one when it ends.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    checks: BinaryHeap<Reverse<Appointment>>,
    ejections: BinaryHeap<Reverse<Appointment>>,
    reports: BinaryHeap<Reverse<Appointment>>,
    /// The snapshot and the changes that all this is from; `None` if all endpoints are to be looked at.
    seen: Option<(Weak<Snapshot>, u64)>,
    rebuilds: u64,
    has_checks: bool,
    /// How many times the health of an endpoint has been looked at.
    examined: u64,
}

impl Schedule {
    /// Whether any upstream has health checks.
    pub(super) fn has_checks(&self) -> bool {
        self.has_checks
    }

    /// Looks at all endpoints next time.
    pub(super) fn invalidate(&mut self) {
        self.seen = None;
    }

    /// The checks that are due at `now`, at most `max`, the most overdue ones first; they begin. Also returns
    /// the endpoints whose ejection has ended.
    pub(super) fn look(
        &mut self,
        snapshot: &Arc<Snapshot>,
        max: usize,
        now: Instant,
    ) -> (Vec<DueCheck>, Vec<Arc<EndpointState>>) {
        let agenda = snapshot.registry().agenda();
        let changes = agenda.changes();
        let is_current = self.seen.as_ref().is_some_and(|(seen, at)| {
            std::ptr::eq(seen.as_ptr(), Arc::as_ptr(snapshot)) && *at == changes
        });
        let mut ended = Vec::new();
        if !is_current {
            self.seen = Some((Arc::downgrade(snapshot), changes));
            self.rebuild(snapshot, &mut ended, now);
        }
        for (until, endpoint) in agenda.take_ejected() {
            self.add_ejected(snapshot, until, &endpoint, now);
        }
        self.end_ejections(&mut ended, now);
        for (until, endpoint) in agenda.take_reported() {
            let endpoint = endpoint.upgrade();
            let upstream = endpoint.as_ref();
            let upstream = upstream.and_then(|endpoint| snapshot.upstream(&endpoint.upstream));
            if let Some((upstream, endpoint)) = upstream.zip(endpoint) {
                self.reports.push(appointment(until, upstream, &endpoint));
            }
        }
        self.end_reports(now);
        (self.due_checks(max, now), ended)
    }

    /// A check has ended: makes the appointment for the next one.
    pub(super) fn ended(&mut self, check: &EndedCheck, snapshot: &Snapshot, now: Instant) {
        let endpoint = &check.endpoint;
        let Some(upstream) = snapshot.upstream(&endpoint.upstream) else {
            return;
        };
        // After a change of the endpoints, it may not be one of them any more.
        let is_member = check.rebuilds == self.rebuilds
            || upstream.endpoints().iter().any(|it| it.id == endpoint.id);
        if is_member {
            self.add_check(upstream, endpoint, now);
        }
    }

    /// Looks at all endpoints. Also drops state that the configuration no longer needs.
    fn rebuild(&mut self, snapshot: &Snapshot, ended: &mut Vec<Arc<EndpointState>>, now: Instant) {
        self.rebuilds += 1;
        self.checks.clear();
        self.ejections.clear();
        self.reports.clear();
        self.has_checks = false;
        for upstream in snapshot.upstreams() {
            let has_checks = upstream.settings.health.is_some();
            self.has_checks |= has_checks;
            for endpoint in upstream.endpoints() {
                self.examined += 1;
                if endpoint.ejection_has_ended(now) {
                    ended.push(Arc::clone(&endpoint));
                }
                let ejected = endpoint.health(now, |health| {
                    if upstream.settings.ejection.is_none() {
                        health.forget_outcomes();
                    }
                    if !has_checks {
                        health.forget_checks();
                    }
                    match health.status(now) {
                        HealthStatus::Ejected { until, .. } => Some(until),
                        HealthStatus::Up | HealthStatus::Down { .. } => None,
                    }
                });
                if let Some(until) = ejected {
                    self.ejections.push(appointment(until, upstream, &endpoint));
                }
                if let Some(until) = upstream.report_ends(&endpoint, now) {
                    self.reports.push(appointment(until, upstream, &endpoint));
                }
                self.add_check(upstream, &endpoint, now);
            }
        }
    }

    fn add_check(&mut self, upstream: &Arc<Upstream>, endpoint: &Arc<EndpointState>, now: Instant) {
        if let Some(settings) = &upstream.settings.health {
            let due = |health: &mut _| due_at(health, settings, now);
            let at = endpoint.health(now, due);
            self.checks.push(appointment(at, upstream, endpoint));
        }
    }

    fn add_ejected(
        &mut self,
        snapshot: &Snapshot,
        until: Instant,
        endpoint: &Weak<EndpointState>,
        now: Instant,
    ) {
        let Some(endpoint) = endpoint.upgrade() else {
            return;
        };
        match snapshot.upstream(&endpoint.upstream) {
            Some(upstream) if upstream.settings.ejection.is_some() => {
                self.ejections.push(appointment(until, upstream, &endpoint));
            }
            // A session of an older configuration has ejected it.
            _ => endpoint.health(now, |health| health.forget_outcomes()),
        }
    }

    fn due_checks(&mut self, max: usize, now: Instant) -> Vec<DueCheck> {
        let mut due = Vec::new();
        while due.len() < max
            && let Some(appointment) = pop_due(&mut self.checks, now)
        {
            let Appointment {
                upstream, endpoint, ..
            } = appointment;
            let (Some(upstream), Some(endpoint)) = (upstream.upgrade(), endpoint.upgrade()) else {
                continue;
            };
            let Some(settings) = upstream.settings.health.clone() else {
                continue;
            };
            self.examined += 1;
            let begins = endpoint.health(now, |health| {
                // It may have a later appointment as well.
                let is_due = due_at(health, &settings, now) <= now;
                if is_due {
                    health.check_begins(&settings, now);
                }
                is_due
            });
            if begins {
                due.push(DueCheck {
                    settings,
                    upstream,
                    incarnation: endpoint.incarnation(),
                    endpoint,
                    rebuilds: self.rebuilds,
                });
            }
        }
        due
    }

    fn end_ejections(&mut self, ended: &mut Vec<Arc<EndpointState>>, now: Instant) {
        while let Some(appointment) = pop_due(&mut self.ejections, now) {
            // It may have been readmitted before, or ejected again.
            let endpoint = appointment.endpoint.upgrade();
            ended.extend(endpoint.filter(|endpoint| endpoint.ejection_has_ended(now)));
        }
    }

    fn end_reports(&mut self, now: Instant) {
        while let Some(appointment) = pop_due(&mut self.reports, now) {
            let Appointment {
                upstream, endpoint, ..
            } = appointment;
            let (Some(upstream), Some(endpoint)) = (upstream.upgrade(), endpoint.upgrade()) else {
                continue;
            };
            // Another report may have come: of many, only the latest one is due.
            if let Some(until) = upstream.report_ends(&endpoint, now) {
                let next = self::appointment(until, &upstream, &endpoint);
                self.reports.push(next);
            }
        }
    }
}

fn appointment(
    at: Instant,
    upstream: &Arc<Upstream>,
    endpoint: &Arc<EndpointState>,
) -> Reverse<Appointment> {
    Reverse(Appointment {
        at,
        upstream: Arc::downgrade(upstream),
        endpoint: Arc::downgrade(endpoint),
    })
}

fn pop_due(heap: &mut BinaryHeap<Reverse<Appointment>>, now: Instant) -> Option<Appointment> {
    let Reverse(next) = heap.peek()?;
    if next.at > now {
        return None;
    }
    heap.pop().map(|Reverse(next)| next)
}

fn due_at(health: &mut EndpointHealth, settings: &Health, now: Instant) -> Instant {
    health.check_due(settings, random_fraction, now)
}

#[cfg(test)]
mod tests;
