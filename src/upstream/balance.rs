//! Which endpoint is next: the policies.
//!
//! Pure: sees weights and loads, returns a position; chance comes from a seed. One pass over the
//! endpoints for most picks, with as little in it as can be: there may be a thousand of them.
//! What is seen of an endpoint may change between two passes, since leases end meanwhile.
//!
//! Slow start, where there is one, is about arrivals. A policy that does not look at load gives a
//! fresh endpoint a part of its weight. One that does would give it everything, until it has as much
//! as the others: there, whoever is behind takes part in a pick only now and then.

mod hashing;

use std::cmp::Ordering;

use fastrand::Rng;

use self::hashing::Score;
pub use self::hashing::{identity, key_hash};
use crate::config::model::Balance;

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Policy {
    /// The fewest in flight, relative to weight.
    LeastConnections,
    /// In turn, by weight, evenly interleaved.
    RoundRobin,
    /// By chance, by weight.
    Random,
    /// Of two by chance, the one with less in flight, relative to weight.
    PowerOfTwo,
    /// By a key, always the same for the same key; as [`Policy::LeastConnections`] without one.
    Hash {
        /// No endpoint gets more than its share of what is in flight, times this; at least 1.
        load_factor: f64,
    },
}

/// What a policy may know of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its share, relative to the others; with 0 it is never picked.
    pub weight: u32,
    /// Leases out on it.
    pub in_flight: usize,
    /// Whether it may be picked.
    pub eligible: bool,
    /// How far it has come in its slow start, 1 at the end of it; `None` where there is none.
    pub warmth: Option<f32>,
    /// From [`identity`]; looked at by [`Policy::Hash`] only.
    pub identity: u64,
}

/// A policy and where its rotation stands.
#[derive(Debug, Clone)]
pub struct Balancer {
    policy: Policy,
    /// One per endpoint. For `round_robin`, how far it has come in the rotation: their sum never
    /// changes. For the others, the number of its last pick.
    turns: Vec<i64>,
    picks: i64,
    chance: Rng,
}

/// The least warmth that counts: slow start never holds back more than this.
const MIN_WARMTH: f32 = 0.1;

/// The parts that a weight is divided in, so that a warm-up has steps.
const PARTS: u32 = 1000;

/// Behind the others: by more than so many leases. No more than they differ anyway: whatever is left
/// when this ends comes in one go.
const BEHIND_BY: f64 = 4.0;

/// What one who is behind gets at most of what arrives, in fair shares...
const CATCH_UP: f64 = 3.0;

/// ... and at most this part of what would be the others'.
const TAKEN_OVER: f64 = 0.5;

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
    /// For so many endpoints. The seed decides by whom the rotation begins, too: a fleet of proxies
    /// that all began at the first endpoint would overload it after every start.
    pub fn new(policy: Policy, endpoints: usize, seed: u64) -> Self {
        let mut chance = Rng::with_seed(seed);
        let turns = match policy {
            // Less than one turn of the least weight: it decides between equals only.
            Policy::RoundRobin => (0..endpoints)
                .map(|_| chance.i64(0..i64::from(PARTS)))
                .collect(),
            _ => {
                let mut turns: Vec<i64> = (1..).take(endpoints).map(|turn: i64| -turn).collect();
                chance.shuffle(&mut turns);
                turns
            }
        };
        Self {
            policy,
            turns,
            picks: 0,
            chance,
        }
    }

    /// The position of the next endpoint, for a request with this key; `None` when none is eligible.
    pub fn pick(
        &mut self,
        candidates: impl Iterator<Item = Candidate> + Clone,
        key: Option<u64>,
    ) -> Option<usize> {
        match (self.policy, key) {
            (Policy::RoundRobin, _) => self.rotate(candidates),
            (Policy::Random, _) => {
                let total = candidates.clone().map(|each| each.share()).sum();
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

    /// One of them by chance, by weight, other than `except`; `total` is what they weigh without it.
    fn draw(
        &mut self,
        candidates: impl Iterator<Item = Candidate>,
        total: u64,
        except: Option<usize>,
    ) -> Option<(usize, Candidate)> {
        if total == 0 {
            return None;
        }
        let mut left = self.chance.u64(0..total);
        let mut last = None;
        for (position, candidate) in candidates.enumerate() {
            let share = candidate.share();
            if share == 0 || Some(position) == except {
                continue;
            }
            last = Some((position, candidate));
            if left < share {
                break;
            }
            left -= share;
        }
        last
    }

    fn better_of_two(
        &mut self,
        candidates: impl Iterator<Item = Candidate> + Clone,
    ) -> Option<usize> {
        let total = candidates.clone().map(|each| each.share()).sum();
        let (position, one) = self.draw(candidates.clone(), total, None)?;
        let others = total.saturating_sub(one.share());
        match self.draw(candidates, others, Some(position)) {
            Some((second, other)) if relative_load(&other, &one).is_lt() => Some(second),
            _ => Some(position),
        }
    }

    /// The one with the least load for its weight, unless it is behind and chance is against it.
    fn least(&mut self, candidates: impl Iterator<Item = Candidate> + Clone) -> Option<usize> {
        let mut totals = CandidateTotals::default();
        let counted = candidates.clone().inspect(|each| totals.count(each));
        let (mut position, least) = self.least_of(counted)?;
        if least.warmth.is_some() && totals.is_ahead_of(&least) {
            // Others may be behind, too, but not all of them: somebody takes part.
            let mut chance = self.chance.fork();
            let taking_part = candidates.map(|each| Candidate {
                eligible: each.eligible
                    && (!totals.is_ahead_of(&each) || chance.f64() < totals.catch_up(&each)),
                ..each
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

    /// Of equals it is the one whose last turn is longest ago.
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

    /// Its weight in parts, fewer while it warms up; 0 if it may not be picked.
    fn share(&self) -> u64 {
        let parts = match self.warmth {
            _ if !self.eligible => 0,
            Some(warmth) => (warmth.clamp(MIN_WARMTH, 1.0) * PARTS as f32) as u32,
            None => PARTS,
        };
        u64::from(self.weight) * u64::from(parts)
    }
}

/// What those that may be picked carry together.
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

    /// Whether the others have more, for their weight.
    fn is_ahead_of(&self, one: &Candidate) -> bool {
        let weight = self.weight.saturating_sub(u64::from(one.weight));
        if weight == 0 {
            return false;
        }
        let (has, others) = (one.in_flight as u64, self.in_flight);
        let fair = others.saturating_sub(has) as f64 / weight as f64 * f64::from(one.weight);
        (has as f64) < fair - BEHIND_BY
    }

    /// How often one that is behind takes part. It gets every pick in which it does.
    fn catch_up(&self, one: &Candidate) -> f64 {
        let warmth = one
            .warmth
            .map_or(1.0, |warmth| warmth.clamp(MIN_WARMTH, 1.0));
        let share = f64::from(one.weight) / self.weight as f64;
        let most = (share * CATCH_UP).min(share + (1.0 - share) * TAKEN_OVER);
        f64::from(warmth) * most
    }

    /// Whether it stays within its share, times the factor, with one more. Some endpoint always does.
    fn leaves_room_on(&self, one: &Candidate, load_factor: f64) -> bool {
        let share = f64::from(one.weight) / self.weight as f64;
        let most = (load_factor * (self.in_flight + 1) as f64 * share).ceil();
        (one.in_flight + 1) as f64 <= most
    }
}

/// The endpoint with the highest score for this key, of those that have room.
fn place(
    candidates: impl Iterator<Item = Candidate> + Clone,
    key: u64,
    load_factor: f64,
) -> Option<usize> {
    let mut totals = CandidateTotals::default();
    let counted = candidates.clone().inspect(|each| totals.count(each));
    let (position, home) = highest(counted, key)?;
    if totals.leaves_room_on(&home, load_factor) {
        return Some(position);
    }
    let roomy = candidates.map(|each| Candidate {
        eligible: each.eligible && totals.leaves_room_on(&each, load_factor),
        ..each
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

/// Compares what the load would be with one more, by weight: (a + 1) / wa against (b + 1) / wb.
fn relative_load(a: &Candidate, b: &Candidate) -> Ordering {
    // Leases hold descriptors, of which there are fewer than 2^32: this does not overflow.
    let with_one_more = |candidate: &Candidate| candidate.in_flight as u64 + 1;
    (with_one_more(a) * u64::from(b.weight)).cmp(&(with_one_more(b) * u64::from(a.weight)))
}

#[cfg(test)]
mod tests;
