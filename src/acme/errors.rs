//! Why a certificate was not issued.

use std::time::Duration;

use super::counters::OrderResult;

/// Why a certificate was not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcmeError {
    /// The authority did not answer, or failed itself.
    #[error("the authority cannot be reached: {0}")]
    Unreachable(String),
    /// The authority accepts no further orders for now.
    #[error("the authority's rate limit is reached: {detail}")]
    RateLimited {
        /// What the authority says about it.
        detail: String,
        /// When it accepts orders again, as far as it says so.
        retry_after: Option<Duration>,
    },
    /// The authority rejects the names, the account or the request.
    #[error("the authority rejects the order: {0}")]
    Rejected(String),
    /// The authority does not know our account any more.
    #[error("the authority does not know the account: {0}")]
    UnknownAccount(String),
    /// The authority could not validate a name.
    #[error("validation failed: {0}")]
    Validation(String),
    /// The folder cannot be read or written.
    #[error("{0}")]
    Store(String),
    /// The record of `dns-01` could not be published.
    #[error("the DNS record cannot be published: {0}")]
    Dns(String),
    /// Another node has taken over the order.
    #[error("another node has taken over the order")]
    LeaseLost,
    /// The authority's answer is not what the protocol says.
    #[error("unexpected answer of the authority: {0}")]
    Malformed(String),
    /// No managed certificate has this name.
    #[error("no managed certificate has the name `{0}`")]
    UnknownName(String),
    /// The authority has no directory for trials.
    #[error("the authority `{0}` has no staging directory that is known")]
    NoStaging(String),
    /// The process stops, or has handed over.
    #[error("the process is stopping")]
    Suspended,
}

impl AcmeError {
    /// How it is counted.
    pub fn result(&self) -> OrderResult {
        match self {
            Self::Unreachable(_) => OrderResult::Unreachable,
            Self::RateLimited { .. } => OrderResult::RateLimited,
            Self::Validation(_) => OrderResult::ValidationFailed,
            Self::Rejected(_) | Self::UnknownAccount(_) | Self::Malformed(_) => {
                OrderResult::Rejected
            }
            Self::Store(_)
            | Self::Dns(_)
            | Self::LeaseLost
            | Self::UnknownName(_)
            | Self::NoStaging(_)
            | Self::Suspended => OrderResult::Local,
        }
    }
}
