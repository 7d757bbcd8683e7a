//! Moments and durations, as endpoints keep them: in an atomic, in another process, and without
//! overflow.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// "For ever", where a duration goes beyond what the clock can tell.
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Microseconds since long before the process began: what it has taken over is older than itself.
pub(super) fn micros(now: Instant) -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(|| {
        let now = Instant::now();
        now.checked_sub(YEAR).unwrap_or(now)
    });
    now.saturating_duration_since(*BEGAN).as_micros() as u64
}

pub(super) fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now + YEAR)
}

/// Seconds from `now` to a moment; less than 0 if it has passed.
pub(super) fn seconds(moment: Instant, now: Instant) -> f64 {
    match moment.checked_duration_since(now) {
        Some(ahead) => ahead.as_secs_f64(),
        None => -now.duration_since(moment).as_secs_f64(),
    }
}

pub(super) fn moment(seconds: f64, now: Instant) -> Instant {
    let time = Duration::try_from_secs_f64(seconds.abs())
        .unwrap_or(YEAR)
        .min(YEAR);
    match seconds < 0.0 {
        true => now.checked_sub(time).unwrap_or(now),
        false => later(now, time),
    }
}
