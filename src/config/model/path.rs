//! Paths as they are compared.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters that browsers leave as they are in a path (WHATWG URL), although RFC 3986 has them encoded.
const LEFT_BY_BROWSERS: &str = "[]|^{}";

/// `path` in the form that paths are compared in (RFC 3986 section 6.2.2): escapes that are not needed are
/// decoded, the others are in upper case, and what browsers leave as it is is encoded. `None` if an escape
/// is not valid.
pub fn normal_path(path: &str) -> Option<Cow<'_, str>> {
    let is_special = |c: char| c == '%' || LEFT_BY_BROWSERS.contains(c);
    if !path.contains(is_special) {
        return Some(Cow::Borrowed(path));
    }
    let mut normal = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(is_special) {
        normal.push_str(rest.get(..at)?);
        let (byte, length) = match *rest.as_bytes().get(at..)? {
            [b'%', high, low, ..] => (unescaped(high, low)?, 3),
            [b'%', ..] | [] => return None,
            [byte, ..] => (byte, 1),
        };
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            normal.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(normal, "%{byte:02X}");
        }
        rest = rest.get(at + length..)?;
    }
    normal.push_str(rest);
    Some(Cow::Owned(normal))
}

/// A normal path as servers read it that decode `%2F` and treat a backslash as a slash, also those that
/// decode more than once (`%252F`). `None` if it has no such escape.
pub fn with_slashes(normal: &str) -> Option<String> {
    let mut read = String::new();
    let mut has_slash = false;
    let mut rest = normal;
    while let Some((before, after)) = rest.split_once('%') {
        read.push_str(before);
        // The digits of escaped percent signs, as many levels as there are.
        let digits = after.trim_start_matches("25");
        let is_slash = |digits: &str| ["2F", "2f", "5C", "5c"].contains(&digits);
        if digits.get(..2).is_some_and(is_slash) {
            has_slash = true;
            read.push('/');
            rest = digits.get(2..).unwrap_or_default();
        } else {
            read.push('%');
            rest = after;
        }
    }
    read.push_str(rest);
    has_slash.then_some(read)
}

/// The byte with these two hexadecimal digits.
pub fn unescaped(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_have_one_normal_form() {
        for (path, normal) in [
            ("/a/b", Some("/a/b")),
            ("/%7euser/%c3%a9", Some("/~user/%C3%A9")),
            ("/%61pi", Some("/api")),
            ("/ids[]", Some("/ids%5B%5D")),
            ("/ids%5b%5D", Some("/ids%5B%5D")),
            ("/a|b^c{d}", Some("/a%7Cb%5Ec%7Bd%7D")),
            ("/a%2fb;c", Some("/a%2Fb;c")),
            ("/%25", Some("/%25")),
            ("/%", None),
            ("/%4", None),
            ("/%zz", None),
            ("/[%", None),
            ("/%é", None),
        ] {
            assert_eq!(normal_path(path).as_deref(), normal, "{path}");
        }
    }

    #[test]
    fn encoded_slashes_are_read_as_slashes_at_every_level() {
        for (path, read) in [
            ("/a/b", None),
            ("/%25/a", None),
            ("/%2525", None),
            ("/a%2Fb", Some("/a/b")),
            ("/a%5Cb", Some("/a/b")),
            ("/a%252fb%25255Cc", Some("/a/b/c")),
            ("/a%2Fb%25%5B", Some("/a/b%25%5B")),
            ("/a%25%2F", Some("/a%25/")),
        ] {
            assert_eq!(with_slashes(path).as_deref(), read, "{path}");
        }
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent(path in "/([a-z~.%\\[|]|%[0-9a-fA-F]{2}){0,12}") {
            if let Some(once) = normal_path(&path) {
                prop_assert_eq!(normal_path(&once), Some(once.clone()));
            }
        }
    }
}
