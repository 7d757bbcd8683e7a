//! How log lines are written: their form, their way out, and where they go.
//!
//! Which lines there are is not decided here: `access_log` has those of sessions.

pub mod fields;
mod loss;
pub mod record;
pub mod sink;
pub mod start;
pub mod writer;
