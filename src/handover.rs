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
//!    │──────────────────────────────────►│ pauses accepting, for the settling time
//!    │ leave (if it cannot wait)         │
//!    │──────────────────────────────────►│ leaves: gives up its sockets, notifies systemd
//!    │                              left │
//!    │◄──────────────────────────────────│
//! ```
//!
//! Until the predecessor leaves, any failure and the end of the channel leave it in service, as it was.
//! `launch` is how the process of the successor comes to be; `predecessor` and `successor` are the two sides.
//! Until `serving` their functions block, and `server` runs them on a blocking thread once anything else runs;
//! from then on both sides await messages (`dialogue`).

pub mod channel;
mod descriptors;
mod dialogue;
pub mod identity;
pub mod launch;
pub mod link;
mod message;
pub mod predecessor;
pub mod state;
pub mod successor;
