//! The pool of idle connections of one worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::sender::RequestSender;
use crate::config::model::SendProxy;
use crate::upstream::endpoint::Lease;
use crate::upstream::group::Upstream;

/// How long a connection may be idle. Node closes idle connections after 5 s, and a request that is
/// sent just then would be lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The maximum number of idle connections per worker and endpoint.
const MAX_IDLE: usize = 32;

/// The idle connections of one worker.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<HashMap<PoolKey, Vec<Idle>>>,
}

/// Connections with equal keys are interchangeable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolKey {
    endpoint: u64,
    /// The generation of the TLS settings; 0 for plain text.
    tls: u64,
}

#[derive(Debug)]
struct Idle {
    sender: RequestSender,
    since: Instant,
}

impl PoolKey {
    /// The key for connections of `upstream` to the leased endpoint. `None` if they are not reused, or if
    /// they begin with a PROXY header: it names one client, and requests of other clients must not follow
    /// it.
    pub fn of(upstream: &Upstream, lease: &Lease) -> Option<Self> {
        let settings = upstream.connecting();
        let tls = upstream.tls.as_ref().map_or(0, |tls| tls.generation);
        (settings.reuse && settings.send_proxy == SendProxy::Off).then(|| Self {
            endpoint: lease.endpoint().id,
            tls,
        })
    }

    pub(super) fn endpoint(self) -> u64 {
        self.endpoint
    }
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

    /// Closes all connections, and returns whether there were any.
    pub fn clear(&self) -> bool {
        let idle = self.idle.take();
        !idle.is_empty()
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
