//! The waiting room of an upstream: who waits for an endpoint that is full, in which order.
//!
//! Only whoever is first in the line looks for room; the others wait for their turn. So nobody is
//! overtaken, and one who leaves a place wakes one, not all.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use crate::config::model::QueueConfig;

/// A waiting room. Outlives reloads.
#[derive(Debug, Default)]
pub struct Room {
    waiting: AtomicUsize,
    line: Mutex<()>,
    changed: Notify,
}

/// Why there was nothing to wait for, or for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoTurn {
    /// As many wait as may.
    Full,
    /// The time is over.
    TooLong,
}

impl Room {
    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Somebody left, or something changed: there may be room for one.
    pub fn look(&self) {
        // The orders matter: whoever waits counts itself before it looks, whoever leaves does so
        // before it counts who waits.
        if self.waiting() > 0 {
            self.changed.notify_one();
        }
    }

    /// Waits for its turn, and until `attempt` succeeds.
    ///
    /// # Errors
    /// [`NoTurn`].
    pub async fn wait<T>(
        &self,
        queue: QueueConfig,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, NoTurn> {
        let _place = Place::take(&self.waiting, queue.size).ok_or(NoTurn::Full)?;
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
            .map_err(|_| NoTurn::TooLong)
    }
}

/// One who waits, until it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let one_more = |waiting| (waiting < most).then_some(waiting + 1);
        waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .ok()
            .map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
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
        let room = Room::default();
        let places = Cell::new(0);
        let served = RefCell::new(Vec::new());
        let take = || (places.get() > 0).then(|| places.set(places.get() - 1));
        let wait = |name| {
            let (room, served, take) = (&room, &served, &take);
            async move {
                let result = room.wait(QUEUE, take).await;
                served.borrow_mut().push((name, result));
            }
        };
        let others = async {
            tokio::task::yield_now().await;
            assert_eq!(room.waiting(), 2);
            assert_eq!(room.wait(QUEUE, take).await, Err(NoTurn::Full));
            for _ in 0..2 {
                places.set(1);
                room.look();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(wait("first"), wait("second"), others);
        assert_eq!(*served.borrow(), [("first", Ok(())), ("second", Ok(()))]);
        assert_eq!(room.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_has_an_end_and_leaves_the_line() {
        let room = Room::default();
        let never = || None::<()>;
        let (first, second) = tokio::join!(room.wait(QUEUE, never), room.wait(QUEUE, || Some(1)));
        assert_eq!(first, Err(NoTurn::TooLong));
        assert_eq!(second, Err(NoTurn::TooLong), "it never had its turn");
        assert_eq!(room.wait(QUEUE, || Some(2)).await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_goes_away_lets_the_next_one_look() {
        let room = Room::default();
        let free = Cell::new(false);
        let mut gone = Box::pin(room.wait(QUEUE, || free.get().then_some(())));
        assert!(futures_util::poll!(&mut gone).is_pending());
        let mut next = Box::pin(room.wait(QUEUE, || free.get().then_some(())));
        assert!(futures_util::poll!(&mut next).is_pending());
        free.set(true);
        room.look();
        // It was told that there is room, and never came to take it.
        drop(gone);
        assert_eq!(next.await, Ok(()));
    }
}
