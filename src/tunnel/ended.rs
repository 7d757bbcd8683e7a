//! How a tunnel finished, as a value.

use std::fmt;

/// How a tunnel finished. The tokens are stable: logs, metrics and the admin interface share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The client sent a Close frame first.
    ClientClose,
    /// The endpoint sent a Close frame first.
    UpstreamClose,
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
    /// It was as old as the route's `max_age` lets it become.
    MaxAge,
    /// The client has not answered a Ping, nor sent anything else, for the route's `pong`.
    DeadClient,
    /// The endpoint has not, likewise.
    DeadUpstream,
    /// One side had ended, and no bytes came from the other for the route's `half_closed`.
    HalfClosed,
    /// A message was longer than the route's `message_bytes`.
    MessageTooBig,
    /// The client had bytes to take and took none for the route's `slow_reader`.
    SlowClient,
    /// The endpoint had, likewise.
    SlowUpstream,
    /// The client sent more messages than the route's `messages_per_second`.
    MessageRate,
    /// The client sent more bytes than the route's `bytes_per_second`.
    ByteRate,
    /// What came was no WebSocket framing, on a route that limits messages.
    ProtocolError,
    /// Its endpoint is drained, and `on_drain` says so.
    Drain,
    /// Its endpoint is down, and `on_down` says so.
    EndpointDown,
    /// Its endpoint is gone, and `on_removed` says so.
    EndpointRemoved,
    /// Its endpoint had more than its share, and `rebalance` says so.
    Rebalance,
    /// An operator closed it.
    Killed,
    /// The process stopped.
    Shutdown,
}

/// How a tunnel is to end that is closed on purpose, and what its Close frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseMessage {
    /// As what it ends.
    pub ended: Ended,
    /// Its code (RFC 6455 section 7.4).
    pub code: u16,
    /// Its reason, of at most [`CloseMessage::MAX_REASON_BYTES`] bytes.
    pub reason: Box<str>,
}

impl CloseMessage {
    /// Bytes that a reason may have (RFC 6455 section 5.5).
    pub const MAX_REASON_BYTES: usize = 123;

    /// What is said if nobody says something else.
    pub fn standard(ended: Ended) -> Self {
        Self {
            ended,
            code: ended.close_code().unwrap_or(1001),
            reason: ended.token().into(),
        }
    }
}

impl Ended {
    /// Every way there is.
    pub const ALL: [Self; 23] = [
        Self::ClientClose,
        Self::UpstreamClose,
        Self::ClientEof,
        Self::UpstreamEof,
        Self::ClientReset,
        Self::UpstreamReset,
        Self::Idle,
        Self::MaxAge,
        Self::DeadClient,
        Self::DeadUpstream,
        Self::HalfClosed,
        Self::MessageTooBig,
        Self::SlowClient,
        Self::SlowUpstream,
        Self::MessageRate,
        Self::ByteRate,
        Self::ProtocolError,
        Self::Drain,
        Self::EndpointDown,
        Self::EndpointRemoved,
        Self::Rebalance,
        Self::Killed,
        Self::Shutdown,
    ];

    /// The stable token.
    pub fn token(self) -> &'static str {
        match self {
            Self::ClientClose => "client-close",
            Self::UpstreamClose => "upstream-close",
            Self::ClientEof => "client-eof",
            Self::UpstreamEof => "upstream-eof",
            Self::ClientReset => "client-reset",
            Self::UpstreamReset => "upstream-reset",
            Self::Idle => "idle",
            Self::MaxAge => "max-age",
            Self::DeadClient => "dead-client",
            Self::DeadUpstream => "dead-upstream",
            Self::HalfClosed => "half-closed",
            Self::MessageTooBig => "message-too-big",
            Self::SlowClient => "slow-client",
            Self::SlowUpstream => "slow-upstream",
            Self::MessageRate => "message-rate",
            Self::ByteRate => "byte-rate",
            Self::ProtocolError => "protocol-error",
            Self::Drain => "drain",
            Self::EndpointDown => "endpoint-down",
            Self::EndpointRemoved => "endpoint-removed",
            Self::Rebalance => "rebalance",
            Self::Killed => "killed",
            Self::Shutdown => "shutdown",
        }
    }

    /// Whether it may have words of its own.
    pub(super) fn is_on_purpose(self) -> bool {
        matches!(
            self,
            Self::Drain
                | Self::EndpointDown
                | Self::EndpointRemoved
                | Self::Rebalance
                | Self::Killed
                | Self::Shutdown
        )
    }

    /// The code of the Close that the client gets (RFC 6455 section 7.4); none where it was one of
    /// the two sides that ended the tunnel, or where it takes nothing.
    pub fn close_code(self) -> Option<u16> {
        match self {
            Self::Idle | Self::MaxAge | Self::HalfClosed | Self::DeadUpstream => Some(1001),
            Self::MessageTooBig => Some(1009),
            Self::SlowUpstream | Self::MessageRate | Self::ByteRate | Self::Killed => Some(1008),
            Self::ProtocolError => Some(1002),
            Self::Drain
            | Self::EndpointDown
            | Self::EndpointRemoved
            | Self::Rebalance
            | Self::Shutdown => Some(1012),
            _ => None,
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
