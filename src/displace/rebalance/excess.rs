//! The excess of an upstream's endpoints: tunnels above their share.

use std::sync::Arc;
use std::time::Instant;

use super::share::{self, EndpointLoad};
use crate::upstream::endpoint::EndpointState;
use crate::upstream::group::{Member, Upstream};

/// Tunnels that endpoints have above their share.
#[derive(Debug, Default)]
pub struct Excess {
    /// The endpoints in rotation, and how many tunnels each has to give up.
    pub of: Vec<(Arc<EndpointState>, usize)>,
    /// Whether one of them is in its slow start: it would get hardly any of the moved clients.
    pub is_warming: bool,
}

impl Excess {
    /// The excess in `upstream`, where `away` moved clients have not reconnected yet; `None` without
    /// `rebalance`. Endpoints out of rotation and backups neither give up tunnels nor get any: `evict`
    /// decides about those.
    pub fn of(upstream: &Upstream, away: usize) -> Option<Self> {
        let settings = upstream.settings.rebalance.as_ref()?;
        let now = Instant::now();
        let mut members = upstream.members();
        members.retain(|member| member.has_share(now));
        let load = |member: &Member| EndpointLoad {
            weight: member.pick_weight,
            in_flight: member.state.in_flight(),
            limit: member.max_in_flight,
        };
        let loads: Vec<EndpointLoad> = members.iter().map(load).collect();
        let above = share::excess(&loads, away, settings.factor);
        let mut states = members.iter().map(|member| &member.state);
        Some(Self {
            is_warming: states.any(|state| upstream.is_warming(state, now)),
            of: members
                .into_iter()
                .map(|member| member.state)
                .zip(above)
                .collect(),
        })
    }

    /// The excess of all endpoints together.
    pub fn total(&self) -> usize {
        self.of.iter().map(|(_, above)| above).sum()
    }
}
