//! The lifetimes of tunnels, and the keys of clients.

use std::f64::consts::TAU;

use fastrand::Rng;

/// Lifetimes with a heavy tail: log-normal. Most tunnels are short, and most of those that are
/// open at a given moment are long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lifetime {
    /// The mean, in seconds.
    pub(crate) mean: f64,
    /// The standard deviation of the logarithm. With 2, half of the tunnels last less than an
    /// eighth of the mean, and one in fifty more than eight times the mean.
    pub(crate) spread: f64,
}

impl Lifetime {
    /// A random lifetime of a new tunnel, in seconds.
    pub(crate) fn whole(&self, chance: &mut Rng) -> f64 {
        let location = self.mean.ln() - self.spread.powi(2) / 2.0;
        (location + self.spread * normal(chance)).exp()
    }

    /// A random remaining lifetime of an open tunnel, in a fleet that has always been running. A tunnel
    /// is open at a given moment in proportion to its length, which shifts the logarithm by its variance.
    pub(crate) fn rest(&self, chance: &mut Rng) -> f64 {
        let location = self.mean.ln() + self.spread.powi(2) / 2.0;
        chance.f64() * (location + self.spread * normal(chance)).exp()
    }
}

/// A normally distributed number, by the Box-Muller method.
fn normal(chance: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - chance.f64()).ln()).sqrt();
    radius * (TAU * chance.f64()).cos()
}

/// The time to the next of independent events with this rate per second.
pub(crate) fn wait(rate: f64, chance: &mut Rng) -> f64 {
    -(1.0 - chance.f64()).ln() / rate
}

/// The keys by which clients are hashed.
#[derive(Debug, Clone)]
pub(crate) enum Keys {
    /// Each client has its own key: users, sessions.
    Own,
    /// Many clients share a key: rooms, tenants, addresses behind a router. Cumulative popularity.
    Shared(Vec<f64>),
}

impl Keys {
    /// `count` keys, of which the second is half as popular as the first, the third a third, and so on.
    pub(crate) fn shared(count: u32) -> Self {
        let mut sum = 0.0;
        let popularity = (1..=count).map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        });
        Self::Shared(popularity.collect())
    }

    /// The number of a new client's key.
    pub(crate) fn next(&self, chance: &mut Rng) -> u64 {
        match self {
            Self::Own => chance.u64(..),
            Self::Shared(cumulative) => {
                let point = chance.f64() * cumulative.last().unwrap();
                cumulative.partition_point(|&sum| sum <= point) as u64
            }
        }
    }
}
