//! The key of a request: the bytes by which requests of one client, room or user are recognised.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Deref;

use http::HeaderMap;

use super::claims::Claims;
use super::sticky_cookie::cookie_value;
use super::target::Target;
use crate::config::model::RequestKey;

/// The parts of a request that a key can be.
#[derive(Debug, Clone, Copy)]
pub struct KeyTraits<'a> {
    /// The client's address, as determined by `trusted_proxies`.
    pub client: Option<IpAddr>,
    /// The server name that the client sent in its TLS handshake.
    pub server_name: Option<&'a str>,
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// Host, path and query.
    pub target: &'a Target,
    /// The claims of the client's identity; `None` where the route asks for none.
    pub claims: Option<&'a Claims>,
}

/// The value of a key.
#[derive(Debug)]
pub enum KeyValue<'a> {
    /// An IPv4 address.
    V4([u8; 4]),
    /// An IPv6 address.
    V6([u8; 16]),
    /// A part of the request.
    Part(Cow<'a, [u8]>),
}

impl Deref for KeyValue<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::V4(octets) => octets,
            Self::V6(octets) => octets,
            Self::Part(bytes) => bytes,
        }
    }
}

impl<'a> KeyTraits<'a> {
    /// The value of a key; `None` for a request without it, or with an empty one: requests that name no
    /// room have nothing in common.
    pub fn value(&self, key: &RequestKey) -> Option<KeyValue<'a>> {
        let value: Cow<'a, [u8]> = match key {
            RequestKey::ClientIp => {
                return Some(match self.client? {
                    IpAddr::V4(address) => KeyValue::V4(address.octets()),
                    IpAddr::V6(address) => KeyValue::V6(address.octets()),
                });
            }
            RequestKey::Claim(name) => match self.claims?.text(name)? {
                Cow::Borrowed(text) => text.as_bytes().into(),
                Cow::Owned(text) => text.into_bytes().into(),
            },
            RequestKey::Path => self.target.path().as_bytes().into(),
            RequestKey::Sni => self.server_name?.as_bytes().into(),
            RequestKey::Header(name) => self.headers.get(name)?.as_bytes().into(),
            RequestKey::Cookie(name) => cookie_value(self.headers, name)?.into(),
            RequestKey::Query(name) => {
                let query = self.target.query().unwrap_or_default();
                let mut pairs = form_urlencoded::parse(query.as_bytes());
                let (_, value) = pairs.find(|(known, _)| known == &**name)?;
                match value {
                    Cow::Borrowed(value) => value.as_bytes().into(),
                    Cow::Owned(value) => value.into_bytes().into(),
                }
            }
        };
        (!value.is_empty()).then_some(KeyValue::Part(value))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, Request};

    use super::*;

    /// The values of each key for a request with this target and these fields.
    fn values(target: &str, fields: &[(&str, &str)], client: Option<&str>) -> [Option<String>; 6] {
        let mut request = Request::get(target).header("host", "chat.example.com");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        let target = Target::of(&parts).unwrap();
        let traits = KeyTraits {
            client: client.map(|client| client.parse().unwrap()),
            server_name: client.map(|_| "chat.example.com"),
            headers: &parts.headers,
            target: &target,
            claims: None,
        };
        [
            RequestKey::ClientIp,
            RequestKey::Path,
            RequestKey::Sni,
            RequestKey::Header(HeaderName::from_static("x-user")),
            RequestKey::Cookie("sid".into()),
            RequestKey::Query("room".into()),
        ]
        .map(|key| Some(String::from_utf8_lossy(&traits.value(&key)?).into_owned()))
    }

    #[test]
    fn a_key_is_a_part_of_the_request() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            values(
                "/a%62?x=1&room=b%20c&room=d",
                &[("x-user", "me"), ("cookie", "a=1; sid=2")],
                Some("65.66.67.68"),
            ),
            [
                some("ABCD"),
                some("/ab"),
                some("chat.example.com"),
                some("me"),
                some("2"),
                some("b c")
            ]
        );
    }

    #[test]
    fn a_key_that_is_missing_or_empty_is_none() {
        let none = || None::<String>;
        let path = Some("/".to_owned());
        let expected = [none(), path, none(), none(), none(), none()];
        assert_eq!(values("/", &[], None), expected);
        let empty = [("x-user", ""), ("cookie", "sid=")];
        assert_eq!(values("/?room=&room=a", &empty, None), expected);
    }
}
