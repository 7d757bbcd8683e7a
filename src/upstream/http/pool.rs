//! The pool of idle connections of one worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::pool_key::PoolKey;
use super::reserved::{KeptByClient, Reserved, ReservedConnections};
use super::sender::RequestSender;

/// How long a connection may be idle. Node closes idle connections after 5 s, and a request that is
/// sent just then would be lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The maximum number of idle connections per worker and endpoint.
const MAX_IDLE: usize = 32;

/// The idle connections of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<HashMap<PoolKey, Vec<Idle>>>,
    reserved: Rc<KeptByClient<Reserved>>,
}

#[derive(Debug)]
struct Idle {
    sender: RequestSender,
    since: Instant,
}

impl Pool {
    /// Takes the connection that was used last and is still open, if any. Older ones can then time out.
    pub fn take(&self, key: PoolKey) -> Option<RequestSender> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&key)?;
        while let Some(Idle { sender, since }) = connections.pop() {
            if sender.is_ready() && since.elapsed() < IDLE_TIMEOUT {
                return Some(sender);
            }
        }
        None
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self, now: Instant) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|idle| now.duration_since(idle.since) < IDLE_TIMEOUT);
            !connections.is_empty()
        });
    }

    /// Closes all idle connections, those that one client has for itself included, and returns whether there
    /// were any.
    pub fn clear(&self) -> bool {
        let idle = self.idle.take();
        let had_reserved = self.reserved.clear();
        !idle.is_empty() || had_reserved
    }

    /// For the connections of a new client connection that other clients must not use.
    pub fn reserved(&self) -> ReservedConnections {
        ReservedConnections::among(&self.reserved)
    }

    pub(super) fn put(&self, key: PoolKey, sender: RequestSender) {
        // An endpoint that sends `Connection: close` closes at once; the pool would only find that later.
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(key).or_default();
        if connections.len() < MAX_IDLE {
            connections.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }
}
