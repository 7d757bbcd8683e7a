//! Limits that routes share.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::{Rate, RequestKey};

/// A limit that routes share: what each key may have, wherever its requests go.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedLimitConfig {
    /// The name; counts continue under it across reloads.
    pub name: Arc<str>,
    /// Requests with the same key are counted together.
    pub key: RequestKey,
    /// What happens to a request without the key.
    pub missing: MissingKey,
    /// Concurrent tunnels of one key; `None` for no limit.
    pub tunnels: Option<NonZeroU32>,
    /// What happens when a key has that many.
    pub when_full: WhenFull,
    /// The rate of WebSocket handshakes of one key.
    pub handshakes: Option<Rate>,
    /// The rate of plain requests of one key.
    pub requests: Option<Rate>,
    /// Keys that are counted one by one; further ones share one count.
    pub keys: usize,
}

/// What happens to a request without the key of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingKey {
    /// It counts for its client's address.
    ClientIp,
    /// It is refused.
    Refuse,
}

/// What happens to a handshake when its key has all the tunnels that it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused.
    Refuse,
    /// The oldest tunnel of the key is closed once the new one opens.
    CloseOldest,
}
