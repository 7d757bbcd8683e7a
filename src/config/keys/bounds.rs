//! The bounds of values, and what to write instead of a zero.
//!
//! In many programs a zero means "never" or "no limit". Here it has no such meaning anywhere: where it
//! has none at all, it is refused, and the message says what to write.

use std::time::Duration;

use super::{ConfigKey, ValueKind};

impl ConfigKey {
    /// What to write instead of a zero, if anything turns off what the key is about.
    pub(in crate::config) fn zero_hint(&self) -> Option<String> {
        let is_off =
            |kind: &ValueKind| matches!(kind, ValueKind::OneOf(words) if words.contains(&"off"));
        match (&self.kind, self.instead_of_zero) {
            (ValueKind::AnyOf(kinds), "") if kinds.iter().any(is_off) => {
                Some("to turn it off, write `\"off\"`".to_owned())
            }
            (_, "") if self.default.is_empty() && !self.required => {
                Some(format!("for no limit, leave `{}` out", self.name))
            }
            (_, "") => None,
            (_, hint) => Some(hint.to_owned()),
        }
    }
}

impl ValueKind {
    /// The bounds of this kind, as messages put them.
    pub(in crate::config) fn bounds(&self) -> String {
        match self {
            Self::Duration { min, max } => within(
                "a duration",
                (!min.is_zero()).then(|| length(*min)),
                Some(length(*max)),
            ),
            Self::Size { min, max } => within(
                "a size",
                (*min > 0).then(|| bytes(*min)),
                (*max != u64::MAX).then(|| bytes(*max)),
            ),
            Self::Rate => "a rate above zero".to_owned(),
            _ => self.expected(),
        }
    }
}

fn within(what: &str, min: Option<String>, max: Option<String>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("{what} from `{min}` to `{max}`"),
        (Some(min), None) => format!("{what} of at least `{min}`"),
        (None, Some(max)) => format!("{what} of at most `{max}`"),
        (None, None) => what.to_owned(),
    }
}

fn length(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn bytes(number: u64) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let exact = |(shift, _): &(u32, &str)| number > 0 && number >> shift << shift == number;
    match UNITS.into_iter().find(exact) {
        Some((shift, unit)) => format!("{}{unit}", number >> shift),
        None => format!("{number}B"),
    }
}

/// A number with its digits in groups of three, as TOML allows, if it has many.
pub(in crate::config) fn grouped(number: i64) -> String {
    /// Shorter numbers are read at a glance.
    const FEW: usize = 5;
    let digits = number.to_string();
    let length = digits.len();
    if length <= FEW {
        return digits;
    }
    let mut text = String::with_capacity(length + length / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (length - position).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}
