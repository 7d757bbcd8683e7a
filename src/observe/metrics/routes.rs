//! Metrics of routes: handshakes, rejections and requests.

use std::collections::BTreeMap;

use super::gathered::{Gathered, Groups, sum};
use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::histogram::{HistogramSum, LATENCY_SECONDS};
use crate::observe::labels::HandshakeOutcome;
use crate::observe::series::RouteSeries;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::rejection::Rejection;

pub(super) fn write_requests(metrics: &mut Exposition, gathered: &Gathered) {
    let by_listener = gathered.by_listener_and_route();
    write_handshakes(metrics, &by_listener, &gathered.by_route());
    write_responses(metrics, &by_listener);
}

fn by_outcome() -> impl Iterator<Item = (HandshakeOutcome, ClientProtocol)> {
    let outcomes = HandshakeOutcome::ALL.iter();
    outcomes.flat_map(|outcome| ClientProtocol::ALL.map(|protocol| (*outcome, protocol)))
}

fn write_handshakes(
    metrics: &mut Exposition,
    by_listener: &Groups<'_, RouteSeries, 2>,
    by_route: &Groups<'_, RouteSeries, 1>,
) {
    let help = "WebSocket handshakes, by outcome.";
    metrics.family("tidegate_handshakes_total", MetricKind::Counter, help);
    for ([listener, route], series) in by_listener {
        for (outcome, protocol) in by_outcome() {
            let total = sum(series, |it| it.handshakes(outcome, protocol).get());
            // Most listeners do not offer it.
            if total == 0 && protocol == ClientProtocol::Http2 {
                continue;
            }
            metrics.sample(
                &[
                    ("listener", listener),
                    ("route", route),
                    ("outcome", outcome.token()),
                    ("protocol", protocol.token()),
                ],
                total,
            );
        }
    }
    let help = "101 responses that only `handshake = \"lenient\"` accepts.";
    metrics.family(
        "tidegate_handshakes_excused_total",
        MetricKind::Counter,
        help,
    );
    for ([route], series) in by_route {
        let total = sum(series, |it| it.excused.get());
        metrics.sample(&[("route", route)], total);
    }
    let help = "Time from a handshake's request to its 101 response.";
    metrics.family("tidegate_handshake_seconds", MetricKind::Histogram, help);
    for ([route], series) in by_route {
        let histograms = series.iter().map(|it| &it.handshake_seconds);
        metrics.histogram(
            &[("route", route)],
            &HistogramSum::of(&LATENCY_SECONDS, histograms),
        );
    }
}

fn write_responses(metrics: &mut Exposition, by_listener: &Groups<'_, RouteSeries, 2>) {
    let help = "Requests rejected by tidegate, handshakes and plain ones, by reason.";
    metrics.family("tidegate_rejections_total", MetricKind::Counter, help);
    for ([listener, route], series) in by_listener {
        for rejection in Rejection::ALL {
            let total = sum(series, |it| it.rejections.at(*rejection as usize).get());
            if total > 0 {
                let reason = rejection.token();
                metrics.sample(
                    &[("listener", listener), ("route", route), ("reason", reason)],
                    total,
                );
            }
        }
    }
    let help = "Requests answered in HTTP, by status: all except handshakes that became tunnels.";
    metrics.family("tidegate_http_requests_total", MetricKind::Counter, help);
    for ([listener, route], series) in by_listener {
        let mut statuses = BTreeMap::new();
        for (status, count) in series.iter().flat_map(|it| it.statuses()) {
            *statuses.entry(status).or_insert(0) += count;
        }
        for (status, count) in statuses {
            let status = status.to_string();
            let labels = [
                ("listener", *listener),
                ("route", *route),
                ("status", &status),
            ];
            metrics.sample(&labels, count);
        }
    }
}
