//! Which process this is, among the generations that run side by side after an upgrade.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which process it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// How many upgrades came before it: 1 for one that was started by itself.
    pub generation: u64,
    /// The process.
    pub pid: u32,
    /// Of tidegate.
    pub version: String,
    /// When it began.
    pub started: String,
}

/// A time, for people and machines (RFC 3339).
pub fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
