//! A store in etcd, by its JSON gateway (`/v3/…`), which etcd 3.4 and later have on the same port as gRPC.
//!
//! Everything here runs on the control runtime. Nothing that serves clients waits for it.

pub mod wire;
pub mod error;
pub mod client;
pub mod contents;
pub mod health;
pub mod mirror;
pub mod link;
pub mod items;
#[cfg(test)]
pub(crate) mod testing;
