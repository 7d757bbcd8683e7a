//! Histograms of durations in fixed buckets; per worker, like all counters.

use std::time::Duration;

use super::counter::Counter;

/// The upper bounds of the buckets of a histogram, in seconds. One more bucket has no bound.
pub type Bounds<const N: usize> = [f64; N];

/// From half a millisecond to ten seconds: for connects, handshakes and Pings.
pub const LATENCY_SECONDS: Bounds<14> = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// From a second to a week: for the lifetime of tunnels.
pub const LIFETIME_SECONDS: Bounds<14> = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0,
    259_200.0, 604_800.0,
];

/// A histogram with one writer.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static Bounds<N>,
    buckets: [Counter; N],
    beyond: Counter,
    micros: Counter,
}

impl<const N: usize> Histogram<N> {
    /// An empty histogram.
    pub fn new(bounds: &'static Bounds<N>) -> Self {
        Self {
            bounds,
            buckets: std::array::from_fn(|_| Counter::default()),
            beyond: Counter::default(),
            micros: Counter::default(),
        }
    }

    /// Counts something that took this time.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let position = self.bounds.iter().position(|bound| seconds <= *bound);
        let bucket = position.and_then(|position| self.buckets.get(position));
        bucket.unwrap_or(&self.beyond).add(1);
        self.micros
            .add(time.as_micros().try_into().unwrap_or(u64::MAX));
    }

    /// Adds what a histogram with the same bounds has, into which nothing is counted any more.
    pub(super) fn absorb(&self, other: &Self) {
        for (bucket, other) in self.buckets.iter().zip(&other.buckets) {
            bucket.absorb(other);
        }
        self.beyond.absorb(&other.beyond);
        self.micros.absorb(&other.micros);
    }
}

/// The sum of several histograms with the same bounds, as of one reading.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSum {
    /// Upper bounds, each with the number of observations up to it.
    pub buckets: Vec<(f64, u64)>,
    /// The number of observations.
    pub count: u64,
    /// Their sum in seconds.
    pub sum: f64,
}

impl HistogramSum {
    /// Of the numbers of observations in each bucket, the last of which has no bound.
    pub fn from_counts(bounds: &[f64], counts: &[u64], total: Duration) -> Self {
        let mut count = 0;
        let cumulated = bounds.iter().zip(counts).map(|(bound, bucket)| {
            count += bucket;
            (*bound, count)
        });
        Self {
            buckets: cumulated.collect(),
            count: counts.iter().sum(),
            sum: total.as_secs_f64(),
        }
    }

    /// The sum of these histograms.
    pub fn of<'a, const N: usize>(
        bounds: &Bounds<N>,
        histograms: impl Iterator<Item = &'a Histogram<N>>,
    ) -> Self {
        let (mut within, mut beyond, mut micros) = ([0; N], 0, 0u64);
        for histogram in histograms {
            for (sum, bucket) in within.iter_mut().zip(&histogram.buckets) {
                *sum += bucket.get();
            }
            beyond += histogram.beyond.get();
            micros = micros.saturating_add(histogram.micros.get());
        }
        let mut count = 0;
        let cumulated = bounds.iter().zip(within).map(|(bound, bucket)| {
            count += bucket;
            (*bound, count)
        });
        let buckets = cumulated.collect();
        Self {
            buckets,
            count: count + beyond,
            sum: micros as f64 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_is_within_their_bounds_and_below() {
        let bounds = &[1.0, 10.0];
        let (one, two) = (Histogram::new(bounds), Histogram::new(bounds));
        for seconds in [0.5, 1.0, 10.5] {
            one.observe(Duration::from_secs_f64(seconds));
        }
        two.observe(Duration::from_secs(2));
        let sum = HistogramSum::of(bounds, [&one, &two].into_iter());
        assert_eq!(sum.buckets, [(1.0, 2), (10.0, 3)]);
        assert_eq!((sum.count, sum.sum), (4, 14.0));
        let same = HistogramSum::from_counts(bounds, &[2, 1, 1], Duration::from_secs(14));
        assert_eq!(same, sum);
    }
}
