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
