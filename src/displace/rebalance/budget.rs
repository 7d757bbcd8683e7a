//! How many tunnels may be moved in one upstream, by time.
//!
//! Pure: time is a parameter.

use std::collections::VecDeque;
use std::time::Duration;

/// How often tunnels are counted and moved.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a moved client counts as reconnecting. One that reconnects sooner counts twice meanwhile:
/// that moves fewer tunnels, never more.
pub const RECONNECT_TIME: Duration = Duration::from_secs(30);

/// What was moved in one upstream, and what may be moved now. Times count from the same arbitrary moment
/// in all calls.
#[derive(Debug, Default)]
pub struct MoveBudget {
    moved: VecDeque<(Duration, usize)>,
    /// Tunnels that may be moved now.
    allowance: f64,
    last_check: Option<Duration>,
}

impl MoveBudget {
    /// Moved clients that have presumably not reconnected yet.
    pub fn away(&mut self, now: Duration) -> usize {
        let is_back = |at: &Duration| now.saturating_sub(*at) >= RECONNECT_TIME;
        while self.moved.front().is_some_and(|(at, _)| is_back(at)) {
            self.moved.pop_front();
        }
        self.moved.iter().map(|(_, tunnels)| tunnels).sum()
    }

    /// How many tunnels may be moved now, at `rate` per second: those of one interval, or one if that is
    /// less. An unused allowance does not add up.
    pub fn allows(&mut self, now: Duration, rate: f64) -> usize {
        let max = (rate * CHECK_INTERVAL.as_secs_f64()).max(1.0);
        self.allowance = match self.last_check {
            None => max,
            Some(before) => {
                let passed = now.saturating_sub(before).as_secs_f64();
                (self.allowance + rate * passed).min(max)
            }
        };
        // Whole tunnels only; the fraction stays for the next check, so that slow rates are kept, too.
        self.last_check = Some(now);
        self.allowance as usize
    }

    /// Counts tunnels that are moved now.
    pub fn moved(&mut self, now: Duration, tunnels: usize) {
        self.allowance -= tunnels as f64;
        self.moved.push_back((now, tunnels));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_and_not_made_up_for() {
        let seconds = Duration::from_secs;
        let mut pace = MoveBudget::default();
        assert_eq!(pace.allows(seconds(0), 5.0), 10);
        pace.moved(seconds(0), 10);
        assert_eq!(pace.allows(seconds(1), 5.0), 5);
        pace.moved(seconds(1), 1);
        assert_eq!(pace.allows(seconds(1000), 5.0), 10);
        let mut slow = MoveBudget::default();
        assert_eq!(slow.allows(seconds(0), 1.0 / 3600.0), 1);
        slow.moved(seconds(0), 1);
        assert_eq!(slow.allows(seconds(3599), 1.0 / 3600.0), 0);
        assert_eq!(slow.allows(seconds(3601), 1.0 / 3600.0), 1);
        assert_eq!(slow.allows(seconds(36_000), 1.0 / 3600.0), 1);
        assert_eq!(pace.away(seconds(2)), 11);
        assert_eq!(pace.away(seconds(30)), 1);
        assert_eq!(pace.away(seconds(31)), 0);
    }
}
