//! Sockets: listening, accepted and dialled ones, TLS around them, and limits on their number.
//!
//! Knows nothing of HTTP, routes or upstreams.

pub mod listener_limits;
pub mod admission;
pub mod listener;
pub mod socket_file;
pub mod keepalive;
pub mod memory;
pub mod bind;
mod socket_holder;
pub mod listen_error;
pub mod inherited;
pub mod managed_certificates;
pub mod hangup;
pub mod http2;
pub mod client_body;
mod client_hello;
pub mod tls_engine;
pub mod stream;
pub mod turns;
pub mod first_byte;
pub mod proxy_protocol;
pub mod tls_tickets;
mod certificates;
pub mod certificate_fault;
pub mod server_verifier;
pub mod tls;
pub mod tls_handshakes;
pub mod tls_failure;
