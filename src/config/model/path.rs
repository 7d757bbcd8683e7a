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
        if is_unreserved(byte) {
            normal.push(char::from(byte));
        } else {
            escape(&mut normal, byte);
        }
        rest = rest.get(at + length..)?;
    }
    normal.push_str(rest);
    Some(Cow::Owned(normal))
}

/// A normal path as the loosest servers read it: they decode escapes as long as there are any (`%252F`), treat a
/// backslash as a slash and several slashes as one, and cut off the parameters of segments (`;v=1`). `None` if
/// that makes no difference. The result is in normal form.
pub fn loose_path(normal: &str) -> Option<String> {
    if !normal.contains(['%', ';']) && !normal.contains("//") {
        return None;
    }
    let mut read = String::with_capacity(normal.len());
    let mut is_parameter = false;
    for (byte, was_escaped) in decoded(normal) {
        match byte {
            b'/' | b'\\' => {
                is_parameter = false;
                if !read.ends_with('/') {
                    read.push('/');
                }
            }
            b';' => is_parameter = true,
            _ if is_parameter => {}
            _ if is_unreserved(byte) || (byte.is_ascii() && !was_escaped) => {
                read.push(char::from(byte));
            }
            _ => escape(&mut read, byte),
        }
    }
    (read != normal).then_some(read)
}

/// Whether a path has a `.` or `..` segment. In the path as the loosest servers read it, this finds whether any
/// server might see one: also a server that treats encoded slashes or backslashes as slashes, that cuts off path
/// parameters (`..;x`), or that decodes only once. A dot segment consists of bytes that are part of no escape, so
/// decoding the rest leaves it as it is.
pub fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// Decodes every escape, and those that decoding produces (`%252e`), in one pass: its work does not grow with the
/// number of times that a path is encoded. An invalid escape stays as it is. Returns each byte, and whether it was
/// escaped: as in the normal form, `%24` and `$` differ.
fn decoded(path: &str) -> Vec<(u8, bool)> {
    let mut decoded = Vec::with_capacity(path.len());
    for byte in path.bytes() {
        decoded.push((byte, false));
        // What is before this byte is decoded, so only an escape that it completes can be left. The result may be
        // the last byte of another one. Escapes do not overlap: the order in which they are decoded makes no
        // difference.
        while let [.., (b'%', _), (high, _), (low, _)] = *decoded
            && let Some(byte) = unescaped(high, low)
        {
            decoded.truncate(decoded.len() - 3);
            decoded.push((byte, true));
        }
    }
    decoded
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn escape(path: &mut String, byte: u8) {
    // Writing to a string does not fail.
    let _ = write!(path, "%{byte:02X}");
}

/// The byte with these two hexadecimal digits.
fn unescaped(high: u8, low: u8) -> Option<u8> {
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
    fn the_loosest_servers_see_through_every_spelling() {
        for (path, read) in [
            ("/a/b", None),
            ("/caf%C3%A9/%24$", None),
            ("/%25/a", None),
            ("/%2525", Some("/%25")),
            ("/a%2Fb", Some("/a/b")),
            ("/a%5Cb", Some("/a/b")),
            ("/a%252fb%25255Cc", Some("/a/b/c")),
            ("/a%2Fb%25%5B", Some("/a/b%25%5B")),
            ("/a%25%2F", Some("/a%25/")),
            ("/a%2525%2532Fb", Some("/a/b")),
            ("/a%2561", Some("/aa")),
            ("//a///b//", Some("/a/b/")),
            ("/a%2F/b", Some("/a/b")),
            ("/a%5C%5Cb", Some("/a/b")),
            ("/a;x=1;y/b;z", Some("/a/b")),
            ("/a%3Bx%2Fb", Some("/a/b")),
            ("/;x/a", Some("/a")),
            ("/%2524", Some("/%24")),
        ] {
            assert_eq!(loose_path(path).as_deref(), read, "{path}");
        }
    }

    /// Decodes every escape once, as most servers do; `None` without an escape.
    fn one_level_less(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut decoded = Vec::new();
        let mut rest = bytes;
        while let [first, after @ ..] = rest {
            let hex = after
                .get(..2)
                .filter(|hex| *first == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
            let byte = hex.map(|hex| {
                let hex = std::str::from_utf8(hex).unwrap();
                u8::from_str_radix(hex, 16).unwrap()
            });
            decoded.push(byte.unwrap_or(*first));
            rest = &after[if byte.is_some() { 2 } else { 0 }..];
        }
        (decoded.len() < bytes.len()).then_some(decoded)
    }

    proptest! {
        #[test]
        fn every_level_of_escapes_is_decoded_at_once(
            path in "/([.a/;]|%(25){0,4}(2e|2F|5c|3b|41|%|zz|2)){0,8}",
        ) {
            let mut levels = vec![path.clone().into_bytes()];
            while let Some(next) = one_level_less(&levels[levels.len() - 1]) {
                levels.push(next);
            }
            let bytes: Vec<u8> = decoded(&path).into_iter().map(|(byte, _)| byte).collect();
            prop_assert_eq!(&bytes, &levels[levels.len() - 1]);
            let is_dots = |segment: &[u8]| {
                let end = segment.iter().position(|b| *b == b';').unwrap_or(segment.len());
                matches!(&segment[..end], b"." | b"..")
            };
            let mut segments = levels.iter().flat_map(|level| level.split(|b| b"/\\".contains(b)));
            let loose = loose_path(&path);
            let seen = has_dot_segment(loose.as_deref().unwrap_or(&path));
            prop_assert_eq!(seen, segments.any(is_dots));
        }

        #[test]
        fn normalising_is_idempotent(path in "/([a-z~.%\\[|]|%[0-9a-fA-F]{2}){0,12}") {
            if let Some(once) = normal_path(&path) {
                prop_assert_eq!(normal_path(&once), Some(once.clone()));
            }
        }

        #[test]
        fn nothing_is_left_to_read_in_another_way(
            path in "(/([a;$.]|%24|%(25){0,3}(2F|5C|3B|41|32F|%)|/){0,6}){1,3}",
        ) {
            let normal = normal_path(&path);
            if let Some(read) = normal.as_deref().and_then(loose_path) {
                let again = normal_path(&read);
                prop_assert_eq!(again.as_deref(), Some(&*read));
                prop_assert_eq!(loose_path(&read), None, "{}", path);
            }
        }
    }
}
