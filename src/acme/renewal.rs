//! When a certificate is renewed, and when a failed attempt is repeated.
//!
//! Pure. Dates are of the wall clock, which may be wrong or jump: everything is computed again at each step, and
//! what must not come too early, such as a repeated attempt, is a duration.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::model::CertificateLife;

/// The longest sleep before a date is compared with the clock again.
pub const MAX_STEP: Duration = Duration::from_secs(60);

/// How often the authority is asked when to renew (RFC 9773 section 4.3.2), at most and at least.
const WINDOW_POLLS: (Duration, Duration) = (
    Duration::from_secs(6 * 60 * 60),
    Duration::from_secs(24 * 60 * 60),
);

/// How long after a success no further order is made, whatever the clock says: at most this, or a third of the
/// certificate's life.
const MAX_REST: Duration = Duration::from_secs(24 * 60 * 60);

/// The same if the authority asks for a renewal, as it does before it revokes a certificate.
const MAX_REST_IN_WINDOW: Duration = Duration::from_secs(6 * 60 * 60);

/// How long is waited after a validation has failed: at first, by which factor it grows each time, and at most. Let's
/// Encrypt accepts five failures per name and hour.
const VALIDATION_PAUSE: (Duration, u32, Duration) = (
    Duration::from_secs(2 * 60),
    3,
    Duration::from_secs(12 * 60 * 60),
);

/// The same if the authority cannot be reached, or if something on our side fails.
const OUTAGE_PAUSE: (Duration, u32, Duration) =
    (Duration::from_secs(30), 2, Duration::from_secs(10 * 60));

/// How long is waited if the rate limit is reached and the authority does not say for how long.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60 * 60);

/// How long is waited at most because the authority says so.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The time in which the authority wants a certificate to be renewed (RFC 9773).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewalWindow {
    /// Its start.
    pub start: SystemTime,
    /// Its end.
    pub end: SystemTime,
}

/// What kind of failure it was, as far as the next attempt depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The authority has seen the attempt, and counts it.
    Refused,
    /// The authority has not seen the attempt, or could not deal with it.
    Outage,
    /// The authority accepts no orders for this time, if it says so.
    RateLimited(Option<Duration>),
}

impl CertificateLife {
    /// How long it is.
    pub fn length(&self) -> Duration {
        let length = self.not_after.duration_since(self.not_before);
        length.unwrap_or_default()
    }

    /// Whether it is over.
    pub fn has_ended(&self, now: SystemTime) -> bool {
        self.not_after <= now
    }

    /// The share of it that is left, from 0 to 1.
    pub fn share_left(&self, now: SystemTime) -> f64 {
        let left = self.not_after.duration_since(now).unwrap_or_default();
        match self.length() {
            Duration::ZERO => 0.0,
            length => left.div_duration_f64(length).min(1.0),
        }
    }

    /// When it is renewed: at a moment of the authority's window, or else when two thirds of the life are over,
    /// or up to a fiftieth of the life earlier. `seed` is the certificate's own: the same one gives the same
    /// moment, and different ones spread.
    pub fn renewal(&self, window: Option<RenewalWindow>, seed: u64) -> SystemTime {
        let share = fastrand::Rng::with_seed(seed).f64();
        let length = self.length();
        let latest = self.not_before + length.mul_f64(0.9);
        match window {
            Some(RenewalWindow { start, end }) => {
                let width = end.duration_since(start).unwrap_or_default();
                // An authority that names a later moment, or one after the end, is not followed into an outage.
                (start + width.mul_f64(share)).min(latest)
            }
            None => self.not_before + length.mul_f64(2.0 / 3.0 - share / 50.0),
        }
    }

    /// How long after a success no further order is made. If the clock is wrong by more than the certificate's
    /// life, every new one seems to have ended: without this, orders would follow each other.
    pub fn rest(&self, window: Option<RenewalWindow>) -> Duration {
        let most = match window {
            Some(_) => MAX_REST_IN_WINDOW,
            None => MAX_REST,
        };
        (self.length() / 3).min(most)
    }
}

/// How long is waited until the authority is asked again when to renew.
pub fn window_poll(retry_after: Duration) -> Duration {
    let (least, most) = WINDOW_POLLS;
    retry_after.clamp(least, most)
}

/// How long is waited after the last of `failures` attempts in a row, and up to a tenth longer.
pub fn pause(failures: u32, kind: FailureKind, seed: u64) -> Duration {
    let growing = |(first, factor, most): (Duration, u32, Duration)| {
        let exponent = failures.saturating_sub(1);
        let grown = factor
            .checked_pow(exponent)
            .and_then(|times| first.checked_mul(times));
        grown.map_or(most, |grown| grown.min(most))
    };
    let least = match kind {
        FailureKind::Refused => growing(VALIDATION_PAUSE),
        FailureKind::Outage => growing(OUTAGE_PAUSE),
        FailureKind::RateLimited(retry_after) => retry_after
            .unwrap_or(RATE_LIMIT_PAUSE)
            .clamp(OUTAGE_PAUSE.0, MAX_RETRY_AFTER),
    };
    least.mul_f64(1.0 + fastrand::Rng::with_seed(seed).f64() / 10.0)
}

/// How much of a pause is left that began at `since` by the clock of the node that has written it down. A clock that has
/// jumped neither ends it long before, nor makes it longer than it was.
pub fn left_of(pause: Duration, since: SystemTime, now: SystemTime) -> Duration {
    let passed = now.duration_since(since).unwrap_or_default();
    pause.saturating_sub(passed)
}

#[cfg(test)]
mod tests;
