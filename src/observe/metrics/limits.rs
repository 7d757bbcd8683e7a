//! Metrics of limits that routes share: none has the keys, of which there may be any number.

use std::sync::atomic::Ordering;

use crate::observe::exposition::{Exposition, MetricKind};
use crate::snapshot::{RunningLimit, Snapshot};

pub(super) fn write_limits(metrics: &mut Exposition, snapshot: &Snapshot) {
    let limits = snapshot.limits();
    let help = "Keys that a shared limit counts at the moment.";
    metrics.family("tidegate_limit_keys", MetricKind::Gauge, help);
    for RunningLimit { settings, running } in limits {
        metrics.sample(&[("limit", &*settings.name)], running.len());
    }
    let help =
        "Handshakes and requests that a shared limit refused, by what they exceeded or lacked.";
    metrics.family("tidegate_limit_rejections_total", MetricKind::Counter, help);
    for RunningLimit { settings, running } in limits {
        let counters = &running.counters;
        for (kind, counter) in [
            ("tunnels", &counters.full),
            ("handshakes", &counters.handshakes),
            ("requests", &counters.requests),
            ("missing", &counters.missing),
        ] {
            let labels = [("limit", &*settings.name), ("kind", kind)];
            metrics.sample(&labels, counter.load(Ordering::Relaxed));
        }
    }
    let help = "Tunnels that a shared limit closed for a newer one of the same key.";
    metrics.family("tidegate_limit_replaced_total", MetricKind::Counter, help);
    for RunningLimit { settings, running } in limits {
        let replaced = running.counters.replaced.load(Ordering::Relaxed);
        metrics.sample(&[("limit", &*settings.name)], replaced);
    }
    let help = "Handshakes and requests that counted for the count that keys beyond `keys` share.";
    metrics.family("tidegate_limit_overflowed_total", MetricKind::Counter, help);
    for RunningLimit { settings, running } in limits {
        let overflowed = running.counters.overflowed.load(Ordering::Relaxed);
        metrics.sample(&[("limit", &*settings.name)], overflowed);
    }
}
