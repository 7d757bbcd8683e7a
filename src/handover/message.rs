//! The messages that the two processes exchange, apart from the state.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The version of the protocol. A successor of another version is refused.
const PROTOCOL: u32 = 1;

/// How long the other process may take for a step: a start resolves names and reads files.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// A message from the successor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "lowercase")]
pub(super) enum SuccessorMessage {
    /// The configuration is valid.
    Hello {
        /// See [`PROTOCOL`].
        protocol: u32,
        /// The version of tidegate.
        version: String,
    },
    /// The successor cannot take over.
    Failed {
        /// The reasons, one per line.
        lines: Vec<String>,
    },
    /// Everything that can fail is done.
    Prepared,
    /// The successor accepts connections.
    Serving,
}

impl SuccessorMessage {
    pub(super) fn hello() -> Self {
        Self::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether this process understands a successor of this protocol version.
    pub(super) fn is_understood(protocol: u32) -> bool {
        protocol == PROTOCOL
    }
}

/// A message from the predecessor, which otherwise sends only the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum PredecessorMessage {
    /// The successor may accept connections.
    Go,
    /// The predecessor has stopped accepting.
    Left,
}
