//! `[auth.NAME]`.

mod service;

use http::{HeaderName, Uri};
use zeroize::Zeroizing;

use super::{Builder, duration, texts};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::files;
use crate::config::key_set;
use crate::config::model::{
    AuthConfig, AuthMethod, Roots, Secret, TokenConfig, TokenKeys, TokenSource,
};
use crate::config::raw::{ConfigValue, Located, Section};
use crate::config::sources::Span;

/// The length of the shortest secret that tokens may be signed with: that of the hash of HS256 (RFC 7518
/// section 3.2).
const SHORTEST_SECRET: usize = 32;

/// The places of the parts of an authentication.
pub(in crate::config) struct AuthPlaces {
    pub(in crate::config) name: Span,
    /// The name of the upstream of its service.
    pub(in crate::config) upstream: Option<Span>,
    /// The fields that its service gets, and those that endpoints get from it.
    pub(in crate::config) request_headers: Option<Span>,
    pub(in crate::config) response_headers: Option<Span>,
    pub(in crate::config) recheck: Option<Span>,
}

impl Builder<'_> {
    /// `[auth.NAME]`; `None` if it is flawed.
    pub(super) fn auth(&mut self, name: &Located<String>, section: &Section) -> Option<AuthConfig> {
        let service = section.optional("service");
        let method = match (&service, section.optional("jwt")) {
            (Some(service), None) => AuthMethod::Service(self.auth_service(service)?),
            (None, Some(jwt)) => AuthMethod::Token(self.accepted_tokens(name, &jwt)?),
            _ if section.may_mean(&["service", "jwt"]) => return None,
            _ => {
                let message = "an authentication must be exactly one of `service` and `jwt`";
                let error = Diagnostic::error(Code::Value, name.span.clone(), message);
                self.diagnostics.push(error);
                return None;
            }
        };
        let span = |at: Option<&Located<ConfigValue>>| at.map(|at| at.span.clone());
        let of_service = |key: &str| span(service.as_ref().and_then(|it| it.written(key)));
        self.places.auth.push(AuthPlaces {
            name: name.span.clone(),
            upstream: of_service("upstream"),
            request_headers: of_service("request_headers"),
            response_headers: of_service("response_headers"),
            recheck: span(section.written("recheck")),
        });
        Some(AuthConfig {
            name: name.value.as_str().into(),
            method,
            passes_preflight: section.text("preflight").as_deref() == Some("pass"),
            spread: duration(section, "spread"),
            recheck: section.duration("recheck"),
        })
    }

    fn accepted_tokens(
        &mut self,
        name: &Located<String>,
        section: &Section,
    ) -> Option<TokenConfig> {
        let keys = self.token_keys(name, section);
        let mut from = Vec::new();
        for at in section.list("from") {
            if let ConfigValue::Section(source) = &at.value {
                from.extend(self.token_source(&at, source));
            }
        }
        if let Some(at) = section.written("from").filter(super::is_empty_list) {
            self.error(Code::Value, at, "a token must have a place in requests");
        }
        let audience = texts(&section.list("audience"));
        if let Some(at) = section.written("audience").filter(super::is_empty_list) {
            let message = "a token that names no audience is not accepted";
            self.error(Code::Value, at, message);
        }
        Some(TokenConfig {
            issuer: section.text("issuer")?.into(),
            audience: audience.iter().map(|it| (**it).into()).collect(),
            keys: keys?,
            leeway: duration(section, "leeway"),
            from,
        })
    }

    fn token_keys(&mut self, name: &Located<String>, section: &Section) -> Option<TokenKeys> {
        const KINDS: [&str; 3] = ["jwks_url", "jwks_file", "secret_file"];
        let written = KINDS.map(|kind| section.written(kind));
        let mut given = written.iter().flatten();
        let (first, second) = (given.next(), given.next());
        if let Some(second) = second {
            let message = "`jwks_url`, `jwks_file` and `secret_file` exclude each other";
            self.error(Code::Conflict, second, message);
            return None;
        }
        if first.is_none() {
            if !section.may_mean(&KINDS) {
                let message =
                    "tokens require `jwks_url`, `jwks_file` or `secret_file` for their keys";
                let error = Diagnostic::error(Code::Missing, name.span.clone(), message);
                self.diagnostics.push(error);
            }
            return None;
        }
        if let (Some(at), None) = (section.written("ca"), written[0]) {
            let message = "`ca` has no effect without `jwks_url`: no server is asked for keys";
            let warning = Diagnostic::warning(Code::NoEffect, at.span.clone(), message);
            self.diagnostics.push(warning);
        }
        match written {
            [Some(url), _, _] => self.published_keys(url, section),
            [_, Some(_), _] => {
                let file = self.file(section, "jwks_file")?;
                self.read(&file, |path, bytes| match key_set::parse(bytes) {
                    Ok(keys) => Ok(TokenKeys::Set(keys.into())),
                    Err(error) => Err(format!("`{}`: {error}", path.display())),
                })
            }
            _ => {
                let file = self.file(section, "secret_file")?;
                let secret = self.read(&file, |path, bytes| {
                    token_secret(bytes).ok_or_else(|| {
                        format!(
                            "`{}` must contain a secret of at least {SHORTEST_SECRET} bytes",
                            path.display()
                        )
                    })
                });
                self.check_mode(&file);
                secret.map(TokenKeys::Secret)
            }
        }
    }

    fn published_keys(
        &mut self,
        at: &Located<ConfigValue>,
        section: &Section,
    ) -> Option<TokenKeys> {
        let roots = match self.file(section, "ca") {
            None => Roots::Platform,
            Some(ca) => Roots::Given(self.read(&ca, files::roots)?),
        };
        let text = section.text("jwks_url")?;
        let url = text.parse::<Uri>().ok();
        let has_host = |url: &Uri| url.host().is_some_and(|host| !host.is_empty());
        match url.filter(has_host).as_ref().and_then(Uri::scheme_str) {
            Some("https") => {
                let url = text.into();
                return Some(TokenKeys::Url { url, roots });
            }
            Some("http") => self.error(
                Code::Value,
                at,
                "keys are fetched over `https` only: they decide who is admitted",
            ),
            _ => self.error(Code::Value, at, "this is not an `https` URL"),
        }
        None
    }

    fn token_source(&mut self, at: &Located<ConfigValue>, source: &Section) -> Option<TokenSource> {
        if source.written.len() != 1 {
            let message = "a place of a token must have exactly one of `header`, `cookie`, `query`, `subprotocol_after` and `subprotocol_prefix`";
            self.error(Code::Value, at, message);
            return None;
        }
        let (name, value) = source.written.first_key_value()?;
        let ConfigValue::Text(text) = &value.value else {
            return None;
        };
        if text.is_empty() {
            self.error(Code::Value, value, "the name is empty");
            return None;
        }
        let text: Box<str> = text.as_str().into();
        match *name {
            "header" => {
                let header = HeaderName::from_bytes(text.as_bytes()).ok();
                if header.is_none() {
                    let message = format!("`{text}` is not a valid header name");
                    self.error(Code::Value, value, &message);
                }
                header.map(TokenSource::Header)
            }
            "cookie" => Some(TokenSource::Cookie(text)),
            "query" => Some(TokenSource::Query(text)),
            "subprotocol_after" => Some(TokenSource::SubprotocolAfter(text)),
            _ => Some(TokenSource::SubprotocolPrefix(text)),
        }
    }
}

/// The secret in a file, without the end of its last line.
fn token_secret(bytes: &[u8]) -> Option<Secret> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    (bytes.len() >= SHORTEST_SECRET).then(|| Secret::new(Zeroizing::new(bytes.to_vec())))
}
