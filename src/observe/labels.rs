//! The values that labels of metrics have, each in a fixed order: counters are indexed by it.

use crate::upstream::connect::ConnectError;

macro_rules! labels {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $each:literal])+ $variant:ident = $token:literal,)+ }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $each])+ $variant,)+ }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// How metrics spell it.
            pub fn token(self) -> &'static str {
                match self { $(Self::$variant => $token,)+ }
            }
        }
    };
}

labels! {
    /// Why a connection was closed before it came to a request.
    RefusedConnection {
        /// `limits.connections`.
        Connections = "connections",
        /// `limits.connections_per_ip`.
        ConnectionsPerIp = "connections-per-ip",
        /// Its PROXY header, or the want of one.
        ProxyHeader = "proxy-header",
        /// As many TLS handshakes wait as may.
        TlsQueue = "tls-queue",
        /// The TLS handshake failed, or took too long.
        Tls = "tls",
    }
}

labels! {
    /// What a handshake came to.
    HandshakeOutcome {
        /// A tunnel.
        Opened = "opened",
        /// An endpoint answered something other than a 101.
        Declined = "declined",
        /// We refused it.
        Rejected = "rejected",
        /// The client went away before there was an answer.
        Abandoned = "abandoned",
    }
}

labels! {
    /// Why an endpoint was not reached.
    ConnectFailure {
        /// The deadline passed.
        Timeout = "timeout",
        /// Its name has no address.
        Resolve = "resolve",
        /// It, or the network, refused.
        Refused = "refused",
        /// No local address has a port left for it.
        Ports = "ports",
        /// This process has no descriptor left.
        Descriptors = "descriptors",
        /// The TLS handshake failed.
        Tls = "tls",
    }
}

impl ConnectFailure {
    pub(super) fn of(error: &ConnectError) -> Self {
        match error {
            ConnectError::Timeout(_) => Self::Timeout,
            ConnectError::Resolve(_) => Self::Resolve,
            ConnectError::Refused(_) => Self::Refused,
            ConnectError::Ports(_) => Self::Ports,
            ConnectError::Descriptors(_) => Self::Descriptors,
            ConnectError::Tls(_) | ConnectError::NoServerName => Self::Tls,
        }
    }
}

/// Versions of TLS, fresh and resumed.
pub const TLS: [(&str, bool); 4] = [
    ("TLSv1.2", false),
    ("TLSv1.2", true),
    ("TLSv1.3", false),
    ("TLSv1.3", true),
];

/// How metrics spell them.
pub const CLOSE_CODES: [&str; 19] = [
    "1000", "1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008", "1009", "1010", "1011",
    "1012", "1013", "1014", "1015", "3xxx", "4xxx", "other",
];

pub(super) fn close_code_position(code: u16) -> usize {
    match code {
        1000..=1015 => usize::from(code) - 1000,
        3000..=3999 => 16,
        4000..=4999 => 17,
        _ => 18,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_of_applications_are_grouped() {
        for (code, shown) in [
            (1000, "1000"),
            (1015, "1015"),
            (3000, "3xxx"),
            (4999, "4xxx"),
            (1016, "other"),
            (0, "other"),
        ] {
            assert_eq!(CLOSE_CODES[close_code_position(code)], shown, "{code}");
        }
    }

    #[test]
    fn labels_are_in_the_order_of_their_counters() {
        assert!(
            RefusedConnection::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            HandshakeOutcome::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
        assert!(
            ConnectFailure::ALL
                .iter()
                .enumerate()
                .all(|(at, it)| *it as usize == at)
        );
    }
}
