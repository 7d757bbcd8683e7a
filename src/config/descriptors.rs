//! How many open files tunnels take, and how many the process may have.

use rustix::process::{Resource, getrlimit};

/// One towards the client, one towards the endpoint.
pub const PER_TUNNEL: u64 = 2;

/// Those that tunnels never get: files, logs, listening sockets, reloads.
const RESERVE_MOST: u64 = 128;

/// In use before the first tunnel: event queues of a few workers, logs, signals, listeners.
const USUAL: u64 = 64;

/// What is kept of a limit of `descriptors`, so that a dial never fails for want of one.
pub fn reserve(descriptors: u64) -> u64 {
    RESERVE_MOST.min(descriptors / 8)
}

/// The limit at which there is room for so many tunnels.
pub(super) fn needed(tunnels: usize) -> u64 {
    let tunnels = u64::try_from(tunnels).unwrap_or(u64::MAX);
    tunnels
        .saturating_mul(PER_TUNNEL)
        .saturating_add(RESERVE_MOST + USUAL)
}

/// What the process may raise its limit to; `None` where the system knows no limit.
pub(super) fn most() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}
