//! Errors of the admin interface: why a request was not carried out.

use std::fmt;

use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::displace::jobs::TooManyJobs;
use crate::displace::worker_queries::WorkerUnresponsive;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Status code of the response.
    pub status: StatusCode,
    /// Body of the response.
    pub body: ErrorResponse,
}

/// An error: why the request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorResponse {
    /// What is wrong and what to do about it, in one sentence.
    pub error: String,
    /// All problems, one line each, where there is more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

impl ApiError {
    /// An error with this status and sentence.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorResponse {
                error: error.into(),
                details: Vec::new(),
            },
        }
    }

    /// The request is not valid.
    pub fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// What the request names does not exist.
    pub fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// There is nothing of this name: `what` is its kind, and `known` are all names of that kind.
    pub fn unknown<'a>(
        what: &str,
        name: &str,
        known: impl ExactSizeIterator<Item = &'a str>,
    ) -> Self {
        let known = listed(known);
        Self::not_found(format!("there is no {what} `{name}`; known: {known}"))
    }

    /// There is no such endpoint. Upstreams may have thousands of them: none is listed.
    pub fn unknown_endpoint(name: &str) -> Self {
        Self::not_found(format!(
            "there is no endpoint `{name}`; `tidegate status` lists all endpoints"
        ))
    }

    /// The request is valid, but the current state does not allow it.
    pub fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    /// The process or one of its parts is busy or stopping: the same request may succeed later.
    pub fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    /// The same error with a line for each problem.
    pub fn with_details(mut self, details: Vec<String>) -> Self {
        self.body.details = details;
        self
    }
}

/// Names that a message lists.
const LISTED_NAMES: usize = 10;

/// Names for a message: the first few, and how many others there are.
pub fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(LISTED_NAMES);
    let mut listed: Vec<String> = names.take(LISTED_NAMES).map(str::to_owned).collect();
    if more > 0 {
        listed.push(format!("and {more} more"));
    }
    match listed.is_empty() {
        true => "none".to_owned(),
        false => listed.join(", "),
    }
}

impl From<WorkerUnresponsive> for ApiError {
    fn from(error: WorkerUnresponsive) -> Self {
        Self::unavailable(error.to_string())
    }
}

impl From<TooManyJobs> for ApiError {
    fn from(error: TooManyJobs) -> Self {
        Self::conflict(error.to_string())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.body.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_lists_a_few_names() {
        let names: Vec<String> = (1..=12).map(|number| format!("n{number}")).collect();
        let of = |count: usize| listed(names.iter().take(count).map(String::as_str));
        assert_eq!(of(0), "none");
        assert_eq!(of(2), "n1, n2");
        assert_eq!(
            of(12),
            "n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, and 2 more"
        );
    }
}
