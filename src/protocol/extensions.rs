//! Lists of WebSocket extensions (RFC 6455 section 9.1), and the compression offers in them.

/// The elements in one line of `Sec-WebSocket-Extensions`, including their parameters. A comma in a
/// quoted parameter does not separate elements.
fn elements(line: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c| {
        if c == '"' {
            quoted = !quoted;
        }
        c == ',' && !quoted
    })
    .map(|element| element.trim_matches([' ', '\t']))
    .filter(|element| !name(element).is_empty())
}

/// The name of an element, without its parameters.
fn name(element: &str) -> &str {
    let name = element.split(';').next().unwrap_or_default();
    name.trim_matches([' ', '\t'])
}

/// The extension names in one line.
pub(super) fn names(line: &str) -> impl Iterator<Item = &str> {
    elements(line).map(name)
}

/// The extensions that compress messages: that of RFC 7692, and those that browsers had before it.
const COMPRESSION: [&str; 3] = [
    "permessage-deflate",
    "x-webkit-deflate-frame",
    "deflate-frame",
];

/// Whether extension `name` compresses messages.
pub(super) fn compresses(name: &str) -> bool {
    COMPRESSION
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

/// A line of `Sec-WebSocket-Extensions` without compression offers; `None` if nothing is left.
pub(super) fn without_compression(line: &str) -> Option<String> {
    let kept: Vec<&str> = elements(line)
        .filter(|element| !compresses(name(element)))
        .collect();
    (!kept.is_empty()).then(|| kept.join(", "))
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
        ] {
            assert_eq!(without_compression(line).as_deref(), expected, "{line}");
        }
    }
}
