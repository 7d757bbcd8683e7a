//! How many connections there may be at once, and who counts them.
//!
//! A [`Permit`] is one client's connection, from accept until its last byte, tunnel included; it
//! counts for the process and for the worker that has it, and stops counting when dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Descriptors that clients and endpoints may not take: files, logs, listening sockets, reloads.
const RESERVE_MOST: u64 = 128;

/// The process-wide count and its bound.
#[derive(Debug)]
pub struct Admission {
    open: AtomicUsize,
    most: usize,
    freed: Notify,
}

impl Admission {
    /// Room for `most` connections.
    pub fn new(most: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            most,
            freed: Notify::new(),
        }
    }

    /// How many connections a limit of `descriptors` carries when `taken` are in use already: each
    /// connection may need one towards its endpoint, and some stay in reserve, so that a dial never
    /// fails for want of one.
    pub fn most_for(descriptors: u64, taken: u64) -> usize {
        let reserve = RESERVE_MOST.min(descriptors / 8);
        let free = descriptors.saturating_sub(reserve + taken);
        usize::try_from(free / 2).unwrap_or(usize::MAX).max(1)
    }

    /// Connections at once, at most.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Connections now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether one more fits. Only the acceptor adds, so that the answer holds until it does.
    pub fn has_room(&self) -> bool {
        self.open() < self.most
    }

    /// Waits until one more fits.
    pub async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// Counts one connection, for the process and for `worker`.
    pub fn admit(self: &Arc<Self>, worker: &Arc<Load>) -> Permit {
        self.open.fetch_add(1, Ordering::Relaxed);
        worker.0.fetch_add(1, Ordering::Relaxed);
        Permit {
            admission: Arc::clone(self),
            worker: Arc::clone(worker),
        }
    }
}

/// The connections that one worker has.
#[derive(Debug, Default)]
pub struct Load(AtomicUsize);

impl Load {
    /// Connections now.
    pub fn connections(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counted connection.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    worker: Arc<Load>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.worker.0.fetch_sub(1, Ordering::Relaxed);
        let before = self.admission.open.fetch_sub(1, Ordering::Relaxed);
        if before >= self.admission.most {
            self.admission.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_of_every_limit() {
        for (descriptors, taken, most) in [
            (64, 20, 18),
            (1024, 24, 436),
            (20_000, 24, 9924),
            (16, 20, 1),
            (0, 0, 1),
        ] {
            assert_eq!(
                Admission::most_for(descriptors, taken),
                most,
                "{descriptors} descriptors"
            );
        }
    }

    #[tokio::test]
    async fn room_comes_back_with_the_permit() {
        let admission = Arc::new(Admission::new(1));
        let worker = Arc::new(Load::default());
        let permit = admission.admit(&worker);
        assert!(!admission.has_room());
        let waiter = admission.room();
        tokio::pin!(waiter);
        assert!(futures_util::poll!(&mut waiter).is_pending());
        drop(permit);
        waiter.await;
        assert_eq!((admission.open(), worker.connections()), (0, 0));
    }
}
