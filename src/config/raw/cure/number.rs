//! Cures for numbers: in quotes, with a suffix, or without their unit.

use crate::config::keys::{ValueKind, grouped};

/// A number where a string is expected.
pub(super) fn of_number(kind: &ValueKind, number: &str) -> Option<String> {
    let is_port = number.parse::<u16>().is_ok_and(|port| port > 0);
    let written = match kind {
        ValueKind::Duration { .. } => format!("{number}s"),
        ValueKind::Size { .. } => format!("{number}B"),
        ValueKind::Rate => format!("{number}/s"),
        ValueKind::Mode => format!("{number:0>4}"),
        ValueKind::Bind if is_port => format!("0.0.0.0:{number}"),
        ValueKind::Address if is_port => format!("127.0.0.1:{number}"),
        ValueKind::OneOf(words) if words.contains(&number) => number.to_owned(),
        _ => return None,
    };
    Some(match kind {
        ValueKind::Duration { .. } | ValueKind::Size { .. } | ValueKind::Rate => {
            format!("add the unit: `\"{written}\"`")
        }
        _ => format!("write it as a string: `\"{written}\"`"),
    })
}

/// A string where a number is expected.
pub(super) fn in_quotes(text: &str) -> Option<String> {
    // A count for each second is a number, and the key has the unit.
    let text = text.strip_suffix("/s").unwrap_or(text);
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    match (written_out(text), number) {
        (Some(number), _) => Some(format!("write the number without quotes: `{number}`")),
        (None, Some(_)) => Some(format!("write the number without quotes: `{text}`")),
        (None, None) => None,
    }
}

/// A whole number with all its digits: `100k` is 100_000.
fn written_out(text: &str) -> Option<String> {
    let plain = text.trim().replace(['_', ',', ' '], "");
    let digits = plain.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = plain.strip_prefix(digits)?.to_ascii_lowercase();
    let factor = match suffix.as_str() {
        "" => 1,
        "k" => 1000,
        "m" => 1_000_000,
        _ => return None,
    };
    let number = digits.parse::<i64>().ok()?.checked_mul(factor)?;
    Some(grouped(number))
}

/// A rate in another spelling, such as `20r/s` or `20 per second`.
pub(super) fn rate(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    if digits.is_empty() {
        return None;
    }
    let unit = rest.trim_start_matches(['r', ' ']);
    let unit = unit
        .trim_start_matches("per")
        .trim_start_matches(['/', ' ', 'p']);
    let unit = match unit.chars().next() {
        None | Some('s') => 's',
        Some('m') => 'm',
        Some('h') => 'h',
        Some(_) => return None,
    };
    Some(format!("write `\"{digits}/{unit}\"`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_out() {
        for (text, expected) in [
            ("4", Some("4")),
            ("100k", Some("100_000")),
            ("1M", Some("1_000_000")),
            ("500,000", Some("500_000")),
            ("50,000", Some("50000")),
            ("1234", Some("1234")),
            ("two", None),
            ("", None),
            ("100GB", None),
        ] {
            assert_eq!(written_out(text).as_deref(), expected, "{text}");
        }
        assert!(in_quotes("1.5").unwrap().ends_with("`1.5`"));
        assert_eq!(in_quotes("nan"), None);
    }

    #[test]
    fn rates_in_other_spellings() {
        for (text, expected) in [
            ("20", Some("write `\"20/s\"`")),
            ("20r/s", Some("write `\"20/s\"`")),
            ("20 per minute", Some("write `\"20/m\"`")),
            ("20/sec", Some("write `\"20/s\"`")),
            ("100rps", Some("write `\"100/s\"`")),
            ("20/d", None),
            ("fast", None),
            ("", None),
        ] {
            assert_eq!(rate(text).as_deref(), expected, "{text}");
        }
    }
}
