//! The balancing policies: which endpoint is next.
//!
//! Pure: given weights and loads, it returns a position; randomness comes from a seed. Most picks are
//! one cheap pass over the endpoints, because there may be a thousand of them. Leases end between two
//! passes, so the same endpoint may look different in each.
//!
//! Slow start limits how fast sessions arrive at an endpoint. A policy that ignores load gives a fresh
//! endpoint a part of its weight. A policy by load would give it every new session, until it has as
//! many as the others; there, an endpoint that is behind takes part in a pick only with some
//! probability.

mod hashing;
mod reported;
mod shares;

use std::cmp::Ordering;

use fastrand::Rng;

use self::hashing::Score;
pub use self::hashing::{identity, key_hash, split_point};
pub use self::reported::{ReportedTotal, WEIGHT_PARTS, fleet_scale};
pub use self::shares::drawn;
use crate::config::model::Balance;

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Policy {
    /// The endpoint with the fewest in flight, relative to weight.
    LeastConnections,
    /// Endpoints in turn, by weight, evenly interleaved.
    RoundRobin,
    /// A random endpoint, by weight.
    Random,
    /// Of two random endpoints, the one with fewer in flight, relative to weight.
    PowerOfTwo,
    /// The same endpoint for the same key; [`Policy::LeastConnections`] for sessions without a key.
    Hash {
        /// No endpoint gets more than its share of all in flight, times this; at least 1.
        load_factor: f64,
    },
}

/// An endpoint as a policy sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its share relative to the others; an endpoint of weight 0 is never picked.
    pub weight: u32,
    /// Its leases.
    pub in_flight: usize,
    /// Whether it may be picked.
    pub eligible: bool,
    /// How far it is in its slow start, 1 at the end; `None` without slow start.
    pub warmth: Option<f32>,
    /// From [`identity`]; only [`Policy::Hash`] uses it.
    pub identity: u64,
}

/// A policy and its state.
#[derive(Debug, Clone)]
pub struct Balancer {
    policy: Policy,
    /// One number per endpoint. For `round_robin`, its progress in the rotation: the sum of all never
    /// changes. For the other policies, the number of its last pick.
    turns: Vec<i64>,
    picks: i64,
    rng: Rng,
}

/// The minimum of warmth: slow start never holds an endpoint back more than this.
pub(super) const MIN_WARMTH: f32 = 0.1;

/// The parts that a weight is divided into, so that a slow start has steps.
const PARTS: u32 = 1000;

/// An endpoint is behind if it is this many leases below its share. About as many as endpoints differ
/// anyway: what is still missing when an endpoint catches up arrives all at once.
const BEHIND_BY: f64 = 4.0;

/// The maximum that an endpoint behind gets of all arrivals, in multiples of its share...
const CATCH_UP: f64 = 3.0;

/// ... and at most this part of the others' shares.
const MAX_OF_OTHERS: f64 = 0.5;

impl From<&Balance> for Policy {
    fn from(balance: &Balance) -> Self {
        match balance {
            Balance::LeastConnections => Self::LeastConnections,
            Balance::RoundRobin => Self::RoundRobin,
            Balance::Random => Self::Random,
            Balance::PowerOfTwo => Self::PowerOfTwo,
            Balance::Hash(by) => Self::Hash {
                load_factor: by.load_factor,
            },
        }
    }
}

impl Balancer {
    /// A balancer for `endpoints` endpoints. The seed also decides where the rotation begins: if a fleet
    /// of proxies all began at the first endpoint, they would overload it after every start.
    pub fn new(policy: Policy, endpoints: usize, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let turns = match policy {
            // Less than one turn of the smallest weight: it decides only between equals.
            Policy::RoundRobin => (0..endpoints)
                .map(|_| rng.i64(0..i64::from(PARTS)))
                .collect(),
            _ => {
                let mut turns: Vec<i64> = (1..).take(endpoints).map(|turn: i64| -turn).collect();
                rng.shuffle(&mut turns);
                turns
            }
        };
        Self {
            policy,
            turns,
            picks: 0,
            rng,
        }
    }

    /// The position of the next endpoint, for a session with this key; `None` if none is eligible.
    pub fn pick(
        &mut self,
        candidates: impl Iterator<Item = Candidate> + Clone,
        key: Option<u64>,
    ) -> Option<usize> {
        match (self.policy, key) {
            (Policy::RoundRobin, _) => self.rotate(candidates),
            (Policy::Random, _) => {
                let total = candidates.clone().map(|candidate| candidate.share()).sum();
                let (position, _) = self.draw(candidates, total, None)?;
                Some(position)
            }
            (Policy::PowerOfTwo, _) => self.better_of_two(candidates),
            (Policy::Hash { load_factor }, Some(key)) => place(candidates, key, load_factor),
            (Policy::LeastConnections | Policy::Hash { .. }, _) => self.least(candidates),
        }
    }

    /// One step of smooth weighted round robin, as in nginx.
    fn rotate(&mut self, candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<(usize, i64)> = None;
        for (position, (candidate, progress)) in candidates.zip(&mut self.turns).enumerate() {
            let share = candidate.share() as i64;
            if share == 0 {
                continue;
            }
            total += share;
            *progress += share;
            if best.is_none_or(|(_, highest)| *progress > highest) {
                best = Some((position, *progress));
            }
        }
        let (position, _) = best?;
        if let Some(progress) = self.turns.get_mut(position) {
            *progress -= total;
        }
        Some(position)
    }

    /// A random candidate, by weight, other than `except`; `total` is the weight of all the others.
    fn draw(
        &mut self,
        candidates: impl Iterator<Item = Candidate>,
        total: u64,
        except: Option<usize>,
    ) -> Option<(usize, Candidate)> {
        if total == 0 {
            return None;
        }
        let mut remaining = self.rng.u64(0..total);
        // Loads may have changed since `total` was summed up: if the draw is beyond the last
        // candidate, the last one it is.
        let mut last = None;
        for (position, candidate) in candidates.enumerate() {
            let share = candidate.share();
            if share == 0 || Some(position) == except {
                continue;
            }
            last = Some((position, candidate));
            if remaining < share {
                break;
            }
            remaining -= share;
        }
        last
    }

    fn better_of_two(
        &mut self,
        candidates: impl Iterator<Item = Candidate> + Clone,
    ) -> Option<usize> {
        let total = candidates.clone().map(|candidate| candidate.share()).sum();
        let (position, one) = self.draw(candidates.clone(), total, None)?;
        let others = total.saturating_sub(one.share());
        match self.draw(candidates, others, Some(position)) {
            Some((second, other)) if relative_load(&other, &one).is_lt() => Some(second),
            _ => Some(position),
        }
    }

    /// The candidate with the least load for its weight, unless it is behind in its slow start and does
    /// not take part this time.
    fn least(&mut self, candidates: impl Iterator<Item = Candidate> + Clone) -> Option<usize> {
        let mut totals = CandidateTotals::default();
        let counted = candidates
            .clone()
            .inspect(|candidate| totals.count(candidate));
        let (mut position, least) = self.least_of(counted)?;
        if least.warmth.is_some() && totals.has_behind(&least) {
            // Others may be behind, too, but never all of them, so some candidate takes part.
            let mut rng = self.rng.fork();
            let taking_part = candidates.map(|candidate| Candidate {
                eligible: candidate.eligible
                    && (!totals.has_behind(&candidate) || rng.f64() < totals.catch_up(&candidate)),
                ..candidate
            });
            if let Some((other, _)) = self.least_of(taking_part) {
                position = other;
            }
        }
        self.picks += 1;
        if let Some(turn) = self.turns.get_mut(position) {
            *turn = self.picks;
        }
        Some(position)
    }

    /// The candidate with the least load; of equals, the one that was picked longest ago.
    fn least_of(&self, candidates: impl Iterator<Item = Candidate>) -> Option<(usize, Candidate)> {
        let mut best: Option<(usize, Candidate, i64)> = None;
        for (position, (candidate, &turn)) in candidates.zip(&self.turns).enumerate() {
            if !candidate.may_be_picked() {
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
        best.map(|(position, candidate, _)| (position, candidate))
    }
}

impl Candidate {
    fn may_be_picked(&self) -> bool {
        self.eligible && self.weight > 0
    }

    /// Its weight in parts, fewer in its slow start; 0 if it may not be picked.
    fn share(&self) -> u64 {
        let parts = match self.warmth {
            _ if !self.eligible => 0,
            Some(warmth) => (warmth.clamp(MIN_WARMTH, 1.0) * PARTS as f32) as u32,
            None => PARTS,
        };
        u64::from(self.weight) * u64::from(parts)
    }
}

/// The weight and load of all candidates that may be picked.
#[derive(Debug, Default)]
struct CandidateTotals {
    weight: u64,
    in_flight: u64,
}

impl CandidateTotals {
    fn count(&mut self, candidate: &Candidate) {
        if candidate.may_be_picked() {
            self.weight += u64::from(candidate.weight);
            self.in_flight += candidate.in_flight as u64;
        }
    }

    /// Whether `one` is behind the others, relative to weight.
    fn has_behind(&self, one: &Candidate) -> bool {
        let weight = self.weight.saturating_sub(u64::from(one.weight));
        if weight == 0 {
            return false;
        }
        let (has, others) = (one.in_flight as u64, self.in_flight);
        let fair = others.saturating_sub(has) as f64 / weight as f64 * f64::from(one.weight);
        (has as f64) < fair - BEHIND_BY
    }

    /// The probability that a candidate that is behind takes part. It gets every pick that it takes
    /// part in, because it has the least load.
    fn catch_up(&self, one: &Candidate) -> f64 {
        let warmth = one
            .warmth
            .map_or(1.0, |warmth| warmth.clamp(MIN_WARMTH, 1.0));
        let share = f64::from(one.weight) / self.weight as f64;
        let max = (share * CATCH_UP).min(share + (1.0 - share) * MAX_OF_OTHERS);
        f64::from(warmth) * max
    }

    /// Whether `one` stays within its share, times the factor, with one more. For some candidate that is
    /// always so.
    fn leaves_room_on(&self, one: &Candidate, load_factor: f64) -> bool {
        let share = f64::from(one.weight) / self.weight as f64;
        let max = (load_factor * (self.in_flight + 1) as f64 * share).ceil();
        (one.in_flight + 1) as f64 <= max
    }
}

/// The candidate with the highest score for this key, of those that have room (consistent hashing
/// with bounded loads).
fn place(
    candidates: impl Iterator<Item = Candidate> + Clone,
    key: u64,
    load_factor: f64,
) -> Option<usize> {
    let mut totals = CandidateTotals::default();
    let counted = candidates
        .clone()
        .inspect(|candidate| totals.count(candidate));
    let (position, home) = highest(counted, key)?;
    if totals.leaves_room_on(&home, load_factor) {
        return Some(position);
    }
    let roomy = candidates.map(|candidate| Candidate {
        eligible: candidate.eligible && totals.leaves_room_on(&candidate, load_factor),
        ..candidate
    });
    highest(roomy, key).map_or(Some(position), |(other, _)| Some(other))
}

fn highest(candidates: impl Iterator<Item = Candidate>, key: u64) -> Option<(usize, Candidate)> {
    let mut best: Option<(usize, Candidate, Score)> = None;
    for (position, candidate) in candidates.enumerate() {
        if !candidate.may_be_picked() {
            continue;
        }
        let score = Score::new(key, candidate.identity, candidate.weight);
        if best.is_none_or(|(_, _, highest)| score.compare(&highest).is_gt()) {
            best = Some((position, candidate, score));
        }
    }
    best.map(|(position, candidate, _)| (position, candidate))
}

/// Compares the loads with one more each, relative to weight: (a + 1) / wa with (b + 1) / wb. Without
/// the one more, an empty endpoint of weight 1 would equal an empty one of weight 100.
fn relative_load(a: &Candidate, b: &Candidate) -> Ordering {
    // Leases hold descriptors, of which there are fewer than 2^32: this does not overflow.
    let with_one_more = |candidate: &Candidate| candidate.in_flight as u64 + 1;
    (with_one_more(a) * u64::from(b.weight)).cmp(&(with_one_more(b) * u64::from(a.weight)))
}

#[cfg(test)]
mod tests;
