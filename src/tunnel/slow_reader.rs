//! Slow readers: how long bytes have been waiting for a side that accepts none, and the limit on that.
//!
//! The sweep counts; there is no timer per tunnel.

use std::cell::Cell;
use std::time::Duration;

use super::SWEEP_INTERVAL;
use super::ended::Ended;
use super::side::Side;

/// How long bytes have been waiting for each side of a tunnel.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    to_client: Stall,
    to_endpoint: Stall,
}

/// For how many sweeps bytes for one side have been waiting: 0 if none are.
#[derive(Debug, Default)]
struct Stall(Cell<u16>);

impl Stalls {
    /// Notes whether bytes are waiting for `side`, and whether it has accepted some since the last
    /// call.
    pub(super) fn set(&self, side: Side, left: bool, moved: bool) {
        self.of(side).set(left, moved);
    }

    /// The minimum time for which bytes have been waiting for `side`.
    pub(super) fn time(&self, side: Side) -> Duration {
        self.of(side).time()
    }

    /// Whether bytes have been waiting for `side` at a sweep.
    pub(super) fn is_waiting(&self, side: Side) -> bool {
        self.of(side).0.get() > 0
    }

    /// Counts one more sweep. Returns the reason to end, if a side has accepted nothing for `limit`.
    pub(super) fn sweep(&self, limit: Option<Duration>) -> Option<Ended> {
        // Both counts go on whether or not there is a limit: liveness needs them too.
        let (client, endpoint) = (self.to_client.sweep(), self.to_endpoint.sweep());
        let limit = limit?;
        if client >= limit {
            Some(Ended::SlowClient)
        } else if endpoint >= limit {
            Some(Ended::SlowUpstream)
        } else {
            None
        }
    }

    fn of(&self, side: Side) -> &Stall {
        match side {
            Side::Client => &self.to_client,
            Side::Endpoint => &self.to_endpoint,
        }
    }
}

impl Stall {
    fn set(&self, stuck: bool, moved: bool) {
        let seen = self.0.get();
        self.0.set(match stuck {
            // Progress restarts the clock: a slow reader that reads is not a stuck one.
            true if moved || seen == 0 => 1,
            true => seen,
            false => 0,
        });
    }

    /// The minimum time for which bytes have been waiting.
    fn time(&self) -> Duration {
        // The stall may have begun right before the first sweep, so that one counts for nothing.
        SWEEP_INTERVAL * u32::from(self.0.get().saturating_sub(1))
    }

    /// Counts one more sweep; returns the minimum time for which bytes have been waiting.
    fn sweep(&self) -> Duration {
        let seen = self.0.get();
        if seen > 0 {
            self.0.set(seen.saturating_add(1));
        }
        SWEEP_INTERVAL * u32::from(seen.saturating_sub(1))
    }
}
