//! Handing over from a running process to the one that succeeds it: listening sockets, keys and what is
//! known of upstreams.
//!
//! ```text
//! successor                         predecessor
//!    │ hello: the configuration is good  │
//!    │──────────────────────────────────►│
//!    │    state: sockets, keys, counts   │
//!    │◄──────────────────────────────────│
//!    │ prepared (or failed, and why)     │
//!    │──────────────────────────────────►│
//!    │                                go │
//!    │◄──────────────────────────────────│
//!    │ serving                           │
//!    │──────────────────────────────────►│ stops accepting, tells the service manager
//!    │                              left │
//!    │◄──────────────────────────────────│
//! ```
//!
//! Until `serving`, whatever goes wrong leaves the predecessor as it was. `predecessor` and `successor`
//! are the two sides; both block, and `server` says when they run.

mod channel;
mod descriptors;
pub mod identity;
pub mod link;
mod message;
pub mod predecessor;
pub mod state;
pub mod successor;
