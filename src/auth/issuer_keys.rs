//! The keys that an issuer publishes, as workers see them, and how workers ask for newer ones.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::key_set::KeySet;
use crate::config::model::Roots;

/// How often the issuer is asked again within [`DEMAND_INTERVAL`] because a token names an unknown key.
const MAX_DEMANDS: usize = 2;

/// See [`MAX_DEMANDS`].
const DEMAND_INTERVAL: Duration = Duration::from_secs(60);

/// How long a request waits for the issuer.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// How many requests wait at once: more than that have an unknown key only in an attack.
const MAX_WAITING: usize = 1024;

/// Where an issuer publishes its keys.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyLocation {
    /// The name of the authentication.
    pub auth: Arc<str>,
    /// The URL.
    pub url: Box<str>,
    /// The CA certificates that the issuer's server is verified with.
    pub roots: Roots,
}

/// What the last fetches have brought.
#[derive(Debug, Clone, Default)]
pub struct KeyFetchStatus {
    /// When the present keys were fetched.
    pub fetched: Option<SystemTime>,
    /// Why there are no newer ones; `None` if the last fetch has succeeded.
    pub failure: Option<Arc<str>>,
    /// The fetches that have failed since the last success.
    pub failures: u32,
}

/// The keys that an issuer publishes.
pub struct IssuerKeys {
    /// Where.
    pub location: KeyLocation,
    current: ArcSwapOption<KeySet>,
    status: ArcSwap<KeyFetchStatus>,
    /// Wakes the keeper.
    wake: Notify,
    /// Whether the keeper is asking at this moment.
    is_asking: AtomicBool,
    /// The number of fetches that have ended.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
    /// The latest demands that the issuer was asked for.
    demands: Mutex<[Option<Instant>; MAX_DEMANDS]>,
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerKeys({})", self.location.auth)
    }
}

impl IssuerKeys {
    /// None yet.
    pub fn new(location: KeyLocation) -> Self {
        Self {
            location,
            current: ArcSwapOption::empty(),
            status: ArcSwap::default(),
            wake: Notify::new(),
            is_asking: AtomicBool::new(false),
            ended: watch::Sender::new(0),
            waiting: Semaphore::new(MAX_WAITING),
            demands: Mutex::default(),
        }
    }

    /// The keys; `None` until the issuer has answered once. Later they stay, however long it does not answer.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.current.load_full()
    }

    /// What the last fetches have brought.
    pub fn status(&self) -> Arc<KeyFetchStatus> {
        self.status.load_full()
    }

    /// Waits a moment for newer keys, if the issuer may be asked for them now or is being asked already.
    pub async fn ask_again(&self) {
        let Ok(_permit) = self.waiting.try_acquire() else {
            return;
        };
        let mut ended = self.ended.subscribe();
        if !self.joins_request(Instant::now()) {
            return;
        }
        let _ = timeout(MAX_WAIT, ended.changed()).await;
    }

    /// Whether the issuer is being asked, or is from now on.
    fn joins_request(&self, now: Instant) -> bool {
        if self.is_asking.load(Ordering::Acquire) {
            return true;
        }
        if self.admits_demand(now) {
            self.wake.notify_one();
            return true;
        }
        // Another one may have been admitted just now.
        self.is_asking.load(Ordering::Acquire)
    }

    /// Whether the issuer may be asked now because of a request, which is noted.
    fn admits_demand(&self, now: Instant) -> bool {
        let mut demands = self.demands.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |at: &Option<Instant>| {
            at.is_none_or(|at| now.saturating_duration_since(at) >= DEMAND_INTERVAL)
        };
        match demands.iter_mut().find(|at| is_free(at)) {
            Some(free) => {
                *free = Some(now);
                // Before the keeper has woken up: requests that come until then wait for the same answer.
                self.is_asking.store(true, Ordering::Release);
                true
            }
            None => false,
        }
    }

    /// Waits until a request asks for newer keys.
    pub(super) async fn demanded(&self) {
        self.wake.notified().await;
    }

    /// The keeper asks from now on, for all requests that wait: none of them has to wake it.
    pub(super) fn begin(&self) {
        self.is_asking.store(true, Ordering::Release);
        let _ = self.wake.notified().now_or_never();
    }

    /// The keeper has asked. Without new keys the present ones stay.
    pub(super) fn end(&self, keys: Option<KeySet>, status: KeyFetchStatus) {
        if let Some(keys) = keys {
            self.current.store(Some(Arc::new(keys)));
        }
        self.status.store(Arc::new(status));
        self.is_asking.store(false, Ordering::Release);
        self.ended.send_modify(|number| *number += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> IssuerKeys {
        IssuerKeys::new(KeyLocation {
            auth: "a".into(),
            url: "https://id.invalid/".into(),
            roots: Roots::Platform,
        })
    }

    #[test]
    fn an_issuer_is_asked_again_twice_a_minute() {
        let (keys, start) = (keys(), Instant::now());
        let at = |seconds| keys.admits_demand(start + Duration::from_secs(seconds));
        let asked: Vec<u64> = (0..200).filter(|second| at(*second)).collect();
        assert_eq!(asked, [0, 1, 60, 61, 120, 121, 180, 181]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_no_longer_than_a_moment() {
        let keys = keys();
        let start = Instant::now();
        keys.ask_again().await;
        assert_eq!(start.elapsed(), MAX_WAIT);
        keys.ask_again().await;
        assert_eq!(start.elapsed(), 2 * MAX_WAIT);
        // The issuer is asked by now, as far as requests know: they wait for it, and do not ask for more.
        keys.end(None, KeyFetchStatus::default());
        keys.ask_again().await;
        keys.end(None, KeyFetchStatus::default());
        let before = start.elapsed();
        keys.ask_again().await;
        assert_eq!(
            start.elapsed(),
            before,
            "the issuer is not asked a third time"
        );
        // It is being asked anyway.
        keys.begin();
        let end = async { keys.end(None, KeyFetchStatus::default()) };
        tokio::join!(keys.ask_again(), end);
        assert_eq!(start.elapsed(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_requests_wait() {
        let keys = keys();
        keys.begin();
        let start = Instant::now();
        let waiting = (0..MAX_WAITING).map(|_| keys.ask_again());
        let waiting = futures_util::future::join_all(waiting);
        let one_more = async {
            keys.ask_again().await;
            start.elapsed()
        };
        let (_, elapsed) = tokio::join!(biased; waiting, one_more);
        assert_eq!(elapsed, Duration::ZERO);
    }
}
