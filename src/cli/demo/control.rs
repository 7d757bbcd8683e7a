//! The controls of the page: they steer the backends, and operate tidegate as any operator would.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tidegate::admin::api::endpoints::EndpointChangeResponse;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::command::ReloadResponse;
use tidegate::handover::identity::Identity;

use super::admin::{DemoAdmin, OperationFailure};
use super::crowd::Crowd;
use super::fleet::{DemoBackend, DemoFleet};
use super::overview::Overview;
use super::stage::Stage;
use crate::cli::err;

/// A header that only pages of this origin can send: for any other page, the browser would ask the
/// server first (a CORS preflight request).
const OWN_HEADER: &str = "x-tidegate-demo";

/// What the controls act on.
pub(super) struct DemoControl {
    pub(super) fleet: Arc<DemoFleet>,
    pub(super) stage: Arc<Stage>,
    pub(super) admin: DemoAdmin,
    pub(super) crowd: Arc<Crowd>,
}

/// The result of a control: a value, or a status code and a sentence.
pub(super) type ControlResult = Result<Value, (StatusCode, String)>;

/// A control of the page.
#[derive(Debug, PartialEq, Eq)]
enum ControlRequest {
    /// `GET /control/overview?since=7`
    Overview(u64),
    /// `POST /control/backends/2/drain`
    Backend(usize, BackendAction),
    /// `POST /control/reload`
    Reload,
    /// `POST /control/upgrade`
    Upgrade,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BackendAction {
    Start,
    Stop,
    Drain,
    Undrain,
}

impl ControlRequest {
    fn parse<B>(request: &Request<B>) -> Result<Self, StatusCode> {
        let words: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let control = match words.as_slice() {
            ["control", "overview"] => {
                let query = request.uri().query().unwrap_or_default();
                let since = query.strip_prefix("since=");
                Self::Overview(since.and_then(|it| it.parse().ok()).unwrap_or_default())
            }
            ["control", "backends", number, action] => {
                let number = number.parse().map_err(|_| StatusCode::NOT_FOUND)?;
                let action = BackendAction::parse(action).ok_or(StatusCode::NOT_FOUND)?;
                Self::Backend(number, action)
            }
            ["control", "reload"] => Self::Reload,
            ["control", "upgrade"] => Self::Upgrade,
            _ => return Err(StatusCode::NOT_FOUND),
        };
        let method = match control {
            Self::Overview(_) => Method::GET,
            _ => Method::POST,
        };
        if request.method() != method {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        if !request.headers().contains_key(OWN_HEADER) {
            return Err(StatusCode::FORBIDDEN);
        }
        Ok(control)
    }
}

impl BackendAction {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "start" => Self::Start,
            "stop" => Self::Stop,
            "drain" => Self::Drain,
            "undrain" => Self::Undrain,
            _ => return None,
        })
    }
}

impl DemoControl {
    /// Executes a request of the page.
    pub(super) async fn execute<B>(&self, request: &Request<B>) -> ControlResult {
        let control = ControlRequest::parse(request);
        let control = control.map_err(|status| (status, status.to_string()))?;
        match control {
            ControlRequest::Overview(since) => {
                let overview = Overview::of(&self.admin, &self.fleet, &self.crowd, since).await;
                Ok(json!(overview.map_err(unavailable)?))
            }
            ControlRequest::Backend(number, action) => self.steer(number, action).await,
            ControlRequest::Reload => self.reload().await,
            ControlRequest::Upgrade => {
                let body = json!({});
                let upgraded = self.admin.ask(Operation::Upgrade, "", Some(&body));
                let now: Identity = upgraded.await.map_err(refused)?;
                Ok(json!({ "generation": now.generation, "pid": now.pid }))
            }
        }
    }

    async fn steer(&self, number: usize, action: BackendAction) -> ControlResult {
        let Some(backend) = self.fleet.backend(number) else {
            return Err((StatusCode::NOT_FOUND, format!("no backend {number}")));
        };
        let operation = match action {
            BackendAction::Stop => {
                backend.stop();
                report(backend, "stopped");
                return Ok(json!({}));
            }
            BackendAction::Start => {
                let started = backend.start();
                started.map_err(|error| (StatusCode::CONFLICT, error.to_string()))?;
                report(backend, "started");
                return Ok(json!({}));
            }
            BackendAction::Drain => Operation::DrainEndpoint,
            BackendAction::Undrain => Operation::UndrainEndpoint,
        };
        let endpoint = json!({ "endpoint": backend.address.to_string() });
        let changed = self.admin.ask(operation, "", Some(&endpoint)).await;
        let _: EndpointChangeResponse = changed.map_err(refused)?;
        Ok(json!({}))
    }

    /// Writes another configuration and has it loaded.
    async fn reload(&self) -> ControlResult {
        let failed = |error: std::io::Error| {
            let error = format!("cannot write the configuration: {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, error)
        };
        let next = self.stage.write_next().map_err(failed)?;
        let body = json!({});
        let reloaded = self.admin.ask(Operation::Reload, "", Some(&body)).await;
        match reloaded {
            Ok(ReloadResponse { .. }) => {
                self.stage.keep(next);
                Ok(json!({ "configuration": next.number, "balance": next.balance }))
            }
            Err(failure) => {
                self.stage.restore().map_err(failed)?;
                Err(refused(failure))
            }
        }
    }
}

/// What tidegate does not log, because the backends are not its own.
fn report(backend: &DemoBackend, what: &str) {
    let (number, address) = (backend.state.number, backend.address);
    err(&format!("demo: backend {number} ({address}) {what}\n"));
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn refused(failure: OperationFailure) -> (StatusCode, String) {
    (StatusCode::CONFLICT, failure.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unavailable(failure: OperationFailure) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, failure.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_for_the_own_page() {
        let ask = |method: &str, path: &str, own: bool| {
            let mut request = Request::builder().method(method).uri(path);
            if own {
                request = request.header(OWN_HEADER, "1");
            }
            ControlRequest::parse(&request.body(()).unwrap())
        };
        let check = |method, path, expected: Result<ControlRequest, StatusCode>| {
            assert_eq!(ask(method, path, true), expected, "{path}");
            if expected.is_ok() {
                assert_eq!(ask(method, path, false), Err(StatusCode::FORBIDDEN));
            }
        };
        let backend = |number, action| Ok(ControlRequest::Backend(number, action));
        let missing = Err(StatusCode::NOT_FOUND);
        check(
            "POST",
            "/control/backends/2/stop",
            backend(2, BackendAction::Stop),
        );
        check(
            "POST",
            "/control/backends/1/start",
            backend(1, BackendAction::Start),
        );
        check(
            "POST",
            "/control/backends/3/drain",
            backend(3, BackendAction::Drain),
        );
        check(
            "POST",
            "/control/backends/3/undrain",
            backend(3, BackendAction::Undrain),
        );
        check("POST", "/control/reload", Ok(ControlRequest::Reload));
        check("POST", "/control/upgrade", Ok(ControlRequest::Upgrade));
        check(
            "GET",
            "/control/overview?since=7",
            Ok(ControlRequest::Overview(7)),
        );
        check("GET", "/control/overview", Ok(ControlRequest::Overview(0)));
        check(
            "GET",
            "/control/reload",
            Err(StatusCode::METHOD_NOT_ALLOWED),
        );
        check(
            "POST",
            "/control/backends/2/fly",
            Err(StatusCode::NOT_FOUND),
        );
        check(
            "POST",
            "/control/backends/x/stop",
            Err(StatusCode::NOT_FOUND),
        );
        check("GET", "/favicon.ico", missing);
    }
}
