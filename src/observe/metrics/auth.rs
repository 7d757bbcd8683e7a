//! Metrics of the keys that the issuers of tokens publish.

use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::process::timestamp;
use crate::snapshot::Snapshot;

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
