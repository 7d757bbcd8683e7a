//! What is counted of the requests of one purpose.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets of latency, in seconds; one more bucket has the rest.
pub const LATENCY_BOUNDS: [f64; 8] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

/// The requests of one purpose so far.
#[derive(Debug, Default)]
pub struct ClientCounters {
    succeeded: AtomicU64,
    failed: AtomicU64,
    buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl ClientCounters {
    pub(super) fn count(&self, is_success: bool, took: Duration) {
        let counter = match is_success {
            true => &self.succeeded,
            false => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    /// Requests with a response that is not a failure of the service.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Requests without a response, or with one that is a failure of the service.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// How many requests took this long: per bucket of [`LATENCY_BOUNDS`], and beyond.
    pub fn latencies(&self) -> [u64; LATENCY_BOUNDS.len() + 1] {
        self.buckets
            .each_ref()
            .map(|bucket| bucket.load(Ordering::Relaxed))
    }

    /// How long all of them together took.
    pub fn total_time(&self) -> Duration {
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_result_and_time() {
        let counters = ClientCounters::default();
        counters.count(true, Duration::from_millis(10));
        counters.count(true, Duration::from_millis(11));
        counters.count(false, Duration::from_secs(31));
        assert_eq!((counters.succeeded(), counters.failed()), (2, 1));
        assert_eq!(counters.latencies(), [1, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(counters.total_time(), Duration::from_millis(31_021));
    }
}
