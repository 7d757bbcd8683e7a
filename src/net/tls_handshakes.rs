//! The limit on concurrent TLS handshakes. When more clients return at the same time than can be served,
//! most of them queue, and the work goes into handshakes that will be finished, rather than a little into
//! each until all of them time out.
//!
//! A client acquires a permit once it has sent something, and holds it briefly: neither silent connections
//! nor slow ones block others.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a handshake holds its permit at most. A handshake that takes longer is waiting for its client,
/// which costs nothing.
pub const PERMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of queued handshakes per permit.
const QUEUE_PER_PERMIT: usize = 4;

/// The TLS handshakes of one listener on one worker.
#[derive(Debug)]
pub struct Handshakes {
    permits: Arc<Semaphore>,
    limit: Cell<usize>,
    waiting: Cell<usize>,
}

/// The permit of one handshake, until dropped.
#[derive(Debug)]
pub struct HandshakePermit(
    #[expect(dead_code, reason = "what matters is when it is dropped")] OwnedSemaphorePermit,
);

/// All permits are in use and the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many TLS handshakes: all of `handshakes_at_once` are running and the queue is full")]
pub struct TooManyHandshakes;

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(0)),
            limit: Cell::new(0),
            waiting: Cell::new(0),
        }
    }
}

impl Handshakes {
    /// Waits for one of `limit` permits, first come, first served.
    ///
    /// # Errors
    /// [`TooManyHandshakes`].
    pub async fn acquire(&self, limit: usize) -> Result<HandshakePermit, TooManyHandshakes> {
        self.resize(limit);
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(HandshakePermit(permit));
        }
        if self.waiting.get() >= limit.saturating_mul(QUEUE_PER_PERMIT) {
            return Err(TooManyHandshakes);
        }
        let _waiting = QueuedHandshake::new(&self.waiting);
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        // The semaphore is never closed.
        permit.map(HandshakePermit).map_err(|_| TooManyHandshakes)
    }

    /// Applies a limit that a reload may have changed.
    fn resize(&self, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let before = self.limit.replace(limit);
        if limit > before {
            self.permits.add_permits(limit - before);
        } else if limit < before {
            let gone = self.permits.forget_permits(before - limit);
            // Permits in use cannot be removed now: the next call removes the rest.
            self.limit.set(before - gone);
        }
    }
}

/// Counts a queued handshake, until it has a permit or is cancelled.
struct QueuedHandshake<'a>(&'a Cell<usize>);

impl<'a> QueuedHandshake<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for QueuedHandshake<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::poll;

    #[tokio::test]
    async fn handshakes_up_to_the_limit_run_and_more_queue_in_order() {
        let handshakes = Handshakes::default();
        let first = handshakes.acquire(1).await.unwrap();
        let mut waiting: Vec<_> = (0..QUEUE_PER_PERMIT)
            .map(|_| Box::pin(handshakes.acquire(1)))
            .collect();
        for handshake in &mut waiting {
            assert!(poll!(handshake).is_pending());
        }
        assert_eq!(handshakes.acquire(1).await.unwrap_err(), TooManyHandshakes);
        drop(first);
        let second = waiting.remove(0).await.unwrap();
        assert!(poll!(&mut waiting[0]).is_pending());
        // A client that gives up makes room in the queue.
        waiting.pop();
        let mut another = Box::pin(handshakes.acquire(1));
        assert!(poll!(&mut another).is_pending());
        drop((second, waiting));
        another.await.unwrap();
        assert_eq!(handshakes.waiting.get(), 0);
    }

    #[tokio::test]
    async fn the_limit_may_change() {
        let handshakes = Handshakes::default();
        let _one = handshakes.acquire(1).await.unwrap();
        let two = handshakes.acquire(2).await.unwrap();
        assert!(poll!(Box::pin(handshakes.acquire(1))).is_pending());
        drop(two);
        assert!(poll!(Box::pin(handshakes.acquire(1))).is_pending());
        let _two = handshakes.acquire(2).await.unwrap();
    }
}
