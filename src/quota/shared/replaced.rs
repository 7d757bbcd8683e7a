//! The tunnels of one worker that have been replaced by newer ones, and are to be closed there.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The tunnels of a worker that are to be closed: at most those that it has.
#[derive(Debug, Default)]
pub struct ReplacedTunnels {
    waiting: Mutex<Vec<(usize, u64)>>,
    more: Notify,
}

/// Where a tunnel is.
#[derive(Debug, Clone)]
pub struct TunnelPlace {
    /// The list of the worker that has it.
    pub replaced: Arc<ReplacedTunnels>,
    /// Its place in the worker's table.
    pub place: u32,
    /// The session that has this place.
    pub session: u64,
}

impl TunnelPlace {
    /// Has its worker close the tunnel.
    pub(super) fn end(self) {
        let list = &self.replaced;
        let mut waiting = list.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push((self.place as usize, self.session));
        list.more.notify_one();
    }
}

impl ReplacedTunnels {
    /// Waits for tunnels to close: the place and the session of each. Cancel safe.
    pub async fn next(&self) -> Vec<(usize, u64)> {
        loop {
            let waiting = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                mem::take(&mut *waiting)
            };
            if !waiting.is_empty() {
                return waiting;
            }
            self.more.notified().await;
        }
    }
}
