//! What the clients of one listener have open, and how fast they come: held against its limits.
//!
//! Outlives reloads, as the listener does; the limits are those of the moment.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::config::model::ListenerLimits;
use crate::quota::{AddressPermit, Addresses, Quota, QuotaPermit, RateLimiter};

/// Seconds between two lines in the log about connections that were refused.
const REPORT_INTERVAL: u64 = 10;

/// The counts of one listener.
#[derive(Debug)]
pub struct Gate {
    open: Arc<Quota>,
    pace: RateLimiter,
    addresses: Arc<Addresses>,
    began: Instant,
    /// Second in which refusals were last reported, and refusals since.
    reported_at: AtomicU64,
    unreported: AtomicU64,
}

/// What a connection takes, until it is dropped.
#[derive(Debug, Default)]
pub struct ListenerPermit {
    _open: Option<QuotaPermit>,
    _seat: Option<AddressPermit>,
}

impl ListenerPermit {
    /// Whether it takes nothing that is limited.
    pub fn holds_nothing(&self) -> bool {
        self._open.is_none() && self._seat.is_none()
    }
}

/// Why a connection is closed at once, or a handshake refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// `connections`.
    #[error("as many connections as the listener's `limits.connections`")]
    Connections,
    /// `connections_per_ip`.
    #[error("as many connections of one address as the listener's `limits.connections_per_ip`")]
    ConnectionsPerIp,
    /// `handshakes_per_second`.
    #[error("more handshakes than the listener's `limits.handshakes_per_second`")]
    Handshakes,
    /// `handshakes_per_ip`.
    #[error("more handshakes of one address than the listener's `limits.handshakes_per_ip`")]
    HandshakesPerIp,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            open: Arc::default(),
            pace: RateLimiter::default(),
            addresses: Arc::default(),
            began: Instant::now(),
            reported_at: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
        }
    }
}

impl Gate {
    /// Lets one more connection in. `address` is `None` where no single client is behind it.
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
            Some(most) => Some(self.open.take(most).ok_or(LimitReached::Connections)?),
        };
        let seat = match (limits.connections_per_ip, address) {
            (Some(most), Some(address)) => self
                .addresses
                .connect(address, most)
                .map_err(|_| LimitReached::ConnectionsPerIp)?,
            _ => None,
        };
        Ok(ListenerPermit {
            _open: open,
            _seat: seat,
        })
    }

    /// Lets one more handshake through: of `address`, as it is believed.
    ///
    /// # Errors
    /// [`LimitReached`].
    pub fn handshake(
        &self,
        limits: &ListenerLimits,
        address: Option<IpAddr>,
    ) -> Result<(), LimitReached> {
        // The address first: one that goes too fast does not use up what others may have.
        if let (Some(rate), Some(address)) = (limits.handshakes_per_ip, address)
            && !self.addresses.handshake(address, rate)
        {
            return Err(LimitReached::HandshakesPerIp);
        }
        match limits.handshakes {
            Some(rate) if !self.pace.take(rate) => Err(LimitReached::Handshakes),
            _ => Ok(()),
        }
    }

    /// Counts a refusal; now and then the number of those that the operator has not been told of.
    pub fn refused(&self) -> Option<u64> {
        let count = self.unreported.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.began.elapsed().as_secs() + REPORT_INTERVAL;
        let reported_at = self.reported_at.load(Ordering::Relaxed);
        let due = now >= reported_at + REPORT_INTERVAL;
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

    /// Forgets addresses of which there is nothing to remember.
    pub fn sweep(&self) {
        self.addresses.sweep();
    }
}
