//! Sockets: listening, accepted and dialled ones, TLS around them, and limits on their number.
//!
//! Knows nothing of HTTP, routes or upstreams.

pub mod gate;
pub mod admission;
pub mod listener;
pub mod socket_file;
pub mod listen;
pub mod inherited;
pub mod stream;
pub mod proxy_protocol;
pub mod tickets;
pub mod tls;
pub mod handshakes;
