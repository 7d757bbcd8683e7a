//! The state of the backends: their counters, and what they share.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::broadcast;

/// The number of chat messages that a slow reader may be behind by.
const ROOM_CAPACITY: usize = 256;

/// The state of one backend; it outlives stops.
pub(super) struct BackendState {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) is_up: AtomicBool,
    pub(super) tunnels: AtomicUsize,
    pub(super) messages: AtomicU64,
    pub(super) shared: Arc<SharedState>,
}

/// The state that all backends share.
pub(super) struct SharedState {
    /// The chat room.
    pub(super) room: broadcast::Sender<Arc<str>>,
    pub(super) since: Instant,
    backends: Mutex<Vec<Arc<BackendState>>>,
}

/// The status of a backend, as the dashboard shows it.
#[derive(Debug, Serialize)]
pub(super) struct BackendStatus {
    number: usize,
    up: bool,
    tunnels: usize,
    messages: u64,
}

impl SharedState {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            room: broadcast::Sender::new(ROOM_CAPACITY),
            since: Instant::now(),
            backends: Mutex::default(),
        })
    }

    /// Adds the state of one more backend, which is stopped.
    pub(super) fn add(self: &Arc<Self>, number: usize) -> Arc<BackendState> {
        let state = Arc::new(BackendState {
            number,
            is_up: AtomicBool::new(false),
            tunnels: AtomicUsize::new(0),
            messages: AtomicU64::new(0),
            shared: Arc::clone(self),
        });
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.push(Arc::clone(&state));
        state
    }

    /// The status of every backend, in the order of their numbers.
    pub(super) fn status(&self) -> Vec<BackendStatus> {
        let backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        backends.iter().map(|backend| backend.status()).collect()
    }
}

impl BackendState {
    fn status(&self) -> BackendStatus {
        BackendStatus {
            number: self.number,
            up: self.is_up.load(Ordering::Relaxed),
            tunnels: self.tunnels.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
        }
    }
}
