//! Who is picked, how often, and who else when an endpoint goes.

use super::*;
use proptest::prelude::*;

const EVERY: [Policy; 5] = [
    Policy::LeastConnections,
    Policy::RoundRobin,
    Policy::Random,
    Policy::PowerOfTwo,
    Policy::Hash { load_factor: 1.25 },
];

/// A bound that no endpoint comes near.
const UNBOUND: Policy = Policy::Hash { load_factor: 1e9 };

/// The tolerance for random results, in standard deviations: exceeded once in a billion.
const SLACK: f64 = 6.0;

fn free(weights: &[u32]) -> Vec<Candidate> {
    let numbered = weights.iter().enumerate();
    numbered
        .map(|(number, &weight)| Candidate {
            weight,
            in_flight: 0,
            eligible: true,
            warmth: None,
            identity: identity(&format!("10.0.0.{number}:9000")),
        })
        .collect()
}

fn key(number: usize) -> Option<u64> {
    Some(key_hash(format!("user-{number}").as_bytes()))
}

/// Picks for the keys 0, 1, …, with nothing in flight.
fn picks(policy: Policy, seed: u64, candidates: &[Candidate], times: usize) -> Vec<usize> {
    let mut balancer = Balancer::new(policy, candidates.len(), seed);
    (0..times)
        .filter_map(|number| balancer.pick(candidates.iter().copied(), key(number)))
        .collect()
}

/// Picks whose leases are held.
fn hold(balancer: &mut Balancer, candidates: &mut [Candidate], key: Option<u64>) -> usize {
    let at = balancer.pick(candidates.iter().copied(), key).unwrap();
    candidates[at].in_flight += 1;
    at
}

fn times(order: &[usize], position: usize) -> usize {
    order.iter().filter(|&&at| at == position).count()
}

/// Whether `count` out of `total` is plausible with the probability `share`.
fn is_plausible(count: usize, total: usize, share: f64) -> bool {
    let total = total as f64;
    let deviation = (total * share * (1.0 - share)).sqrt();
    (count as f64 - total * share).abs() <= SLACK * deviation + 1.0
}

fn total_weight(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|each| f64::from(each.weight)).sum()
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(1..10u32, 1..12)
}

#[test]
fn round_robin_interleaves_by_weight() {
    for seed in 0..20 {
        let order = picks(Policy::RoundRobin, seed, &free(&[5, 1, 1]), 14);
        assert!(
            [[0, 0, 1, 0, 2, 0, 0], [0, 0, 2, 0, 1, 0, 0]]
                .iter()
                .any(|turn| order[..7] == *turn && order[7..] == *turn),
            "{order:?}"
        );
    }
}

#[test]
fn the_first_turn_is_random() {
    for policy in EVERY {
        let firsts: Vec<usize> = (0..1000)
            .map(|seed| {
                let mut balancer = Balancer::new(policy, 10, seed);
                balancer.pick(free(&[1; 10]).into_iter(), None).unwrap()
            })
            .collect();
        for position in 0..10 {
            let count = times(&firsts, position);
            assert!(is_plausible(count, 1000, 0.1), "{policy:?}: {count}");
        }
    }
}

#[test]
fn without_candidates_none_is_picked() {
    for policy in EVERY {
        for key in [None, key(1)] {
            let mut balancer = Balancer::new(policy, 0, 1);
            assert_eq!(balancer.pick([].into_iter(), key), None);
        }
    }
}

#[test]
fn least_connections_takes_equals_in_turn() {
    for seed in 0..20 {
        let order = picks(Policy::LeastConnections, seed, &free(&[1, 1, 1]), 6);
        let mut first = order[..3].to_vec();
        first.sort_unstable();
        assert_eq!(first, [0, 1, 2]);
        assert_eq!(order[..3], order[3..]);
    }
}

#[test]
fn two_choices_are_two_endpoints() {
    let mut candidates = free(&[1, 1]);
    candidates[0].in_flight = 5;
    let order = picks(Policy::PowerOfTwo, 1, &candidates, 100);
    assert_eq!(times(&order, 1), 100);
}

#[test]
fn two_choices_balance_better_than_one() {
    let spread = |policy| {
        let mut candidates = free(&[1; 100]);
        let mut balancer = Balancer::new(policy, 100, 1);
        for _ in 0..10_000 {
            hold(&mut balancer, &mut candidates, None);
        }
        candidates.iter().map(|each| each.in_flight).max()
    };
    assert!(spread(Policy::PowerOfTwo) <= Some(105));
    assert!(spread(Policy::Random) >= Some(115));
}

/// Computed by another program, in another language.
#[test]
fn a_key_has_the_same_endpoint_in_every_version() {
    let labels = [
        ("10.0.0.11:9000", 0x2e75_f625_463e_ebaa),
        ("10.0.0.12:9000", 0xc81c_ec02_f9b9_affd),
        ("unix:/run/chat.sock", 0xc255_eb8b_49f2_4579),
        ("chat.internal:9000", 0x54dd_4f2f_db1e_9d1a),
    ];
    for (label, expected) in labels {
        assert_eq!(identity(label), expected, "{label}");
    }
    assert_eq!(key_hash(b"alice"), 0x2ef5_fbea_8b22_bbd2);
    let weighted = [1, 3, 2, 0, 1, 2, 3, 3, 1, 1, 0, 3, 2, 1, 2, 3];
    let equal = [1, 3, 2, 0, 1, 2, 2, 2, 1, 1, 0, 3, 2, 1, 2, 3];
    for (weights, expected) in [([1, 2, 1, 3], weighted), ([1; 4], equal)] {
        let mut candidates = free(&weights);
        for (candidate, (label, _)) in candidates.iter_mut().zip(labels) {
            candidate.identity = identity(label);
        }
        assert_eq!(picks(UNBOUND, 1, &candidates, 16), expected);
    }
}

#[test]
fn a_hot_key_spills_over_and_comes_back() {
    let mut candidates = free(&[1; 4]);
    let mut balancer = Balancer::new(Policy::Hash { load_factor: 1.25 }, 4, 1);
    let home = hold(&mut balancer, &mut candidates, key(7));
    let next = hold(&mut balancer, &mut candidates, key(7));
    assert_ne!(home, next);
    candidates[home].in_flight -= 1;
    assert_eq!(hold(&mut balancer, &mut candidates, key(7)), home);
}

#[test]
fn without_a_key_hash_is_least_connections() {
    let mut candidates = free(&[1, 2, 3]);
    let mut hash = Balancer::new(Policy::Hash { load_factor: 1.0 }, 3, 9);
    let mut least = Balancer::new(Policy::LeastConnections, 3, 9);
    for _ in 0..50 {
        let expected = least.pick(candidates.iter().copied(), None);
        assert_eq!(Some(hold(&mut hash, &mut candidates, None)), expected);
    }
}

#[test]
fn a_warming_endpoint_gets_part_of_its_share() {
    for (warmth, share) in [(0.0, 0.1), (0.1, 0.1), (0.5, 0.5), (1.0, 1.0), (9.0, 1.0)] {
        let mut candidates = free(&[1, 1, 2]);
        candidates[2].warmth = Some(warmth);
        let expected = 2.0 * share / (2.0 + 2.0 * share);
        for policy in [Policy::RoundRobin, Policy::Random] {
            let count = times(&picks(policy, 3, &candidates, 8000), 2);
            assert!(is_plausible(count, 8000, expected), "{policy:?}: {count}");
        }
    }
}

/// One endpoint is fresh and empty, the others have a hundred each: how many of 1000 picks it gets.
fn given_to_the_fresh_one(endpoints: usize, warmth: Option<f32>) -> usize {
    let mut candidates = free(&vec![1; endpoints]);
    for candidate in &mut candidates {
        candidate.in_flight = 100;
        candidate.warmth = warmth.map(|_| 1.0);
    }
    candidates[3] = Candidate {
        in_flight: 0,
        warmth,
        ..candidates[3]
    };
    times(&picks(Policy::LeastConnections, 5, &candidates, 1000), 3)
}

#[test]
fn an_endpoint_that_is_behind_does_not_get_everything() {
    assert_eq!(given_to_the_fresh_one(4, None), 1000);
    // One of four: half of the others' shares.
    for (warmth, share) in [(0.0, 0.0625), (0.1, 0.0625), (0.5, 0.3125), (1.0, 0.625)] {
        let count = given_to_the_fresh_one(4, Some(warmth));
        assert!(is_plausible(count, 1000, share), "{warmth}: {count}");
    }
    // One of many: three times its share.
    for (warmth, share) in [(0.1, 0.015), (1.0, 0.15)] {
        let count = given_to_the_fresh_one(20, Some(warmth));
        assert!(is_plausible(count, 1000, share), "{warmth}: {count}");
    }
}

/// There is no flood of sessions when it has caught up.
#[test]
fn catching_up_ends_gently() {
    let mut candidates = free(&[1; 20]);
    for candidate in &mut candidates {
        candidate.in_flight = 1000;
        candidate.warmth = Some(1.0);
    }
    candidates[3].in_flight = 0;
    let mut balancer = Balancer::new(Policy::LeastConnections, 20, 1);
    let mut in_a_row = 0;
    let mut most = 0;
    while candidates[3].in_flight < candidates[4].in_flight {
        match hold(&mut balancer, &mut candidates, None) {
            3 => in_a_row += 1,
            _ => in_a_row = 0,
        }
        most = most.max(in_a_row);
    }
    assert!(most <= 12, "{most}");
}

#[test]
fn a_fresh_endpoint_that_is_not_behind_is_not_held_back() {
    let mut candidates = free(&[1, 1]);
    for candidate in &mut candidates {
        candidate.warmth = Some(0.1);
    }
    candidates[0].in_flight = 3;
    let order = picks(Policy::LeastConnections, 1, &candidates, 10);
    assert_eq!(times(&order, 1), 10);
    // The other is out of rotation.
    candidates[0].in_flight = 100;
    candidates[0].eligible = false;
    let order = picks(Policy::LeastConnections, 1, &candidates, 10);
    assert_eq!(times(&order, 1), 10);
}

proptest! {
    #[test]
    fn an_ineligible_candidate_is_never_picked(
        some in prop::collection::vec(
            (0..4u32, 0..9usize, any::<bool>(), prop::option::of(-1.0..2.0f32)),
            0..8,
        ),
        seed in any::<u64>(),
    ) {
        let mut candidates = free(&vec![0; some.len()]);
        for (candidate, (weight, in_flight, eligible, warmth)) in candidates.iter_mut().zip(some) {
            let identity = candidate.identity;
            *candidate = Candidate { weight, in_flight, eligible, warmth, identity };
        }
        let possible = candidates.iter().any(|one| one.eligible && one.weight > 0);
        for policy in EVERY {
            let mut balancer = Balancer::new(policy, candidates.len(), seed);
            for number in 0..20 {
                let picked = balancer.pick(candidates.iter().copied(), key(number));
                prop_assert_eq!(picked.is_some(), possible);
                if let Some(at) = picked {
                    prop_assert!(candidates[at].eligible && candidates[at].weight > 0);
                }
            }
        }
    }

    #[test]
    fn round_robin_is_exact_over_one_turn(weights in weights(), seed in any::<u64>()) {
        let turn = weights.iter().sum::<u32>() as usize;
        let order = picks(Policy::RoundRobin, seed, &free(&weights), turn);
        for (position, weight) in weights.iter().enumerate() {
            prop_assert_eq!(times(&order, position), *weight as usize);
        }
    }

    #[test]
    fn random_picks_and_keys_follow_the_weights(weights in weights(), seed in any::<u64>()) {
        let candidates = free(&weights);
        let total = total_weight(&candidates);
        for policy in [Policy::Random, UNBOUND] {
            let order = picks(policy, seed, &candidates, 2000);
            for (position, weight) in weights.iter().enumerate() {
                let count = times(&order, position);
                prop_assert!(is_plausible(count, 2000, f64::from(*weight) / total), "{}", count);
            }
        }
    }

    #[test]
    fn held_leases_stay_near_their_share(
        weights in weights(),
        held in 1..500usize,
        seed in any::<u64>(),
    ) {
        for policy in [Policy::LeastConnections, Policy::Hash { load_factor: 1.0 }] {
            let mut candidates = free(&weights);
            let mut balancer = Balancer::new(policy, weights.len(), seed);
            for _ in 0..held {
                hold(&mut balancer, &mut candidates, None);
            }
            let total = total_weight(&candidates);
            for candidate in &candidates {
                let share = held as f64 * f64::from(candidate.weight) / total;
                let off = (candidate.in_flight as f64 - share).abs();
                prop_assert!(off <= weights.len() as f64, "{candidates:?}");
            }
        }
    }

    #[test]
    fn no_endpoint_exceeds_its_bound(
        weights in weights(),
        load_factor in 1.0..2.0f64,
        keys in prop::collection::vec(0..5usize, 1..300),
    ) {
        let mut candidates = free(&weights);
        let total = total_weight(&candidates);
        let mut balancer = Balancer::new(Policy::Hash { load_factor }, weights.len(), 1);
        for (held, number) in keys.into_iter().enumerate() {
            let at = hold(&mut balancer, &mut candidates, key(number));
            let share = f64::from(candidates[at].weight) / total;
            let most = load_factor * (held + 1) as f64 * share;
            prop_assert!(candidates[at].in_flight as f64 <= most.ceil() + 1e-9);
        }
    }

    /// Other processes have the endpoints in another order, and another seed.
    #[test]
    fn balancers_agree(
        (candidates, shuffled) in weights().prop_flat_map(|weights| {
            let candidates = free(&weights);
            (Just(candidates.clone()), Just(candidates).prop_shuffle())
        }),
        seeds in any::<(u64, u64)>(),
    ) {
        let policy = Policy::Hash { load_factor: 1.25 };
        let here = picks(policy, seeds.0, &candidates, 50);
        let there = picks(policy, seeds.1, &shuffled, 50);
        for (here, there) in here.into_iter().zip(there) {
            prop_assert_eq!(candidates[here].identity, shuffled[there].identity);
        }
    }

    #[test]
    fn an_added_endpoint_takes_its_share_and_moves_nothing_else(
        mut weights in weights(),
        added in 1..10u32,
    ) {
        let before = picks(UNBOUND, 1, &free(&weights), 2000);
        weights.push(added);
        let candidates = free(&weights);
        let after = picks(UNBOUND, 1, &candidates, 2000);
        let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
        prop_assert!(moved.iter().all(|(_, to)| **to == weights.len() - 1));
        let share = f64::from(added) / total_weight(&candidates);
        prop_assert!(is_plausible(moved.len(), 2000, share), "{}", moved.len());
    }

    /// Removing an endpoint is the reverse, and being down is the same as being removed.
    #[test]
    fn an_endpoint_that_goes_down_moves_only_its_own_keys(
        weights in prop::collection::vec(1..10u32, 2..12),
        gone in any::<prop::sample::Index>(),
    ) {
        let mut candidates = free(&weights);
        let gone = gone.index(weights.len());
        let before = picks(UNBOUND, 1, &candidates, 2000);
        candidates[gone].eligible = false;
        let after = picks(UNBOUND, 1, &candidates, 2000);
        let (orphans, others): (Vec<_>, Vec<_>) =
            before.iter().zip(&after).partition(|(from, _)| **from == gone);
        prop_assert!(others.iter().all(|(from, to)| from == to));
        let left = total_weight(&candidates) - f64::from(weights[gone]);
        let heirs: Vec<usize> = orphans.iter().map(|(_, to)| **to).collect();
        for (position, weight) in weights.iter().enumerate().filter(|(at, _)| *at != gone) {
            let count = times(&heirs, position);
            let share = f64::from(*weight) / left;
            prop_assert!(is_plausible(count, heirs.len(), share), "{} of {}", count, heirs.len());
        }
    }

    #[test]
    fn a_new_weight_moves_the_difference(
        mut weights in prop::collection::vec(1..10u32, 2..12),
        raised in any::<prop::sample::Index>(),
        by in 1..10u32,
    ) {
        let before = picks(UNBOUND, 1, &free(&weights), 2000);
        let share_of = |weights: &[u32], at: usize| {
            f64::from(weights[at]) / f64::from(weights.iter().sum::<u32>())
        };
        let raised = raised.index(weights.len());
        let share = share_of(&weights, raised);
        weights[raised] += by;
        let after = picks(UNBOUND, 1, &free(&weights), 2000);
        let moved: Vec<_> = before.iter().zip(&after).filter(|(a, b)| a != b).collect();
        prop_assert!(moved.iter().all(|(_, to)| **to == raised));
        let share = share_of(&weights, raised) - share;
        prop_assert!(is_plausible(moved.len(), 2000, share), "{}", moved.len());
    }
}
