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
        /// Whether it waits to be left, and may send [`SuccessorMessage::Leave`] meanwhile. Version 0.1.0
        /// does neither.
        #[serde(default)]
        settles: bool,
    },
    /// The process of the successor is there, and waits for [`PredecessorMessage::Run`]. This and
    /// [`SuccessorMessage::NotRun`] come from the predecessor's own program.
    Launched {
        /// The process ID.
        pid: u32,
    },
    /// The program of the successor cannot be run.
    NotRun {
        /// The error number of the system.
        code: i32,
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
    /// The predecessor is to leave now, rather than at the end of the settling time.
    Leave,
}

impl SuccessorMessage {
    pub(super) fn hello() -> Self {
        Self::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settles: true,
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
    /// The process of the successor may run its program.
    Run,
    /// The successor may accept connections.
    Go,
    /// The predecessor has stopped accepting for good.
    Left,
    /// The same, and it was asked to stop: so is the successor. Not for version 0.1.0.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes of other versions read these: version 0.1.0 has all but `settles`, `leave` and `stop`.
    #[test]
    fn the_messages_are_those_that_other_versions_use() {
        let text = |message: &SuccessorMessage| serde_json::to_string(message).unwrap();
        let lines = vec!["why".to_owned()];
        for (message, expected) in [
            (
                SuccessorMessage::Failed { lines },
                r#"{"says":"failed","lines":["why"]}"#,
            ),
            (SuccessorMessage::Prepared, r#"{"says":"prepared"}"#),
            (SuccessorMessage::Serving, r#"{"says":"serving"}"#),
            (SuccessorMessage::Leave, r#"{"says":"leave"}"#),
        ] {
            assert_eq!(text(&message), expected);
        }
        let version = env!("CARGO_PKG_VERSION");
        let hello =
            format!(r#"{{"says":"hello","protocol":1,"version":"{version}","settles":true}}"#);
        assert_eq!(text(&SuccessorMessage::hello()), hello);
        let text = |message| serde_json::to_string(&message).unwrap();
        assert_eq!(text(PredecessorMessage::Go), r#""go""#);
        assert_eq!(text(PredecessorMessage::Left), r#""left""#);
        assert_eq!(text(PredecessorMessage::Stop), r#""stop""#);
    }

    #[test]
    fn a_successor_of_version_0_1_0_does_not_settle() {
        let hello = r#"{"says":"hello","protocol":1,"version":"0.1.0"}"#;
        let read = serde_json::from_str(hello).unwrap();
        let SuccessorMessage::Hello { settles, .. } = read else {
            unreachable!("it says hello");
        };
        assert!(!settles);
    }
}
