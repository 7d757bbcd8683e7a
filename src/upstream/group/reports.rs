//! Reports of endpoints: they are taken from the heads of responses.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Upstream;
use crate::protocol::handshake_response::ResponseHead;
use crate::protocol::load_report::{LOAD_HEADER, LoadReport};
use crate::quota::failure_reports::warn_once_a_minute;
use crate::upstream::endpoint::{EndpointState, locked};
use crate::upstream::time::micros;

/// How often the group finds out how much of all tunnels is its own.
const RESCALE_INTERVAL: Duration = Duration::from_secs(1);

impl Upstream {
    /// Takes the report in the head of a response of `endpoint`, if the upstream has `reports` and there is one.
    pub fn take_report(&self, endpoint: &EndpointState, head: &ResponseHead<'_>) {
        if self.picking().reports.is_none() {
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

    pub(super) fn accept_report(&self, endpoint: &EndpointState, report: LoadReport, now: Instant) {
        let Some(settings) = self.picking().reports else {
            return;
        };
        let drained_before = endpoint.reports_drain(now);
        endpoint
            .report
            .keep(report, endpoint.in_flight(), settings.max_age, now);
        if report.is_draining != drained_before {
            self.report_drains(endpoint, report.is_draining, now);
        }
        self.rescale_if_due(micros(now));
        // There may be room now.
        self.state.queue.wake_next();
    }

    fn report_drains(&self, endpoint: &EndpointState, is_draining: bool, now: Instant) {
        let (upstream, label) = (&*self.name, &*endpoint.label);
        let in_flight = endpoint.in_flight();
        if is_draining {
            tracing::info!(
                upstream,
                endpoint = label,
                in_flight,
                "endpoint drained by its report"
            );
        } else {
            endpoint.begin_slow_start(now);
            tracing::info!(
                upstream,
                endpoint = label,
                in_flight,
                "endpoint no longer drained by its report"
            );
        }
        self.limit_ejected(now);
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
