//! A request has one token or none, or it is refused. What remains of its query and its subprotocols has neither a
//! token nor what marks one, and everything else in the order in which it was.

use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName, Request};
use tidegate::config::model::TokenSource;
use tidegate::protocol::credential::{Credential, MAX_TOKEN_BYTES, without_query};
use tidegate::protocol::token::tokens;

const LINES: usize = 100;

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let mut lines = [httparse::EMPTY_HEADER; LINES];
    let mut head = httparse::Request::new(&mut lines);
    let Ok(httparse::Status::Complete(_)) = head.parse(bytes) else {
        return;
    };
    let mut request = Request::builder().uri(head.path.unwrap_or_default());
    for line in head.headers.iter() {
        request = request.header(line.name, line.value);
    }
    let Ok(request) = request.body(()) else {
        return;
    };
    let path = request.uri().path_and_query();
    let target = path.map_or("/", |target| target.as_str());
    let query = target.split_once('?').map(|(_, query)| query);
    let sources = sources();
    check_query(&sources, target);
    let (mut parts, ()) = request.clone().into_parts();
    let Ok(Some(credential)) = Credential::find(&sources, &parts.headers, query) else {
        return;
    };
    let token = credential.as_str();
    assert!(!token.is_empty() && token.len() <= 3 * MAX_TOKEN_BYTES);
    let redaction = credential.redaction(&sources, &parts.headers, target);
    redaction.apply(&mut parts);
    assert_eq!(
        redaction.is_empty(),
        parts.uri == *request.uri() && parts.headers == *request.headers()
    );
    check_offers(
        request.headers(),
        &parts.headers,
        &credential,
        redaction.marker.as_deref(),
    );
    // What the endpoint gets has no token in these places any more.
    let left = Credential::find(&sources[3..], &parts.headers, parts.uri.query());
    assert_eq!(left, Ok(None));
    // Each place by itself has the same token or none.
    for source in sources {
        let found = Credential::find(&[source], request.headers(), query).expect("there is one");
        assert!(found.is_none_or(|found| found == credential));
    }
}

fn sources() -> Vec<TokenSource> {
    vec![
        TokenSource::Header(AUTHORIZATION),
        TokenSource::Header(HeaderName::from_static("x-token")),
        TokenSource::Cookie("jwt".into()),
        TokenSource::Query("token".into()),
        TokenSource::SubprotocolAfter("bearer".into()),
        TokenSource::SubprotocolPrefix("token.".into()),
    ]
}

fn check_query(sources: &[TokenSource], target: &str) {
    let kept = without_query(sources, target);
    assert_eq!(
        without_query(sources, &kept),
        kept,
        "a second time changes nothing"
    );
    let pairs = |target: &str| -> Vec<String> {
        let query = target.split_once('?').map(|(_, query)| query.to_owned());
        let query = query.unwrap_or_default();
        query.split('&').map(str::to_owned).collect()
    };
    let mut all = pairs(target).into_iter();
    for pair in pairs(&kept).iter().filter(|pair| !pair.is_empty()) {
        assert!(all.any(|known| known == *pair), "{pair} is another one");
        let name = pair.split('=').next().unwrap_or_default().to_owned();
        assert_ne!(decoded(&name), b"token");
    }
}

/// Decodes as forms are decoded, in the simplest way.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let digits = digits.filter(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

fn check_offers(
    before: &HeaderMap,
    after: &HeaderMap,
    credential: &Credential,
    marker: Option<&str>,
) {
    let is_marked = offers(before).any(|offer| offer == b"bearer");
    assert_eq!(marker, is_marked.then_some("bearer"));
    let mut all = offers(before);
    for offer in offers(after) {
        assert!(all.any(|known| known == offer), "it is another one");
        assert!(!offer.starts_with(b"token.") && offer != b"bearer");
        assert_ne!(offer, credential.as_str().as_bytes());
    }
}

fn offers(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    tokens(headers, SEC_WEBSOCKET_PROTOCOL)
}
