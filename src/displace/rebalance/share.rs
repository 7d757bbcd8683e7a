//! How many tunnels endpoints have to give up, so that endpoints added later get their share.
//!
//! Pure: weights and counts only. A moved tunnel is closed, and its client reconnects by itself a moment
//! later. Until then it is missing from the counts, which must not look as if there were fewer clients.

/// The load of an endpoint in rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointLoad {
    /// Its weight, relative to the others.
    pub weight: u32,
    /// Sessions in flight.
    pub in_flight: usize,
    /// Its limit of sessions in flight; `None` for no limit.
    pub limit: Option<usize>,
}

/// How many sessions each endpoint has above its share times `factor`, where `away` moved clients have
/// not reconnected yet.
///
/// Shares are proportional to weights. Where a share exceeds the limit of its endpoint, the others carry
/// the rest. No endpoint gives up a tunnel that least connections would put back on it: where there are
/// few tunnels, that is the bound, and not the factor.
pub fn excess(loads: &[EndpointLoad], away: usize, factor: f64) -> Vec<usize> {
    let Some(level) = Level::of(loads, away) else {
        return vec![0; loads.len()];
    };
    let above = |load: &EndpointLoad| load.in_flight.saturating_sub(level.bound(load, factor));
    loads.iter().map(above).collect()
}

/// The number of sessions per unit of weight, if all endpoints had their share.
#[derive(Debug, Clone, Copy)]
struct Level {
    share: f64,
    /// The number up to which least connections would fill an endpoint.
    filled: f64,
}

impl Level {
    /// `None` if all are full: no endpoint could take what others give up.
    fn of(loads: &[EndpointLoad], away: usize) -> Option<Self> {
        let in_flight: usize = loads.iter().map(|load| load.in_flight).sum();
        let mut left = (in_flight + away) as f64;
        let mut roomy: Vec<&EndpointLoad> = loads.iter().collect();
        loop {
            let weight: f64 = roomy.iter().map(|load| f64::from(load.weight)).sum();
            if weight <= 0.0 {
                return None;
            }
            let level = Self {
                share: left / weight,
                filled: (left + roomy.len() as f64) / weight,
            };
            let (full, others): (Vec<&EndpointLoad>, Vec<&EndpointLoad>) =
                roomy.into_iter().partition(|load| level.fills(load));
            if full.is_empty() {
                return Some(level);
            }
            // What full endpoints cannot carry raises the level of the others, and only ever raises it: an
            // endpoint that is full stays full, so this ends.
            let carried = full.iter().filter_map(|load| load.limit).sum::<usize>();
            left -= carried as f64;
            roomy = others;
        }
    }

    /// Whether its share reaches its limit.
    fn fills(self, load: &EndpointLoad) -> bool {
        let share = self.share * f64::from(load.weight);
        load.limit.is_some_and(|limit| limit as f64 <= share)
    }

    fn bound(self, load: &EndpointLoad, factor: f64) -> usize {
        if let Some(limit) = load.limit.filter(|_| self.fills(load)) {
            return limit;
        }
        let weight = f64::from(load.weight);
        let bound = (self.share * weight * factor).max(self.filled * weight);
        // The small amount undoes rounding errors, which must not add a whole tunnel.
        (bound - 1e-6).ceil() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::{Balancer, Candidate, Policy};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn load(weight: u32, in_flight: usize, limit: Option<usize>) -> EndpointLoad {
        EndpointLoad {
            weight,
            in_flight,
            limit,
        }
    }

    fn even(in_flight: &[usize]) -> Vec<EndpointLoad> {
        in_flight.iter().map(|&it| load(1, it, None)).collect()
    }

    #[test]
    fn what_is_above_the_share_is_given_up_and_no_more() {
        let check = |in_flight: &[usize], away, expected: &[usize]| {
            assert_eq!(excess(&even(in_flight), away, 1.2), expected);
        };
        check(&[100, 100, 100, 0], 0, &[10, 10, 10, 0]);
        check(&[20, 0], 0, &[8, 0]);
        check(&[90, 75, 75, 60], 0, &[0, 0, 0, 0]);
        check(&[91, 75, 75, 59], 0, &[1, 0, 0, 0]);
        // Clients that are reconnecting are not missing.
        check(&[95, 100, 100, 0], 5, &[5, 10, 10, 0]);
        check(&[90, 90, 90, 0], 30, &[0, 0, 0, 0]);
        // With few tunnels, least connections would put them back on the same endpoints.
        check(&[1, 1, 1, 0], 0, &[0, 0, 0, 0]);
        check(&[3, 3, 0], 0, &[0, 0, 0]);
        check(&[4, 0], 0, &[1, 0]);
        // There is no other endpoint to move to.
        check(&[1000], 0, &[0]);
        check(&[], 0, &[]);
        check(&[0, 0], 0, &[0, 0]);
    }

    #[test]
    fn shares_go_by_weight_and_end_at_limits() {
        let check = |loads: &[EndpointLoad], expected: &[usize]| {
            assert_eq!(excess(loads, 0, 1.5), expected, "{loads:?}");
        };
        check(&[load(3, 300, None), load(1, 100, None)], &[0, 0]);
        check(&[load(3, 400, None), load(1, 0, None)], &[0, 0]);
        check(&[load(1, 400, None), load(3, 0, None)], &[250, 0]);
        // The full endpoint keeps what its limit allows, and the others share the rest.
        let full = load(1, 100, Some(100));
        check(&[full, load(1, 450, None), load(1, 450, None)], &[0, 0, 0]);
        check(
            &[full, load(1, 800, None), load(1, 100, None)],
            &[0, 125, 0],
        );
        // A limit that has been lowered.
        check(&[load(1, 100, Some(60)), load(1, 100, None)], &[40, 0]);
        // All are full.
        check(&[full, load(1, 90, Some(50))], &[0, 0]);
    }

    fn fleets() -> impl Strategy<Value = Vec<EndpointLoad>> {
        let limit = prop_oneof![3 => Just(None), 1 => (1_usize..2000).prop_map(Some)];
        let each = (1_u32..100, 0_usize..1000, limit);
        vec(
            each.prop_map(|(weight, count, limit)| load(weight, count, limit)),
            0..12,
        )
    }

    /// Adds one session where least connections would.
    fn put(balancer: &mut Balancer, loads: &mut [EndpointLoad]) -> Option<usize> {
        let candidates = loads.iter().map(|load| Candidate {
            weight: load.weight,
            in_flight: load.in_flight,
            eligible: load.limit.is_none_or(|limit| load.in_flight < limit),
            warmth: None,
            identity: 0,
        });
        let at = balancer.pick(candidates, None)?;
        loads[at].in_flight += 1;
        Some(at)
    }

    proptest! {
        #[test]
        fn nobody_falls_below_its_share(fleet in fleets(), away in 0_usize..100, factor in 1.05..3.0) {
            let total: usize = fleet.iter().map(|load| load.in_flight).sum();
            let weight: f64 = fleet.iter().map(|load| f64::from(load.weight)).sum();
            for (load, above) in fleet.iter().zip(excess(&fleet, away, factor)) {
                prop_assert!(above <= load.in_flight);
                let share = total as f64 * f64::from(load.weight) / weight;
                let least = load.limit.map_or(share, |limit| share.min(limit as f64));
                prop_assert!(above == 0 || (load.in_flight - above) as f64 >= least.floor());
            }
        }

        #[test]
        fn who_is_alone_or_has_its_share_gives_up_nothing(
            weights in vec(1_u32..100, 1..12), times in 0_usize..100, count in 0_usize..1000,
        ) {
            let fair = |&weight: &u32| load(weight, weight as usize * times, None);
            let fleet: Vec<EndpointLoad> = weights.iter().map(fair).collect();
            prop_assert_eq!(excess(&fleet, 0, 1.05), vec![0; fleet.len()]);
            prop_assert_eq!(excess(&[load(weights[0], count, None)], 0, 1.05), [0]);
        }

        #[test]
        fn what_least_connections_has_placed_is_nowhere_too_much(
            weights in vec(prop_oneof![9 => 1_u32..3, 1 => 50_u32..100], 1..40),
            count in 0_usize..300,
            seed: u64,
        ) {
            let mut fleet: Vec<EndpointLoad> = weights.iter().map(|&it| load(it, 0, None)).collect();
            let mut balancer = Balancer::new(Policy::LeastConnections, fleet.len(), seed);
            for _ in 0..count {
                put(&mut balancer, &mut fleet);
            }
            prop_assert_eq!(excess(&fleet, 0, 1.05), vec![0; fleet.len()], "{:?}", fleet);
        }

        /// In whatever order tunnels are closed, and even if no client reconnects meanwhile.
        #[test]
        fn no_more_are_moved_than_the_excess_that_there_was(
            fleet in fleets(), factor in 1.05..3.0, steps in vec(1_usize..50, 1..40),
        ) {
            let first: usize = excess(&fleet, 0, factor).iter().sum();
            let (mut fleet, mut away) = (fleet, 0);
            for step in steps {
                let now = excess(&fleet, away, factor);
                let mut allowed = step;
                for (load, above) in fleet.iter_mut().zip(now) {
                    let moved = above.min(allowed);
                    load.in_flight -= moved;
                    allowed -= moved;
                    away += moved;
                }
            }
            prop_assert!(away <= first, "{away} of {first}");
        }

        /// Each client reconnects where least connections puts it, until no endpoint has excess.
        #[test]
        fn it_settles_without_moving_anybody_twice(
            fleet in fleets(), factor in 1.05..3.0, seed: u64,
        ) {
            let mut fleet = fleet;
            let mut balancer = Balancer::new(Policy::LeastConnections, fleet.len(), seed);
            let first: usize = excess(&fleet, 0, factor).iter().sum();
            let mut moved = 0;
            while let Some(at) = excess(&fleet, 0, factor).iter().position(|above| *above > 0) {
                fleet[at].in_flight -= 1;
                prop_assert_ne!(put(&mut balancer, &mut fleet), Some(at), "{:?}", fleet);
                moved += 1;
                prop_assert!(moved <= first, "{moved} of {first}");
            }
        }
    }
}
