//! A table as it was read: the values of its keys, written or default.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{ConfigValue, Located};
use crate::config::keys::{ConfigKey, KeyTable, ValueKind};

/// A table that was read by its declaration.
#[derive(Debug, Clone)]
pub(in crate::config) struct Section {
    declared: &'static KeyTable,
    pub(in crate::config) written: BTreeMap<&'static str, Located<ConfigValue>>,
    /// Keys whose values are wrong, or whose names were probably misspelt: what they say is unknown.
    pub(in crate::config) doubtful: Vec<&'static str>,
    /// Whether an error was reported about anything in the table.
    pub(in crate::config) is_flawed: bool,
}

impl PartialEq for Section {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Section {
    /// The value that was written for `name`.
    pub(in crate::config) fn written(&self, name: &str) -> Option<&Located<ConfigValue>> {
        self.written.get(name)
    }

    /// Whether one of these keys may be meant by a key that was misspelt.
    pub(in crate::config) fn may_mean(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.doubtful.contains(key))
    }

    /// Whether anything was written under `name`, valid or not.
    pub(in crate::config) fn has_any(&self, name: &str) -> bool {
        self.written(name).is_some_and(|at| match &at.value {
            ConfigValue::List(list) => !list.is_empty(),
            ConfigValue::Map(entries) => !entries.is_empty(),
            _ => true,
        })
    }

    /// The value that was written for `name`, or its default.
    fn value(&self, name: &str) -> Option<ConfigValue> {
        // A broken value counts as its default: whatever else is wrong in the file is reported as well,
        // and not what merely follows from this mistake.
        match self.written.get(name) {
            Some(at) if at.value != ConfigValue::Broken => Some(at.value.clone()),
            _ => self.declared.key(name).and_then(ConfigKey::default_value),
        }
    }

    pub(in crate::config) fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Some(ConfigValue::Bool(true)))
    }

    /// A string, or one of several words.
    pub(in crate::config) fn text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(ConfigValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(in crate::config) fn mode(&self, name: &str) -> Option<u32> {
        match self.value(name) {
            Some(ConfigValue::Mode(mode)) => Some(mode),
            _ => None,
        }
    }

    pub(in crate::config) fn integer(&self, name: &str) -> Option<i64> {
        match self.value(name) {
            Some(ConfigValue::Integer(number)) => Some(number),
            _ => None,
        }
    }

    pub(in crate::config) fn number(&self, name: &str) -> Option<f64> {
        match self.value(name) {
            Some(ConfigValue::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// `None` for "off".
    pub(in crate::config) fn duration(&self, name: &str) -> Option<Duration> {
        match self.value(name) {
            Some(ConfigValue::Duration(duration)) => Some(duration),
            _ => None,
        }
    }

    /// Per second.
    pub(in crate::config) fn rate(&self, name: &str) -> Option<f64> {
        match self.value(name) {
            Some(ConfigValue::Rate(rate)) => Some(rate),
            _ => None,
        }
    }

    /// In bytes.
    pub(in crate::config) fn size(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(ConfigValue::Size(size)) => Some(size),
            _ => None,
        }
    }

    pub(in crate::config) fn list(&self, name: &str) -> Vec<Located<ConfigValue>> {
        match self.value(name) {
            Some(ConfigValue::List(list)) => list,
            _ => Vec::new(),
        }
    }

    /// A table; one that was left out, or for which a short value stands, has all the defaults.
    pub(in crate::config) fn section(&self, name: &str) -> Self {
        if let Some(ConfigValue::Section(section)) = self.value(name) {
            return section;
        }
        let kinds = match self.declared.key(name).map(|key| &key.kind) {
            Some(ValueKind::AnyOf(kinds)) => *kinds,
            Some(kind) => std::slice::from_ref(kind),
            None => &[],
        };
        let declared = kinds.iter().find_map(|kind| match kind {
            ValueKind::Table(declared) => Some(*declared),
            _ => None,
        });
        Self::empty(declared.unwrap_or(self.declared))
    }

    /// A table, if it was written. A broken one is reported, and must not be taken for an empty one.
    pub(in crate::config) fn optional(&self, name: &str) -> Option<Self> {
        let written = self.written(name)?;
        (written.value != ConfigValue::Broken).then(|| self.section(name))
    }

    /// Tables by the names that the file gave them.
    pub(in crate::config) fn named(&self, name: &str) -> Vec<(Located<String>, Located<Self>)> {
        let Some(ConfigValue::Map(entries)) = self.value(name) else {
            return Vec::new();
        };
        let section = |(name, at): (Located<String>, Located<ConfigValue>)| match at.value {
            ConfigValue::Section(value) => Some((
                name,
                Located {
                    span: at.span,
                    value,
                },
            )),
            _ => None,
        };
        entries.into_iter().filter_map(section).collect()
    }

    /// Names that the file chose, and what it gave them.
    pub(in crate::config) fn pairs(
        &self,
        name: &str,
    ) -> Vec<(Located<String>, Located<ConfigValue>)> {
        match self.value(name) {
            Some(ConfigValue::Map(entries)) => entries,
            _ => Vec::new(),
        }
    }

    /// One whose keys are unknown, because its text could not be read.
    pub(in crate::config) fn unknown(declared: &'static KeyTable) -> Self {
        Self {
            doubtful: declared.keys.iter().map(|key| key.name).collect(),
            ..Self::empty(declared)
        }
    }

    pub(in crate::config) const fn empty(declared: &'static KeyTable) -> Self {
        Self {
            declared,
            written: BTreeMap::new(),
            doubtful: Vec::new(),
            is_flawed: false,
        }
    }
}
