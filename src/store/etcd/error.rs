//! Why etcd has not done what it was asked.

use crate::https_client::HttpsClientError;

use super::wire::{EtcdFailure, MalformedMessage};

/// Why a request to etcd has failed.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// No member responds.
    #[error(transparent)]
    Unreached(#[from] HttpsClientError),
    /// A member responds that the cluster cannot serve now: it has no leader, or not in time.
    #[error("etcd is not available: {0}")]
    Unavailable(Box<str>),
    /// The space of etcd is used up: nothing can be written until an operator has made room.
    #[error("etcd is full: {0}")]
    Full(Box<str>),
    /// What was asked for was compacted.
    #[error("the revision was compacted")]
    Compacted,
    /// User name and password are not accepted.
    #[error("etcd does not accept the user: {0}")]
    Login(Box<str>),
    /// The token is not accepted any more.
    #[error("etcd does not accept the token: {0}")]
    Token(Box<str>),
    /// The user may not do this.
    #[error("etcd refuses it: {0}")]
    Denied(Box<str>),
    /// The lease does not exist any more.
    #[error("the lease is over")]
    NoLease,
    /// Another failure.
    #[error("etcd responds: {message} (code {code})")]
    Other {
        /// The code of gRPC.
        code: i64,
        /// What it says.
        message: Box<str>,
    },
    /// The response is not one of etcd.
    #[error(transparent)]
    Malformed(#[from] MalformedMessage),
    /// A watch has ended without a reason.
    #[error("etcd has ended the watch")]
    Ended,
    /// A watch does not show what has changed.
    #[error("the watch shows no changes any more")]
    Stale,
    /// The member of a watch does not respond to other requests, and another one does.
    #[error("another member is asked")]
    Moved,
    /// There is more under the prefix than is kept.
    #[error("there are more than {limit} {what} under the prefix")]
    TooMuch {
        /// The bound.
        limit: usize,
        /// What is bounded: `keys` or `bytes`.
        what: &'static str,
    },
}

impl From<EtcdFailure> for EtcdError {
    fn from(failure: EtcdFailure) -> Self {
        let EtcdFailure { code, message } = failure;
        let says = |text: &str| message.contains(text);
        // The codes are those of google.rpc.Code. Versions of etcd differ in them, so that sentences decide first.
        if says("invalid auth token") || says("auth revision") || says("revision of auth store") {
            return Self::Token(message);
        }
        if says("authentication failed") || says("user name is empty") {
            return Self::Login(message);
        }
        if says("permission denied") {
            return Self::Denied(message);
        }
        if says("database space exceeded") {
            return Self::Full(message);
        }
        if says("has been compacted") {
            return Self::Compacted;
        }
        if says("requested lease not found") {
            return Self::NoLease;
        }
        match code {
            7 => Self::Denied(message),
            16 => Self::Token(message),
            // Deadline exceeded, unavailable, cancelled by the server, aborted.
            1 | 4 | 10 | 14 => Self::Unavailable(message),
            _ if says("no leader") || says("leader changed") || says("timed out") => {
                Self::Unavailable(message)
            }
            _ => Self::Other { code, message },
        }
    }
}

impl EtcdError {
    /// Whether another member may do better.
    pub fn is_of_member(&self) -> bool {
        matches!(
            self,
            Self::Unreached(_)
                | Self::Unavailable(_)
                | Self::Malformed(_)
                | Self::Ended
                | Self::Stale
        )
    }

    /// Whether another token may do better.
    pub fn is_of_token(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Denied(_) | Self::Login(_))
    }

    /// Whether the request may have been carried out although there is no response that says so.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Unreached(error) => !matches!(
                error,
                HttpsClientError::Url(_)
                    | HttpsClientError::Settings(_)
                    | HttpsClientError::Resolve { .. }
                    | HttpsClientError::NoTls { .. }
                    | HttpsClientError::Connect { .. }
                    | HttpsClientError::Tls { .. }
            ),
            Self::Unavailable(_) | Self::Malformed(_) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.4.23 says it, and other versions.
    #[test]
    fn what_etcd_says_has_a_meaning() {
        let of = |code: i64, message: &str| {
            let message = message.into();
            EtcdError::from(EtcdFailure { code, message })
        };
        for (code, message, expected) in [
            (16, "etcdserver: invalid auth token", "Token"),
            (3, "etcdserver: revision of auth store is old", "Token"),
            (3, "auth: auth revision in header is old", "Token"),
            (
                3,
                "etcdserver: authentication failed, invalid user ID or password",
                "Login",
            ),
            (3, "etcdserver: user name is empty", "Login"),
            (7, "etcdserver: permission denied", "Denied"),
            (
                14,
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                "Denied",
            ),
            (
                14,
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
                "Token",
            ),
            (8, "etcdserver: mvcc: database space exceeded", "Full"),
            (8, "etcdserver: too many requests", "Other"),
            (
                11,
                "etcdserver: mvcc: required revision has been compacted",
                "Compacted",
            ),
            (5, "etcdserver: requested lease not found", "NoLease"),
            (14, "etcdserver: no leader", "Unavailable"),
            (2, "etcdserver: no leader", "Unavailable"),
            (14, "etcdserver: request timed out", "Unavailable"),
            (4, "context deadline exceeded", "Unavailable"),
            (0, "", "Other"),
        ] {
            let error = format!("{:?}", of(code, message));
            assert!(error.starts_with(expected), "{code} {message}: {error}");
        }
    }
}
