//! Configured changes to heads: fields that are set or removed, and the rewritten path.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::certificate::TlsFacts;
use super::claims::Claims;
use super::hop_by_hop;
use super::rejection::Rejection;
use super::stripped_prefix::StrippedPrefix;
use crate::config::model::{
    EndpointHost, HeaderChanges, Piece, Rewrite, Template, Variable, same_variable,
};

/// The values of the variables in header templates, for one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct TemplateValues<'a> {
    /// The client's address, as determined by `trusted_proxies`; `None` through a unix socket.
    pub client: Option<IpAddr>,
    /// The requested host, without a port.
    pub host: &'a str,
    /// The requested path and query.
    pub uri: &'a str,
    /// Whether the client uses https.
    pub secure: bool,
    /// The request's id.
    pub request_id: &'a str,
    /// The listener's name.
    pub listener: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The parameters of the client's TLS; `None` without TLS.
    pub tls: Option<&'a TlsFacts>,
    /// The claims of the client's identity; `None` where the route asks for none.
    pub claims: Option<&'a Claims>,
}

/// Renders a template with the values of a request.
pub fn render(template: &Template, values: &TemplateValues<'_>) -> String {
    let mut text = String::new();
    let certificate = values.tls.and_then(|tls| tls.certificate.as_ref());
    for piece in template.pieces() {
        let variable = match piece {
            Piece::Text(piece) => {
                text.push_str(piece);
                continue;
            }
            Piece::Claim(name) => {
                let claim = values.claims.and_then(|claims| claims.text(name));
                text.push_str(claim.as_deref().unwrap_or_default());
                continue;
            }
            Piece::Variable(variable) => variable,
        };
        let value = match variable {
            Variable::ClientAddress => {
                if let Some(address) = values.client {
                    // Writing to a string does not fail.
                    let _ = write!(text, "{address}");
                }
                ""
            }
            Variable::Host => values.host,
            Variable::Uri => values.uri,
            Variable::Scheme if values.secure => "https",
            Variable::Scheme => "http",
            Variable::RequestId => values.request_id,
            Variable::Listener => values.listener,
            Variable::Route => values.route,
            Variable::TlsVersion => values.tls.map_or("", |tls| tls.version),
            Variable::TlsCipher => values.tls.map_or("", |tls| tls.cipher),
            Variable::TlsServerName => values
                .tls
                .and_then(|tls| tls.server_name.as_deref())
                .unwrap_or_default(),
            Variable::ClientCertificateSubject => {
                certificate.map_or("", |certificate| &certificate.subject)
            }
            Variable::ClientCertificateFingerprint => {
                certificate.map_or("", |certificate| &certificate.fingerprint)
            }
        };
        text.push_str(value);
    }
    text
}

/// The changes to one head, with their values for one request.
#[derive(Debug)]
pub struct Edit<'a> {
    changes: &'a HeaderChanges,
    /// Names that are reserved for our own fields: what a client sends under them is removed.
    reserved: &'a [HeaderName],
    added: Vec<(HeaderName, HeaderValue)>,
    replaced: Vec<HeaderName>,
    /// One more `Set-Cookie`, in addition to the endpoint's.
    cookie: Option<HeaderValue>,
    /// The prefix that the endpoint's own paths get back.
    prefix: Option<StrippedPrefix<'a>>,
}

impl<'a> Edit<'a> {
    /// The configured changes. A field whose value is empty for this request is removed.
    pub fn new(
        changes: &'a HeaderChanges,
        reserved: &'a [HeaderName],
        values: &TemplateValues<'_>,
    ) -> Self {
        let added = changes.set.iter().filter_map(|(name, template)| {
            let value = HeaderValue::try_from(render(template, values)).ok()?;
            (!value.is_empty()).then(|| (name.clone(), value))
        });
        Self {
            added: added.collect(),
            replaced: Vec::new(),
            changes,
            reserved,
            cookie: None,
            prefix: None,
        }
    }

    /// The endpoint's own paths get back what `rewrite` has stripped for a client that requested
    /// `client_host`.
    pub fn restore_prefix(
        &mut self,
        rewrite: &'a Rewrite,
        client_host: Option<&'a str>,
        endpoint_host: impl FnOnce() -> Cow<'a, str>,
    ) {
        self.prefix = StrippedPrefix::of(rewrite, client_host, endpoint_host);
    }

    /// The value of a field with the prefix put back; `None` if it stays as it is.
    pub fn restored(&self, name: &str, value: &[u8]) -> Option<Vec<u8>> {
        self.prefix.as_ref()?.restored(name, value)
    }

    /// Adds one `Set-Cookie`, in addition to the endpoint's.
    pub fn set_cookie(&mut self, cookie: Option<HeaderValue>) {
        self.cookie = cookie;
    }

    /// Adds a field of ours, unless the configuration sets or removes that field.
    pub fn add_own(&mut self, name: &HeaderName, value: HeaderValue) {
        if !self.changes.drops(name.as_str()) {
            self.added.push((name.clone(), value));
        }
    }

    /// Adds a field of ours in place of the client's, unless the configuration sets or removes it.
    pub fn replace(&mut self, name: HeaderName, value: HeaderValue) {
        self.add_own(&name, value);
        self.replaced.push(name);
    }

    /// Removes a field.
    pub fn remove(&mut self, name: HeaderName) {
        self.replaced.push(name);
    }

    /// Whether field `name` is not forwarded as received.
    pub fn drops(&self, name: &str) -> bool {
        self.blocked()
            .any(|blocked| same_variable(blocked.as_str(), name))
    }

    /// Fields that are not forwarded as received, in addition to those that clients may never send.
    pub fn blocked(&self) -> impl Iterator<Item = &HeaderName> {
        let others = self.reserved.iter().chain(&self.replaced);
        self.changes.names().chain(others)
    }

    /// Whether the configuration sets or removes forwarding field `name`, which we would write.
    pub fn overrides(&self, name: &HeaderName) -> bool {
        self.changes.drops(name.as_str())
    }

    /// The names and values of the fields that are added.
    pub fn added(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let cookie = self.cookie.iter().map(|value| (&SET_COOKIE, value));
        let added = self.added.iter().map(|(name, value)| (name, value));
        added.chain(cookie)
    }

    /// Applies the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        // Removing comes first: it also removes variants of a name that differ in dash or
        // underscore, which an insert would leave beside the new field.
        hop_by_hop::remove_where(headers, |name| self.drops(name.as_str()));
        // What the configuration sets names paths as clients see them.
        if let Some(prefix) = &self.prefix {
            for (name, value) in headers.iter_mut() {
                let restored = prefix.restored(name.as_str(), value.as_bytes());
                if let Some(Ok(restored)) = restored.map(HeaderValue::try_from) {
                    *value = restored;
                }
            }
        }
        for (name, _) in &self.added {
            headers.remove(name);
        }
        for (name, value) in &self.added {
            headers.append(name, value.clone());
        }
        if let Some(cookie) = &self.cookie {
            headers.append(SET_COOKIE, cookie.clone());
        }
    }
}

/// The request id that a trusted proxy sent; `None` if it is repeated or not a valid id.
pub fn request_id<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=:@".contains(&b);
    line.to_str()
        .ok()
        .filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(allowed))
}

/// The value of `Host` for an endpoint at a unix socket, if no client's is sent.
pub const HOST_OF_UNIX: &str = "localhost";

/// The `Host` for an endpoint with this `own` name or address, on behalf of a client that requested `client`.
/// It is the endpoint's own, too, for a client of HTTP/1.0 that has sent none.
pub fn endpoint_host<'a>(
    host: &'a EndpointHost,
    client: Option<&'a str>,
    own: impl FnOnce() -> Option<Arc<str>>,
) -> Cow<'a, str> {
    match (host, client) {
        (EndpointHost::Fixed(host), _) => Cow::Borrowed(host),
        (EndpointHost::Clients, Some(client)) => Cow::Borrowed(client),
        (EndpointHost::Clients | EndpointHost::Own, client) => match own() {
            Some(own) => Cow::Owned(own.as_ref().to_owned()),
            None => Cow::Borrowed(client.unwrap_or(HOST_OF_UNIX)),
        },
    }
}

/// Rewrites path and query for the endpoint.
///
/// # Errors
/// [`Rejection::PathPrefix`]: the client has percent-encoded part of the prefix. To strip it would
/// require normalising the rest, which must reach the endpoint as received.
pub fn rewrite<'a>(rewrite: &Rewrite, origin_form: &'a str) -> Result<Cow<'a, str>, Rejection> {
    let mut rest = origin_form;
    if let Some(strip) = &rewrite.strip {
        rest = rest
            .strip_prefix(&**strip)
            .filter(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
            .ok_or(Rejection::PathPrefix)?;
    }
    let slash = if rest.starts_with('/') { "" } else { "/" };
    Ok(match &rewrite.add {
        None if slash.is_empty() => Cow::Borrowed(rest),
        None => Cow::Owned(format!("/{rest}")),
        // `/v1` and nothing behind it stays `/v1`.
        Some(add) if rest.is_empty() || rest.starts_with('?') => Cow::Owned(format!("{add}{rest}")),
        Some(add) => Cow::Owned(format!("{add}{slash}{rest}")),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::protocol) fn values() -> TemplateValues<'static> {
        TemplateValues {
            client: Some("192.0.2.1".parse().unwrap()),
            host: "chat.example.com",
            uri: "/a?b",
            secure: true,
            request_id: "id-1",
            listener: "public",
            route: "chat",
            tls: None,
            claims: None,
        }
    }

    fn template(pieces: &[&str]) -> Template {
        let piece = |piece: &&str| match Variable::named(piece) {
            Some(variable) => Piece::Variable(variable),
            None => Piece::Text((*piece).into()),
        };
        Template::new(pieces.iter().map(piece).collect())
    }

    #[test]
    fn variables_are_replaced_by_values() {
        for (pieces, expected) in [
            (&["a=", "client_address"][..], "a=192.0.2.1"),
            (
                &["scheme", "://", "host", "uri"],
                "https://chat.example.com/a?b",
            ),
            (
                &["request_id", " ", "listener", " ", "route"],
                "id-1 public chat",
            ),
            (&["tls_version", "client_certificate_subject"], ""),
        ] {
            assert_eq!(render(&template(pieces), &values()), expected);
        }
    }

    #[test]
    fn set_and_removed_fields_replace_every_variant_of_their_name() {
        let name = |text: &'static str| HeaderName::from_static(text);
        let changes = HeaderChanges {
            set: vec![
                (name("x-env"), template(&["prod"])),
                (name("x-cert"), template(&["client_certificate_subject"])),
            ],
            remove: vec![name("x-debug")],
        };
        let reserved = [name("x-request-id")];
        let mut edit = Edit::new(&changes, &reserved, &values());
        edit.add_own(&reserved[0], HeaderValue::from_static("id-1"));
        edit.add_own(&name("x-env"), HeaderValue::from_static("not this one"));
        let mut headers = HeaderMap::new();
        for field in [
            "x_env",
            "x-debug",
            "x_debug",
            "x-cert",
            "x_request_id",
            "x-request_id",
            "x-kept",
        ] {
            headers.append(name(field), HeaderValue::from_static("client's"));
        }
        edit.apply(&mut headers);
        let mut seen: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            [
                ("x-env", "prod"),
                ("x-kept", "client's"),
                ("x-request-id", "id-1")
            ]
        );
    }

    #[test]
    fn paths_are_rewritten_by_their_literal_prefix() {
        let with = |strip: &str, add: &str| Rewrite {
            strip: (!strip.is_empty()).then(|| strip.into()),
            add: (!add.is_empty()).then(|| add.into()),
            restore: true,
        };
        for (strip, add, path, expected) in [
            ("/api", "", "/api/rooms?x", Some("/rooms?x")),
            ("/api", "", "/api", Some("/")),
            ("/api", "", "/api?x", Some("/?x")),
            ("/api", "", "/api/", Some("/")),
            ("/api", "/v1", "/api/rooms", Some("/v1/rooms")),
            ("/api", "/v1", "/api", Some("/v1")),
            ("/api", "/v1", "/api?x", Some("/v1?x")),
            ("", "/v1", "/rooms", Some("/v1/rooms")),
            ("", "", "/rooms", Some("/rooms")),
            ("/api", "", "/%61pi/rooms", None),
            ("/api", "", "/apis", None),
        ] {
            let result = rewrite(&with(strip, add), path).ok();
            assert_eq!(result.as_deref(), expected, "{strip} {add} {path}");
        }
    }

    #[test]
    fn an_endpoint_always_gets_a_host() {
        let (clients, own) = (EndpointHost::Clients, EndpointHost::Own);
        let fixed = EndpointHost::Fixed("f".into());
        for (host, client, known, expected) in [
            (&clients, Some("c"), Some("o:1"), "c"),
            (&clients, None, Some("o:1"), "o:1"),
            (&clients, None, None, "localhost"),
            (&own, Some("c"), Some("o:1"), "o:1"),
            (&own, Some("c"), None, "c"),
            (&own, None, None, "localhost"),
            (&fixed, None, Some("o:1"), "f"),
        ] {
            let seen = endpoint_host(host, client, || known.map(Into::into));
            assert_eq!(seen, expected, "{host:?} {client:?} {known:?}");
        }
    }

    #[test]
    fn request_ids_are_validated() {
        let id = HeaderName::from_static("x-request-id");
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(id.clone(), HeaderValue::from_str(value).unwrap());
            }
            request_id(&headers, &id).map(str::to_owned)
        };
        assert_eq!(read(&["a-1"]).as_deref(), Some("a-1"));
        let long = "x".repeat(129);
        for wrong in [&[][..], &["a", "b"], &[""], &["a b"], &["a\"b"], &[&long]] {
            assert_eq!(read(wrong), None);
        }
    }
}
