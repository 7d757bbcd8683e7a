//! `[traces]`.

use std::sync::Arc;

use http::Uri;

use super::Builder;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::files;
use crate::config::model::{DecidingCallers, Roots, TracesConfig};
use crate::config::raw::Section;

impl Builder<'_> {
    /// `[traces]`; `None` without it, or if it is flawed.
    pub(super) fn traces(&mut self, root: &Section) -> Option<Arc<TracesConfig>> {
        let section = root.optional("traces")?;
        let ca = self.file(&section, "ca");
        let given = ca.and_then(|ca| self.read(&ca, files::roots));
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
            ratio: section.number("ratio").unwrap_or_default(),
            parent: match section.text("parent").as_deref() {
                Some("any") => DecidingCallers::Any,
                Some("ignore") => DecidingCallers::None,
                _ => DecidingCallers::Trusted,
            },
            service_name: section.text("service_name").unwrap_or_default().into(),
        }))
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
