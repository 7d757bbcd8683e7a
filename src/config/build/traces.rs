//! `[traces]`.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Uri};

use super::Builder;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{DecidingCallers, Roots, TracesConfig};
use crate::config::raw::{ConfigValue, Section};
use crate::config::{files, value};

impl Builder<'_> {
    /// `[traces]`; `None` without it, or if it is flawed.
    pub(super) fn traces(&mut self, root: &Section) -> Option<Arc<TracesConfig>> {
        let section = root.optional("traces")?;
        let ca = self.file(&section, "ca");
        let given = ca.and_then(|ca| self.read(&ca, files::roots));
        let headers = self.collector_headers(&section);
        let url = self.collector(&section)?;
        let is_tls = url.scheme_str() == Some("https");
        if let Some(at) = section.written("ca").filter(|_| !is_tls) {
            let message = "`ca` has no effect: the collector is asked without TLS";
            let warning = Diagnostic::warning(Code::NoEffect, at.span.clone(), message);
            self.diagnostics.push(warning);
        }
        let roots = given.map_or(Roots::Platform, Roots::Given);
        Some(Arc::new(TracesConfig {
            url,
            roots: is_tls.then_some(roots),
            headers,
            ratio: section.number("ratio").unwrap_or_default(),
            parent: match section.text("parent").as_deref() {
                Some("any") => DecidingCallers::Any,
                Some("ignore") => DecidingCallers::None,
                _ => DecidingCallers::Trusted,
            },
            service_name: section.text("service_name").unwrap_or_default().into(),
        }))
    }

    /// The headers of requests to the collector.
    fn collector_headers(&mut self, section: &Section) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in section.pairs("headers") {
            let ConfigValue::Text(text) = &value.value else {
                continue;
            };
            match collector_header(&name.value, text) {
                Ok((name, _)) if headers.iter().any(|(other, _)| *other == name) => {
                    let message = format!("`{name}` is set twice");
                    self.error(Code::Duplicate, &value, &message);
                }
                Ok(header) => headers.push(header),
                Err(error) => self.error(Code::Value, &value, &error),
            }
        }
        if let Some(file) = self.file(section, "headers_file") {
            let parsed = self.read(&file, |path, bytes| {
                files::headers(path, bytes, collector_header)
            });
            self.check_mode(&file);
            for (name, value) in parsed.unwrap_or_default() {
                if headers.iter().any(|(other, _)| *other == name) {
                    let shown = file.value.display();
                    let message = format!("`{shown}` sets `{name}`, which is set before");
                    let error = Diagnostic::error(Code::Duplicate, file.span.clone(), message);
                    self.diagnostics.push(error);
                } else {
                    headers.push((name, value));
                }
            }
        }
        headers
    }

    /// The URL of the collector.
    fn collector(&mut self, section: &Section) -> Option<Uri> {
        let text = section.text("url")?;
        let at = section.written("url")?;
        let url = text.parse::<Uri>().ok();
        let has_host = |url: &Uri| url.host().is_some_and(|host| !host.is_empty());
        let url =
            url.filter(|url| has_host(url) && matches!(url.scheme_str(), Some("http" | "https")));
        let Some(url) = url else {
            self.error(Code::Value, at, "this is not an `http` or `https` URL");
            return None;
        };
        if url.authority().is_some_and(|it| it.as_str().contains('@')) {
            self.error(
                Code::Value,
                at,
                "a user and a password in the URL are not supported",
            );
            return None;
        }
        if url.path() == "/" {
            let error = Diagnostic::error(Code::Value, at.span.clone(), "the URL has no path");
            let hint = format!(
                "collectors take spans at `{}/v1/traces`",
                text.trim_end_matches('/')
            );
            self.diagnostics.push(error.hint(hint));
            return None;
        }
        Some(url)
    }
}

/// A header of requests to the collector. The value never is in the error: it may be a secret.
fn collector_header(name: &str, text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let own = [HOST, CONTENT_TYPE, USER_AGENT];
    if own
        .iter()
        .any(|own| name.eq_ignore_ascii_case(own.as_str()))
    {
        return Err(format!("`{name}` is written by tidegate itself"));
    }
    let name = value::header(name)?;
    let mut header = HeaderValue::from_str(text)
        .map_err(|_| format!("the value of `{name}` is not a valid header value"))?;
    header.set_sensitive(true);
    Ok((name, header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_headers_are_not_shown() {
        let (name, value) = collector_header("Authorization", "Bearer s3cret").unwrap();
        assert_eq!(name, "authorization");
        assert_eq!(value, "Bearer s3cret");
        let shown = format!("{:?}", (name, value));
        assert!(!shown.contains("s3cret"), "{shown}");
        for (name, value) in [
            ("x-key", "s3cret\n"),
            ("Host", "s3cret"),
            ("content-type", "s3cret"),
            ("content_length", "s3cret"),
            ("a b", "s3cret"),
        ] {
            let error = collector_header(name, value).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
