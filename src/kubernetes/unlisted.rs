//! Endpoints that no slice has any more.
//!
//! An endpoint that moves from one slice of a Service to another leaves the first in one write and comes with a later
//! one: between them it is in none, for seconds if there are many slices. Its tunnels must not be closed for that, so
//! it is kept for a grace.
//!
//! Pure: given endpoints and a time, it returns endpoints.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::slices::MAX_ENDPOINTS;
use crate::config::model::{Address, EndpointConfig, EndpointPhase};

/// How long an endpoint that no slice has stays in use. The controller writes the slices of a Service one after the
/// other, at its own limit of requests per second.
pub const REMOVAL_GRACE: Duration = Duration::from_secs(5);

/// After this many halvings, no watch is too short for what is left of the grace.
const MAX_HALVINGS: u32 = 16;

/// Until when endpoints that no slice has stay in use.
#[derive(Debug, Default)]
pub struct UnlistedEndpoints {
    graces: HashMap<Address, RemovalGrace>,
}

/// The grace of one endpoint.
#[derive(Debug, Clone, Copy)]
struct RemovalGrace {
    until: Instant,
    /// How often it has begun again.
    restarts: u32,
}

impl RemovalGrace {
    fn new(now: Instant) -> Self {
        let until = now + REMOVAL_GRACE;
        Self { until, restarts: 0 }
    }

    /// Each time is half as long: with watches that never last for the whole grace, the endpoint would stay for ever.
    fn restart(&mut self, now: Instant) {
        let grace = REMOVAL_GRACE / (1 << self.restarts.min(MAX_HALVINGS));
        self.until = self.until.max(now + grace);
        self.restarts = self.restarts.saturating_add(1);
    }
}

impl UnlistedEndpoints {
    /// The endpoints in use from now on: those that slices list, and those of `known` whose grace has not passed.
    /// They are ordered by address. New sessions get one of the latter only if nothing better is left: most of them do
    /// not come back.
    pub fn keep(
        &mut self,
        known: Vec<EndpointConfig>,
        listed: Vec<EndpointConfig>,
        now: Instant,
    ) -> Vec<EndpointConfig> {
        let addresses: HashSet<&Address> = listed.iter().map(|it| &it.address).collect();
        let before = std::mem::take(&mut self.graces);
        let mut unlisted = Vec::new();
        for endpoint in known {
            let grace = before.get(&endpoint.address).copied();
            let grace = grace.unwrap_or_else(|| RemovalGrace::new(now));
            if addresses.contains(&endpoint.address)
                || grace.until <= now
                || unlisted.len() >= MAX_ENDPOINTS
            {
                continue;
            }
            self.graces.insert(endpoint.address.clone(), grace);
            let phase = match endpoint.phase {
                EndpointPhase::Ready => EndpointPhase::Unlisted,
                // A drain of its tunnels goes on.
                phase => phase,
            };
            unlisted.push(EndpointConfig { phase, ..endpoint });
        }
        let mut endpoints = listed;
        endpoints.extend(unlisted);
        endpoints.sort_by_key(|endpoint| socket_address(&endpoint.address));
        endpoints
    }

    /// When the first of them is to be removed.
    pub fn due(&self) -> Option<Instant> {
        self.graces.values().map(|grace| grace.until).min()
    }

    /// Begins their grace again, for a shorter time each time: what has happened while no watch was open is not known
    /// yet.
    pub fn restart(&mut self, now: Instant) {
        for grace in self.graces.values_mut() {
            grace.restart(now);
        }
    }
}

fn socket_address(address: &Address) -> Option<SocketAddr> {
    match address {
        Address::Ip(address) => Some(*address),
        Address::Name { .. } | Address::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    use EndpointPhase::{NotReady, Ready, Terminating, TerminatingNotReady, Unlisted};

    fn endpoint(last: u8, phase: EndpointPhase) -> EndpointConfig {
        let address = SocketAddr::from(([10, 0, 0, last], 9000));
        EndpointConfig {
            phase,
            name: Some(format!("pod-{last}").into()),
            ..EndpointConfig::at(Address::Ip(address))
        }
    }

    fn endpoints(all: &[(u8, EndpointPhase)]) -> Vec<EndpointConfig> {
        all.iter().map(|(last, it)| endpoint(*last, *it)).collect()
    }

    #[test]
    fn an_endpoint_that_moves_to_another_slice_stays_and_one_that_is_gone_goes() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut unlisted = UnlistedEndpoints::default();
        let all = endpoints(&[(1, Ready), (2, Ready), (3, Terminating), (4, NotReady)]);
        assert_eq!(unlisted.keep(Vec::new(), all.clone(), at(0)), all);
        assert_eq!(unlisted.due(), None);
        // In no slice for a moment: tunnels and drains stay, new sessions go elsewhere.
        let kept = unlisted.keep(all, endpoints(&[(2, Ready)]), at(1));
        let expected = [(1, Unlisted), (2, Ready), (3, Terminating), (4, NotReady)];
        assert_eq!(kept, endpoints(&expected));
        assert_eq!(unlisted.due(), Some(at(6)));
        // One has moved, and another follows later.
        let kept = unlisted.keep(kept, endpoints(&[(1, Ready)]), at(4));
        let expected = [(1, Ready), (2, Unlisted), (3, Terminating), (4, NotReady)];
        assert_eq!(kept, endpoints(&expected));
        let kept = unlisted.keep(kept, endpoints(&[(1, Ready)]), at(6));
        assert_eq!(kept, endpoints(&[(1, Ready), (2, Unlisted)]));
        assert_eq!(unlisted.due(), Some(at(9)));
        // The watch was interrupted: whether it has moved is not known yet.
        unlisted.restart(at(8));
        assert_eq!(
            unlisted.keep(kept.clone(), endpoints(&[(1, Ready)]), at(9)),
            kept
        );
        let kept = unlisted.keep(kept, endpoints(&[(1, Ready)]), at(13));
        assert_eq!(kept, endpoints(&[(1, Ready)]));
        assert_eq!(unlisted.due(), None);
    }

    #[test]
    fn an_endpoint_is_removed_however_short_watches_are() {
        const PAUSE: Duration = Duration::from_millis(500);
        let began = Instant::now();
        let known = endpoints(&[(1, Ready)]);
        for life in [1, 500, 1000, 4999].map(Duration::from_millis) {
            let mut unlisted = UnlistedEndpoints::default();
            let mut opened = began;
            assert_eq!(unlisted.keep(known.clone(), Vec::new(), began).len(), 1);
            let is_due = |unlisted: &UnlistedEndpoints, by| unlisted.due().unwrap() <= by;
            while !is_due(&unlisted, opened + life) {
                opened += life + PAUSE;
                unlisted.restart(opened);
                assert!(opened < began + Duration::from_secs(20), "{life:?}");
            }
            let due = unlisted.due().unwrap();
            assert!(due >= began + REMOVAL_GRACE);
            assert!(unlisted.keep(known.clone(), Vec::new(), due).is_empty());
        }
    }

    #[test]
    fn an_outage_longer_than_the_grace_leaves_time_for_what_has_happened_meanwhile() {
        let began = Instant::now();
        let mut unlisted = UnlistedEndpoints::default();
        let known = endpoints(&[(1, Ready)]);
        let kept = unlisted.keep(known.clone(), Vec::new(), began);
        let back = began + Duration::from_secs(600);
        unlisted.restart(back);
        assert_eq!(unlisted.due(), Some(back + REMOVAL_GRACE));
        // It is listed again, and later gone again: that is a new grace.
        assert_eq!(unlisted.keep(kept, known.clone(), back), known);
        let gone = back + REMOVAL_GRACE;
        unlisted.keep(known, Vec::new(), gone);
        assert_eq!(unlisted.due(), Some(gone + REMOVAL_GRACE));
        unlisted.restart(gone + Duration::from_secs(1));
        assert_eq!(unlisted.due(), Some(gone + Duration::from_secs(6)));
    }

    fn any_listing() -> impl Strategy<Value = Vec<EndpointConfig>> {
        let phase = prop_oneof![
            Just(Ready),
            Just(Terminating),
            Just(TerminatingNotReady),
            Just(NotReady)
        ];
        let listing = prop::collection::btree_map(0..6_u8, phase, 0..6);
        listing.prop_map(|all| endpoints(&all.into_iter().collect::<Vec<_>>()))
    }

    proptest! {
        /// Whatever comes and goes: what is listed is as listed, and the rest was listed within the grace.
        #[test]
        fn what_is_listed_counts_and_nothing_else_stays_for_long(
            listings in prop::collection::vec((any_listing(), 0..8_u64), 1..12),
        ) {
            let began = Instant::now();
            let mut now = 0;
            let mut known: Vec<EndpointConfig> = Vec::new();
            let mut unlisted = UnlistedEndpoints::default();
            let mut seen: HashMap<Address, u64> = HashMap::new();
            for (listed, seconds) in listings {
                // Until now, the listing before was in effect.
                for endpoint in known.iter().filter(|it| !unlisted.graces.contains_key(&it.address)) {
                    seen.insert(endpoint.address.clone(), now + seconds);
                }
                now += seconds;
                known = unlisted.keep(known, listed.clone(), began + Duration::from_secs(now));
                let order = |it: &EndpointConfig| socket_address(&it.address);
                prop_assert!(known.is_sorted_by(|one, next| order(one) < order(next)));
                for endpoint in &listed {
                    prop_assert!(known.contains(endpoint));
                }
                for endpoint in known.iter().filter(|it| !listed.contains(it)) {
                    prop_assert_ne!(endpoint.phase, Ready);
                    prop_assert!(now - seen[&endpoint.address] < REMOVAL_GRACE.as_secs());
                }
            }
        }
    }
}
