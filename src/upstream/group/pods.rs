//! What a change of the endpoints of a Kubernetes Service means for the state that is kept of their addresses: pods
//! come and go, and an address that is free again may be another pod's.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::Upstream;
use crate::config::model::{Address, Discovery, EndpointConfig, EndpointPhase};

impl Upstream {
    /// The endpoints of the Service are these from now on; `before` is what they were, if that is known. Pods that
    /// are gone leave nothing to those that get their addresses, and a pod that becomes ready has a slow start.
    pub(super) fn follow_pods(
        &self,
        before: Option<&[EndpointConfig]>,
        endpoints: &[EndpointConfig],
        now: Instant,
    ) {
        if !matches!(self.settings.discovery, Discovery::Kubernetes(_)) {
            return;
        }
        let known = before.unwrap_or_default().iter();
        let known: HashMap<&Address, &EndpointConfig> =
            known.map(|earlier| (&earlier.address, earlier)).collect();
        let kept = endpoints.iter().filter(|endpoint| {
            let earlier = known.get(&endpoint.address);
            // One that is back was forgotten when it went, but old sessions may have had responses since.
            earlier.map_or(before.is_none(), |earlier| is_same_pod(earlier, endpoint))
        });
        let kept: HashSet<&Address> = kept.map(|endpoint| &endpoint.address).collect();
        let is_gone = |address: &Address| !kept.contains(address);
        self.registry.forget(&self.name, is_gone, now);
        if before.is_none() {
            return;
        }
        for endpoint in endpoints {
            let earlier = known.get(&endpoint.address);
            if earlier.is_none_or(|earlier| becomes_ready(earlier, endpoint)) {
                let address = &endpoint.address;
                self.registry.begin_slow_start(&self.state, address, now);
            }
        }
    }
}

/// Names may be absent, and a pod of a StatefulSet has that of its predecessor, on a network of its host even the
/// address; but one that is terminating ends.
fn is_same_pod(earlier: &EndpointConfig, endpoint: &EndpointConfig) -> bool {
    let has_ended = earlier.phase.is_terminating() && !endpoint.phase.is_terminating();
    let has_other_name =
        earlier.name != endpoint.name && earlier.name.is_some() && endpoint.name.is_some();
    !has_ended && !has_other_name
}

/// Whether it was not ready, or was another pod. One that has only moved to another slice was ready all the time.
fn becomes_ready(earlier: &EndpointConfig, endpoint: &EndpointConfig) -> bool {
    let was_ready = matches!(
        earlier.phase,
        EndpointPhase::Ready | EndpointPhase::Unlisted
    );
    endpoint.phase == EndpointPhase::Ready && !(was_ready && is_same_pod(earlier, endpoint))
}
