//! How a tunnel finished, as a value.

use std::fmt;

/// How a tunnel finished. The tokens are stable: logs, metrics and the admin interface share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The client closed its side first, in order.
    ClientEof,
    /// The endpoint closed its side first, in order.
    UpstreamEof,
    /// The client's connection broke.
    ClientReset,
    /// The endpoint's connection broke.
    UpstreamReset,
    /// No bytes either way for the route's `idle`.
    Idle,
    /// One side had ended, and no bytes came from the other for the route's `half_closed`.
    HalfClosed,
    /// The process stopped.
    Shutdown,
}

impl Ended {
    /// Every way there is.
    pub const ALL: [Self; 7] = [
        Self::ClientEof,
        Self::UpstreamEof,
        Self::ClientReset,
        Self::UpstreamReset,
        Self::Idle,
        Self::HalfClosed,
        Self::Shutdown,
    ];

    /// The stable token.
    pub fn token(self) -> &'static str {
        match self {
            Self::ClientEof => "client-eof",
            Self::UpstreamEof => "upstream-eof",
            Self::ClientReset => "client-reset",
            Self::UpstreamReset => "upstream-reset",
            Self::Idle => "idle",
            Self::HalfClosed => "half-closed",
            Self::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_unique_and_all_is_in_order() {
        for (position, ended) in Ended::ALL.into_iter().enumerate() {
            assert_eq!(ended as usize, position, "counters are indexed by it");
            assert!(
                Ended::ALL
                    .iter()
                    .filter(|other| other.token() == ended.token())
                    .count()
                    == 1
            );
        }
    }
}
