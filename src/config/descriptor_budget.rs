//! The number of open files that tunnels require, and the limit on it.

use rustix::process::{Resource, getrlimit};

/// Open files of a tunnel: one for the client, one for the endpoint.
pub const PER_TUNNEL: u64 = 2;

/// The highest number of open files that are kept for other purposes: logs, listening sockets, reloads.
const MAX_RESERVE: u64 = 128;

/// Open files before the first tunnel: event queues of a few workers, logs, signals, listeners.
const BASE: u64 = 64;

/// The part of a limit of `descriptors` that clients cannot use, so that connecting to an endpoint does
/// not fail for lack of a descriptor.
pub fn reserve(descriptors: u64) -> u64 {
    MAX_RESERVE.min(descriptors / 8)
}

/// The limit on open files that this number of tunnels requires.
pub(super) fn needed(tunnels: usize) -> u64 {
    let tunnels = u64::try_from(tunnels).unwrap_or(u64::MAX);
    tunnels
        .saturating_mul(PER_TUNNEL)
        .saturating_add(MAX_RESERVE + BASE)
}

/// The hard limit, which the process may raise its limit to; `None` if there is none.
pub(super) fn hard_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).maximum
}
