//! The response of tidegate itself that a request would get.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::Respond;
use crate::observe::process::Readiness;
use crate::protocol::rejection::Rejection;

/// A response of tidegate itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OwnResponse {
    /// The status code.
    pub status: u16,
    /// The reason token, as in logs and metrics; `redirect` for a redirect, `respond` for a route that responds.
    pub reason: String,
    /// The body of the response, or the target of a redirect.
    pub text: String,
}

impl OwnResponse {
    pub(super) fn of(rejection: Rejection) -> Self {
        Self {
            status: rejection.status().as_u16(),
            reason: rejection.token().to_owned(),
            text: rejection.text().trim_end().to_owned(),
        }
    }

    /// The response of a route that leads to no upstream.
    pub(super) fn of_route(respond: &Respond, readiness: Readiness) -> Self {
        let (status, text) = match respond {
            Respond::Fixed(response) => {
                let text = String::from_utf8_lossy(&response.body).into_owned();
                (response.status, text)
            }
            Respond::Readiness => (readiness.status(), readiness.text().to_owned()),
        };
        Self {
            status: status.as_u16(),
            reason: "respond".to_owned(),
            text: text.trim_end().to_owned(),
        }
    }
}
