//! TLS handshakes at once: when more clients come back at a time than can be served, most of them
//! wait, and the work goes into handshakes that will be finished rather than into all of them a
//! little, until every one has taken too long.
//!
//! A permit is taken by a client that has begun to speak, and for a moment only: neither silent
//! connections nor slow ones keep others out.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a handshake keeps its permit at most. What takes longer waits for the client, and costs
/// nobody anything meanwhile.
pub const PERMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Clients that may wait for each permit that there is.
const QUEUE_PER_PERMIT: usize = 4;

/// The handshakes of one listener on one worker.
#[derive(Debug)]
pub struct Handshakes {
    permits: Arc<Semaphore>,
    limit: Cell<usize>,
    waiting: Cell<usize>,
}

/// A permit; free again when dropped.
#[derive(Debug)]
pub struct HandshakePermit(
    #[expect(dead_code, reason = "what matters is when it is dropped")] OwnedSemaphorePermit,
);

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more TLS handshakes than `handshakes_at_once`, and as many waiting as may wait")]
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
    /// Waits for a permit, of which there are `limit`. Whoever comes first is first.
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
        // It is never closed.
        permit.map(HandshakePermit).map_err(|_| TooManyHandshakes)
    }

    /// A reload may have changed the number.
    fn resize(&self, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let before = self.limit.replace(limit);
        if limit > before {
            self.permits.add_permits(limit - before);
        } else if limit < before {
            let gone = self.permits.forget_permits(before - limit);
            // What is taken at the moment cannot be forgotten: the next one sees to the rest.
            self.limit.set(before - gone);
        }
    }
}

/// One more who waits, however that ends.
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
    async fn so_many_at_once_and_so_many_more_wait_in_turn() {
        let handshakes = Handshakes::default();
        let first = handshakes.acquire(1).await.unwrap();
        let mut waiting: Vec<_> = (0..QUEUE_PER_PERMIT)
            .map(|_| Box::pin(handshakes.acquire(1)))
            .collect();
        for each in &mut waiting {
            assert!(poll!(each).is_pending());
        }
        assert_eq!(handshakes.acquire(1).await.unwrap_err(), TooManyHandshakes);
        drop(first);
        let second = waiting.remove(0).await.unwrap();
        assert!(poll!(&mut waiting[0]).is_pending());
        // Whoever gives up waiting makes room.
        waiting.pop();
        let mut another = Box::pin(handshakes.acquire(1));
        assert!(poll!(&mut another).is_pending());
        drop((second, waiting));
        another.await.unwrap();
        assert_eq!(handshakes.waiting.get(), 0);
    }

    #[tokio::test]
    async fn the_number_may_change() {
        let handshakes = Handshakes::default();
        let _one = handshakes.acquire(1).await.unwrap();
        let two = handshakes.acquire(2).await.unwrap();
        assert!(poll!(Box::pin(handshakes.acquire(1))).is_pending());
        drop(two);
        assert!(poll!(Box::pin(handshakes.acquire(1))).is_pending());
        let _two = handshakes.acquire(2).await.unwrap();
    }
}
