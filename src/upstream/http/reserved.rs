//! Connections to endpoints that belong to one client connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::pool_key::PoolKey;
use super::sender::RequestSender;
use crate::upstream::endpoint::Lease;
use crate::upstream::group::Upstream;

/// What the client connections of a worker keep for themselves: at most one value each.
#[derive(Debug)]
pub(super) struct KeptByClient<T> {
    next_client: Cell<u64>,
    kept: RefCell<HashMap<u64, T>>,
}

impl<T> Default for KeptByClient<T> {
    fn default() -> Self {
        Self {
            next_client: Cell::new(0),
            kept: RefCell::default(),
        }
    }
}

impl<T> KeptByClient<T> {
    /// Drops all values, and returns whether there were any.
    pub(super) fn clear(&self) -> bool {
        !self.kept.take().is_empty()
    }
}

/// The place of one client connection among those of its worker. What it keeps is dropped with it.
#[derive(Debug)]
struct ClientPlace<T> {
    client: u64,
    all: Rc<KeptByClient<T>>,
}

impl<T> ClientPlace<T> {
    fn new(all: &Rc<KeptByClient<T>>) -> Self {
        let client = all.next_client.get();
        all.next_client.set(client + 1);
        Self {
            client,
            all: Rc::clone(all),
        }
    }

    fn put(&self, value: T) {
        let replaced = self.all.kept.borrow_mut().insert(self.client, value);
        drop(replaced);
    }

    fn take_if(&self, is_wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut kept = self.all.kept.borrow_mut();
        let is_there = kept.get(&self.client).is_some_and(is_wanted);
        is_there.then(|| kept.remove(&self.client)).flatten()
    }

    fn look<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.all.kept.borrow().get(&self.client).map(look)
    }
}

impl<T> Drop for ClientPlace<T> {
    fn drop(&mut self) {
        let left = self.all.kept.borrow_mut().remove(&self.client);
        drop(left);
    }
}

/// The connection to an endpoint that only one client connection uses, because it is authenticated. There is
/// at most one, the latest: it is a file descriptor that other clients do not get. It is closed together with
/// the client connection, and when the process has run out of descriptors.
#[derive(Debug)]
pub struct ReservedConnections(ClientPlace<Reserved>);

#[derive(Debug)]
pub(super) struct Reserved {
    upstream: Arc<str>,
    key: PoolKey,
    sender: RequestSender,
}

impl ReservedConnections {
    pub(super) fn among(all: &Rc<KeptByClient<Reserved>>) -> Self {
        Self(ClientPlace::new(all))
    }

    /// The id of the endpoint to which the client has an open connection of its own.
    pub fn endpoint(&self, upstream: &Upstream) -> Option<u64> {
        let endpoint = self.0.look(|it| {
            let is_open = it.upstream == upstream.name && it.sender.is_ready();
            is_open.then(|| it.key.endpoint())
        });
        endpoint.flatten()
    }

    /// Takes the client's own connection to the leased endpoint, if it is still open.
    pub fn take(&self, upstream: &Upstream, lease: &Lease) -> Option<RequestSender> {
        let key = PoolKey::of(upstream, lease)?;
        let sender = self.0.take_if(|it| it.key == key)?.sender;
        sender.is_ready().then_some(sender)
    }

    /// Keeps a connection for the client. It replaces the one that the client has.
    pub(super) fn put(&self, upstream: Arc<str>, key: PoolKey, sender: RequestSender) {
        self.0.put(Reserved {
            upstream,
            key,
            sender,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_one_value_until_it_ends_or_all_are_dropped() {
        let all = Rc::new(KeptByClient::default());
        let (one, two) = (ClientPlace::new(&all), ClientPlace::new(&all));
        let values: [Rc<()>; 4] = Default::default();
        let held = |at: usize| Rc::strong_count(&values[at]) == 2;
        one.put(Rc::clone(&values[0]));
        one.put(Rc::clone(&values[1]));
        two.put(Rc::clone(&values[2]));
        assert!(!held(0) && held(1) && held(2));
        assert!(two.take_if(|_| false).is_none() && held(2));
        assert!(two.take_if(|_| true).is_some() && !held(2));
        drop(one);
        assert!(!held(1) && !all.clear());
        two.put(Rc::clone(&values[3]));
        assert!(all.clear() && !held(3) && two.look(|_| ()).is_none());
    }
}
