//! Recording what happened: counters, metrics and log lines.
//!
//! The stages of a session return what happened, and only this module records it, so that counters
//! and log lines cannot contradict each other.

pub mod access_log;
pub mod certificates;
pub mod counter;
pub mod counters;
pub mod exposition;
pub mod facts;
mod forgotten;
pub mod histogram;
pub mod labelled;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod process;
pub mod recorder;
pub mod series;
pub mod spans;
#[cfg(test)]
pub(crate) mod testing;
pub mod traffic;
pub mod worker_usage;
