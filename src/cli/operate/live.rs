//! What a running tidegate does, read from its admin interface once a second: for the page and the terminal view.

pub(super) mod listing;
pub(super) mod older;
pub(super) mod problems;
pub(super) mod progress;
pub(super) mod rates;
pub(super) mod reading;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// How often the admin interface is read.
pub(super) const READ_INTERVAL: Duration = Duration::from_secs(1);

/// How long a reading may take.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A moment, as a date to show and as a place in time to measure from: a date may be set back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct LiveTime {
    /// In milliseconds since 1970.
    pub(super) at: u64,
    /// In milliseconds since this command began, whatever happens to the date.
    pub(super) running: u64,
}

impl LiveTime {
    /// Milliseconds since an earlier moment.
    pub(super) fn since(self, earlier: Self) -> u64 {
        self.running.saturating_sub(earlier.running)
    }
}

/// Where moments come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct LiveClock {
    began: Instant,
}

impl LiveClock {
    pub(super) fn start() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    pub(super) fn now(self) -> LiveTime {
        LiveTime {
            at: milliseconds_now(),
            running: milliseconds(self.began.elapsed()),
        }
    }
}

/// The time in milliseconds since 1970.
pub(super) fn milliseconds_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    milliseconds(since.unwrap_or_default())
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}
