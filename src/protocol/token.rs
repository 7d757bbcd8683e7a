//! Lists of tokens in header fields (RFC 9110 section 5.6.1), parsed in one way for all users.

use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName};

/// The elements of every line of field `name`, in order, white space trimmed, empty ones left out.
/// They are bytes: a line that is not text must not hide the tokens in it.
pub fn tokens(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| list(line.as_bytes()))
}

/// The elements of one line.
pub fn list(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether `token` is in the list that field `name` has, in any case, on any of its lines.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether `text` is a token: one or more of the bytes that RFC 9110 section 5.6.2 allows.
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::CONNECTION;

    #[track_caller]
    fn check(lines: &[&[u8]], token: &str, expected: bool) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONNECTION, HeaderValue::from_bytes(line).unwrap());
        }
        assert_eq!(
            has_token(&headers, &CONNECTION, token),
            expected,
            "{lines:?}"
        );
    }

    #[test]
    fn a_token_is_found_in_any_case_on_any_line() {
        check(&[b"Upgrade"], "upgrade", true);
        check(&[b"keep-alive, Upgrade"], "upgrade", true);
        check(&[b"keep-alive", b"x,\tUPGRADE ,"], "upgrade", true);
        check(&[b"\xe9, Upgrade"], "upgrade", true);
        check(&[b"keep-alive"], "upgrade", false);
        check(&[b"upgraded"], "upgrade", false);
        check(&[b"upgrade\xe9"], "upgrade", false);
        check(&[b"not upgrade"], "upgrade", false);
        check(&[b"", b","], "upgrade", false);
        check(&[], "upgrade", false);
    }

    #[test]
    fn tokens_have_no_separators() {
        for (text, expected) in [
            ("chat", true),
            ("v1.json+x", true),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_token(text), expected, "{text}");
        }
    }
}
