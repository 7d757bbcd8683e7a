//! Metrics of the requests to the services that tidegate depends on, such as certificate authorities.

use crate::https_client::counters::LATENCY_BOUNDS;
use crate::https_client::service_traffic::ServiceTraffic;
use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::histogram::HistogramSum;
use crate::traces::queue::SpanQueue;

pub(super) fn write_services(metrics: &mut Exposition, services: &ServiceTraffic) {
    let services = services.all();
    let help = "Requests to services that tidegate depends on, such as certificate authorities, by result.";
    let name = "tidegate_service_requests_total";
    metrics.family(name, MetricKind::Counter, help);
    for counters in &services {
        let results = [
            ("success", counters.succeeded()),
            ("failure", counters.failed()),
        ];
        for (result, count) in results {
            let labels = [("service", counters.service()), ("result", result)];
            metrics.sample(&labels, count);
        }
    }
    let help = "Time that requests to such services took, answered or not.";
    let name = "tidegate_service_request_seconds";
    metrics.family(name, MetricKind::Histogram, help);
    for counters in &services {
        let counts = counters.latencies();
        let sum = HistogramSum::from_counts(&LATENCY_BOUNDS, &counts, counters.total_time());
        metrics.histogram(&[("service", counters.service())], &sum);
    }
}

pub(super) fn write_spans(metrics: &mut Exposition, spans: &SpanQueue) {
    let help = "Spans of traces, by what became of them.";
    metrics.family("tidegate_spans_total", MetricKind::Counter, help);
    for (result, count) in spans.results() {
        metrics.sample(&[("result", result)], count);
    }
}
