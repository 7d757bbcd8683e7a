//! Times as endpoints keep them: in an atomic, handed to another process, and without overflow.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Stands for ever: a configured duration may be longer than an `Instant` can express.
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Microseconds since a year before the process began. State from a predecessor is older than this
/// process, so the process's own start would be too late as zero.
pub(super) fn micros(now: Instant) -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(|| {
        let now = Instant::now();
        now.checked_sub(YEAR).unwrap_or(now)
    });
    now.saturating_duration_since(*BEGAN).as_micros() as u64
}

/// [`micros`] in whole seconds.
pub(super) fn second(now: Instant) -> u64 {
    micros(now) / 1_000_000
}

/// `time` after `now`, or far away if that overflows.
pub(super) fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now + YEAR)
}

/// Seconds from `now` to `moment`; negative if it has passed. An `Instant` means nothing in another
/// process.
pub(super) fn seconds(moment: Instant, now: Instant) -> f64 {
    match moment.checked_duration_since(now) {
        Some(ahead) => ahead.as_secs_f64(),
        None => -now.duration_since(moment).as_secs_f64(),
    }
}

/// The reverse of [`seconds`].
pub(super) fn moment(seconds: f64, now: Instant) -> Instant {
    let time = Duration::try_from_secs_f64(seconds.abs())
        .unwrap_or(YEAR)
        .min(YEAR);
    match seconds < 0.0 {
        true => now.checked_sub(time).unwrap_or(now),
        false => later(now, time),
    }
}
