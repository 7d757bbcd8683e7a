//! Lists of tokens in header fields (RFC 9110 section 5.6.1), parsed in one way for all users.

use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName};

/// The elements of every line of field `name`, in order, white space trimmed, empty ones left out.
/// Lines that are not ASCII have no elements.
pub fn tokens(headers: &HeaderMap, name: impl AsHeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(list)
}

/// The elements of one line.
pub fn list(line: &str) -> impl Iterator<Item = &str> {
    line.split(',')
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|e| !e.is_empty())
}

/// Whether `token` is in the list that field `name` has, in any case, on any of its lines.
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|element| element.eq_ignore_ascii_case(token))
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
    fn check(lines: &[&str], token: &str, expected: bool) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONNECTION, HeaderValue::from_str(line).unwrap());
        }
        assert_eq!(
            has_token(&headers, &CONNECTION, token),
            expected,
            "{lines:?}"
        );
    }

    #[test]
    fn a_token_is_found_in_any_case_on_any_line() {
        check(&["Upgrade"], "upgrade", true);
        check(&["keep-alive, Upgrade"], "upgrade", true);
        check(&["keep-alive", "x,\tUPGRADE ,"], "upgrade", true);
        check(&["keep-alive"], "upgrade", false);
        check(&["upgraded"], "upgrade", false);
        check(&["not upgrade"], "upgrade", false);
        check(&["", ","], "upgrade", false);
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
