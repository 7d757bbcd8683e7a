//! tidegate: a reverse proxy and load balancer for WebSocket fleets.
//!
//! The `mod` lines below are in layer order: a file imports only from modules above its own.
//! `tests/tidy` holds the tree to that. ARCHITECTURE.md has the map and the invariants.

pub mod config;
pub mod protocol;
pub mod drain;
pub mod vital;
pub mod causes;
pub mod systemd;
pub mod quota;
pub mod net;
pub mod route;
pub mod upstream;
pub mod https_client;
pub mod kubernetes;
pub mod store;
pub mod fleet;
pub mod traces;
pub mod acme;
pub mod auth;
pub mod handover;
pub mod tunnel;
pub mod streams;
pub mod snapshot;
pub mod probe;
pub mod observe;
pub mod session;
pub mod front;
pub mod displace;
pub mod admin;
pub mod server;
