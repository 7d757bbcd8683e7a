//! Lists of WebSocket extensions (RFC 6455 section 9.1), and the compression offers in them.

/// The elements in one line of `Sec-WebSocket-Extensions`, including their parameters. A comma in a
/// quoted parameter does not separate elements.
fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    line.split(move |b| {
        if *b == b'"' {
            quoted = !quoted;
        }
        *b == b',' && !quoted
    })
    .map(<[u8]>::trim_ascii)
    .filter(|element| !name(element).is_empty())
}

/// The name of an element, without its parameters.
fn name(element: &[u8]) -> &[u8] {
    let name = element.split(|b| *b == b';').next();
    name.unwrap_or_default().trim_ascii()
}

/// The extension names in one line.
pub(super) fn names(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    elements(line).map(name)
}

/// The extensions that compress messages: that of RFC 7692, and those that browsers had before it.
const COMPRESSION: [&str; 3] = [
    "permessage-deflate",
    "x-webkit-deflate-frame",
    "deflate-frame",
];

/// Whether extension `name` compresses messages.
pub(super) fn compresses(name: &[u8]) -> bool {
    COMPRESSION
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// A line of `Sec-WebSocket-Extensions` without compression offers; `None` if nothing is left.
pub(super) fn without_compression(line: &[u8]) -> Option<Vec<u8>> {
    let kept: Vec<&[u8]> = elements(line)
        .filter(|element| !compresses(name(element)))
        .collect();
    (!kept.is_empty()).then(|| kept.join(&b", "[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_to_compress_are_taken_out_of_the_list() {
        for (line, expected) in [
            ("permessage-deflate; client_max_window_bits", None),
            (
                "Permessage-Deflate, foo; x=\"a, b\"",
                Some("foo; x=\"a, b\""),
            ),
            ("foo, permessage-deflate; x, bar", Some("foo, bar")),
            ("foo", Some("foo")),
            ("", None),
            ("permessage-deflate, föö", Some("föö")),
        ] {
            let kept = without_compression(line.as_bytes());
            assert_eq!(kept.as_deref(), expected.map(str::as_bytes), "{line}");
        }
    }
}
