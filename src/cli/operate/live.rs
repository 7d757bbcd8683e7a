//! What a running tidegate does, read from its admin interface once a second: for the page and the terminal view.

pub(super) mod problems;
pub(super) mod progress;
pub(super) mod reading;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How often the admin interface is read.
pub(super) const READ_INTERVAL: Duration = Duration::from_secs(1);

/// How long a reading may take.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The time in milliseconds since 1970.
pub(super) fn milliseconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let since = since.unwrap_or_default().as_millis();
    since.try_into().unwrap_or(u64::MAX)
}
