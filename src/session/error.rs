//! The error of a session: the rejection that the client gets, and the detail that only the log
//! shows.

use crate::observe::causes::with_causes;
use crate::protocol::rejection::Rejection;

/// A rejection, and the detail that the log shows with it.
#[derive(Debug)]
pub(super) struct SessionError {
    pub(super) rejection: Rejection,
    pub(super) detail: Option<String>,
}

impl From<Rejection> for SessionError {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection,
            detail: None,
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
            rejection,
            detail: Some(format!("{endpoint}: {causes}")),
        }
    }
}
