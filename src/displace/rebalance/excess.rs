//! What the endpoints of an upstream have above their share.

use std::sync::Arc;
use std::time::Instant;

use super::share::{self, EndpointLoad};
use crate::upstream::endpoint::EndpointState;
use crate::upstream::group::{Member, Upstream};

/// What endpoints have above their share.
#[derive(Debug, Default)]
pub struct Excess {
    /// Those that take something new, and how many each would give up.
    pub of: Vec<(Arc<EndpointState>, usize)>,
    /// One of them is in its slow start: for now whoever was moved would hardly get there.
    pub is_warming: bool,
}

impl Excess {
    /// What the endpoints of `upstream` have above their share, where `away` more are on the way back;
    /// `None` if the configuration leaves them alone. Endpoints that take nothing new neither give nor
    /// get anything: what becomes of their tunnels is another question. So are backups.
    pub fn of(upstream: &Upstream, away: usize) -> Option<Self> {
        let settings = upstream.settings.rebalance.as_ref()?;
        let now = Instant::now();
        let mut members = upstream.members();
        members.retain(|member| member.has_share(now));
        let load = |member: &Member| EndpointLoad {
            weight: member.weight,
            in_flight: member.state.in_flight(),
            most: member.max_in_flight,
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

    /// All of them together.
    pub fn total(&self) -> usize {
        self.of.iter().map(|(_, above)| above).sum()
    }
}
