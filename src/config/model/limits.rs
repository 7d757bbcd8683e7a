//! Limits of tunnels.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

/// What holds for a tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelLimits {
    /// No bytes either way for so long; `None` for no limit.
    pub idle: Option<Duration>,
    /// From the last byte in the direction still open after one side ended; `None` for no limit.
    pub half_closed: Option<Duration>,
    /// Bytes that a message may have, in either direction; `None` for no limit.
    pub message_bytes: Option<u64>,
    /// Messages from the client per second, and so many at once; `None` for no limit.
    pub messages: Option<NonZeroU32>,
    /// Bytes from the client per second, and so many at once; `None` for no limit.
    pub bytes: Option<ByteRate>,
    /// Bytes waited for a side, and it took none for so long; `None` for no limit.
    pub slow_reader: Option<Duration>,
    /// The age at which it is closed; `None` for no limit.
    pub max_age: Option<MaxAge>,
    /// When quiet sides are asked whether they are there; `None` if never.
    pub ping: Option<PingConfig>,
}

/// When a quiet side of a tunnel is asked whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingConfig {
    /// When nothing has come from it for so long.
    pub every: Duration,
    /// When it has not answered, nor sent anything else, for so long, it is gone.
    pub pong: Duration,
}

/// The age at which tunnels are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAge {
    /// At most.
    pub age: Duration,
    /// By how much of it, in thousandths, a tunnel may be younger: those that were opened together do
    /// not come back together.
    pub jitter: u16,
}

impl MaxAge {
    /// The age of one tunnel; `chance` is from 0 to 1.
    pub fn of(self, chance: f64) -> Duration {
        let share = 1.0 - f64::from(self.jitter) / 1000.0 * chance;
        self.age.mul_f64(share.clamp(0.0, 1.0))
    }
}

/// So many bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate {
    /// Not 0.
    pub per_second: NonZeroU64,
    /// What happens beyond.
    pub action: RateAction,
}

/// What happens beyond a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateAction {
    /// No more is read for a while.
    Throttle,
    /// The tunnel is closed.
    Close,
}
