//! Tunnels: the two byte streams after the handshake, their relay, and the table of those alive.
//!
//! A tunnel holds its two sockets, a lease and its own limits; never a snapshot. What is recorded
//! of it is `observe`'s business.

pub mod side;
pub mod ended;
pub mod framing;
pub mod forwarder;
pub mod liveness;
pub mod meter;
pub mod entry;
pub mod rates;
pub mod table;
pub mod sweep;
pub mod copy;
