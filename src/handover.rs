//! The handover from a running process (the predecessor) to the one that replaces it (the successor):
//! listening sockets, session ticket keys, and the state of upstreams.
//!
//! ```text
//! successor                         predecessor
//!    │ hello: the configuration is valid │
//!    │──────────────────────────────────►│
//!    │    state: sockets, keys, counts   │
//!    │◄──────────────────────────────────│
//!    │ prepared (or failed, and why)     │
//!    │──────────────────────────────────►│
//!    │                                go │
//!    │◄──────────────────────────────────│
//!    │ serving                           │
//!    │──────────────────────────────────►│ stops accepting, notifies systemd
//!    │                              left │
//!    │◄──────────────────────────────────│
//! ```
//!
//! Until `serving`, any failure leaves the predecessor in service, unchanged. `predecessor` and
//! `successor` are the two sides. Their functions block: `server` runs them on a blocking
//! thread once anything else runs.

mod channel;
mod descriptors;
pub mod identity;
pub mod link;
mod message;
pub mod predecessor;
pub mod state;
pub mod successor;
