//! Limits of tunnels and streams.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

/// The timeouts and limits of a tunnel; `None` turns one off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelLimits {
    /// The tunnel is closed if no bytes pass in either direction for this long.
    pub idle: Option<Duration>,
    /// After one side has ended its stream, the tunnel is closed if the other is silent for this long.
    pub half_closed: Option<Duration>,
    /// The maximum size of a message in either direction, in bytes.
    pub message_bytes: Option<u64>,
    /// Messages of the client per second, and in one burst.
    pub messages: Option<NonZeroU32>,
    /// Bytes of the client per second, and in one burst.
    pub bytes: Option<ByteRate>,
    /// The tunnel is closed if a side accepts no pending data for this long.
    pub slow_reader: Option<Duration>,
    /// The age at which the tunnel is closed.
    pub max_age: Option<MaxAge>,
    /// Pings to a side that is silent.
    pub ping: Option<PingConfig>,
}

/// The limits of a stream: a plain request that lasts; `None` turns one off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// The stream is ended if no bytes pass in either direction for this long.
    pub idle: Option<Duration>,
    /// The age at which the stream is ended.
    pub max_age: Option<MaxAge>,
}

/// The times of Pings to a side that is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingConfig {
    /// A Ping is sent after this much silence.
    pub every: Duration,
    /// A side that sends nothing within this time after a Ping counts as dead.
    pub pong: Duration,
    /// Whether clients get Pings, too. A client whose connection carries several tunnels is asked once for all of them,
    /// by a PING of that connection.
    pub clients: bool,
}

impl TunnelLimits {
    /// The limits of a tunnel on a connection that carries several.
    pub fn carried(self) -> Self {
        let ping = self.ping.map(|ping| PingConfig {
            clients: false,
            ..ping
        });
        Self { ping, ..self }
    }
}

/// The age at which tunnels or streams are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxAge {
    /// The maximum age.
    pub age: Duration,
    /// The maximum reduction for one of them, in thousandths of `age`, so that those that were opened
    /// together are not ended together.
    pub jitter: u16,
}

impl MaxAge {
    /// The maximum age of one tunnel or stream; `chance` is a random number from 0 to 1.
    pub fn of(self, chance: f64) -> Duration {
        let share = 1.0 - f64::from(self.jitter) / 1000.0 * chance;
        self.age.mul_f64(share.clamp(0.0, 1.0))
    }
}

/// A limit on the bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRate {
    /// Bytes per second.
    pub per_second: NonZeroU64,
    /// What happens to a client that exceeds the rate.
    pub action: RateAction,
}

/// What happens to a client that exceeds a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateAction {
    /// tidegate stops reading for a while.
    Throttle,
    /// The tunnel is closed.
    Close,
}
