//! The error of a session: the rejection that the client gets, and the detail that only the log
//! shows.

use crate::auth::accepted_tokens::TokenError;
use crate::causes::with_causes;
use crate::protocol::rejection::Rejection;
use crate::protocol::retry_after::ClientWait;

/// A rejection, and the detail that the log shows with it.
#[derive(Debug)]
pub(super) struct SessionError {
    pub(super) rejection: Rejection,
    pub(super) detail: Option<String>,
    /// How long the client has to wait, if it may come back.
    pub(super) wait: ClientWait,
}

impl From<Rejection> for SessionError {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection,
            detail: None,
            wait: ClientWait::default(),
        }
    }
}

impl SessionError {
    /// A rejection because of an error at `endpoint`, with the whole chain of causes as detail.
    pub(super) fn caused_by(
        rejection: Rejection,
        endpoint: &str,
        error: &dyn std::error::Error,
    ) -> Self {
        // hyper's own message ("connection error") is only the first link of the chain: the cause
        // that an operator can act on comes later.
        let causes = with_causes(error);
        Self {
            detail: Some(format!("{endpoint}: {causes}")),
            ..rejection.into()
        }
    }

    /// The same for a client that has to wait.
    pub(super) fn with_wait(self, wait: ClientWait) -> Self {
        Self { wait, ..self }
    }
}

impl From<TokenError> for SessionError {
    fn from(error: TokenError) -> Self {
        Self {
            detail: Some(error.to_string()),
            ..error.rejection().into()
        }
    }
}

/// Why no endpoint of an upstream served a request.
#[derive(Debug)]
pub(super) struct Unserved<T> {
    pub(super) error: SessionError,
    /// The request, if no byte of it was written to any endpoint: another upstream may serve it.
    pub(super) unsent: Option<T>,
}

impl<T> Unserved<T> {
    /// The request, if another upstream may serve it: no endpoint of this one can be reached. One whose
    /// endpoints are merely full is left to its queue and its limits.
    pub(super) fn for_another(self) -> Result<(T, SessionError), SessionError> {
        let is_unreachable = matches!(
            self.error.rejection,
            Rejection::NoEndpoint
                | Rejection::ConnectFailed
                | Rejection::ConnectTimeout
                | Rejection::NameUnresolved
                | Rejection::BadAnswer
        );
        match self.unsent {
            Some(unsent) if is_unreachable => Ok((unsent, self.error)),
            _ => Err(self.error),
        }
    }
}

impl<T> From<SessionError> for Unserved<T> {
    fn from(error: SessionError) -> Self {
        Self {
            error,
            unsent: None,
        }
    }
}

impl<T> From<Rejection> for Unserved<T> {
    fn from(rejection: Rejection) -> Self {
        SessionError::from(rejection).into()
    }
}
