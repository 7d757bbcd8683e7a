//! How a stream ended, as a value.

use std::fmt;

use crate::tunnel::ended::Ended;

/// How a stream ended. The tokens are stable: logs, metrics and the admin interface share them, and those of a
/// tunnel that ends for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnded {
    /// The response was passed on to its end.
    Complete,
    /// The client disconnected, or did not accept the response in time.
    ClientLeft,
    /// The connection to the endpoint broke in the middle of the response.
    UpstreamReset,
    /// tidegate rejected the request: the endpoint did not respond in time, or not with a valid response.
    Rejected,
    /// The endpoint sent nothing of the body of its response for the upstream's `timeouts.body`.
    BodyTimeout,
    /// tidegate ended it for a reason that ends tunnels, too.
    Forced(Ended),
}

impl StreamEnded {
    /// The reasons that tunnels do not have.
    const OWN: [Self; 5] = [
        Self::Complete,
        Self::ClientLeft,
        Self::UpstreamReset,
        Self::Rejected,
        Self::BodyTimeout,
    ];

    /// The number of reasons.
    pub const COUNT: usize = Self::OWN.len() + Ended::ALL.len();

    /// All reasons, in the order of their positions.
    pub fn all() -> impl Iterator<Item = Self> {
        let forced = Ended::ALL.into_iter().map(Self::Forced);
        Self::OWN.into_iter().chain(forced)
    }

    /// The position in an array of all reasons.
    pub fn position(self) -> usize {
        match self {
            Self::Complete => 0,
            Self::ClientLeft => 1,
            Self::UpstreamReset => 2,
            Self::Rejected => 3,
            Self::BodyTimeout => 4,
            Self::Forced(ended) => Self::OWN.len() + ended as usize,
        }
    }

    /// The reason that tunnels have, too, if it is one.
    pub fn forced(self) -> Option<Ended> {
        match self {
            Self::Forced(ended) => Some(ended),
            _ => None,
        }
    }

    /// The stable token.
    pub fn token(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client-left",
            Self::UpstreamReset => "upstream-reset",
            Self::Rejected => "rejected",
            Self::BodyTimeout => "body-timeout",
            Self::Forced(ended) => ended.token(),
        }
    }
}

impl fmt::Display for StreamEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_the_order_of_the_counters() {
        let all: Vec<StreamEnded> = StreamEnded::all().collect();
        assert_eq!(all.len(), StreamEnded::COUNT);
        for (position, reason) in all.iter().enumerate() {
            assert_eq!(reason.position(), position, "{reason}");
        }
    }
}
