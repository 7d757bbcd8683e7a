//! Metrics of the probes of routes.

use crate::observe::exposition::{Exposition, MetricKind};
use crate::probe::RouteProbes;

pub(super) fn write_probes(metrics: &mut Exposition, probes: &RouteProbes) {
    let probes = probes.all();
    let help = "Probes of routes, by result.";
    metrics.family("tidegate_probes_total", MetricKind::Counter, help);
    for (route, state) in &probes {
        for (result, count) in &state.counts {
            metrics.sample(&[("route", &**route), ("result", *result)], *count);
        }
    }
    let latest = || {
        let latest = probes.iter();
        latest.filter_map(|(route, state)| Some((&**route, state.last.as_ref()?)))
    };
    let help = "1 if the latest probe of the route passed.";
    metrics.family("tidegate_probe_up", MetricKind::Gauge, help);
    for (route, probe) in latest() {
        let up = u8::from(probe.error.is_none());
        metrics.sample(&[("route", route)], up);
    }
    let help = "Time that the latest probe of the route took, passed or not.";
    metrics.family("tidegate_probe_duration_seconds", MetricKind::Gauge, help);
    for (route, probe) in latest() {
        metrics.sample(&[("route", route)], probe.took.as_secs_f64());
    }
}
