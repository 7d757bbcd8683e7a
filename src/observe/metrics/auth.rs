//! Metrics of the ways to establish identities, and of the keys that the issuers of tokens publish.

use super::gathered::{Gathered, sum};
use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::histogram::{HistogramSum, LATENCY_SECONDS};
use crate::observe::labels::AuthResult;
use crate::observe::process::timestamp;
use crate::snapshot::Snapshot;

pub(super) fn write_auth(metrics: &mut Exposition, gathered: &Gathered) {
    let by_auth = gathered.by_auth();
    let help = "Requests on routes with `auth`, by result.";
    metrics.family("tidegate_auth_total", MetricKind::Counter, help);
    for ([auth], series) in &by_auth {
        for result in AuthResult::ALL {
            let total = sum(series, |it| it.results.at(*result as usize).get());
            metrics.sample(&[("auth", auth), ("result", result.token())], total);
        }
    }
    let help = "Time that the service of an `[auth.NAME]` took to respond.";
    metrics.family("tidegate_auth_seconds", MetricKind::Histogram, help);
    for ([auth], series) in &by_auth {
        let histograms = series.iter().map(|it| &it.seconds);
        metrics.histogram(
            &[("auth", auth)],
            &HistogramSum::of(&LATENCY_SECONDS, histograms),
        );
    }
}

pub(super) fn write_keys(metrics: &mut Exposition, snapshot: &Snapshot) {
    let issuers = snapshot.issuer_keys();
    let help = "Keys in use that an issuer of tokens publishes.";
    metrics.family("tidegate_auth_keys", MetricKind::Gauge, help);
    for issuer in &issuers {
        let count = issuer.current().map_or(0, |keys| keys.count());
        metrics.sample(&[("auth", &issuer.location.auth)], count as u64);
    }
    let help = "Time when the keys of an issuer were fetched, in seconds since the Unix epoch.";
    let name = "tidegate_auth_keys_fetched_timestamp_seconds";
    metrics.family(name, MetricKind::Gauge, help);
    for issuer in &issuers {
        if let Some(fetched) = issuer.status().fetched {
            metrics.sample(&[("auth", &issuer.location.auth)], timestamp(fetched));
        }
    }
}
