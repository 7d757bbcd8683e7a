//! TLS handshakes at once: when more clients come back at a time than can be served, most of them
//! wait, and the work goes into handshakes that will be finished rather than into all of them a
//! little, until every one has taken too long.
//!
//! A place is taken by a client that has begun to speak, and for a moment only: neither silent
//! connections nor slow ones keep others out.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a handshake keeps its place at most. What takes longer waits for the client, and costs
/// nobody anything meanwhile.
pub const PLACE_FOR: Duration = Duration::from_secs(1);

/// Clients that may wait for each place that there is.
const WAITING_EACH: usize = 4;

/// The handshakes of one listener on one worker.
#[derive(Debug)]
pub struct Handshakes {
    places: Arc<Semaphore>,
    most: Cell<usize>,
    waiting: Cell<usize>,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Place(
    #[expect(dead_code, reason = "what matters is when it is dropped")] OwnedSemaphorePermit,
);

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more TLS handshakes than `handshakes_at_once`, and as many waiting as may wait")]
pub struct Full;

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(0)),
            most: Cell::new(0),
            waiting: Cell::new(0),
        }
    }
}

impl Handshakes {
    /// Waits for a place, of which there are `most`. Whoever comes first is first.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn enter(&self, most: usize) -> Result<Place, Full> {
        self.resize(most);
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Place(place));
        }
        if self.waiting.get() >= most.saturating_mul(WAITING_EACH) {
            return Err(Full);
        }
        let _waiting = Waiting::new(&self.waiting);
        let place = Arc::clone(&self.places).acquire_owned().await;
        // It is never closed.
        place.map(Place).map_err(|_| Full)
    }

    /// A reload may have changed the number.
    fn resize(&self, most: usize) {
        let most = most.min(Semaphore::MAX_PERMITS);
        let before = self.most.replace(most);
        if most > before {
            self.places.add_permits(most - before);
        } else if most < before {
            let gone = self.places.forget_permits(before - most);
            // What is taken at the moment cannot be forgotten: the next one sees to the rest.
            self.most.set(before - gone);
        }
    }
}

/// One more who waits, however that ends.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
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
        let first = handshakes.enter(1).await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING_EACH)
            .map(|_| Box::pin(handshakes.enter(1)))
            .collect();
        for each in &mut waiting {
            assert!(poll!(each).is_pending());
        }
        assert_eq!(handshakes.enter(1).await.unwrap_err(), Full);
        drop(first);
        let second = waiting.remove(0).await.unwrap();
        assert!(poll!(&mut waiting[0]).is_pending());
        // Whoever gives up waiting makes room.
        waiting.pop();
        let mut another = Box::pin(handshakes.enter(1));
        assert!(poll!(&mut another).is_pending());
        drop((second, waiting));
        another.await.unwrap();
        assert_eq!(handshakes.waiting.get(), 0);
    }

    #[tokio::test]
    async fn the_number_may_change() {
        let handshakes = Handshakes::default();
        let _one = handshakes.enter(1).await.unwrap();
        let two = handshakes.enter(2).await.unwrap();
        assert!(poll!(Box::pin(handshakes.enter(1))).is_pending());
        drop(two);
        assert!(poll!(Box::pin(handshakes.enter(1))).is_pending());
        let _two = handshakes.enter(2).await.unwrap();
    }
}
