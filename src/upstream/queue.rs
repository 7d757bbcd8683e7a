//! The queue of an upstream: requests that wait, in order, while all its endpoints are full.
//!
//! Only the request at the head of the queue looks for room; the others wait for the head. So no
//! request is overtaken, and a lease that ends wakes one request, not all of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use crate::config::model::QueueConfig;

/// The queue of one upstream. It outlives reloads.
#[derive(Debug, Default)]
pub struct Queue {
    /// Requests in the queue.
    waiting: AtomicUsize,
    /// Held by the request at the head. tokio's mutex is fair: it wakes in order of arrival.
    head: Mutex<()>,
    /// An endpoint may have room again.
    room: Notify,
}

/// Why a request left the queue without an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueError {
    /// The queue was full: the request did not enter it.
    Full,
    /// No endpoint had room in time.
    Timeout,
}

impl Queue {
    /// Requests in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Wakes the request at the head, because an endpoint may have room again.
    pub fn wake_next(&self) {
        // A wake-up is never lost: a request counts itself as waiting before it looks at the
        // leases, and a lease is released before this count is read. All of these are SeqCst, so
        // at least one of the two sees the other. With Relaxed both could miss it, and the
        // request would sleep until its timeout.
        if self.waiting() > 0 {
            self.room.notify_one();
        }
    }

    /// Waits for the head of the queue, and there until `attempt` succeeds.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn wait<T>(
        &self,
        limits: QueueConfig,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, QueueError> {
        let _position = QueuePosition::take(&self.waiting, limits.size).ok_or(QueueError::Full)?;
        let turn = async {
            // Held until the attempt succeeds. If this request gives up, dropping it passes the
            // wake-up on: `Notified` hands an unused permit back, and the next request is at the
            // head and tries at once.
            let _head = self.head.lock().await;
            loop {
                // Before the attempt: room that appears between the two is not missed.
                let room = self.room.notified();
                if let Some(success) = attempt() {
                    return success;
                }
                room.await;
            }
        };
        timeout(limits.timeout, turn)
            .await
            .map_err(|_| QueueError::Timeout)
    }
}

/// One request in the queue, until it is dropped.
struct QueuePosition<'a>(&'a AtomicUsize);

impl<'a> QueuePosition<'a> {
    fn take(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let one_more = |waiting| (waiting < max).then_some(waiting + 1);
        waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .ok()
            .map(|_| Self(waiting))
    }
}

impl Drop for QueuePosition<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::time::Duration;

    const QUEUE: QueueConfig = QueueConfig {
        size: 2,
        timeout: Duration::from_secs(5),
    };

    #[tokio::test(start_paused = true)]
    async fn requests_are_served_in_order_and_once() {
        let queue = Queue::default();
        let places = Cell::new(0);
        let served = RefCell::new(Vec::new());
        let take = || (places.get() > 0).then(|| places.set(places.get() - 1));
        let wait = |name| {
            let (queue, served, take) = (&queue, &served, &take);
            async move {
                let result = queue.wait(QUEUE, take).await;
                served.borrow_mut().push((name, result));
            }
        };
        let others = async {
            tokio::task::yield_now().await;
            assert_eq!(queue.waiting(), 2);
            assert_eq!(queue.wait(QUEUE, take).await, Err(QueueError::Full));
            for _ in 0..2 {
                places.set(1);
                queue.wake_next();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(wait("first"), wait("second"), others);
        assert_eq!(*served.borrow(), [("first", Ok(())), ("second", Ok(()))]);
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_times_out_leaves_the_queue() {
        let queue = Queue::default();
        let never = || None::<()>;
        let (first, second) = tokio::join!(queue.wait(QUEUE, never), queue.wait(QUEUE, || Some(1)));
        assert_eq!(first, Err(QueueError::Timeout));
        assert_eq!(second, Err(QueueError::Timeout), "it never had its turn");
        assert_eq!(queue.wait(QUEUE, || Some(2)).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_gives_up_lets_the_next_one_try() {
        let queue = Queue::default();
        let free = Cell::new(false);
        let mut gone = Box::pin(queue.wait(QUEUE, || free.get().then_some(())));
        assert!(futures_util::poll!(&mut gone).is_pending());
        let mut next = Box::pin(queue.wait(QUEUE, || free.get().then_some(())));
        assert!(futures_util::poll!(&mut next).is_pending());
        free.set(true);
        queue.wake_next();
        // The first request was woken, but is dropped before it tries.
        drop(gone);
        assert_eq!(next.await, Ok(()));
    }
}
