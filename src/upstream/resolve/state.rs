//! What is known of one name: its last addresses, how its latest lookup failed, and whether one is running.
//!
//! Pure: given results and the time, it says when to look up, and what a session gets meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the addresses of a name are used before it is looked up again. The operating system's
/// resolver does not report a TTL.
const ADDRESSES_TTL: Duration = Duration::from_secs(5);

/// How long after a failure a name without addresses is looked up again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// From this age on, sessions wait a moment for a running lookup before they use the old addresses: a name
/// that was not used for hours may have moved.
const OLD_AGE: Duration = Duration::from_secs(30);

/// How long after its beginning a lookup is waited for if there are only old addresses, or if the one before
/// failed: during an outage, sessions do not wait for each lookup again.
const REFRESH_WAIT: Duration = Duration::from_millis(250);

/// A lookup that takes longer counts as failed, although its answer is still used when it comes: a call of
/// the operating system's resolver cannot be cancelled.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The latest lookup failed, and none before has found any.
    #[error("{0}")]
    Failed(Arc<str>),
    /// There was no answer in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
}

/// What a session does about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// It uses these addresses, which may be old.
    Use(Arc<[SocketAddr]>),
    /// It waits for the running lookup until then, and looks again.
    Wait(Instant),
    /// It fails.
    Fail(ResolveError),
}

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct NameState {
    /// The addresses of the last lookup that found any, and when that ended.
    found: Option<(Instant, Arc<[SocketAddr]>)>,
    /// How the latest lookup failed, and when; `None` if it did not.
    failure: Option<(Instant, ResolveError)>,
    /// When the running lookup was begun: since then it has waited for a thread, or has had one.
    began: Option<Instant>,
}

impl NameState {
    /// Begins with addresses of unknown age.
    pub(super) fn with_old(addresses: &[SocketAddr], now: Instant) -> Self {
        let found = (!addresses.is_empty()).then(|| {
            let long_ago = now.checked_sub(OLD_AGE).unwrap_or(now);
            (long_ago, addresses.into())
        });
        Self {
            found,
            ..Self::default()
        }
    }

    /// Whether a lookup is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let has_passed = |at: Instant, time| now.saturating_duration_since(at) >= time;
        if self.began.is_some() {
            return false;
        }
        match (&self.found, &self.failure) {
            (Some(_), Some((at, _))) => has_passed(*at, ADDRESSES_TTL),
            (Some((at, _)), None) => has_passed(*at, ADDRESSES_TTL),
            (None, Some((at, _))) => has_passed(*at, RETRY_INTERVAL),
            (None, None) => true,
        }
    }

    /// A lookup begins: it waits for a thread, or has one now.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// The running lookup has ended. Failures leave the addresses as they are.
    pub(super) fn end(&mut self, result: Result<Arc<[SocketAddr]>, ResolveError>, now: Instant) {
        self.began = None;
        match result {
            Ok(addresses) => {
                self.found = Some((now, addresses));
                self.failure = None;
            }
            Err(error) => self.failure = Some((now, error)),
        }
    }

    /// Whether the running lookup has been running for too long since the last call. If so, it counts as
    /// failed.
    pub(super) fn times_out(&mut self, now: Instant) -> bool {
        let is_late = self.is_late(now);
        if is_late {
            self.failure = Some((now, ResolveError::Timeout(LOOKUP_TIMEOUT)));
        }
        is_late
    }

    /// Whether the running lookup has been running for too long, and that is not known yet.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.began.is_some_and(|began| {
            let is_known = matches!(self.failure, Some((at, _)) if at > began);
            !is_known && now.saturating_duration_since(began) >= LOOKUP_TIMEOUT
        })
    }

    /// What a session does now.
    pub(super) fn look(&self, now: Instant) -> Look {
        let age = |at: Instant| now.saturating_duration_since(at);
        match (&self.found, self.began) {
            (Some((at, _)), Some(began)) if age(*at) >= OLD_AGE && age(began) < REFRESH_WAIT => {
                Look::Wait(began + REFRESH_WAIT)
            }
            (Some((_, addresses)), _) => Look::Use(Arc::clone(addresses)),
            (None, Some(began)) if age(began) < self.first_wait() => {
                Look::Wait(began + self.first_wait())
            }
            (None, _) => Look::Fail(match &self.failure {
                Some((_, error)) => error.clone(),
                None => ResolveError::Timeout(LOOKUP_TIMEOUT),
            }),
        }
    }

    /// How long a lookup is waited for while there are no addresses.
    fn first_wait(&self) -> Duration {
        match self.failure {
            Some(_) => REFRESH_WAIT,
            None => LOOKUP_TIMEOUT,
        }
    }

    /// The last known addresses.
    pub(super) fn addresses(&self) -> Option<&Arc<[SocketAddr]>> {
        self.found.as_ref().map(|(_, addresses)| addresses)
    }

    /// When the running lookup was begun.
    #[cfg(test)]
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// Lets the time pass until the next lookup is due.
    #[cfg(test)]
    pub(super) fn expire(&mut self) {
        let back = |at: &mut Instant| *at = at.checked_sub(ADDRESSES_TTL).unwrap_or(*at);
        self.found.iter_mut().for_each(|(at, _)| back(at));
        self.failure.iter_mut().for_each(|(at, _)| back(at));
    }

    /// How the latest lookup failed.
    pub(super) fn failure(&self) -> Option<&ResolveError> {
        self.failure.as_ref().map(|(_, error)| error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addresses(last: u8) -> Arc<[SocketAddr]> {
        [SocketAddr::from(([127, 0, 0, last], 0))].into()
    }

    fn failed() -> ResolveError {
        ResolveError::Failed("Temporary failure in name resolution".into())
    }

    #[test]
    fn a_first_lookup_is_waited_for_and_then_used_until_its_time_has_passed() {
        let now = Instant::now();
        let mut name = NameState::default();
        assert!(name.is_due(now));
        name.begin(now);
        assert!(!name.is_due(now + 100 * SECOND), "one at a time");
        assert_eq!(name.look(now + SECOND), Look::Wait(now + LOOKUP_TIMEOUT));
        name.end(Ok(addresses(1)), now + SECOND);
        assert_eq!(name.look(now + SECOND), Look::Use(addresses(1)));
        assert!(!name.is_due(now + 5 * SECOND));
        assert!(name.is_due(now + 6 * SECOND));
    }

    #[test]
    fn old_addresses_are_used_while_lookups_run_and_fail() {
        let now = Instant::now();
        let mut name = NameState::default();
        name.begin(now);
        name.end(Ok(addresses(1)), now);
        for round in 1..1000 {
            let at = now + round * 6 * SECOND;
            assert!(name.is_due(at));
            name.begin(at);
            assert_eq!(name.look(at + REFRESH_WAIT), Look::Use(addresses(1)));
            assert_eq!(name.look(at + 60 * SECOND), Look::Use(addresses(1)));
            name.end(Err(failed()), at);
            assert_eq!(name.look(at), Look::Use(addresses(1)));
            assert_eq!(name.failure(), Some(&failed()));
            assert!(!name.is_due(at + 4 * SECOND));
        }
        name.end(Ok(addresses(2)), now + 6001 * SECOND);
        assert_eq!(name.look(now + 6001 * SECOND), Look::Use(addresses(2)));
        assert_eq!(name.failure(), None);
    }

    #[test]
    fn a_refresh_is_waited_for_shortly_once_the_addresses_are_old() {
        let now = Instant::now();
        let mut name = NameState::default();
        name.begin(now);
        name.end(Ok(addresses(1)), now);
        let young = now + 29 * SECOND;
        name.begin(young);
        assert_eq!(name.look(young), Look::Use(addresses(1)));
        let old = now + 30 * SECOND;
        name.begin(old);
        assert_eq!(name.look(old), Look::Wait(old + REFRESH_WAIT));
        assert_eq!(name.look(old + REFRESH_WAIT), Look::Use(addresses(1)));
        let handed = NameState::with_old(&addresses(1), now);
        assert!(handed.is_due(now));
        assert_eq!(handed.look(now), Look::Use(addresses(1)));
        assert_eq!(NameState::with_old(&[], now).addresses(), None);
    }

    #[test]
    fn a_name_without_addresses_fails_at_once_between_two_lookups() {
        let now = Instant::now();
        let mut name = NameState::default();
        name.begin(now);
        name.end(Err(failed()), now);
        assert_eq!(name.look(now), Look::Fail(failed()));
        assert!(!name.is_due(now + RETRY_INTERVAL / 2));
        let retry = now + RETRY_INTERVAL;
        assert!(name.is_due(retry));
        name.begin(retry);
        assert_eq!(name.look(retry), Look::Wait(retry + REFRESH_WAIT));
        assert_eq!(name.look(retry + REFRESH_WAIT), Look::Fail(failed()));
    }

    #[test]
    fn a_hung_lookup_fails_once_and_its_late_answer_counts() {
        let now = Instant::now();
        let mut name = NameState::default();
        name.begin(now);
        let late = now + LOOKUP_TIMEOUT;
        assert!(!name.times_out(late - SECOND));
        assert_eq!(
            name.look(late),
            Look::Fail(ResolveError::Timeout(LOOKUP_TIMEOUT))
        );
        assert!(name.times_out(late));
        assert!(!name.times_out(late + SECOND));
        assert_eq!(name.failure(), Some(&ResolveError::Timeout(LOOKUP_TIMEOUT)));
        assert!(!name.is_due(late + 100 * SECOND), "it still runs");
        name.end(Ok(addresses(1)), late + 100 * SECOND);
        assert_eq!(name.look(late + 100 * SECOND), Look::Use(addresses(1)));
        assert_eq!(name.failure(), None);
    }
}
