//! Any `Cookie` field: a request names an endpoint only if the field has a cookie that was signed for it and has not
//! expired, and what comes before such a cookie hides it only if it is a cookie of the same name.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use tidegate::protocol::endpoint_cookie::EndpointCookie;

const NOW: u64 = 1_800_000_000;

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let cookie = EndpointCookie::new("server", &[7; 32]);
    // Nothing is accepted as it is: nobody knows the secret.
    assert_eq!(cookie.verify(bytes, NOW), None);
    let named = |line: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_bytes(line).ok()?);
        Some(cookie.endpoint(&headers, NOW).map(str::to_owned))
    };
    let Some(found) = named(bytes) else {
        return;
    };
    assert_eq!(found, None);
    let valid = cookie.issue("game-7", NOW + 60);
    let own = format!("server={valid}");
    let found = named(&[own.as_bytes(), b"; ", bytes].concat());
    assert_eq!(found.flatten().as_deref(), Some("game-7"));
    // Every changed byte, and every cut, makes it invalid.
    let at = bytes.len() % valid.len();
    let mut changed = valid.clone().into_bytes();
    if let (Some(byte), Some(by)) = (changed.get_mut(at), bytes.first().filter(|by| **by != 0)) {
        *byte ^= by;
        assert_eq!(cookie.verify(&changed, NOW), None);
    }
    assert_eq!(
        cookie.verify(valid.as_bytes().get(..at).unwrap_or_default(), NOW),
        None
    );
}
