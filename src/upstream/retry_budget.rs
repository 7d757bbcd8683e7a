//! The retry budget of an upstream: how many requests may be sent a second time.
//!
//! Pure: time is a parameter. Without a budget, an upstream whose endpoints all fail would get every
//! request `tries` times, which is what an overloaded fleet needs least.

/// Seconds that the budget looks back.
const SECONDS: usize = 10;

/// Retries that are allowed however few requests there were.
const MIN_RETRIES: u64 = 10;

/// One retry for this many requests.
const REQUESTS_PER_RETRY: u64 = 5;

/// The requests and retries of the last ten seconds.
#[derive(Debug, Default)]
pub(super) struct RetryBudget {
    /// The counts of second `n` are at `n` modulo the length.
    counts: [Counts; SECONDS],
    /// The second of the latest count.
    latest: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// Counts a request at this second of an arbitrary clock.
    pub(super) fn count_request(&mut self, second: u64) {
        self.at(second).requests += 1;
    }

    /// Counts a retry, if one more is allowed at this second; returns whether it is.
    pub(super) fn take_retry(&mut self, second: u64) -> bool {
        self.at(second);
        let requests: u64 = self.counts.iter().map(|counts| counts.requests).sum();
        let retries: u64 = self.counts.iter().map(|counts| counts.retries).sum();
        let is_allowed = retries < (requests / REQUESTS_PER_RETRY).max(MIN_RETRIES);
        if is_allowed {
            self.at(second).retries += 1;
        }
        is_allowed
    }

    /// The counts of this second, after those that are too old have been dropped. A worker whose clock
    /// reading is slightly old gets the latest ones.
    fn at(&mut self, second: u64) -> &mut Counts {
        let passed = second.saturating_sub(self.latest).min(SECONDS as u64);
        self.latest = self.latest.max(second);
        for back in 0..passed {
            self.counts[slot(self.latest - back)] = Counts::default();
        }
        &mut self.counts[slot(self.latest)]
    }
}

fn slot(second: u64) -> usize {
    (second % SECONDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quiet_upstream_may_retry_and_a_busy_one_a_fifth() {
        let mut quiet = RetryBudget::default();
        quiet.count_request(7);
        assert_eq!((0..20).filter(|_| quiet.take_retry(7)).count(), 10);
        assert!(!quiet.take_retry(16));
        assert!(quiet.take_retry(17), "ten seconds later");
        let mut busy = RetryBudget::default();
        for second in 0..10 {
            (0..100).for_each(|_| busy.count_request(second));
        }
        assert_eq!((0..999).filter(|_| busy.take_retry(9)).count(), 200);
        // A long silence, and a clock reading from before it.
        assert_eq!((0..999).filter(|_| busy.take_retry(1 << 40)).count(), 10);
        assert!(!busy.take_retry(3));
    }

    proptest! {
        /// In whatever order and at whatever times requests and retries come.
        #[test]
        fn retries_never_exceed_the_budget(
            events in proptest::collection::vec((0..4_u64, 0..6_u8), 1..400),
        ) {
            let mut budget = RetryBudget::default();
            let mut second = 5;
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            for (passed, kind) in events {
                second += passed / 3;
                if kind == 0 {
                    budget.count_request(second);
                    requests.push(second);
                    continue;
                }
                let recent = |of: &[u64]| of.iter().filter(|at| second - **at < 10).count();
                let max = (recent(&requests) / 5).max(10);
                prop_assert_eq!(budget.take_retry(second), recent(&retries) < max);
                if recent(&retries) < max {
                    retries.push(second);
                }
            }
        }
    }
}
