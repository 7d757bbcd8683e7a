//! How fast tunnels are moved in one upstream.
//!
//! Pure: sees time as what has passed.

use std::collections::VecDeque;
use std::time::Duration;

/// How often it is looked who has too much.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long whoever was moved counts as on the way back. Those that have come by then count twice
/// meanwhile, which moves fewer, never more.
pub const BACK_WITHIN: Duration = Duration::from_secs(30);

/// How far moving has come in one upstream, and how far it may go. Time is what has passed since any
/// moment, the same in all calls.
#[derive(Debug, Default)]
pub struct MoveBudget {
    moved: VecDeque<(Duration, usize)>,
    /// Tunnels that may be moved now.
    allowance: f64,
    looked: Option<Duration>,
}

impl MoveBudget {
    /// Tunnels that are on the way back, as far as is known.
    pub fn away(&mut self, now: Duration) -> usize {
        let is_back = |at: &Duration| now.saturating_sub(*at) >= BACK_WITHIN;
        while self.moved.front().is_some_and(|(at, _)| is_back(at)) {
            self.moved.pop_front();
        }
        self.moved.iter().map(|(_, tunnels)| tunnels).sum()
    }

    /// How many may be moved now, at so many per second: as many as there are between two looks, and
    /// one where that is less. What was not used before is not made up for.
    pub fn allows(&mut self, now: Duration, rate: f64) -> usize {
        let most = (rate * LOOK_EVERY.as_secs_f64()).max(1.0);
        self.allowance = match self.looked {
            None => most,
            Some(before) => {
                let passed = now.saturating_sub(before).as_secs_f64();
                (self.allowance + rate * passed).min(most)
            }
        };
        self.looked = Some(now);
        self.allowance as usize
    }

    /// So many are moved now.
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
