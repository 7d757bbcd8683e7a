//! The interface under `/v1`: HTTP and JSON.
//!
//! Each operation is in the file of what it is about, with the types of its request and response, which
//! the command line uses, too.

pub mod access;
pub mod probes;
pub mod services;
pub mod certificates;
pub mod status;
pub mod limits;
pub mod listeners;
pub mod upstreams;
pub mod traffic;
pub mod credentials;
pub mod tunnels;
pub mod close;
pub mod endpoints;
pub mod reload;
pub mod upgrade;
pub mod explain;
pub mod fleet;
pub mod operation;
pub mod audit;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use rustls::ServerConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use self::access::Requester;
use self::audit::{AuditEntry, AuditedRequest};
use self::operation::{GENERATION, Operation};
use super::error::ApiError;
use super::http::{AdminActivity, AdminPeer, AdminResponse, AdminService, response};
use super::view::View;
use crate::displace::live_tunnels::LiveTunnels;
use crate::displace::tunnel_filter::TunnelFilter;
use crate::quota::failure_reports::warn_once_a_minute;

/// Largest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// How long a request body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

const JSON: &str = "application/json";

/// The interface, as served on one socket.
#[derive(Debug)]
pub struct Api {
    /// What it shows and changes.
    pub view: Arc<View>,
}

impl AdminService for Api {
    const MAY_BE_CUT: bool = false;

    fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.view.tls.load_full()
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        peer: AdminPeer,
        activity: &AdminActivity,
    ) -> AdminResponse {
        match self.handle(request, peer, activity).await {
            Ok((status, body)) => response(status, JSON, body),
            Err(error) => error_response(&error),
        }
    }
}

fn error_response(error: &ApiError) -> AdminResponse {
    let body = serde_json::to_vec(&error.body).unwrap_or_default();
    let mut response = response(error.status, JSON, body);
    if error.status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    if error.status == StatusCode::METHOD_NOT_ALLOWED
        && let Ok(allowed) = HeaderValue::from_str(&error.body.details.join(", "))
    {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

impl Api {
    async fn handle(
        &self,
        request: Request<Incoming>,
        peer: AdminPeer,
        activity: &AdminActivity,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let (parts, body) = request.into_parts();
        let access = self.view.access.load();
        let requester = Requester::of(&parts, peer, &access);
        let requester = requester.inspect_err(|error| self.report(peer, error))?;
        let operation = operation(&parts)?;
        let allowed = requester.check(operation, &access);
        let is_refused = allowed.is_err();
        if let Err(error) = &allowed
            && requester == Requester::Anybody
        {
            self.report(peer, error);
        }
        let mut entry = (operation.changes() || is_refused)
            .then(|| audited(&requester, peer, operation, &parts))
            .flatten();
        let asked = async {
            allowed?;
            let query = Query::of(parts.uri.query().unwrap_or_default(), operation)?;
            let body = activity.while_receiving(collected(body)).await?;
            if let Some(request) = &mut entry {
                request.generation = query.generation()?;
                request.arguments = audit::arguments(&body);
            }
            Ok((query, body))
        };
        let asked = asked.await;
        let entry = entry.map(AuditEntry::begin);
        let result = match asked {
            Ok((query, body)) => self.answer(operation, &query, body, peer).await,
            Err(error) => Err(error),
        };
        match (entry, &result) {
            (Some(entry), Ok((status, body))) => entry.answered(*status, body),
            (Some(entry), Err(error)) => entry.failed(error),
            (None, _) => {}
        }
        result
    }

    /// Logs a request without a valid token. Anybody who can connect can cause this.
    fn report(&self, peer: AdminPeer, error: &ApiError) {
        let from = address(peer);
        // Of an attacker, every connection has another port.
        let cause = match peer {
            AdminPeer::Tcp { address, .. } => address.ip().to_string(),
            _ => from.clone(),
        };
        warn_once_a_minute!(
            self.view.refused, &cause, "admin request refused",
            from, status = error.status.as_u16(), %error
        );
    }

    /// Carries an operation out, here or in an older generation.
    async fn answer(
        &self,
        operation: Operation,
        query: &Query,
        body: Bytes,
        peer: AdminPeer,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        match query.generation()? {
            Some(generation) if generation != self.view.generation => {
                let older = self.view.generations.find(generation)?;
                let path = format!("{}?{}", operation.path(), query.without_generation());
                let body = forwarded(operation, body)?;
                older.ask(operation.method(), &path, body).await
            }
            _ => {
                let done = self.operate(operation, query, &body, peer).await?;
                Ok((StatusCode::OK, done))
            }
        }
    }

    async fn operate(
        &self,
        operation: Operation,
        query: &Query,
        body: &[u8],
        peer: AdminPeer,
    ) -> Result<Bytes, ApiError> {
        let view = &self.view;
        match operation {
            Operation::Status => json(&status::status(view)),
            Operation::Config => json(&reload::config(view)),
            Operation::Fleet => json(&fleet::fleet(view)?),
            Operation::Listeners => json(&listeners::listeners(view)),
            Operation::DrainListener => json(&listeners::drain(view, parsed(body)?).await?),
            Operation::UndrainListener => json(&listeners::undrain(view, parsed(body)?).await?),
            Operation::Upstreams => {
                let live = LiveTunnels::of(&view.workers.counters());
                json(&upstreams::upstreams(view, &live))
            }
            Operation::Traffic => json(&traffic::traffic(view).await),
            Operation::Limits => json(&limits::limits(view)),
            Operation::LimitCounts => json(&limits::counts(view)),
            Operation::ReplaceTunnels => json(&limits::replace(view, &parsed(body)?)?),
            Operation::Tunnels => {
                let filter = read(&query.only(&TunnelFilter::NAMES))?;
                let layout = read(&query.only(&tunnels::ListTunnelsRequest::NAMES))?;
                json(&tunnels::list(view, filter, &layout).await?)
            }
            Operation::CloseTunnels => {
                let how = parsed(body)?;
                json(&close::close(view, how).await?)
            }
            Operation::Revoke => {
                let subject = parsed(body)?;
                json(&credentials::revoke(view, &subject).await?)
            }
            Operation::ExtendTunnel => {
                let tunnel = parsed(body)?;
                json(&credentials::extend(view, &tunnel).await?)
            }
            Operation::StopClosing => json(&close::stop(view, parsed(body)?)?),
            Operation::DrainEndpoint => json(&endpoints::drain(view, &parsed(body)?)?),
            Operation::UndrainEndpoint => json(&endpoints::undrain(view, &parsed(body)?)?),
            Operation::WeighEndpoint => json(&endpoints::weigh(view, &parsed(body)?)?),
            Operation::PlanReload => json(&reload::plan(view).await?),
            Operation::Reload => {
                let how = parsed(body)?;
                json(&reload::reload(view, how).await?)
            }
            Operation::Upgrade => {
                let how = parsed(body)?;
                let over_tcp = matches!(peer, AdminPeer::Tcp { .. });
                json(&upgrade::upgrade(view, how, over_tcp).await?)
            }
            Operation::Certificates => json(&certificates::certificates(view)),
            Operation::RenewCertificate => json(&certificates::renew(view, parsed(body)?).await?),
            Operation::TryCertificate => json(&certificates::try_order(view, parsed(body)?).await?),
            Operation::Explain => json(&explain::explain(view, &parsed(body)?)?),
            Operation::Describe => json(&operation::openapi()),
        }
    }
}

/// What the audit line of a request says of it; `None` if there is none, or the successor writes it.
fn audited(
    requester: &Requester,
    peer: AdminPeer,
    operation: Operation,
    parts: &http::request::Parts,
) -> Option<AuditedRequest> {
    let pid = match requester {
        // Of anybody, there would be as many lines as somebody wants.
        Requester::Successor | Requester::Anybody => return None,
        Requester::Process { pid, .. } => *pid,
        Requester::Token { .. } => None,
    };
    Some(AuditedRequest {
        operator: requester.name(),
        from: address(peer),
        pid,
        operation,
        path: parts.uri.path().to_owned(),
        generation: None,
        arguments: None,
    })
}

fn address(peer: AdminPeer) -> String {
    match peer {
        AdminPeer::Tcp { address, .. } => address.to_string(),
        AdminPeer::Unix { .. } => "unix".to_owned(),
        AdminPeer::Successor => "successor".to_owned(),
    }
}

fn operation(parts: &http::request::Parts) -> Result<Operation, ApiError> {
    let path = parts.uri.path();
    let here = Operation::ALL.iter().filter(|it| it.path() == path);
    let mut here = here.peekable();
    if here.peek().is_none() {
        let error = format!("there is no `{path}`; `/v1/openapi.json` describes all operations");
        return Err(ApiError::not_found(error));
    }
    let methods: Vec<String> = here.clone().map(|it| it.method().to_string()).collect();
    let found = here.find(|it| it.method() == parts.method);
    found.copied().ok_or_else(|| {
        let error = ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "this path does not support this method",
        );
        error.with_details(methods)
    })
}

/// The parameters of a query: each is known, and given once.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(query: &str, operation: Operation) -> Result<Self, ApiError> {
        let names = operation.parameters();
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if !names.contains(&&*name) && name != GENERATION {
                let known = match names.as_slice() {
                    [] => "this operation has none".to_owned(),
                    known => format!("known: {}", known.join(", ")),
                };
                return Err(ApiError::bad_request(format!(
                    "unknown parameter `{name}`; {known}"
                )));
            }
            if pairs.iter().any(|(given, _)| *given == *name) {
                return Err(ApiError::bad_request(format!(
                    "parameter `{name}` is given twice"
                )));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// The generation that is asked, if the query names one.
    fn generation(&self) -> Result<Option<u64>, ApiError> {
        let given = self.only(&[GENERATION]);
        let number = given.first().map(|(_, text)| text.parse());
        let wrong = |_| {
            ApiError::bad_request(
                "`generation` must be a number; `tidegate status` lists the generations",
            )
        };
        number.transpose().map_err(wrong)
    }

    fn without_generation(&self) -> String {
        let others = self.0.iter().filter(|(name, _)| name != GENERATION);
        form_urlencoded::Serializer::new(String::new())
            .extend_pairs(others)
            .finish()
    }

    /// The parameters with these names.
    fn only(&self, names: &[&str]) -> Vec<(&str, &str)> {
        let pairs = self
            .0
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()));
        pairs
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }
}

/// Reads parameters into their types, which are all optional.
fn read<T: DeserializeOwned>(pairs: &[(&str, &str)]) -> Result<T, ApiError> {
    let of = |pairs: &[(&str, &str)]| {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs)
            .finish();
        serde_urlencoded::from_str(&query)
    };
    of(pairs).map_err(|error| {
        // The error does not say which of them it is about: each is tried alone.
        let is_wrong = |pair: &&(&str, &str)| of(&[**pair]).is_err();
        let name = pairs.iter().find(is_wrong).map_or("", |(name, _)| *name);
        ApiError::bad_request(format!("`{name}`: {}", plain(&error.to_string())))
    })
}

async fn collected(body: Incoming) -> Result<Bytes, ApiError> {
    let body = Limited::new(body, MAX_BODY).collect();
    let body = tokio::time::timeout(BODY_TIMEOUT, body).await;
    let unread = |_| {
        ApiError::bad_request(format!(
            "the request body is incomplete, or larger than {MAX_BODY} bytes"
        ))
    };
    let body = body.map_err(|_| unread(()))?.map_err(|_| unread(()))?;
    Ok(body.to_bytes())
}

/// The body of an operation for an older generation, which may be of a version with other defaults.
fn forwarded(operation: Operation, body: Bytes) -> Result<Bytes, ApiError> {
    match operation {
        Operation::CloseTunnels => json(&parsed::<close::CloseRequest>(&body)?.with_defaults()),
        _ => Ok(body),
    }
}

/// Parses a body in JSON; an empty body counts as an empty object.
fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.is_empty() { b"{}" } else { body };
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(ApiError::bad_request(
            "the request body must be a JSON object",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        ApiError::bad_request(match error.classify() {
            Category::Data => format!("the request body is not valid: {}", data_error(&error)),
            _ => format!("the request body is not valid JSON at line {line}, column {column}"),
        })
    })
}

/// What is wrong with data in valid JSON, in the words of JSON and without the place, which is known by the
/// names in the text.
pub fn data_error(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let place = format!(" at line {line} column {column}");
    let text = error.to_string();
    plain(text.strip_suffix(&place).unwrap_or(&text))
}

/// The text of an error of serde, without the types of Rust.
fn plain(text: &str) -> String {
    let text = &text.replacen("unknown variant", "unknown value", 1);
    let (before, expected) = text.rsplit_once("expected ").unwrap_or((text, ""));
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "a text",
        "" if text == "invalid digit found in string" => return "not a whole number".to_owned(),
        _ => return text.to_owned(),
    };
    format!("{before}expected {expected}")
}

fn json(value: &impl Serialize) -> Result<Bytes, ApiError> {
    let body =
        serde_json::to_vec(value).map_err(|error| ApiError::unavailable(error.to_string()))?;
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::close::CloseRequest;
    use super::tunnels::ListTunnelsRequest;
    use super::*;

    #[test]
    fn a_wrong_body_is_explained_in_the_words_of_json() {
        let check = |body: &str, expected: &str| {
            let error = parsed::<CloseRequest>(body.as_bytes()).unwrap_err();
            assert_eq!(error.body.error, format!("the request body {expected}"));
        };
        check("nonsense", "must be a JSON object");
        check("[]", "must be a JSON object");
        check("{\"all\": tru}", "is not valid JSON at line 1, column 12");
        check("{\"all\": true", "is not valid JSON at line 1, column 12");
        check(
            "{\"code\": \"1012\"}",
            "is not valid: invalid type: string \"1012\", expected a whole number",
        );
        check(
            "{\"per_second\": \"9\"}",
            "is not valid: invalid type: string \"9\", expected a number",
        );
        check(
            "{\"order\": \"newest\"}",
            "is not valid: unknown value `newest`, expected `oldest` or `random`",
        );
        let over = "is not valid: `10x` is not a valid duration; use e.g. `90s` or `10m`";
        check("{\"over\": \"10x\"}", over);
        assert!(parsed::<CloseRequest>(b" {}").is_ok() && parsed::<CloseRequest>(b"").is_ok());
    }

    /// The previous version closed every tunnel with 1008 by default.
    #[test]
    fn an_older_generation_is_sent_the_code_and_the_reason() {
        let sent = |body: &'static str| {
            let sent = forwarded(Operation::CloseTunnels, Bytes::from_static(body.as_bytes()));
            let sent: serde_json::Value = serde_json::from_slice(&sent.unwrap()).unwrap();
            (sent["code"].as_u64(), sent["reason"].clone())
        };
        let none = Bytes::new();
        assert_eq!(sent("{\"all\": true}"), (Some(1012), "drain".into()));
        let client = "{\"filter\": {\"client\": \"192.0.2.1\"}}";
        assert_eq!(sent(client), (Some(1008), "killed".into()));
        let chosen = "{\"all\": true, \"code\": 4001, \"reason\": \"maintenance\"}";
        assert_eq!(sent(chosen), (Some(4001), "maintenance".into()));
        assert_eq!(forwarded(Operation::Status, none.clone()).unwrap(), none);
        assert!(forwarded(Operation::CloseTunnels, Bytes::from_static(b"[]")).is_err());
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        let check = |pair: (&str, &str), expected: &str| {
            let pairs = [("sort", "age"), pair];
            let pairs = &pairs[usize::from(pair.0 == "sort")..];
            let error = read::<ListTunnelsRequest>(pairs).unwrap_err();
            assert_eq!(error.body.error, expected);
        };
        check(("limit", "x"), "`limit`: not a whole number");
        check(
            ("rate_window", "x"),
            "`rate_window`: `x` is not a valid duration; use e.g. `90s` or `10m`",
        );
    }
}
