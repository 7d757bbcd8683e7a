//! The requests of health checks, and the responses that pass.

use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    ACCEPT, CONNECTION, HOST, ORIGIN, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Uri};

use super::handshake::Intent;
use super::handshake_response::{ResponseHead, Switch, SwitchError};
use super::header_case::write_field;
use crate::config::model::{HttpProbe, Strictness, WebSocketProbe};

/// The `User-Agent` of health checks.
const AGENT: HeaderValue = HeaderValue::from_static(concat!(
    "tidegate/",
    env!("CARGO_PKG_VERSION"),
    " (health check)"
));

/// The request of a health check.
#[derive(Debug)]
pub struct HealthRequest<'a> {
    parts: Parts,
    expected: Expected<'a>,
}

/// The response that passes.
#[derive(Debug)]
enum Expected<'a> {
    /// A valid 101, which selects a subprotocol if any was offered.
    Switch { offers: bool },
    /// One of these status codes.
    Status(&'a [RangeInclusive<u16>]),
}

/// Why a response does not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HealthResponseError {
    /// The status is another one.
    #[error("answered {0}")]
    Status(u16),
    /// The 101 is not valid: clients would close the connection.
    #[error(transparent)]
    Switch(SwitchError),
    /// The 101 selects no subprotocol, although some were offered: browsers would close the
    /// connection.
    #[error("the 101 selects none of the subprotocols")]
    NoSubprotocol,
}

/// The configured request cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the check's path, host or headers cannot be sent")]
pub struct UnsendableRequest;

impl<'a> HealthRequest<'a> {
    /// A handshake, with `host` unless another one is configured, and a random `key`.
    ///
    /// # Errors
    /// [`UnsendableRequest`].
    pub fn handshake(
        settings: &'a WebSocketProbe,
        host: &str,
        key: [u8; 16],
    ) -> Result<Self, UnsendableRequest> {
        let host = settings.host.as_deref().unwrap_or(host);
        let mut parts = get(&settings.path, host, &settings.headers)?;
        let mut set = |name: HeaderName, text: &str| {
            let value = HeaderValue::from_str(text).map_err(|_| UnsendableRequest)?;
            parts.headers.insert(name, value);
            Ok(())
        };
        set(UPGRADE, "websocket")?;
        set(CONNECTION, "Upgrade")?;
        set(SEC_WEBSOCKET_VERSION, "13")?;
        set(SEC_WEBSOCKET_KEY, &STANDARD.encode(key))?;
        if let Some(origin) = &settings.origin {
            set(ORIGIN, &origin.to_string())?;
        }
        let offers = !settings.subprotocols.is_empty();
        if offers {
            set(SEC_WEBSOCKET_PROTOCOL, &settings.subprotocols.join(", "))?;
        }
        // Configured fields may have made it something other than a handshake.
        match Intent::of(&parts) {
            Intent::WebSocket(Ok(_)) => Ok(Self {
                parts,
                expected: Expected::Switch { offers },
            }),
            _ => Err(UnsendableRequest),
        }
    }

    /// A plain request, with `host` unless another one is configured.
    ///
    /// # Errors
    /// [`UnsendableRequest`].
    pub fn plain(settings: &'a HttpProbe, host: &str) -> Result<Self, UnsendableRequest> {
        let host = settings.host.as_deref().unwrap_or(host);
        let mut parts = get(&settings.path, host, &[])?;
        let close = HeaderValue::from_static("close");
        parts.headers.insert(CONNECTION, close);
        let any = HeaderValue::from_static("*/*");
        parts.headers.insert(ACCEPT, any);
        Ok(Self {
            parts,
            expected: Expected::Status(&settings.expect),
        })
    }

    /// The head of the request.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The bytes of the request, which has no body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = format!("GET {} HTTP/1.1\r\n", self.parts.uri).into_bytes();
        for (name, value) in &self.parts.headers {
            write_field(&mut out, name, value.as_bytes(), None);
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// Whether `response` passes.
    ///
    /// # Errors
    /// [`HealthResponseError`].
    pub fn check(&self, response: &ResponseHead<'_>) -> Result<(), HealthResponseError> {
        match self.expected {
            Expected::Status(expected) => {
                let status = status_of(response);
                if expected.iter().any(|range| range.contains(&status)) {
                    Ok(())
                } else {
                    Err(HealthResponseError::Status(status))
                }
            }
            // Strictness is a setting of routes. A health check knows no route, and must not keep
            // an endpoint down that lenient routes could use.
            Expected::Switch { .. } => self.switch(response, Strictness::Lenient).map(drop),
        }
    }

    /// The parameters of a 101 that clients accept, including browsers.
    ///
    /// # Errors
    /// [`HealthResponseError`].
    pub fn switch<'b>(
        &self,
        response: &'b ResponseHead<'_>,
        strictness: Strictness,
    ) -> Result<Switch<'b>, HealthResponseError> {
        let (Expected::Switch { offers }, Intent::WebSocket(Ok(handshake))) =
            (&self.expected, Intent::of(&self.parts))
        else {
            return Err(HealthResponseError::Status(status_of(response)));
        };
        match response.check_switch(&handshake, strictness) {
            Ok(switch)
                if *offers && (switch.subprotocol().is_none() || switch.excused().subprotocol) =>
            {
                Err(HealthResponseError::NoSubprotocol)
            }
            Ok(switch) => Ok(switch),
            Err(SwitchError::Status(status)) => Err(HealthResponseError::Status(status)),
            Err(error) => Err(HealthResponseError::Switch(error)),
        }
    }
}

fn status_of(response: &ResponseHead<'_>) -> u16 {
    response.status().map_or(0, |status| status.as_u16())
}

/// A GET request with these fields.
fn get(
    path: &str,
    host: &str,
    fields: &[(HeaderName, HeaderValue)],
) -> Result<Parts, UnsendableRequest> {
    let uri: Uri = path.parse().map_err(|_| UnsendableRequest)?;
    if !path.starts_with('/') {
        return Err(UnsendableRequest);
    }
    let mut parts = Request::new(()).into_parts().0;
    parts.uri = uri;
    let host = HeaderValue::from_str(host).map_err(|_| UnsendableRequest)?;
    parts.headers.insert(HOST, host);
    if fields.iter().all(|(name, _)| *name != USER_AGENT) {
        parts.headers.insert(USER_AGENT, AGENT);
    }
    for (name, value) in fields.iter().filter(|(name, _)| *name != HOST) {
        parts.headers.append(name, value.clone());
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Origin;
    use http::header::CONTENT_LENGTH;

    const KEY: [u8; 16] = *b"the sample nonce";
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    fn websocket(subprotocols: &[&str]) -> WebSocketProbe {
        WebSocketProbe {
            path: "/health?deep=1".into(),
            host: None,
            origin: Origin::parse("https://chat.example.com"),
            subprotocols: subprotocols.iter().map(|&name| name.into()).collect(),
            headers: vec![
                (
                    HeaderName::from_static("x-probe"),
                    HeaderValue::from_static("1"),
                ),
                (UPGRADE, HeaderValue::from_static("h2c")),
                (USER_AGENT, HeaderValue::from_static("mine")),
            ],
            ping: false,
        }
    }

    fn http(expect: &[RangeInclusive<u16>]) -> HttpProbe {
        HttpProbe {
            path: "/health".into(),
            host: Some("chat.internal".into()),
            expect: expect.to_vec(),
        }
    }

    #[track_caller]
    fn check(health_request: &HealthRequest<'_>, response: &str, expected: Result<(), &str>) {
        let response = format!("{response}\r\n");
        let (response, _) = ResponseHead::parse(response.as_bytes()).unwrap().unwrap();
        let judged = health_request
            .check(&response)
            .map_err(|error| error.to_string());
        assert_eq!(judged, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_handshake_is_as_configured_and_remains_one() {
        let settings = websocket(&["chat", "v2"]);
        let health_request = HealthRequest::handshake(&settings, "10.0.0.11:9000", KEY).unwrap();
        let text = String::from_utf8(health_request.to_bytes()).unwrap();
        let mut lines: Vec<_> = text.split_terminator("\r\n").collect();
        assert_eq!(lines.remove(0), "GET /health?deep=1 HTTP/1.1");
        assert_eq!(lines.pop(), Some(""));
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "Connection: Upgrade",
                "Host: 10.0.0.11:9000",
                "Origin: https://chat.example.com",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Protocol: chat, v2",
                "Sec-WebSocket-Version: 13",
                "Upgrade: websocket",
                "User-Agent: mine",
                "X-Probe: 1",
            ]
        );
    }

    #[test]
    fn a_101_passes_if_a_client_would_accept_it() {
        let settings = websocket(&[]);
        let health_request = HealthRequest::handshake(&settings, "a", KEY).unwrap();
        check(&health_request, SWITCH, Ok(()));
        let wrong = SWITCH.replace("s3p", "s4p");
        check(
            &health_request,
            &wrong,
            Err("the 101 has a wrong `Sec-WebSocket-Accept`"),
        );
        // What a lenient route accepts.
        let unasked = format!("{SWITCH}Sec-WebSocket-Protocol: chat\r\n");
        check(&health_request, &unasked, Ok(()));
        check(&health_request, &SWITCH.replace("1.1", "1.0"), Ok(()));
        check(&health_request, "HTTP/1.1 503 No\r\n", Err("answered 503"));

        let settings = websocket(&["chat"]);
        let health_request = HealthRequest::handshake(&settings, "a", KEY).unwrap();
        check(&health_request, &unasked, Ok(()));
        let error = "the 101 selects none of the subprotocols";
        check(&health_request, SWITCH, Err(error));
        let other = unasked.replace("chat", "other");
        check(&health_request, &other, Err(error));
    }

    #[test]
    fn a_plain_response_passes_by_its_status() {
        let settings = http(&[200..=299, 404..=404]);
        let health_request = HealthRequest::plain(&settings, "10.0.0.11:9000").unwrap();
        let text = String::from_utf8(health_request.to_bytes()).unwrap();
        assert!(text.starts_with("GET /health HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("\r\nHost: chat.internal\r\n"), "{text}");
        assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
        for status in [200, 299, 404] {
            check(
                &health_request,
                &format!("HTTP/1.0 {status} Ok\r\n"),
                Ok(()),
            );
        }
        for status in [101, 301, 426, 500] {
            let error = format!("answered {status}");
            check(
                &health_request,
                &format!("HTTP/1.1 {status} No\r\n"),
                Err(&error),
            );
        }
    }

    #[test]
    fn invalid_requests_are_not_sent() {
        for path in ["", "health", "http://a/", "/a b", "/\r\nHost: b"] {
            let settings = HttpProbe {
                path: path.into(),
                ..http(&[])
            };
            assert_eq!(
                HealthRequest::plain(&settings, "a").err(),
                Some(UnsendableRequest)
            );
        }
        let settings = websocket(&["chat\r\nx: y"]);
        assert!(HealthRequest::handshake(&settings, "a", KEY).is_err());
        let length = (CONTENT_LENGTH, HeaderValue::from_static("5"));
        let settings = WebSocketProbe {
            headers: vec![length],
            ..websocket(&[])
        };
        assert!(HealthRequest::handshake(&settings, "a", KEY).is_err());
    }
}
