//! Whether connections to an endpoint succeed, as far as its sessions have shown.
//!
//! Pure: time is a parameter. Without health checks and ejection, this is all that is known of an endpoint. One
//! failure proves little, so an endpoint stays in rotation: for a short time it is asked only when no other
//! endpoint has room.

use std::time::{Duration, Instant};

use super::health::bounded;
use super::time::later;
use crate::quota::failure_reports::RecurringTrouble;

/// How long an endpoint is asked last after a failed connection.
const ASKED_LAST_FOR: Duration = Duration::from_secs(10);

/// What the latest connections to an endpoint have shown.
#[derive(Debug, Default)]
pub(super) struct Reachability {
    failure: Option<UnreachedEndpoint>,
    /// Whether the log says so: of an endpoint that accepts every other connection, every one would be news.
    trouble: RecurringTrouble,
}

/// An endpoint whose latest connection failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreachedEndpoint {
    /// Why the connection failed.
    pub why: Box<str>,
    /// When it failed.
    pub at: Instant,
    /// Until when the endpoint is asked last; `None` if it is not, because ejection decides.
    pub asked_last_until: Option<Instant>,
}

impl UnreachedEndpoint {
    /// Whether the endpoint is asked last at `now`.
    pub fn is_asked_last(&self, now: Instant) -> bool {
        self.asked_last_until.is_some_and(|until| now < until)
    }
}

impl Reachability {
    /// A connection failed. Returns whether to report that.
    pub(super) fn failed(&mut self, why: &str, now: Instant) -> bool {
        let asked_last_until = self.failure.as_ref().and_then(|it| it.asked_last_until);
        self.failure = Some(UnreachedEndpoint {
            why: bounded(why).into(),
            at: now,
            asked_last_until,
        });
        self.trouble.is_there(now)
    }

    /// The endpoint is asked last from now on; returns until when. Nothing is doubled: the time is always
    /// counted from the latest failure.
    pub(super) fn ask_last(&mut self, now: Instant) -> Option<Instant> {
        let failure = self.failure.as_mut()?;
        failure.asked_last_until = Some(later(now, ASKED_LAST_FOR));
        failure.asked_last_until
    }

    /// A connection succeeded. Returns whether to report that the endpoint is reachable again.
    pub(super) fn succeeded(&mut self) -> bool {
        self.failure = None;
        self.trouble.is_over()
    }

    /// The failure of the latest connection, if it failed.
    pub(super) fn failure(&self) -> Option<&UnreachedEndpoint> {
        self.failure.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_asked_last_for_ten_seconds_or_until_a_connection_succeeds() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let asked_last = |it: &Reachability, at: u32| {
            let failure = it.failure();
            failure.is_some_and(|failure| failure.is_asked_last(now + second * at))
        };
        let mut it = Reachability::default();
        assert_eq!(it.ask_last(now), None, "nothing has failed");
        it.failed("refused", now);
        assert!(!asked_last(&it, 0), "that is up to the caller");
        it.ask_last(now);
        assert!(asked_last(&it, 0) && asked_last(&it, 9) && !asked_last(&it, 10));
        // A second failure counts from its own time, and for as long.
        it.failed("timeout", now + second * 5);
        it.ask_last(now + second * 5);
        assert!(asked_last(&it, 14) && !asked_last(&it, 15));
        assert_eq!(&*it.failure().unwrap().why, "timeout");
        assert!(it.succeeded());
        assert!(!asked_last(&it, 6) && !it.succeeded());
    }
}
