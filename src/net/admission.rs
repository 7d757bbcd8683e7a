//! The connection limit of the process.
//!
//! Every client connection holds a [`ConnectionPermit`] from accept until its last byte, tunnel included. It
//! counts for the process and for the worker that has the connection, until it is dropped.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::listener_limits::ListenerPermit;
use crate::config::descriptor_budget;
use crate::quota::QuotaPermit;
use crate::quota::failure_reports::RecurringTrouble;
use crate::quota::shared::KeyPermit;

/// How long a connection that waits for room waits before it asks again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The number of connections in the process, and its limit.
#[derive(Debug, Default)]
pub struct Admission {
    open: AtomicUsize,
    limit: AtomicUsize,
    /// Whether the log says that the limit is reached.
    full: Mutex<RecurringTrouble>,
    freed: Notify,
}

impl Admission {
    /// The connection limit for a limit of `descriptors`, `used` of which are in use already. Each connection
    /// may need a second descriptor for its endpoint, and some are reserved, so that connecting to an
    /// endpoint never fails for lack of one.
    pub fn limit_for(descriptors: u64, used: u64) -> usize {
        let free = descriptors.saturating_sub(descriptor_budget::reserve(descriptors) + used);
        usize::try_from(free / descriptor_budget::PER_TUNNEL)
            .unwrap_or(usize::MAX)
            .max(1)
    }

    /// Sets the limit. Before the first call no connection is admitted.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// The limit.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// The number of connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts one more connection, unless the limit is reached.
    fn enter(&self) -> bool {
        let limit = self.limit();
        let one_more = |open| (open < limit).then_some(open + 1);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok()
    }

    fn full(&self) -> MutexGuard<'_, RecurringTrouble> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self) {
        let before = self.open.fetch_sub(1, Ordering::Relaxed);
        if before >= self.limit() {
            self.freed.notify_waiters();
        }
    }
}

/// The number of connections of one worker.
#[derive(Debug)]
pub struct WorkerLoad {
    connections: AtomicUsize,
    process: Arc<Admission>,
}

impl WorkerLoad {
    /// A worker without connections, in a process that counts with `process`.
    pub fn new(process: Arc<Admission>) -> Self {
        Self {
            connections: AtomicUsize::new(0),
            process,
        }
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts one more connection for this worker and for the process, unless the limit is reached.
    pub fn admit(self: &Arc<Self>) -> Option<ConnectionPermit> {
        self.process.enter().then(|| {
            self.connections.fetch_add(1, Ordering::Relaxed);
            ConnectionPermit {
                load: Arc::clone(self),
                held: None,
            }
        })
    }

    /// The same, but waits while the limit is reached.
    pub async fn admit_or_wait(self: &Arc<Self>) -> ConnectionPermit {
        loop {
            // Registered before the attempt: a permit that is freed in between is not missed.
            let freed = self.process.freed.notified();
            if let Some(permit) = self.admit() {
                if self.process.full().is_over() {
                    tracing::info!("below the connection limit, accepting again");
                }
                return permit;
            }
            if self.process.full().is_there(Instant::now()) {
                tracing::warn!(
                    connections = self.process.open(),
                    "connection limit reached (file descriptors); new connections wait in the backlog"
                );
            }
            // Asked again from time to time: the last line in the log must not be that there is room.
            let _ = tokio::time::timeout(ASK_AGAIN, freed).await;
        }
    }
}

/// One counted connection, and the other permits that it holds.
#[derive(Debug)]
pub struct ConnectionPermit {
    load: Arc<WorkerLoad>,
    /// Boxed, because most connections hold nothing else.
    held: Option<Box<HeldPermits>>,
}

#[derive(Debug, Default)]
struct HeldPermits {
    _listener: ListenerPermit,
    _quotas: Box<[QuotaPermit]>,
    /// Boxed, because few tunnels have any.
    #[expect(
        clippy::box_collection,
        reason = "a tunnel without any has one word for it, not three"
    )]
    shared: Option<Box<Vec<KeyPermit>>>,
}

/// The permits that a tunnel holds.
#[derive(Debug, Default)]
pub struct TunnelPermits {
    /// Those of the process and of the route.
    pub quotas: Vec<QuotaPermit>,
    /// Those of limits that the route shares.
    pub shared: Vec<KeyPermit>,
}

impl ConnectionPermit {
    /// Counts one more of what a connection costs, for a stream of this one, unless the limit is reached.
    pub fn for_stream(&self) -> Option<Self> {
        self.load.admit()
    }

    /// Moves the connection to another worker.
    pub fn hand_over(mut self, to: &Arc<WorkerLoad>) -> Self {
        // Counted twice for a moment: the drop of `self` subtracts it again.
        self.load.process.open.fetch_add(1, Ordering::Relaxed);
        to.connections.fetch_add(1, Ordering::Relaxed);
        Self {
            load: Arc::clone(to),
            held: self.held.take(),
        }
    }

    /// Holds the listener's permit as long as the connection lasts.
    pub fn hold(&mut self, permit: ListenerPermit) {
        if !permit.holds_nothing() {
            self.held.get_or_insert_default()._listener = permit;
        }
    }

    /// Holds the permits that count a tunnel as long as the connection lasts.
    pub fn hold_tunnel(&mut self, permits: TunnelPermits) {
        if !(permits.quotas.is_empty() && permits.shared.is_empty()) {
            let held = self.held.get_or_insert_default();
            held._quotas = permits.quotas.into();
            held.shared = (!permits.shared.is_empty()).then(|| Box::new(permits.shared));
        }
    }

    /// The permits of limits that its route shares.
    pub fn shared_limits(&self) -> &[KeyPermit] {
        let held = self.held.as_ref().and_then(|held| held.shared.as_ref());
        held.map_or(&[], |permits| permits)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.load.connections.fetch_sub(1, Ordering::Relaxed);
        self.load.process.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_of_every_limit() {
        for (descriptors, used, limit) in [
            (64, 20, 18),
            (1024, 24, 436),
            (20_000, 24, 9924),
            (16, 20, 1),
            (0, 0, 1),
        ] {
            assert_eq!(
                Admission::limit_for(descriptors, used),
                limit,
                "{descriptors} descriptors"
            );
        }
    }

    #[test]
    fn what_a_connection_holds_is_small() {
        // With the length that the allocator keeps, this is one of its size classes.
        assert!(
            size_of::<HeldPermits>() <= 56,
            "{} bytes",
            size_of::<HeldPermits>()
        );
    }

    fn two_workers(limit: usize) -> (Arc<Admission>, [Arc<WorkerLoad>; 2]) {
        let process = Arc::new(Admission::default());
        process.set_limit(limit);
        let load = || Arc::new(WorkerLoad::new(Arc::clone(&process)));
        let loads = [load(), load()];
        (process, loads)
    }

    #[tokio::test]
    async fn room_comes_back_with_the_permit() {
        let (process, [one, other]) = two_workers(1);
        let permit = one.admit().unwrap();
        assert!(one.admit().is_none() && other.admit().is_none());
        let waiter = other.admit_or_wait();
        tokio::pin!(waiter);
        assert!(futures_util::poll!(&mut waiter).is_pending());
        drop(permit);
        let permit = waiter.await;
        assert_eq!((one.connections(), other.connections()), (0, 1));
        drop(permit);
        assert_eq!((process.open(), other.connections()), (0, 0));
    }

    #[test]
    fn a_permit_that_is_handed_over_counts_elsewhere() {
        let (process, [one, other]) = two_workers(9);
        let permit = one.admit().unwrap().hand_over(&other);
        assert_eq!((one.connections(), other.connections()), (0, 1));
        assert_eq!(process.open(), 1);
        drop(permit);
        assert_eq!((process.open(), other.connections()), (0, 0));
    }
}
