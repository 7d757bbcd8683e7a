//! Upstreams: which endpoint a session gets, the lease on it, and the connection to it.
//!
//! Knows nothing of clients, routes or tunnels.

pub mod balance;
pub mod queue;
mod time;
pub mod health;
pub mod handover;
pub mod endpoint;
pub mod registry;
pub mod group;
pub mod discovery;
pub mod source;
mod resolve;
pub mod connect;
pub mod exchange;
pub mod health_check;
pub mod http;
