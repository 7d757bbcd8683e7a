//! The response of a service that decides about requests.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};

use super::identity::EstablishedIdentity;
use crate::config::model::AuthService;
use crate::protocol::claims::Claims;

/// The field in which a service says for how many seconds an identity holds.
const EXPIRES_IN: HeaderName = HeaderName::from_static("expires-in");

/// The longest time that an identity holds: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The claim that names the user.
const SUBJECT: &str = "sub";

/// What a service has decided about a request.
#[derive(Debug, Clone)]
pub enum ServiceVerdict {
    /// The request is admitted, from a client with this identity.
    Admitted(EstablishedIdentity),
    /// It is not.
    Refused(ServiceRefusal),
}

/// The response that the client gets instead of what it has asked for.
#[derive(Debug, Clone)]
pub struct ServiceRefusal {
    /// The status code.
    pub status: StatusCode,
    /// The fields.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The body; `None` if that of the service cannot be passed on.
    pub body: Option<Bytes>,
}

/// What the head of a response decides; a refusal has no body yet.
///
/// # Errors
/// What is wrong with it: it decides nothing.
pub fn judge(
    service: &AuthService,
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<ServiceVerdict, String> {
    if status.is_success() {
        return Ok(ServiceVerdict::Admitted(identity(service, headers, now)?));
    }
    if status.is_redirection() || status.is_client_error() {
        return Ok(ServiceVerdict::Refused(refusal(service, status, headers)));
    }
    Err(format!("status {}", status.as_u16()))
}

impl ServiceVerdict {
    /// For how long it may be remembered, at most for `longest`; `None` if it holds for one request only.
    pub fn lifetime(&self, longest: Duration, now: SystemTime) -> Option<Duration> {
        match self {
            Self::Admitted(EstablishedIdentity { expires: None, .. }) => Some(longest),
            Self::Admitted(EstablishedIdentity {
                expires: Some(at), ..
            }) => {
                let left = at.duration_since(now).ok()?;
                (!left.is_zero()).then(|| left.min(longest))
            }
            Self::Refused(refusal) => {
                // Two clients must not get the same cookie.
                let is_for_one = refusal.fields.iter().any(|(name, _)| *name == SET_COOKIE);
                let is_plain = matches!(
                    refusal.status,
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                );
                (is_plain && !is_for_one).then_some(longest)
            }
        }
    }

    /// About how many bytes it occupies.
    pub fn size(&self) -> usize {
        let fields = |fields: &mut dyn Iterator<Item = (&HeaderName, usize)>| -> usize {
            let each = fields.map(|(name, value)| 64 + name.as_str().len() + value);
            each.sum()
        };
        match self {
            // Each field is there twice: as it is, and as a claim.
            Self::Admitted(identity) => {
                let lines = identity.fields.iter();
                let mut lines = lines
                    .map(|(name, value)| (name, 2 * value.as_ref().map_or(0, HeaderValue::len)));
                2 * size_of::<Self>() + fields(&mut lines)
            }
            Self::Refused(refusal) => {
                let lines = refusal.fields.iter();
                let mut lines = lines.map(|(name, value)| (name, value.len()));
                let body = refusal.body.as_ref().map_or(0, Bytes::len);
                size_of::<Self>() + fields(&mut lines) + body
            }
        }
    }
}

fn identity(
    service: &AuthService,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<EstablishedIdentity, String> {
    let mut identity = EstablishedIdentity {
        expires: expiry(headers, now)?,
        // The service decides each time: after a revocation, what it says then counts.
        issued: Some(now),
        ..EstablishedIdentity::default()
    };
    let mut claims = Map::new();
    for name in &service.response_headers {
        let lines = headers.get_all(name).iter().map(owned);
        let fields = lines.map(|value| (name.clone(), Some(value)));
        let before = identity.fields.len();
        identity.fields.extend(fields);
        if identity.fields.len() == before {
            identity.fields.push((name.clone(), None));
        }
        let is_subject = service.subject_header.as_ref() == Some(name);
        let claim = match is_subject {
            true => single_text(headers, name).map(Value::from),
            false => items(headers, name),
        };
        claims.extend(claim.map(|claim| (name.as_str().to_owned(), claim)));
    }
    let subject = service.subject_header.as_ref();
    if let Some(subject) = subject.and_then(|name| single_text(headers, name)) {
        claims.insert(SUBJECT.to_owned(), subject.into());
        identity.subject = Some(subject.into());
    }
    identity.claims = Claims::new(claims);
    Ok(identity)
}

/// When an identity expires; `None` if the service does not say.
fn expiry(headers: &HeaderMap, now: SystemTime) -> Result<Option<SystemTime>, String> {
    if !headers.contains_key(EXPIRES_IN) {
        return Ok(None);
    }
    // A value that cannot be read must not admit the client for ever.
    let seconds = single_text(headers, &EXPIRES_IN)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok());
    let seconds: u64 = seconds.ok_or("`expires-in` is not a number of seconds")?;
    Ok(now.checked_add(Duration::from_secs(seconds).min(LONGEST)))
}

/// The text of a field that has one line.
fn single_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let text = std::str::from_utf8(line.as_bytes()).ok()?.trim();
    (!text.is_empty()).then_some(text)
}

/// The items of a field that is a list: one alone, or several.
fn items(headers: &HeaderMap, name: &HeaderName) -> Option<Value> {
    let mut items = Vec::new();
    for line in headers.get_all(name) {
        let text = std::str::from_utf8(line.as_bytes()).ok()?;
        let parts = text.split(',').map(str::trim);
        items.extend(parts.filter(|part| !part.is_empty()).map(Value::from));
    }
    match items.len() {
        0 => None,
        1 => items.pop(),
        _ => Some(Value::Array(items)),
    }
}

fn refusal(service: &AuthService, status: StatusCode, headers: &HeaderMap) -> ServiceRefusal {
    const OF_BODY: [HeaderName; 3] = [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE];
    let others = OF_BODY
        .iter()
        .filter(|name| !service.client_headers.contains(name));
    let names = service.client_headers.iter().chain(others);
    let mut fields: Vec<_> = names
        .flat_map(|name| {
            let lines = headers.get_all(name).iter();
            lines.map(|value| (name.clone(), owned(value)))
        })
        .collect();
    if !fields.iter().any(|(name, _)| *name == CACHE_CONTROL) {
        // It holds for this client and for now.
        fields.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
    }
    ServiceRefusal {
        status,
        fields,
        body: None,
    }
}

/// A copy of a value that does not keep the buffer of the whole head.
fn owned(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> AuthService {
        let names = |names: &[&'static str]| -> Vec<HeaderName> {
            names.iter().copied().map(HeaderName::from_static).collect()
        };
        AuthService {
            upstream: "login".into(),
            path: "/".into(),
            request_headers: Vec::new(),
            response_headers: names(&["remote-user", "remote-groups", "remote-name"]),
            subject_header: Some(HeaderName::from_static("remote-user")),
            client_headers: names(&["location", "set-cookie"]),
            timeout: Duration::from_secs(1),
            at_once: 1,
            passes_on_error: false,
            cache: None,
        }
    }

    fn verdict(status: u16, lines: &[(&'static str, &str)]) -> Result<ServiceVerdict, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        judge(&service(), status, &headers, SystemTime::UNIX_EPOCH)
    }

    #[track_caller]
    fn admitted(lines: &[(&'static str, &str)]) -> EstablishedIdentity {
        match verdict(200, lines) {
            Ok(ServiceVerdict::Admitted(identity)) => identity,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_status_decides() {
        for (status, admits) in [
            (200, Some(true)),
            (204, Some(true)),
            (299, Some(true)),
            (302, Some(false)),
            (401, Some(false)),
            (403, Some(false)),
            (404, Some(false)),
            (429, Some(false)),
            (101, None),
            (500, None),
            (503, None),
            (599, None),
            (600, None),
        ] {
            let is_admitted = match verdict(status, &[]) {
                Ok(verdict) => Some(matches!(verdict, ServiceVerdict::Admitted(_))),
                Err(_) => None,
            };
            assert_eq!(is_admitted, admits, "{status}");
        }
    }

    #[test]
    fn fields_are_claims_and_the_subject_is_no_list() {
        let identity = admitted(&[
            ("remote-user", "Doe, Eve"),
            ("remote-groups", "admins, chat,"),
            ("remote-groups", "ops"),
            ("other", "x"),
        ]);
        assert_eq!(identity.subject.as_deref(), Some("Doe, Eve"));
        let text = |name| identity.claims.text(name).map(String::from);
        assert_eq!(text("sub").as_deref(), Some("Doe, Eve"));
        assert_eq!(text("remote-user").as_deref(), Some("Doe, Eve"));
        assert_eq!(text("remote-groups").as_deref(), Some("admins,chat,ops"));
        assert_eq!((text("remote-name"), text("other")), (None, None));
        let fields: Vec<_> = identity
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_ref().map(|it| it.as_bytes())))
            .collect();
        let expected: [(&str, Option<&[u8]>); 4] = [
            ("remote-user", Some(b"Doe, Eve")),
            ("remote-groups", Some(b"admins, chat,")),
            ("remote-groups", Some(b"ops")),
            ("remote-name", None),
        ];
        assert_eq!(fields, expected);
        let twice = admitted(&[("remote-user", "a"), ("remote-user", "b")]);
        assert_eq!(twice.subject, None);
        assert_eq!(twice.claims.text("remote-user"), None);
    }

    #[test]
    fn an_end_that_cannot_be_read_admits_nobody() {
        let end = |text| match verdict(200, &[("expires-in", text)]) {
            Ok(ServiceVerdict::Admitted(identity)) => {
                let end = identity.expires.unwrap();
                Some(end.duration_since(SystemTime::UNIX_EPOCH).unwrap())
            }
            _ => None,
        };
        assert_eq!(end("60"), Some(Duration::from_secs(60)));
        assert_eq!(end("0"), Some(Duration::ZERO));
        assert_eq!(end("18446744073709551615"), Some(LONGEST));
        for text in ["", "-1", "+1", "1.5", "1h", "18446744073709551616", "1, 2"] {
            assert_eq!(end(text), None, "{text}");
        }
        assert_eq!(admitted(&[]).expires, None);
        let twice = verdict(200, &[("expires-in", "1"), ("expires-in", "1")]);
        assert!(twice.is_err());
    }

    #[test]
    fn a_verdict_is_remembered_if_it_holds_for_others_like_it() {
        let longest = Duration::from_secs(5);
        let lifetime = |status, lines: &[(&'static str, &str)]| {
            let verdict = verdict(status, lines).unwrap();
            verdict.lifetime(longest, SystemTime::UNIX_EPOCH)
        };
        assert_eq!(lifetime(200, &[]), Some(longest));
        assert_eq!(lifetime(204, &[("expires-in", "60")]), Some(longest));
        let three = Some(Duration::from_secs(3));
        assert_eq!(lifetime(200, &[("expires-in", "3")]), three);
        assert_eq!(lifetime(200, &[("expires-in", "0")]), None);
        assert_eq!(lifetime(401, &[]), Some(longest));
        assert_eq!(lifetime(403, &[]), Some(longest));
        assert_eq!(lifetime(403, &[("set-cookie", "csrf=1")]), None);
        for status in [302, 400, 404, 429] {
            assert_eq!(lifetime(status, &[]), None, "{status}");
        }
    }
}
