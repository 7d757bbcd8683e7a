//! Tunnels: the two byte streams after a handshake, their relay, and each worker's table of open
//! ones.
//!
//! A tunnel holds its two sockets, a lease and its own limits, never a snapshot. Recording what
//! happens to tunnels is the business of `observe`.

pub mod side;
pub mod ended;
pub mod framing;
pub mod forwarder;
pub mod liveness;
pub mod meter;
pub mod slow_reader;
pub mod rates;
pub mod extras;
pub mod entry;
pub mod slots;
pub mod bound_certificates;
pub mod bindings;
pub mod clock;
pub mod turn;
pub mod scratch;
pub mod unwritten;
pub mod table;
mod passing;
pub mod sweep;
pub mod copy;

use std::time::Duration;

/// How often limits are checked, and so by how much a tunnel may outlive one.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
