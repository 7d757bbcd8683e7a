//! What a handshake of a key holds, and the tunnel that it becomes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::key::KeyId;
use super::replaced::TunnelPlace;
use super::usage::TunnelNumbers;
use super::{SharedLimit, locked};

/// One tunnel of a key, until it is dropped.
#[derive(Debug)]
pub struct KeyPermit {
    pub(super) limit: Arc<SharedLimit>,
    /// The key that it counts for: the tunnel's, or that of the shared count.
    pub(super) id: KeyId,
    /// The number of its handshake; 0 if that gives way to no other.
    pub(super) handshake: u64,
    /// The number of its tunnel; 0 while it is a handshake.
    pub(super) number: AtomicU64,
    /// How many the key may have once this one opens; the oldest ones beyond that are closed.
    pub(super) closes_beyond: Option<u32>,
}

impl KeyPermit {
    /// The tunnel has opened at this place. Closes the oldest tunnels of its key, if there are too many.
    pub fn opened(&self, place: TunnelPlace) {
        let limit = &self.limit;
        let (replaced, older) = {
            let mut shard = locked(limit.shard(self.id));
            if self.numbers().tunnel > 0 {
                return;
            }
            self.number.store(limit.next_number(), Ordering::Relaxed);
            match shard.keys.get_mut(&self.id) {
                Some(usage) => usage.opened(self.numbers(), place, self.closes_beyond),
                // It had to give way, and nothing else of the key counts.
                None => (vec![place], 0),
            }
        };
        if older > 0 {
            *locked(&limit.older_to_replace).entry(self.id).or_default() += older;
        }
        limit.end(replaced);
    }

    fn numbers(&self) -> TunnelNumbers {
        TunnelNumbers {
            handshake: self.handshake,
            tunnel: self.number.load(Ordering::Relaxed),
        }
    }
}

impl Drop for KeyPermit {
    fn drop(&mut self) {
        let mut shard = locked(self.limit.shard(self.id));
        if let Some(usage) = shard.keys.get_mut(&self.id) {
            usage.leave(self.numbers());
        }
    }
}
