//! Reports of endpoints: they are taken from the heads of responses.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Upstream;
use crate::protocol::handshake_response::ResponseHead;
use crate::protocol::load_report::{LOAD_HEADER, LoadReport};
use crate::quota::failure_reports::warn_once_a_minute;
use crate::upstream::endpoint::{EndpointState, locked};
use crate::upstream::time::{later, micros};

/// How often the group finds out how much of all tunnels is its own.
const RESCALE_INTERVAL: Duration = Duration::from_secs(1);

impl Upstream {
    /// Takes the report in the head of a response of `endpoint`, if the upstream has `reports` and there is one. It
    /// counts only if what was asked, the `incarnation`, still has the address.
    pub fn take_report(
        &self,
        endpoint: &Arc<EndpointState>,
        incarnation: u64,
        head: &ResponseHead<'_>,
    ) {
        if self.picking().reports.is_none() || endpoint.incarnation() != incarnation {
            return;
        }
        let mut lines = head.values(LOAD_HEADER).peekable();
        if lines.peek().is_none() {
            return;
        }
        match LoadReport::parse(lines) {
            Ok(report) => self.accept_report(endpoint, report, Instant::now()),
            Err(error) => {
                endpoint.report.ignore();
                // One cause for all: the text may be another one each time.
                warn_once_a_minute!(
                    endpoint.reports,
                    LOAD_HEADER,
                    "load report ignored",
                    upstream = &*self.name,
                    endpoint = &*endpoint.label,
                    why = %error
                );
            }
        }
    }

    pub(super) fn accept_report(
        &self,
        endpoint: &Arc<EndpointState>,
        report: LoadReport,
        now: Instant,
    ) {
        let Some(settings) = self.picking().reports else {
            return;
        };
        let (state, in_flight) = (&endpoint.report, endpoint.in_flight());
        state.keep(report, in_flight, settings.max_age, now);
        match state.turn_drain(report.is_draining) {
            Some(false) => self.undrained(endpoint, "report", now),
            change if report.is_draining => self.drained(endpoint, change.is_some(), now),
            _ => {}
        }
        if state.end(now).is_some() && state.watch() {
            let until = later(now, settings.max_age);
            self.registry.agenda().reported(endpoint, until);
        }
        self.rescale_if_due(micros(now));
        // There may be room now.
        self.state.queue.wake_next();
    }

    fn drained(&self, endpoint: &EndpointState, is_news: bool, now: Instant) {
        if let Some(unreported) = endpoint.report.log_drained(is_news, now) {
            tracing::info!(
                upstream = &*self.name,
                endpoint = &*endpoint.label,
                in_flight = endpoint.in_flight(),
                unreported,
                "endpoint drained by its report"
            );
        }
        if is_news {
            self.limit_ejected(now);
        }
    }

    fn undrained(&self, endpoint: &EndpointState, by: &str, now: Instant) {
        endpoint.begin_slow_start(now);
        if let Some(unreported) = endpoint.report.log_undrained() {
            tracing::info!(
                upstream = &*self.name,
                endpoint = &*endpoint.label,
                by,
                in_flight = endpoint.in_flight(),
                unreported,
                "endpoint no longer drained by its report"
            );
        }
        self.limit_ejected(now);
    }

    /// What follows if the report of an endpoint has ended by time; otherwise, when to look again. Time passes without
    /// an event, so `server/health` calls this when it is due.
    pub fn report_ends(&self, endpoint: &EndpointState, now: Instant) -> Option<Instant> {
        self.picking().reports?;
        let report = &endpoint.report;
        let mut end = report.end(now);
        if end.is_none() && report.unwatch() {
            if report.drain_ends(now) {
                self.undrained(endpoint, "time", now);
            }
            // It may have had no room, or no weight.
            self.state.queue.wake_next();
            // A report that has come meanwhile has found itself watched.
            end = report.end(now);
        }
        if end.is_some() {
            report.watch();
        }
        end
    }

    /// Not with every report: it is a pass over all endpoints, under the lock that picks need.
    fn rescale_if_due(&self, now: u64) {
        let before = self.rescaled_at.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(before) >= RESCALE_INTERVAL.as_micros() as u64;
        let exchanged = || {
            let swapped = self.rescaled_at.compare_exchange(
                before,
                now,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            swapped.is_ok()
        };
        if is_due && exchanged() {
            locked(&self.group).rescale(now);
        }
    }
}
