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
    let kept = check_query(&sources, target);
    let Ok(Some(credential)) = Credential::find(&sources, request.headers(), query) else {
        return;
    };
    let token = credential.as_str();
    assert!(!token.is_empty() && token.len() <= 3 * MAX_TOKEN_BYTES);
    check_offers(&sources, &credential, request.headers().clone(), &kept);
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

/// Returns what is kept of the query.
fn check_query(sources: &[TokenSource], target: &str) -> String {
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
    kept.split_once('?').unwrap_or_default().1.to_owned()
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
    sources: &[TokenSource],
    credential: &Credential,
    mut headers: HeaderMap,
    kept_query: &str,
) {
    let before: Vec<Vec<u8>> = offers(&headers).map(<[u8]>::to_vec).collect();
    let marker = credential.take_from_offers(sources, &mut headers);
    assert_eq!(marker.is_some(), before.iter().any(|it| it == b"bearer"));
    let mut all = before.iter();
    for offer in offers(&headers) {
        assert!(all.any(|known| **known == *offer), "it is another one");
        assert!(!offer.starts_with(b"token.") && offer != b"bearer");
        assert_ne!(offer, credential.as_str().as_bytes());
    }
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().count();
    assert!(lines <= 1 || before.len() == offers(&headers).count());
    // What the endpoint gets has no token in these places any more.
    let places: Vec<TokenSource> = sources[3..].to_vec();
    let found = Credential::find(&places, &headers, Some(kept_query));
    assert_eq!(found, Ok(None));
}

fn offers(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    tokens(headers, SEC_WEBSOCKET_PROTOCOL)
}
