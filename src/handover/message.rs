//! What the two processes say to each other, the state aside.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The version of what is said.
const PROTOCOL: u32 = 1;

/// How long the other side may take for a step. A start looks up names and reads files.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// What a successor says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "lowercase")]
pub(super) enum SuccessorMessage {
    /// It has read its configuration.
    Hello {
        /// See [`PROTOCOL`].
        protocol: u32,
        /// Of tidegate.
        version: String,
    },
    /// It cannot take over.
    Failed {
        /// Why.
        lines: Vec<String>,
    },
    /// It has all that it needs.
    Prepared,
    /// It accepts connections.
    Serving,
}

impl SuccessorMessage {
    pub(super) fn hello() -> Self {
        Self::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether a successor of this protocol is understood.
    pub(super) fn is_understood(protocol: u32) -> bool {
        protocol == PROTOCOL
    }
}

/// What a predecessor says besides the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PredecessorMessage {
    /// Accept connections.
    Go,
    /// They are all yours.
    Left,
}
