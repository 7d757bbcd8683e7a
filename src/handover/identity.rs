//! Which process this is, among the generations that run side by side after an upgrade.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which process it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// Its number in the sequence of upgrades; 1 if it was not started by an upgrade.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// Its version of tidegate.
    pub version: String,
    /// When it started.
    pub started: String,
}

/// A time in RFC 3339, which people and machines can read.
pub fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
