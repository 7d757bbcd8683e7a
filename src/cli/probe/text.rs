//! Texts of peers, and lists, made fit for a terminal.

/// A text of a peer, safe for a terminal: on one line, with a bounded length, and without control
/// characters.
pub(super) fn printable(text: &str) -> String {
    const MAX_LENGTH: usize = 200;
    let seen = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.trim().chars().take(MAX_LENGTH).map(seen).collect();
    if text.trim().chars().nth(MAX_LENGTH).is_some() {
        shown.push('…');
    }
    shown
}

/// The first few items of a list, and the number of further ones.
pub(super) fn first_few(all: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = all
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(more @ 1..) = all.len().checked_sub(SHOWN) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_writes_to_the_terminal_but_us() {
        assert_eq!(
            printable(" a\x1b[2J\nb\u{9b}c "),
            "a\u{fffd}[2J\u{fffd}b\u{fffd}c"
        );
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), 201);
        let many: Vec<String> = (0..6).map(|number| number.to_string()).collect();
        assert_eq!(first_few(&many), "0, 1, 2, 3 and 2 more");
        assert_eq!(first_few(&many[..4]), "0, 1, 2, 3");
    }
}
