//! The probes of routes, as operators see them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::view::View;
use crate::handover::identity::shown;

/// The latest probe of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProbeInfo {
    /// The route.
    pub route: String,
    /// Whether the probe passed.
    pub ok: bool,
    /// When it ended.
    pub at: String,
    /// The time that it took.
    pub seconds: f64,
    /// The endpoint that it reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Probes that have failed since the last one that passed.
    pub failures_in_row: u64,
}

/// The latest probe of each route that is probed.
pub(super) fn probes(view: &View) -> Vec<ProbeInfo> {
    let all = view.shared.probes.all().into_iter();
    let info = all.filter_map(|(route, state)| {
        let latest = state.last?;
        Some(ProbeInfo {
            route: route.to_string(),
            ok: latest.error.is_none(),
            at: shown(latest.at),
            seconds: latest.took.as_secs_f64(),
            endpoint: latest.endpoint.map(|endpoint| endpoint.to_string()),
            error: latest.error,
            failures_in_row: state.failures_in_row,
        })
    });
    info.collect()
}
