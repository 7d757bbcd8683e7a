//! Metrics of certificates: until when each is valid, and how orders for new ones have ended.

use super::MetricSources;
use crate::acme::counters::OrderResult;
use crate::observe::certificates::{CertificateState, ServedValidity};
use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::process::timestamp;

pub(super) fn write_certificates(metrics: &mut Exposition, sources: MetricSources<'_>) {
    let states = sources.process.certificates.load();
    let served = || {
        states.iter().filter_map(|state| {
            // A self-signed one only stands in for another.
            let served = state.served.as_ref().filter(|it| !it.is_self_signed)?;
            Some((state, served))
        })
    };
    let mut family = |name: &'static str, help: &'static str, time: fn(&ServedValidity) -> _| {
        metrics.family(name, MetricKind::Gauge, help);
        for (state, served) in served() {
            metrics.sample(&labels(state), timestamp(time(served)));
        }
    };
    family(
        "tidegate_certificate_expiry_timestamp_seconds",
        "Time when a listener's certificate expires, in seconds since the Unix epoch.",
        |it| it.not_after,
    );
    family(
        "tidegate_certificate_not_before_timestamp_seconds",
        "Time when the validity of a listener's certificate begins, in seconds since the Unix epoch.",
        |it| it.not_before,
    );
    let help = "Time when tidegate renews a certificate that it obtains by itself, in seconds since the Unix epoch.";
    let name = "tidegate_certificate_next_renewal_timestamp_seconds";
    metrics.family(name, MetricKind::Gauge, help);
    for state in states.iter() {
        if let Some(next) = state.next_renewal {
            metrics.sample(&labels(state), timestamp(next));
        }
    }
    let help = "Attempts to obtain a certificate from an authority (ACME), by result.";
    metrics.family("tidegate_acme_orders_total", MetricKind::Counter, help);
    for result in OrderResult::ALL {
        let count = sources.orders.get(result);
        metrics.sample(&[("result", result.token())], count);
    }
}

fn labels(state: &CertificateState) -> [(&'static str, &str); 2] {
    let certificate = state.source.label();
    [("listener", &state.listener), ("certificate", certificate)]
}
