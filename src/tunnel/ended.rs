//! How a tunnel finished, as a value.

use std::fmt;
use std::time::Duration;

use super::side::Side;

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
    /// The tunnel reached the route's `max_age`.
    MaxAge,
    /// The client has not answered a Ping, nor sent anything else, for the route's `pong`.
    DeadClient,
    /// The endpoint has not answered a Ping, nor sent anything else, for the route's `pong`.
    DeadUpstream,
    /// One side had ended, and no bytes came from the other for the route's `half_closed`.
    HalfClosed,
    /// A message was longer than the route's `message_bytes`.
    MessageTooBig,
    /// The client had bytes to take and accepted none for the route's `slow_reader`.
    SlowClient,
    /// The endpoint had bytes to take and accepted none for the route's `slow_reader`.
    SlowUpstream,
    /// The memory of the process was nearly used up, and the tunnel had the most unread bytes.
    MemoryFull,
    /// The client sent more messages than the route's `messages_per_second`.
    MessageRate,
    /// The client sent more bytes than the route's `bytes_per_second`.
    ByteRate,
    /// Bytes were not valid WebSocket frames, on a route that limits messages.
    ProtocolError,
    /// Its endpoint is drained, and `on_drain` closes tunnels.
    Drain,
    /// Its endpoint is down, and `on_down` closes tunnels.
    EndpointDown,
    /// Its endpoint was removed, and `on_removed` closes tunnels.
    EndpointRemoved,
    /// Its endpoint had more than its share, and `rebalance` moves tunnels.
    Rebalance,
    /// A newer tunnel of the same key took its place: the limit has `when_full = "close_oldest"`.
    Replaced,
    /// The credential that the tunnel was opened with expired.
    CredentialExpired,
    /// The credentials of the tunnel's subject, or its client certificate, were revoked.
    Revoked,
    /// An operator closed the tunnel.
    Killed,
    /// The process stopped.
    Shutdown,
}

/// The Close frame of a tunnel that is closed on purpose, and the reason with which it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseMessage {
    /// The reason with which the tunnel ends.
    pub ended: Ended,
    /// The code of the Close frame (RFC 6455 section 7.4).
    pub code: u16,
    /// The text of the Close frame, of at most [`CloseMessage::MAX_REASON_BYTES`] bytes.
    pub reason: Box<str>,
}

/// How a tunnel finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The reason.
    pub ended: Ended,
    /// The first Close frame that passed: its sender and its code.
    pub closed: Option<(Side, u16)>,
    /// Whether either stream held bytes that were not valid frames, and was passed on unseen from
    /// there.
    pub unframed: bool,
    /// For how long no byte had come from either side. Accurate to a second.
    pub quiet: Duration,
}

impl CloseMessage {
    /// The length limit of the text: the payload of a control frame less the code (RFC 6455 section
    /// 5.5).
    pub const MAX_REASON_BYTES: usize = 123;

    /// The message with the usual code and the token as text.
    pub fn standard(ended: Ended) -> Self {
        Self {
            ended,
            code: ended.close_code().unwrap_or(1001),
            reason: ended.token().into(),
        }
    }
}

impl Ended {
    /// All reasons, in order.
    pub const ALL: [Self; 27] = [
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
        Self::MemoryFull,
        Self::MessageRate,
        Self::ByteRate,
        Self::ProtocolError,
        Self::Drain,
        Self::EndpointDown,
        Self::EndpointRemoved,
        Self::Rebalance,
        Self::Replaced,
        Self::CredentialExpired,
        Self::Revoked,
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
            Self::MemoryFull => "memory-full",
            Self::MessageRate => "message-rate",
            Self::ByteRate => "byte-rate",
            Self::ProtocolError => "protocol-error",
            Self::Drain => "drain",
            Self::EndpointDown => "endpoint-down",
            Self::EndpointRemoved => "endpoint-removed",
            Self::Rebalance => "rebalance",
            Self::Replaced => "replaced",
            Self::CredentialExpired => "credential-expired",
            Self::Revoked => "revoked",
            Self::Killed => "killed",
            Self::Shutdown => "shutdown",
        }
    }

    /// The side that broke the tunnel: it left without a Close frame, no longer answered, or read nothing.
    pub fn broken_by(self) -> Option<Side> {
        match self {
            Self::ClientEof | Self::ClientReset | Self::DeadClient | Self::SlowClient => {
                Some(Side::Client)
            }
            Self::UpstreamEof | Self::UpstreamReset | Self::DeadUpstream | Self::SlowUpstream => {
                Some(Side::Endpoint)
            }
            _ => None,
        }
    }

    /// Whether a tunnel that ends so may have a [`CloseMessage`].
    pub(super) fn is_on_purpose(self) -> bool {
        matches!(
            self,
            Self::Drain
                | Self::EndpointDown
                | Self::EndpointRemoved
                | Self::Rebalance
                | Self::Replaced
                | Self::Revoked
                | Self::Killed
                | Self::Shutdown
        )
    }

    /// Whether a tunnel ends so because of its client, of which nothing more may reach the endpoint
    /// from then on. In every other case what the client sends before it answers our Close does.
    pub(super) fn judges_client(self) -> bool {
        matches!(
            self,
            Self::MessageRate
                | Self::ByteRate
                | Self::CredentialExpired
                | Self::Revoked
                | Self::Killed
        )
    }

    /// Whether tunnels end so one by one, through no fault of their sides: then they get the time
    /// that a long message takes.
    pub(super) fn is_paced(self) -> bool {
        let is_at_once = self == Self::Replaced || self.judges_client();
        self == Self::MaxAge || (self.is_on_purpose() && !is_at_once)
    }

    /// Whether a tunnel that is ending so may still end for another `reason`: one that is closed at a pace, if
    /// that reason leaves no time.
    pub fn gives_way_to(self, reason: Self) -> bool {
        self.is_paced() && reason.ends_grace()
    }

    /// Whether a tunnel that is being closed at a pace gets no more time for that.
    pub(super) fn ends_grace(self) -> bool {
        matches!(
            self,
            Self::Killed | Self::MemoryFull | Self::CredentialExpired | Self::Revoked
        )
    }

    /// The code of the Close frame to the client (RFC 6455 section 7.4). There is none where one of
    /// the two sides ended the tunnel, or where the client accepts nothing.
    pub fn close_code(self) -> Option<u16> {
        match self {
            Self::Idle | Self::MaxAge | Self::HalfClosed | Self::DeadUpstream => Some(1001),
            Self::MessageTooBig => Some(1009),
            Self::SlowUpstream
            | Self::MemoryFull
            | Self::MessageRate
            | Self::ByteRate
            | Self::Replaced
            | Self::CredentialExpired
            | Self::Revoked
            | Self::Killed => Some(1008),
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
    fn tokens_are_unique_and_in_the_order_of_the_counters() {
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
