//! Connections to endpoints that belong to one client connection.

use std::cell::RefCell;
use std::sync::Arc;

use super::pool::PoolKey;
use super::sender::RequestSender;
use crate::upstream::endpoint::Lease;
use crate::upstream::group::Upstream;

/// The maximum number of upstreams to which one client connection has a connection of its own: each is a
/// file descriptor that other clients do not get.
const MAX_RESERVED: usize = 2;

/// The connections to endpoints that only one client connection uses, because they are authenticated: one
/// for each upstream. They are closed together with the client connection.
#[derive(Debug, Default)]
pub struct ReservedConnections {
    idle: RefCell<Vec<Reserved>>,
}

#[derive(Debug)]
struct Reserved {
    upstream: Arc<str>,
    key: PoolKey,
    sender: RequestSender,
}

impl ReservedConnections {
    /// The id of the endpoint to which the client has an open connection of its own.
    pub fn endpoint(&self, upstream: &Upstream) -> Option<u64> {
        let idle = self.idle.borrow();
        let mut idle = idle.iter();
        idle.find(|it| it.upstream == upstream.name && it.sender.is_ready())
            .map(|it| it.key.endpoint())
    }

    /// Takes the client's own connection to the leased endpoint, if it is still open.
    pub fn take(&self, upstream: &Upstream, lease: &Lease) -> Option<RequestSender> {
        let key = PoolKey::of(upstream, lease)?;
        let mut idle = self.idle.borrow_mut();
        let position = idle.iter().position(|it| it.key == key)?;
        let sender = idle.swap_remove(position).sender;
        sender.is_ready().then_some(sender)
    }

    /// Keeps a connection for the client. It replaces the one that the client has to the same upstream.
    pub(super) fn put(&self, upstream: Arc<str>, key: PoolKey, sender: RequestSender) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|it| it.upstream != upstream && !it.sender.is_closed());
        if idle.len() == MAX_RESERVED {
            idle.remove(0);
        }
        idle.push(Reserved {
            upstream,
            key,
            sender,
        });
    }
}
