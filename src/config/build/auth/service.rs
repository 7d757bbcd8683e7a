//! `service` of `[auth.NAME]`.

use http::{HeaderName, Uri};

use super::super::{Builder, count, duration};
use crate::config::diagnostic::Code;
use crate::config::model::{AuthService, claims_origin, same_variable};
use crate::config::raw::{ConfigValue, Section};

/// Fields of a connection or of the framing of a message, which each side writes for itself.
const OF_CONNECTIONS: [&str; 13] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "expect",
    "host",
];

impl Builder<'_> {
    pub(super) fn auth_service(&mut self, section: &Section) -> Option<AuthService> {
        let request_headers = self.service_headers(section, "request_headers", is_ours);
        let response_headers = self.service_headers(section, "response_headers", is_ours);
        let client_headers = self.service_headers(section, "client_headers", is_of_connection);
        let path = section.text("path")?;
        let is_path = path.starts_with('/') && path.parse::<Uri>().is_ok() && !path.contains('#');
        if let Some(at) = section.written("path").filter(|_| !is_path) {
            let message = format!("`{path}` is not a path; use e.g. `/verify`");
            self.error(Code::Value, at, &message);
        }
        let subject_header = section
            .written("subject_header")
            .and_then(|at| match &at.value {
                ConfigValue::Header(name) => Some((at, name)),
                _ => None,
            });
        if let Some((at, name)) = subject_header
            && !response_headers.contains(name)
        {
            let message = format!("`{name}` is not one of `response_headers`");
            self.error(Code::Missing, at, &message);
        }
        Some(AuthService {
            upstream: section.text("upstream")?.into(),
            path: path.into(),
            request_headers,
            response_headers,
            subject_header: subject_header.map(|(_, name)| name.clone()),
            client_headers,
            timeout: duration(section, "timeout"),
            at_once: count(section, "at_once").unwrap_or(1),
            passes_on_error: section.text("on_error").as_deref() == Some("allow"),
            cache: section.duration("cache"),
        })
    }

    /// A list of fields, without those that tidegate writes itself.
    fn service_headers(
        &mut self,
        section: &Section,
        key: &str,
        is_reserved: fn(&str) -> bool,
    ) -> Vec<HeaderName> {
        let mut headers = Vec::new();
        for at in section.list(key) {
            let ConfigValue::Header(name) = &at.value else {
                continue;
            };
            if is_reserved(name.as_str()) {
                let message = format!("`{name}` cannot be in `{key}`: tidegate writes it itself");
                self.error(Code::Value, &at, &message);
            } else if headers.contains(name) {
                self.error(Code::Duplicate, &at, "this header is listed twice");
            } else {
                headers.push(name.clone());
            }
        }
        headers
    }
}

/// Whether a field belongs to one connection or message.
fn is_of_connection(name: &str) -> bool {
    let mut fields = OF_CONNECTIONS.iter();
    fields.any(|field| same_variable(field, name))
        || same_variable(name, "tidegate-reason")
        || name
            .get(..14)
            .is_some_and(|begin| same_variable(begin, "sec-websocket-"))
}

/// Whether tidegate writes a field of requests itself, or it belongs to one connection.
fn is_ours(name: &str) -> bool {
    is_of_connection(name) || claims_origin(name)
}
