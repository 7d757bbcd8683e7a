//! What is counted of the requests to one service.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::quota::failure_reports::FailureReports;

/// The upper bounds of the buckets of latency, in seconds; one more bucket has the rest.
pub const LATENCY_BOUNDS: [f64; 8] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0];

/// The requests to one service so far.
#[derive(Debug, Default)]
pub struct ClientCounters {
    pub(super) service: Arc<str>,
    pub(super) reports: Arc<FailureReports>,
    succeeded: AtomicU64,
    failed: AtomicU64,
    buckets: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    microseconds: AtomicU64,
    failure: Mutex<Option<ServiceFailure>>,
}

/// A request that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFailure {
    /// Why.
    pub error: Box<str>,
    /// When.
    pub at: SystemTime,
}

impl ClientCounters {
    pub(super) fn new(service: &Arc<str>, reports: &Arc<FailureReports>) -> Self {
        Self {
            service: Arc::clone(service),
            reports: Arc::clone(reports),
            ..Self::default()
        }
    }

    /// Counts a request that took this long; `error` says why it has failed, if it has.
    pub(super) fn count(&self, error: Option<&str>, took: Duration) {
        let counter = match error {
            None => &self.succeeded,
            Some(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.remember(error);
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    /// Counts the failure of a response that had begun, and whose request was counted then.
    pub(super) fn count_interruption(&self, error: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.remember(Some(error));
    }

    fn remember(&self, error: Option<&str>) {
        *self.latest() = error.map(|error| ServiceFailure {
            error: error.into(),
            at: SystemTime::now(),
        });
    }

    /// The name of the service in metrics and logs.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Requests with a response that is not a failure of the service.
    pub fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }

    /// Requests without a response, or with one that is a failure of the service.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// How the latest request has failed; `None` if it has not.
    pub fn failure(&self) -> Option<ServiceFailure> {
        self.latest().clone()
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

    fn latest(&self) -> std::sync::MutexGuard<'_, Option<ServiceFailure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_result_and_time() {
        let counters = ClientCounters::default();
        counters.count(None, Duration::from_millis(10));
        counters.count(None, Duration::from_millis(11));
        counters.count(Some("no response"), Duration::from_secs(31));
        assert_eq!((counters.succeeded(), counters.failed()), (2, 1));
        assert_eq!(counters.latencies(), [1, 1, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(counters.total_time(), Duration::from_millis(31_021));
        assert_eq!(&*counters.failure().unwrap().error, "no response");
        counters.count(None, Duration::ZERO);
        assert_eq!(counters.failure(), None);
        counters.count_interruption("cut");
        assert_eq!((counters.succeeded(), counters.failed()), (3, 2));
        assert_eq!(&*counters.failure().unwrap().error, "cut");
    }
}
