//! Why a certificate was not issued.

use std::time::Duration;

use instant_acme::{Error as ProtocolError, Problem};

use super::counters::OrderResult;
use super::problem::{one_line, problem_text, problem_type};
use super::renewal::FailureKind;
use super::transport::{ResponseNotes, UnusableResponse};
use crate::causes::with_causes;
use crate::https_client::HttpsClientError;
use crate::store::StoreError;

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
    /// The authority offers none of the challenges that may be used.
    #[error("the authority offers no challenge for `{name}` that `challenges` allows")]
    NoChallenge {
        /// The name that cannot be proved.
        name: String,
    },
    /// The folder cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored cannot be used.
    #[error("{what} in the folder cannot be used: {why}")]
    Stored {
        /// Which item.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// A key or a request for a certificate cannot be made.
    #[error("the key cannot be made: {0}")]
    Key(String),
    /// The record of `dns-01` could not be published.
    #[error("the DNS record cannot be published: {0}")]
    Dns(String),
    /// Another node has taken over the order.
    #[error("another node has taken over the order")]
    LeaseLost,
    /// The authority's answer is not what the protocol says.
    #[error("unexpected answer of the authority: {0}")]
    Malformed(String),
    /// There is a fault in the program.
    #[error("the order has panicked: {0}")]
    Panicked(String),
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
    /// What a failure of the protocol means. `notes` has what the last response said besides.
    pub(super) fn of(error: ProtocolError, notes: &ResponseNotes) -> Self {
        match error {
            ProtocolError::Api(problem) => Self::of_problem(&problem, notes),
            ProtocolError::Timeout(_) => {
                Self::Unreachable("the order has made no progress in time".to_owned())
            }
            ProtocolError::Other(error) => {
                if let Some(error) = error.downcast_ref::<UnusableResponse>() {
                    return Self::of_unusable(error, notes);
                }
                let text = one_line(&with_causes(&*error));
                match error.is::<HttpsClientError>() {
                    true => Self::Unreachable(text),
                    false => Self::Malformed(text),
                }
            }
            error => Self::Malformed(one_line(&with_causes(&error))),
        }
    }

    /// What a problem means that the authority describes.
    pub(super) fn of_problem(problem: &Problem, notes: &ResponseNotes) -> Self {
        let text = problem_text(problem);
        match problem_type(problem.r#type.as_deref()) {
            "rateLimited" => Self::RateLimited {
                detail: text,
                retry_after: notes.retry_after(),
            },
            // Several were tried already; a moment later the authority accepts another one.
            "serverInternal" | "badNonce" => Self::Unreachable(text),
            "accountDoesNotExist" => Self::UnknownAccount(text),
            _ => Self::Rejected(text),
        }
    }

    fn of_unusable(response: &UnusableResponse, notes: &ResponseNotes) -> Self {
        match response {
            UnusableResponse::TooMany => Self::RateLimited {
                detail: response.to_string(),
                retry_after: notes.retry_after(),
            },
            UnusableResponse::Failed { .. } => Self::Unreachable(one_line(&response.to_string())),
            UnusableResponse::Unexpected(_) => Self::Malformed(response.to_string()),
        }
    }

    /// How it is counted.
    pub fn result(&self) -> OrderResult {
        match self {
            Self::Unreachable(_) => OrderResult::Unreachable,
            Self::RateLimited { .. } => OrderResult::RateLimited,
            Self::Validation(_) => OrderResult::ValidationFailed,
            Self::Rejected(_)
            | Self::UnknownAccount(_)
            | Self::NoChallenge { .. }
            | Self::Malformed(_) => OrderResult::Rejected,
            Self::Store(_)
            | Self::Stored { .. }
            | Self::Key(_)
            | Self::Dns(_)
            | Self::LeaseLost
            | Self::Panicked(_)
            | Self::UnknownName(_)
            | Self::NoStaging(_)
            | Self::Suspended => OrderResult::Local,
        }
    }

    /// What the next attempt depends on.
    pub(super) fn kind(&self) -> FailureKind {
        match self.result() {
            OrderResult::RateLimited => match self {
                Self::RateLimited { retry_after, .. } => FailureKind::RateLimited(*retry_after),
                _ => FailureKind::RateLimited(None),
            },
            OrderResult::ValidationFailed | OrderResult::Rejected => FailureKind::Refused,
            OrderResult::Issued | OrderResult::Unreachable | OrderResult::Local => match self {
                // A hook that fails may well have been asked too often, and what has panicked may have used up an order.
                Self::Dns(_) | Self::Panicked(_) => FailureKind::Refused,
                _ => FailureKind::Outage,
            },
        }
    }

    /// What may help, if that can be said in general.
    pub(super) fn hint(&self) -> Option<&str> {
        Some(match self {
            Self::Validation(_) => {
                "the authority must reach this listener by the name: port 80 for http-01, port 443 for tls-alpn-01"
            }
            Self::Unreachable(_) => {
                "is the authority's host reachable from here, and is `ca` right?"
            }
            Self::RateLimited { .. } => "try against `letsencrypt-staging` until it works",
            Self::Store(error) if error.hint().is_some() => return error.hint(),
            Self::Store(_) | Self::Stored { .. } => {
                "the user of this process must own the folder `state`"
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> Problem {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn problems_are_told_apart_and_quoted() {
        let notes = ResponseNotes::default();
        notes.note_retry_after(Some(Duration::from_secs(7)));
        for (json, result, text) in [
            (
                r#"{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"}"#,
                OrderResult::RateLimited,
                "the authority's rate limit is reached: too many (rateLimited)",
            ),
            (
                r#"{"type": "urn:ietf:params:acme:error:serverInternal"}"#,
                OrderResult::Unreachable,
                "the authority cannot be reached: serverInternal",
            ),
            (
                r#"{"type": "urn:ietf:params:acme:error:badNonce", "detail": "used"}"#,
                OrderResult::Unreachable,
                "the authority cannot be reached: used (badNonce)",
            ),
            (
                r#"{"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "no\n\u001b[31mway"}"#,
                OrderResult::Rejected,
                "the authority rejects the order: no  [31mway (rejectedIdentifier)",
            ),
            (
                r#"{"type": "urn:ietf:params:acme:error:malformed", "detail": "some", "subproblems":
                    [{"identifier": {"type": "dns", "value": "a.example"}, "detail": "bad"}]}"#,
                OrderResult::Rejected,
                "the authority rejects the order: some (malformed); a.example: bad",
            ),
            (
                "{}",
                OrderResult::Rejected,
                "the authority rejects the order: no reason is given",
            ),
        ] {
            let error = AcmeError::of(ProtocolError::Api(problem(json)), &notes);
            assert_eq!((error.result(), &*error.to_string()), (result, text));
        }
        let limited = problem(r#"{"type": "urn:ietf:params:acme:error:rateLimited"}"#);
        let kind = AcmeError::of_problem(&limited, &notes).kind();
        assert_eq!(kind, FailureKind::RateLimited(Some(Duration::from_secs(7))));
    }

    #[test]
    fn failures_below_the_protocol_are_told_apart() {
        let notes = ResponseNotes::default();
        let other = |error: UnusableResponse| ProtocolError::Other(Box::new(error));
        let json = serde_json::from_str::<Problem>("?").unwrap_err();
        for (error, result, kind) in [
            (
                ProtocolError::Timeout(None),
                OrderResult::Unreachable,
                FailureKind::Outage,
            ),
            (
                other(UnusableResponse::TooMany),
                OrderResult::RateLimited,
                FailureKind::RateLimited(None),
            ),
            (
                other(UnusableResponse::Failed {
                    status: 503,
                    detail: String::new(),
                }),
                OrderResult::Unreachable,
                FailureKind::Outage,
            ),
            (
                other(UnusableResponse::Unexpected(404)),
                OrderResult::Rejected,
                FailureKind::Refused,
            ),
            (
                ProtocolError::Json(json),
                OrderResult::Rejected,
                FailureKind::Refused,
            ),
        ] {
            let error = AcmeError::of(error, &notes);
            assert_eq!((error.result(), error.kind()), (result, kind), "{error}");
        }
    }
}
