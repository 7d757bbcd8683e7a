//! Metrics of the fleet and its store.

use crate::fleet::membership::FleetStatus;
use crate::fleet::roster;
use crate::observe::exposition::{Exposition, MetricKind};

pub(super) fn write_fleet(metrics: &mut Exposition, fleet: &FleetStatus) {
    let state = fleet.state();
    let link = state.as_ref().and_then(|state| state.link.as_ref());
    let help = "1 if the store of the fleet can be used, by what for: `read`, `write`.";
    metrics.family("tidegate_store_up", MetricKind::Gauge, help);
    if let Some(link) = link {
        let condition = link.health().condition();
        let is_read = condition.reading.is_none() && condition.up_to_date.is_some();
        metrics.sample(&[("access", "read")], u8::from(is_read));
        let is_written = condition.writing.is_none();
        metrics.sample(&[("access", "write")], u8::from(is_written));
    }
    let help = "Members of the fleet, as far as this node knows.";
    metrics.family("tidegate_fleet_members", MetricKind::Gauge, help);
    if let (Some(link), Some(state)) = (link, &state)
        && state.settings.share.members
    {
        let members = roster::members(&link.mirror, link.client.prefix());
        metrics.sample(&[], members.len() as u64);
    }
    let help = "Time that the key in use has been in use, for keys that nodes share.";
    metrics.family("tidegate_shared_key_age_seconds", MetricKind::Gauge, help);
    for key in fleet.keys_in_use() {
        if let Some((_, age)) = key.shared {
            metrics.sample(&[("keys", key.kind.folder())], age.as_secs());
        }
    }
}
