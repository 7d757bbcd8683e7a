//! The nodes that share a store: this one's place among them, and which others there are.
//!
//! Each node has one item in the store, `members/NODE`, with a lease: it is gone soon after the node. What is in it
//! is for operators. Nothing that serves clients depends on it.

pub mod place;
pub mod record;
pub mod claim;
pub mod roster;
mod publisher;
pub mod key_status;
pub mod membership;
