//! The audit line of each request that changes something: who, from where, what, with which result.
//!
//! A request has exactly one, also if it is refused, fails, or its sender leaves before the result. The process
//! that an operator has reached writes it: an older generation does only what that one has admitted.

use http::StatusCode;
use serde_json::Value;

use super::operation::Operation;
use crate::admin::error::{ApiError, ErrorResponse};

/// The target of audit lines, for subscribers that filter by it.
pub const TARGET: &str = "tidegate::audit";

/// The longest form of arguments in a line, in bytes.
const MAX_ARGUMENTS: usize = 1024;

/// Arguments with one of these in their name are not shown.
const SECRETS: [&str; 3] = ["token", "secret", "password"];

/// A request that changes something. Dropping it writes its line.
#[derive(Debug)]
pub struct AuditEntry {
    request: AuditedRequest,
    result: AuditResult,
}

/// What is known of a request before its result.
#[derive(Debug)]
pub struct AuditedRequest {
    /// Who has sent it.
    pub operator: String,
    /// The address that it came from.
    pub from: String,
    /// The process that sent it over the unix socket.
    pub pid: Option<i32>,
    /// What it asks for.
    pub operation: Operation,
    /// The path, which may have arguments in it.
    pub path: String,
    /// The older generation that it is for.
    pub generation: Option<u64>,
    /// What it gives to the operation.
    pub arguments: Option<String>,
}

/// What has become of it.
#[derive(Debug)]
enum AuditResult {
    /// Its sender has left; whether anything changes is in other lines.
    Unfinished,
    /// It was carried out.
    Done { affected: Option<u64> },
    /// It was refused, or it failed.
    Error { status: u16, error: String },
}

impl AuditEntry {
    /// Begins with what is known.
    pub fn begin(request: AuditedRequest) -> Self {
        Self {
            request,
            result: AuditResult::Unfinished,
        }
    }

    /// The request was answered like this; an older generation may have refused it.
    pub fn answered(mut self, status: StatusCode, response: &[u8]) {
        if !status.is_success() {
            let response: Option<ErrorResponse> = serde_json::from_slice(response).ok();
            let error = response.map(|it| it.error).unwrap_or_default();
            return self.failed(&ApiError::new(status, error));
        }
        let response = serde_json::from_slice(response).unwrap_or_default();
        let affected = self.request.operation.affected(&response);
        self.result = AuditResult::Done { affected };
    }

    /// The request was refused, or it failed.
    pub fn failed(mut self, error: &ApiError) {
        self.result = AuditResult::Error {
            status: error.status.as_u16(),
            error: error.to_string(),
        };
    }
}

impl Drop for AuditEntry {
    fn drop(&mut self) {
        let AuditedRequest {
            operator,
            from,
            pid,
            operation,
            path,
            generation,
            arguments,
        } = &self.request;
        let (status, affected, error) = match &self.result {
            AuditResult::Unfinished => (None, None, None),
            AuditResult::Done { affected } => (Some(200), *affected, None),
            AuditResult::Error { status, error } => (Some(*status), None, Some(error.as_str())),
        };
        let operation = format_args!("{} {path}", operation.method());
        let arguments = arguments.as_deref();
        macro_rules! write_line {
            ($what:literal) => {
                tracing::info!(
                    target: TARGET, operator, from, pid, operation = %operation, generation,
                    arguments, status, affected, error, $what
                )
            };
        }
        match &self.result {
            AuditResult::Unfinished => write_line!("audit: the operator left before the result"),
            AuditResult::Done { .. } => write_line!("audit: carried out"),
            AuditResult::Error { status: 403, .. } => write_line!("audit: refused"),
            AuditResult::Error { .. } => write_line!("audit: not carried out"),
        }
    }
}

/// The arguments in a body, without secrets; `None` if there are none.
pub fn arguments(body: &[u8]) -> Option<String> {
    if body.trim_ascii().is_empty() {
        return None;
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else {
        return Some(format!("({} bytes that are not JSON)", body.len()));
    };
    hide_secrets(&mut value);
    let mut text = value.to_string();
    if text.len() > MAX_ARGUMENTS {
        let end = (0..=MAX_ARGUMENTS)
            .rev()
            .find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push('…');
    }
    Some(text)
}

fn hide_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                let name = name.to_ascii_lowercase();
                match SECRETS.iter().any(|secret| name.contains(secret)) {
                    true => *value = "(hidden)".into(),
                    false => hide_secrets(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct WrittenLines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for WrittenLines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The line of a request that goes like this.
    fn line(goes: impl FnOnce(AuditEntry)) -> Value {
        let written = WrittenLines::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            goes(AuditEntry::begin(AuditedRequest {
                operator: "ci".to_owned(),
                from: "unix".to_owned(),
                pid: None,
                operation: Operation::CloseTunnels,
                path: Operation::CloseTunnels.path().to_owned(),
                generation: None,
                arguments: None,
            }));
        });
        let bytes = written.0.lock().unwrap().clone();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn every_end_of_a_request_has_its_line() {
        let refused = ApiError::new(StatusCode::FORBIDDEN, "why");
        let failed = ApiError::conflict("why");
        for (line, message, status, affected, error) in [
            (
                line(drop),
                "audit: the operator left before the result",
                None,
                None,
                None,
            ),
            (
                line(|entry| entry.answered(StatusCode::OK, br#"{"closed":3}"#)),
                "audit: carried out",
                Some(200),
                Some(3),
                None,
            ),
            (
                line(|entry| entry.answered(StatusCode::CONFLICT, br#"{"error":"why"}"#)),
                "audit: not carried out",
                Some(409),
                None,
                Some("why"),
            ),
            (
                line(|entry| entry.failed(&failed)),
                "audit: not carried out",
                Some(409),
                None,
                Some("why"),
            ),
            (
                line(|entry| entry.failed(&refused)),
                "audit: refused",
                Some(403),
                None,
                Some("why"),
            ),
        ] {
            assert_eq!(
                (&line["message"], &line["level"]),
                (&message.into(), &"INFO".into())
            );
            assert_eq!(line["target"], TARGET);
            assert_eq!(line["operation"], "POST /v1/tunnels/close");
            let given = (
                line["status"].as_u64(),
                line["affected"].as_u64(),
                line["error"].as_str(),
            );
            assert_eq!(given, (status, affected, error), "{line}");
        }
    }

    #[test]
    fn arguments_are_shown_without_secrets() {
        for (body, expected) in [
            ("", None),
            (" \n", None),
            (r#"{ "endpoint": "a:1" }"#, Some(r#"{"endpoint":"a:1"}"#)),
            (
                r#"{ "list": [{ "Token": "x", "job": 1 }], "client_secret": { "a": 2 } }"#,
                Some(r#"{"list":[{"Token":"(hidden)","job":1}],"client_secret":"(hidden)"}"#),
            ),
            ("token=x", Some("(7 bytes that are not JSON)")),
        ] {
            let expected = expected.map(|text| serde_json::from_str::<Value>(text).ok());
            let shown = arguments(body.as_bytes());
            let parsed = shown.as_deref().map(|text| serde_json::from_str(text).ok());
            assert_eq!(parsed, expected, "{body}: {shown:?}");
        }
        let shown = arguments(b"token=x").unwrap();
        assert!(!shown.contains("token"), "{shown}");
        let long = format!("{{\"filter\": \"{}\"}}", "é".repeat(2 * MAX_ARGUMENTS));
        let shown = arguments(long.as_bytes()).unwrap();
        assert!(shown.len() <= MAX_ARGUMENTS + "…".len(), "{}", shown.len());
    }
}
