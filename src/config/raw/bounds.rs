//! Values against the bounds of their kinds.

use super::ConfigValue;
use crate::config::keys::ValueKind;

impl ValueKind {
    /// Whether this is the kind of a quantity, and `value` is one of this kind.
    pub(super) fn measures(&self, value: &ConfigValue) -> bool {
        matches!(
            (self, value),
            (Self::Duration { .. }, ConfigValue::Duration(_))
                | (Self::Size { .. }, ConfigValue::Size(_))
                | (Self::Rate, ConfigValue::Rate(_))
                | (Self::Integer { .. }, ConfigValue::Integer(_))
                | (Self::Number { .. }, ConfigValue::Number(_))
                | (Self::List(_), ConfigValue::List(_))
                | (Self::Map(_) | Self::Pairs(_), ConfigValue::Map(_))
        )
    }

    /// Whether a quantity of this kind is within its bounds.
    pub(super) fn includes(&self, value: &ConfigValue) -> bool {
        match (self, value) {
            (Self::Duration { min, max }, ConfigValue::Duration(it)) => (min..=max).contains(&it),
            (Self::Size { min, max }, ConfigValue::Size(it)) => (min..=max).contains(&it),
            (Self::Rate, ConfigValue::Rate(it)) => *it > 0.0,
            (Self::Integer { min, max }, ConfigValue::Integer(it)) => (min..=max).contains(&it),
            (Self::Number { min, max }, ConfigValue::Number(it)) => (min..=max).contains(&it),
            _ => true,
        }
    }
}

impl ConfigValue {
    /// Whether this is zero, or so little that somebody must have meant zero.
    pub(super) fn is_zero(&self) -> bool {
        match self {
            Self::Duration(duration) => duration.as_millis() == 0,
            Self::Size(number) => *number == 0,
            Self::Integer(number) => *number == 0,
            Self::Number(number) | Self::Rate(number) => *number == 0.0,
            _ => false,
        }
    }
}
