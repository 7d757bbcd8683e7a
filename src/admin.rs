//! Where operators look: metrics and health.
//!
//! All of it runs on the control runtime. What only a worker knows it is asked for, through a queue
//! of its own, so that nobody's questions get in the way of connections.

pub mod ask;
pub mod http;
pub mod public;
