//! What the endpoints of an upstream have above their share.

use std::sync::Arc;
use std::time::Instant;

use super::Upstream;
use crate::upstream::endpoint::{State, locked, micros};
use crate::upstream::rebalance::{self, Load};

/// What endpoints have above their share.
#[derive(Debug, Default)]
pub struct Excess {
    /// Those that take something new, and how many each would give up.
    pub of: Vec<(Arc<State>, usize)>,
    /// One of them is in its slow start: for now whoever was moved would hardly get there.
    pub is_warming: bool,
}

impl Excess {
    /// All of them together.
    pub fn total(&self) -> usize {
        self.of.iter().map(|(_, above)| above).sum()
    }
}

impl Upstream {
    /// What its endpoints have above their share, where `away` more are on the way back; `None` if the
    /// configuration leaves them alone. Endpoints that take nothing new neither give nor get
    /// anything: what becomes of their tunnels is another question. So are backups.
    pub fn excess(&self, away: usize) -> Option<Excess> {
        let settings = self.settings.rebalance.as_ref()?;
        let now = micros(Instant::now());
        let mut states = Vec::new();
        let mut loads = Vec::new();
        for endpoint in &locked(&self.group).endpoints {
            let (state, weight) = (&endpoint.state, endpoint.weight());
            if endpoint.takes() && weight > 0 && !endpoint.backup && !state.is_out(now) {
                states.push(Arc::clone(state));
                loads.push(Load {
                    weight,
                    in_flight: state.in_flight(),
                    most: (endpoint.most != usize::MAX).then_some(endpoint.most),
                });
            }
        }
        let slow_start = self.picking().slow_start;
        let is_cold = |state: &Arc<State>| slow_start.is_some_and(|it| state.warmth(it, now) < 1.0);
        Some(Excess {
            is_warming: states.iter().any(is_cold),
            of: states
                .into_iter()
                .zip(rebalance::excess(&loads, away, settings.factor))
                .collect(),
        })
    }
}
