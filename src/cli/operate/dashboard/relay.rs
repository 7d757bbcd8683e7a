//! What the page asks of the admin interface by itself: lists of tunnels, explanations, plans; with `--steer` also
//! changes.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use tidegate::admin::api::operation::Operation;
use tidegate::admin::error::ErrorResponse;
use tidegate::config::model::AdminRole;

use super::DashboardArgs;
use crate::cli::client::{AdminClient, ClientError};

/// Passes operations on.
pub(super) struct PageRelay {
    client: AdminClient,
    pub(super) may_steer: bool,
}

impl PageRelay {
    pub(super) fn new(args: &DashboardArgs) -> Self {
        Self {
            client: args.client.clone(),
            may_steer: args.steer,
        }
    }

    /// The operation of a request, if the page may use it.
    pub(super) fn operation(&self, parts: &Parts) -> Result<Operation, (StatusCode, String)> {
        operation(&parts.method, parts.uri.path(), self.may_steer)
    }

    /// Passes an operation on; returns the response, or its status and what is wrong.
    pub(super) async fn pass(
        &self,
        operation: Operation,
        query: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, (StatusCode, String)> {
        let sent = self.client.send(operation, query, body).await;
        sent.map_err(|failure| match failure {
            ClientError::Refused(ErrorResponse { error, details }, status) => {
                let lines = std::iter::once(error).chain(details);
                (status, lines.collect::<Vec<_>>().join("\n"))
            }
            ClientError::Unreached(unreached) => (StatusCode::BAD_GATEWAY, unreached.why),
            ClientError::Incomplete(incomplete) => (StatusCode::BAD_GATEWAY, incomplete.why),
        })
    }
}

/// The operation with this method and path, if a page may use it.
fn operation(
    method: &Method,
    path: &str,
    may_steer: bool,
) -> Result<Operation, (StatusCode, String)> {
    let mut all = Operation::ALL.iter().copied();
    let found = all.find(|it| it.path() == path && it.method() == *method);
    let missing = || {
        (
            StatusCode::NOT_FOUND,
            format!("there is no {method} {path}"),
        )
    };
    let found = found.filter(|it| !it.is_internal()).ok_or_else(missing)?;
    match found.role() {
        AdminRole::Read => Ok(found),
        AdminRole::Steer if may_steer && found != Operation::Upgrade => Ok(found),
        AdminRole::Steer if !may_steer => Err((
            StatusCode::FORBIDDEN,
            "this page only shows; start `tidegate dashboard --steer` to change something"
                .to_owned(),
        )),
        _ => Err((
            StatusCode::FORBIDDEN,
            "use the command line for this".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_changes_something_only_with_steer() {
        for each in Operation::ALL {
            let of = |may_steer| operation(&each.method(), each.path(), may_steer).is_ok();
            let reads = !each.changes() && !each.is_internal();
            assert_eq!(of(false), reads, "{each:?}");
            let steers = each.role() == AdminRole::Steer && !each.is_internal();
            let steers = steers && *each != Operation::Upgrade;
            assert_eq!(of(true), reads || steers, "{each:?}");
        }
        assert!(operation(&Method::POST, "/v1/status", true).is_err());
        assert!(operation(&Method::GET, "/v1/../v1/status", true).is_err());
    }
}
