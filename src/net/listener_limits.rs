//! The limits of one listener: its open connections, and the rates of its handshakes and requests.
//!
//! The counts outlive reloads, as the listener does; the limits are those in effect at the moment.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::model::{ListenerLimits, Rate};
use crate::quota::{AddressPermit, Addresses, Quota, QuotaPermit, RateLimiter, RatedEvent};

/// Seconds between two log lines about refused connections.
const REPORT_INTERVAL: u64 = 10;

/// The counts of one listener, total and per client address.
#[derive(Debug)]
pub struct Gate {
    open: Arc<Quota>,
    rate: RateLimiter,
    addresses: Arc<Addresses>,
    began: Instant,
    /// The second in which refusals were last reported, and the refusals since.
    reported_at: AtomicU64,
    unreported: AtomicU64,
}

/// One connection's share of its listener's limits, until dropped.
#[derive(Debug, Default)]
pub struct ListenerPermit {
    _open: Option<QuotaPermit>,
    _address: Option<AddressPermit>,
}

impl ListenerPermit {
    /// Whether the connection counts against no limit.
    pub fn holds_nothing(&self) -> bool {
        self._open.is_none() && self._address.is_none()
    }
}

/// The limit for which a connection is closed at once, or a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// `connections`.
    #[error("the listener's connection limit is reached (`limits.connections`)")]
    Connections,
    /// `connections_per_ip`.
    #[error(
        "the listener's connection limit per client address is reached (`limits.connections_per_ip`)"
    )]
    ConnectionsPerIp,
    /// `handshakes_per_second`.
    #[error("the listener's handshake rate limit is exceeded (`limits.handshakes_per_second`)")]
    Handshakes,
    /// `handshakes_per_ip`.
    #[error(
        "the listener's handshake rate limit per client address is exceeded (`limits.handshakes_per_ip`)"
    )]
    HandshakesPerIp,
    /// `requests_per_ip`.
    #[error(
        "the listener's request rate limit per client address is exceeded (`limits.requests_per_ip`)"
    )]
    RequestsPerIp,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            open: Arc::default(),
            rate: RateLimiter::default(),
            addresses: Arc::default(),
            began: Instant::now(),
            reported_at: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
        }
    }
}

impl Gate {
    /// Counts one more connection. `address` is `None` where the connection is not a single client's.
    ///
    /// # Errors
    /// [`LimitReached`].
    pub fn enter(
        &self,
        limits: &ListenerLimits,
        address: Option<IpAddr>,
    ) -> Result<ListenerPermit, LimitReached> {
        let open = match limits.connections {
            None => None,
            Some(limit) => Some(self.open.take(limit).ok_or(LimitReached::Connections)?),
        };
        let by_address = match (limits.connections_per_ip, address) {
            (Some(limit), Some(address)) => self
                .addresses
                .connect(address, limit)
                .map_err(|_| LimitReached::ConnectionsPerIp)?,
            _ => None,
        };
        Ok(ListenerPermit {
            _open: open,
            _address: by_address,
        })
    }

    /// Counts one more handshake of the client at `address`, which may come from a trusted proxy.
    ///
    /// # Errors
    /// [`LimitReached`].
    pub fn handshake(
        &self,
        limits: &ListenerLimits,
        address: Option<IpAddr>,
    ) -> Result<(), LimitReached> {
        // The address first: a client over its own limit must not use up the listener's.
        if let (Some(rate), Some(address)) = (limits.handshakes_per_ip, address)
            && !self.addresses.happens(RatedEvent::Handshake, address, rate)
        {
            return Err(LimitReached::HandshakesPerIp);
        }
        match limits.handshakes {
            Some(rate) if !self.rate.take(rate) => Err(LimitReached::Handshakes),
            _ => Ok(()),
        }
    }

    /// When a client whose handshake is beyond the rate of all has its turn, after those that were refused before
    /// it: `max` at most.
    pub fn handshake_turn(&self, rate: Rate, max: Duration) -> Duration {
        self.rate.turn(rate, max)
    }

    /// Counts one more plain request of the client at `address`, which may come from a trusted proxy.
    ///
    /// # Errors
    /// [`LimitReached`].
    pub fn request(
        &self,
        limits: &ListenerLimits,
        address: Option<IpAddr>,
    ) -> Result<(), LimitReached> {
        match (limits.requests_per_ip, address) {
            (Some(rate), Some(address))
                if !self.addresses.happens(RatedEvent::Request, address, rate) =>
            {
                Err(LimitReached::RequestsPerIp)
            }
            _ => Ok(()),
        }
    }

    /// Counts a refusal. Returns the number of unreported ones when they are due to be logged.
    pub fn refused(&self) -> Option<u64> {
        let count = self.unreported.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.began.elapsed().as_secs() + REPORT_INTERVAL;
        let reported_at = self.reported_at.load(Ordering::Relaxed);
        let due = now >= reported_at + REPORT_INTERVAL;
        // Several workers may find it due: the exchange lets one of them log it.
        let ours = due
            && self
                .reported_at
                .compare_exchange(reported_at, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        ours.then(|| {
            self.unreported.fetch_sub(count, Ordering::Relaxed);
            count
        })
    }

    /// Drops the counts of addresses that no longer matter.
    pub fn sweep(&self) {
        self.addresses.sweep();
    }
}
