//! Which endpoint is next: the policies.
//!
//! Pure: sees weights and loads, returns a position. One pass over the endpoints for each pick, with
//! as little in it as can be: there may be a thousand of them.

use crate::config::model::Balance;

/// What a policy may know of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its share, relative to the others; at least 1.
    pub weight: u32,
    /// Leases out on it.
    pub in_flight: usize,
    /// Whether it may be picked.
    pub eligible: bool,
}

/// A policy and where its rotation stands.
#[derive(Debug)]
pub struct Balancer {
    policy: Balance,
    /// One per endpoint. For `round_robin`, how far it has come in the rotation: their sum is always
    /// 0. For `least_connections`, the number of its last pick.
    turns: Vec<i64>,
    picks: i64,
}

impl Balancer {
    /// For so many endpoints, at the start of the rotation.
    pub fn new(policy: Balance, endpoints: usize) -> Self {
        Self {
            policy,
            turns: vec![0; endpoints],
            picks: 0,
        }
    }

    /// The position of the next endpoint; `None` when none is eligible.
    pub fn pick(&mut self, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
        match self.policy {
            Balance::RoundRobin => self.rotate(candidates),
            Balance::LeastConnections => self.least(candidates),
        }
    }

    /// The one with the least load for its weight; of equals, the one whose last turn is longest ago.
    fn least(&mut self, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
        let mut best: Option<(usize, Candidate, i64)> = None;
        for (position, (candidate, &turn)) in candidates.zip(&self.turns).enumerate() {
            if !candidate.eligible {
                continue;
            }
            let better = best.is_none_or(|(_, least, earliest)| {
                let order = relative_load(&candidate, &least);
                order.then_with(|| turn.cmp(&earliest)).is_lt()
            });
            if better {
                best = Some((position, candidate, turn));
            }
        }
        let (position, ..) = best?;
        self.picks += 1;
        if let Some(turn) = self.turns.get_mut(position) {
            *turn = self.picks;
        }
        Some(position)
    }

    /// One step of smooth weighted round robin, as in nginx.
    fn rotate(&mut self, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (position, (candidate, progress)) in candidates.zip(&mut self.turns).enumerate() {
            if !candidate.eligible {
                continue;
            }
            total += i64::from(candidate.weight);
            *progress += i64::from(candidate.weight);
            if best.is_none_or(|(_, most)| *progress > most) {
                best = Some((position, *progress));
            }
        }
        let (position, _) = best?;
        if let Some(progress) = self.turns.get_mut(position) {
            *progress -= total;
        }
        Some(position)
    }
}

/// Compares what the load would be with one more, by weight: (a + 1) / wa against (b + 1) / wb.
fn relative_load(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    // Leases hold descriptors, of which there are fewer than 2^32: this does not overflow.
    let with_one_more = |candidate: &Candidate| candidate.in_flight as u64 + 1;
    (with_one_more(a) * u64::from(b.weight)).cmp(&(with_one_more(b) * u64::from(a.weight)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn free(weights: &[u32]) -> Vec<Candidate> {
        weights
            .iter()
            .map(|&weight| Candidate {
                weight,
                in_flight: 0,
                eligible: true,
            })
            .collect()
    }

    fn picks(balancer: &mut Balancer, candidates: &[Candidate], times: usize) -> Vec<usize> {
        (0..times)
            .filter_map(|_| balancer.pick(candidates.iter().copied()))
            .collect()
    }

    #[test]
    fn round_robin_interleaves_by_weight() {
        let mut balancer = Balancer::new(Balance::RoundRobin, 3);
        let order = picks(&mut balancer, &free(&[5, 1, 1]), 7);
        assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn nobody_eligible_is_nobody_picked() {
        for policy in [Balance::RoundRobin, Balance::LeastConnections] {
            let mut balancer = Balancer::new(policy, 1);
            let down = Candidate {
                weight: 1,
                in_flight: 0,
                eligible: false,
            };
            assert_eq!(balancer.pick([down].into_iter()), None);
            assert_eq!(Balancer::new(policy, 0).pick([].into_iter()), None);
        }
    }

    #[test]
    fn least_connections_takes_equals_in_turn() {
        let mut balancer = Balancer::new(Balance::LeastConnections, 3);
        assert_eq!(
            picks(&mut balancer, &free(&[1, 1, 1]), 6),
            [0, 1, 2, 0, 1, 2]
        );
    }

    proptest! {
        #[test]
        fn round_robin_is_exact_over_one_turn(weights in prop::collection::vec(1..20u32, 1..8)) {
            let mut balancer = Balancer::new(Balance::RoundRobin, weights.len());
            let turn = weights.iter().sum::<u32>() as usize;
            let order = picks(&mut balancer, &free(&weights), turn);
            for (position, weight) in weights.iter().enumerate() {
                let share = order.iter().filter(|&&at| at == position).count();
                prop_assert_eq!(share, *weight as usize);
            }
        }

        #[test]
        fn held_leases_stay_within_one_of_their_share(
            weights in prop::collection::vec(1..10u32, 1..8),
            held in 1..500usize,
        ) {
            let mut candidates = free(&weights);
            let mut balancer = Balancer::new(Balance::LeastConnections, weights.len());
            for _ in 0..held {
                let at = balancer.pick(candidates.iter().copied()).unwrap();
                candidates[at].in_flight += 1;
            }
            let total = f64::from(weights.iter().sum::<u32>());
            for candidate in &candidates {
                let share = held as f64 * f64::from(candidate.weight) / total;
                let off = (candidate.in_flight as f64 - share).abs();
                prop_assert!(off <= weights.len() as f64, "{candidates:?}");
            }
        }

        #[test]
        fn an_ineligible_endpoint_is_never_picked(
            candidates in prop::collection::vec(
                (1..5u32, 0..9usize, any::<bool>()).prop_map(|(weight, in_flight, eligible)| {
                    Candidate { weight, in_flight, eligible }
                }),
                0..8,
            ),
            least in any::<bool>(),
        ) {
            let policy = if least { Balance::LeastConnections } else { Balance::RoundRobin };
            let mut balancer = Balancer::new(policy, candidates.len());
            for _ in 0..20 {
                let picked = balancer.pick(candidates.iter().copied());
                prop_assert_eq!(picked.is_some(), candidates.iter().any(|one| one.eligible));
                if let Some(at) = picked {
                    prop_assert!(candidates[at].eligible);
                }
            }
        }
    }
}
