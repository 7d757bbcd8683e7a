//! What a service is asked about a request.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::config::model::AuthService;
use crate::protocol::hop_by_hop::HopByHop;

const METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The request that a service is asked about.
#[derive(Debug, Clone, Copy)]
pub struct AskedRequest<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path and query, as the client sent them.
    pub uri: &'a str,
    /// Whether the client uses https.
    pub secure: bool,
    /// The host that the client requested, if it named one.
    pub host: Option<&'a str>,
    /// The client's address, if it is known.
    pub client: Option<IpAddr>,
    /// Its fields.
    pub headers: &'a HeaderMap,
    /// The id of the request, and the field that carries it.
    pub request_id: Option<(&'a HeaderName, &'a str)>,
}

/// What a service is asked about a request: the fields of the request to it. It is independent of the client's
/// request, and can be asked again later.
#[derive(Clone)]
pub struct AuthQuestion {
    fields: Arc<[(HeaderName, HeaderValue)]>,
    /// It differs from request to request, and says nothing about the client.
    request_id: Option<(HeaderName, HeaderValue)>,
}

impl fmt::Debug for AuthQuestion {
    // The fields are credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthQuestion")
    }
}

impl AuthQuestion {
    /// What `service` is asked about this request.
    pub fn about(asked: &AskedRequest<'_>, service: &AuthService) -> Self {
        let mut fields = Vec::with_capacity(8);
        // All of this was part of a valid head, or is an address.
        let mut add = |name: HeaderName, value: &[u8]| {
            fields.extend(HeaderValue::from_bytes(value).map(|value| (name, value)));
        };
        add(METHOD, asked.method.as_str().as_bytes());
        add(PROTO, if asked.secure { b"https" } else { b"http" });
        if let Some(host) = asked.host {
            add(HOST, host.as_bytes());
        }
        add(URI, asked.uri.as_bytes());
        if let Some(client) = asked.client {
            add(FOR, client.to_canonical().to_string().as_bytes());
        }
        // A field that belongs to the client's connection does not reach the endpoint either.
        let hop_by_hop = HopByHop::of(asked.headers);
        let names = service.request_headers.iter();
        for name in names.filter(|name| !hop_by_hop.contains(name)) {
            for value in asked.headers.get_all(name) {
                // A copy: the value would keep the buffer of the whole head.
                add(name.clone(), value.as_bytes());
            }
        }
        let request_id = asked.request_id.and_then(|(name, id)| {
            let id = HeaderValue::from_str(id).ok()?;
            Some((name.clone(), id))
        });
        Self {
            fields: fields.into(),
            request_id,
        }
    }

    /// The fields of the request to the service, besides `Host`.
    pub fn fields(&self) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
        self.fields.iter().chain(&self.request_id)
    }

    /// What distinguishes it from other questions to the same service: all that is sent, except for the id of the
    /// request.
    pub fn digest(&self, key: &hmac::Key) -> QuestionDigest {
        let mut context = hmac::Context::with_key(key);
        let mut add = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        for (name, value) in self.fields.iter() {
            add(name.as_str().as_bytes());
            add(value.as_bytes());
        }
        let mut digest = [0; 32];
        for (byte, of_tag) in digest.iter_mut().zip(context.sign().as_ref()) {
            *byte = *of_tag;
        }
        QuestionDigest(digest)
    }
}

/// A keyed hash (HMAC-SHA-256) of a question: two questions with the same one cannot be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QuestionDigest([u8; 32]);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn service() -> AuthService {
        AuthService {
            upstream: "login".into(),
            path: "/".into(),
            request_headers: ["cookie", "authorization", "x-api-key"]
                .map(HeaderName::from_static)
                .into(),
            response_headers: Vec::new(),
            subject_header: None,
            client_headers: Vec::new(),
            timeout: Duration::from_secs(1),
            at_once: 1,
            passes_on_error: false,
            cache: None,
        }
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn question(uri: &str, lines: &[(&str, &str)], id: &str) -> AuthQuestion {
        let id_name = HeaderName::from_static("x-request-id");
        let asked = AskedRequest {
            method: &Method::POST,
            uri,
            secure: true,
            host: Some("chat.example.com"),
            client: Some("::ffff:192.0.2.1".parse().unwrap()),
            headers: &headers(lines),
            request_id: Some((&id_name, id)),
        };
        AuthQuestion::about(&asked, &service())
    }

    fn lines(question: &AuthQuestion) -> Vec<String> {
        let fields = question.fields();
        fields
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn a_service_gets_what_it_needs_and_nothing_else() {
        let question = question(
            "/a?b=%20c",
            &[
                ("cookie", "a=1"),
                ("cookie", "b=2"),
                ("connection", "upgrade, x-api-key"),
                ("upgrade", "websocket"),
                ("x-api-key", "for one hop"),
                ("x_api_key", "disguised"),
                ("x-forwarded-for", "6.6.6.6"),
                ("x_forwarded_uri", "/open"),
                ("content-length", "5"),
                ("x-request-id", "theirs"),
            ],
            "ours",
        );
        let expected = [
            "x-forwarded-method: POST",
            "x-forwarded-proto: https",
            "x-forwarded-host: chat.example.com",
            "x-forwarded-uri: /a?b=%20c",
            "x-forwarded-for: 192.0.2.1",
            "cookie: a=1",
            "cookie: b=2",
            "x-request-id: ours",
        ];
        assert_eq!(lines(&question), expected);
    }

    #[test]
    fn questions_are_the_same_if_all_that_is_sent_is() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        let digest = |uri, lines: &[(&str, &str)], id| question(uri, lines, id).digest(&key);
        let first = digest("/a", &[("cookie", "a=1")], "1");
        assert_eq!(first, digest("/a", &[("cookie", "a=1"), ("x", "y")], "2"));
        let others = [
            digest("/b", &[("cookie", "a=1")], "1"),
            digest("/a", &[("cookie", "a=2")], "1"),
            digest("/a", &[("cookie", "a=1"), ("cookie", "")], "1"),
            digest("/a", &[("authorization", "a=1")], "1"),
            digest("/a", &[], "1"),
        ];
        for (position, other) in others.iter().enumerate() {
            assert_ne!(first, *other, "{position}");
            assert!(!others[..position].contains(other), "{position}");
        }
    }
}
