//! How the latest attempt for a certificate has ended, as it is stored: neither a restart nor another node repeats
//! one too early.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::renewal::left_of;

/// The latest attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct AttemptRecord {
    /// The attempts that have failed since the last success.
    pub(super) failures: u32,
    /// Why the latest one has failed.
    pub(super) error: Option<String>,
    /// When it has ended, in seconds since 1970, by the clock of its node.
    ended: u64,
    /// How long no other one is begun, in seconds.
    pause: u64,
    /// The directory of the authority; empty if it was not noted.
    #[serde(default)]
    directory: String,
}

impl AttemptRecord {
    pub(super) fn new(
        failures: u32,
        error: Option<String>,
        pause: Duration,
        directory: &str,
        now: SystemTime,
    ) -> Self {
        let ended = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            failures,
            error,
            ended: ended.as_secs(),
            pause: pause.as_secs(),
            directory: directory.to_owned(),
        }
    }

    /// Whether it says anything about orders from this directory: another one has limits of its own.
    pub(super) fn is_about(&self, directory: &str) -> bool {
        self.directory == directory
    }

    /// When it has ended.
    pub(super) fn ended(&self) -> SystemTime {
        let ended = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.ended));
        ended.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// How much of the pause is left.
    pub(super) fn left(&self, now: SystemTime) -> Duration {
        let day = Duration::from_secs(24 * 60 * 60);
        // No pause is longer; a file may say anything.
        left_of(
            Duration::from_secs(self.pause).min(day + day / 10),
            self.ended(),
            now,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_kept_across_restarts_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let minutes = |count: u64| Duration::from_secs(count * 60);
        let record =
            AttemptRecord::new(3, Some("no".to_owned()), minutes(18), "https://ca/dir", now);
        let json = serde_json::to_vec(&record).unwrap();
        let read: AttemptRecord = serde_json::from_slice(&json).unwrap();
        assert_eq!(read, record);
        assert!(read.is_about("https://ca/dir") && !read.is_about("https://staging/dir"));
        for (passed, left) in [
            (minutes(0), 18),
            (minutes(8), 10),
            (minutes(18), 0),
            (minutes(500), 0),
        ] {
            assert_eq!(read.left(now + passed), minutes(left));
        }
        assert_eq!(read.left(now - minutes(60)), minutes(18));
        let odd: AttemptRecord = serde_json::from_str(
            r#"{"failures": 1, "error": null, "ended": 18446744073709551615, "pause": 18446744073709551615}"#,
        )
        .unwrap();
        assert!(odd.left(now) < minutes(27 * 60));
    }
}
