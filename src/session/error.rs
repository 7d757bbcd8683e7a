//! Why a session is refused: what the client is told, and what only the log says.

use crate::protocol::rejection::Rejection;

/// A refusal, and what else the operator should know of it.
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
    /// On account of `endpoint`.
    pub(super) fn caused_by(
        rejection: Rejection,
        endpoint: &str,
        error: &dyn std::error::Error,
    ) -> Self {
        // The chain matters here: hyper's own words are only the first link.
        let mut detail = format!("{endpoint}: {error}");
        let mut source = error.source();
        while let Some(error) = source {
            detail.push_str(": ");
            detail.push_str(&error.to_string());
            source = error.source();
        }
        Self {
            rejection,
            detail: Some(detail),
        }
    }
}
