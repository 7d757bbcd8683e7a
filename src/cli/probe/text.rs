//! Texts of peers, and lists, made fit for a terminal.

/// What a peer says, fit for a terminal: on one line, of a bounded length, and without characters
/// that do something.
pub(super) fn harmless(text: &str) -> String {
    const LENGTH_MOST: usize = 200;
    let seen = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.trim().chars().take(LENGTH_MOST).map(seen).collect();
    if text.trim().chars().nth(LENGTH_MOST).is_some() {
        shown.push('…');
    }
    shown
}

/// The first of many, and how many more there are.
pub(super) fn some(all: &[String]) -> String {
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
            harmless(" a\x1b[2J\nb\u{9b}c "),
            "a\u{fffd}[2J\u{fffd}b\u{fffd}c"
        );
        assert_eq!(harmless(&"x".repeat(1000)).chars().count(), 201);
        let many: Vec<String> = (0..6).map(|number| number.to_string()).collect();
        assert_eq!(some(&many), "0, 1, 2, 3 and 2 more");
        assert_eq!(some(&many[..4]), "0, 1, 2, 3");
    }
}
