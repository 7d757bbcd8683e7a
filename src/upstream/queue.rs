//! The queue of an upstream: who waits for an endpoint that is full, in which order.
//!
//! Only whoever is first in the queue looks for room; the others wait for their turn. So nobody is
//! overtaken, and one who leaves a place wakes one, not all.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use crate::config::model::QueueConfig;

/// A queue. Outlives reloads.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: AtomicUsize,
    line: Mutex<()>,
    changed: Notify,
}

/// Why there was nothing to wait for, or for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueError {
    /// As many wait as may.
    Full,
    /// The time is over.
    Timeout,
}

impl Queue {
    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Somebody left, or something changed: there may be room for one.
    pub fn wake_next(&self) {
        // The orders matter: whoever waits counts itself before it looks, whoever leaves does so
        // before it counts who waits.
        if self.waiting() > 0 {
            self.changed.notify_one();
        }
    }

    /// Waits for its turn, and until `attempt` succeeds.
    ///
    /// # Errors
    /// [`QueueError`].
    pub async fn wait<T>(
        &self,
        queue: QueueConfig,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, QueueError> {
        let _place = QueuePosition::take(&self.waiting, queue.size).ok_or(QueueError::Full)?;
        let turn = async {
            let _first = self.line.lock().await;
            loop {
                let changed = self.changed.notified();
                if let Some(done) = attempt() {
                    return done;
                }
                changed.await;
            }
        };
        timeout(queue.timeout, turn)
            .await
            .map_err(|_| QueueError::Timeout)
    }
}

/// One who waits, until it is dropped.
struct QueuePosition<'a>(&'a AtomicUsize);

impl<'a> QueuePosition<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let one_more = |waiting| (waiting < most).then_some(waiting + 1);
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
    async fn those_who_wait_are_served_in_order_and_nobody_twice() {
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
    async fn the_wait_has_an_end_and_leaves_the_line() {
        let queue = Queue::default();
        let never = || None::<()>;
        let (first, second) = tokio::join!(queue.wait(QUEUE, never), queue.wait(QUEUE, || Some(1)));
        assert_eq!(first, Err(QueueError::Timeout));
        assert_eq!(second, Err(QueueError::Timeout), "it never had its turn");
        assert_eq!(queue.wait(QUEUE, || Some(2)).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_goes_away_lets_the_next_one_look() {
        let queue = Queue::default();
        let free = Cell::new(false);
        let mut gone = Box::pin(queue.wait(QUEUE, || free.get().then_some(())));
        assert!(futures_util::poll!(&mut gone).is_pending());
        let mut next = Box::pin(queue.wait(QUEUE, || free.get().then_some(())));
        assert!(futures_util::poll!(&mut next).is_pending());
        free.set(true);
        queue.wake_next();
        // It was told that there is room, and never came to take it.
        drop(gone);
        assert_eq!(next.await, Ok(()));
    }
}
