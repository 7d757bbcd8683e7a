//! The connections to the page's port. Any process of this machine can open some and say nothing: those make room for
//! each other, and never keep the page itself out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;

/// Connections of the page at once; further ones are closed.
const MAX_ADMITTED: usize = 64;

/// Connections at once that have not shown the key. For a further one, the oldest of those that have shown the least
/// is closed.
const MAX_OTHERS: usize = 16;

/// How long a connection may last that has shown nothing.
pub(super) const STRANGER_TIMEOUT: Duration = Duration::from_secs(3);

/// What the requests on a connection have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum PageStanding {
    /// Nothing.
    Stranger,
    /// The cookie, which a browser may have sent to another port as well.
    Known,
    /// The secret, or the key.
    Admitted,
}

/// The standing of a connection, which only rises.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionStanding(Arc<AtomicU8>);

impl ConnectionStanding {
    pub(super) fn rise(&self, to: PageStanding) {
        self.0.fetch_max(to as u8, Ordering::Relaxed);
    }

    pub(super) fn is(&self, standing: PageStanding) -> bool {
        self.0.load(Ordering::Relaxed) == standing as u8
    }
}

/// The open connections, the oldest first.
#[derive(Debug, Default)]
pub(super) struct PageConnections(Vec<(ConnectionStanding, AbortHandle)>);

impl PageConnections {
    /// Whether there is room for one more connection. Closes another one for it, if need be.
    pub(super) fn make_room(&mut self) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        let count = |standing| self.0.iter().filter(|(it, _)| it.is(standing)).count();
        if count(PageStanding::Admitted) >= MAX_ADMITTED {
            return false;
        }
        if count(PageStanding::Stranger) + count(PageStanding::Known) < MAX_OTHERS {
            return true;
        }
        let oldest = |standing| self.0.iter().position(|(it, _)| it.is(standing));
        let place = oldest(PageStanding::Stranger).or_else(|| oldest(PageStanding::Known));
        let Some(place) = place else { return false };
        self.0.remove(place).1.abort();
        true
    }

    pub(super) fn add(&mut self, standing: ConnectionStanding, task: AbortHandle) {
        self.0.push((standing, task));
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn strangers_make_room_for_each_other_and_never_cost_the_page_a_connection() {
        let mut open = PageConnections::default();
        let mut tasks = JoinSet::<()>::new();
        let mut add = |open: &mut PageConnections, standing| {
            let connection = ConnectionStanding::default();
            connection.rise(standing);
            let task = tasks.spawn(pending());
            open.add(connection, task.clone());
            task
        };
        let is_left = |open: &PageConnections, task: &AbortHandle| {
            open.0.iter().any(|(_, it)| it.id() == task.id())
        };
        let page = add(&mut open, PageStanding::Admitted);
        let known = add(&mut open, PageStanding::Known);
        let mut strangers = Vec::new();
        for _ in 0..100 {
            assert!(open.make_room());
            strangers.push(add(&mut open, PageStanding::Stranger));
        }
        assert_eq!(open.0.len(), MAX_OTHERS + 1);
        assert!(is_left(&open, &page) && is_left(&open, &known));
        assert!(is_left(&open, &strangers[99]) && !is_left(&open, &strangers[0]));
        // Even those that have the cookie have a bound of their own.
        for _ in 0..100 {
            assert!(open.make_room());
            add(&mut open, PageStanding::Known);
        }
        assert!(is_left(&open, &page) && !is_left(&open, &known));
        for _ in 1..MAX_ADMITTED {
            add(&mut open, PageStanding::Admitted);
        }
        assert!(!open.make_room());
    }
}
