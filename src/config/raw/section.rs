//! A table as it was read: what was written for its keys, or their defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{At, Value};
use crate::config::keys::{Key, Kind, Table};

/// A table that was read by its declaration.
#[derive(Debug, Clone)]
pub(in crate::config) struct Section {
    declared: &'static Table,
    pub(in crate::config) written: BTreeMap<&'static str, At<Value>>,
}

impl PartialEq for Section {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Section {
    /// What was written for `name`.
    pub(in crate::config) fn written(&self, name: &str) -> Option<&At<Value>> {
        self.written.get(name)
    }

    /// Whether there is anything under `name`, good or bad.
    pub(in crate::config) fn has_any(&self, name: &str) -> bool {
        self.written(name).is_some_and(|at| match &at.value {
            Value::List(list) => !list.is_empty(),
            Value::Map(entries) => !entries.is_empty(),
            _ => true,
        })
    }

    /// What was written for `name`, or its default.
    fn value(&self, name: &str) -> Option<Value> {
        match self.written.get(name) {
            Some(at) if at.value != Value::Broken => Some(at.value.clone()),
            _ => self.declared.key(name).and_then(Key::default_value),
        }
    }

    pub(in crate::config) fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Bool(true)))
    }

    /// A text, or one of several.
    pub(in crate::config) fn text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(in crate::config) fn mode(&self, name: &str) -> Option<u32> {
        match self.value(name) {
            Some(Value::Mode(mode)) => Some(mode),
            _ => None,
        }
    }

    pub(in crate::config) fn integer(&self, name: &str) -> Option<i64> {
        match self.value(name) {
            Some(Value::Integer(number)) => Some(number),
            _ => None,
        }
    }

    pub(in crate::config) fn number(&self, name: &str) -> Option<f64> {
        match self.value(name) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// `None` for "off".
    pub(in crate::config) fn duration(&self, name: &str) -> Option<Duration> {
        match self.value(name) {
            Some(Value::Duration(duration)) => Some(duration),
            _ => None,
        }
    }

    /// Per second.
    pub(in crate::config) fn rate(&self, name: &str) -> Option<f64> {
        match self.value(name) {
            Some(Value::Rate(rate)) => Some(rate),
            _ => None,
        }
    }

    /// In bytes.
    pub(in crate::config) fn size(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Size(size)) => Some(size),
            _ => None,
        }
    }

    pub(in crate::config) fn list(&self, name: &str) -> Vec<At<Value>> {
        match self.value(name) {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }

    /// A table; one that was left out has all the defaults.
    pub(in crate::config) fn section(&self, name: &str) -> Self {
        match (
            self.value(name),
            self.declared.key(name).map(|key| &key.kind),
        ) {
            (Some(Value::Section(section)), _) => section,
            (_, Some(Kind::Table(declared))) => Self::empty(declared),
            _ => Self::empty(self.declared),
        }
    }

    /// A table, if it was written.
    pub(in crate::config) fn optional(&self, name: &str) -> Option<Self> {
        self.written(name).map(|_| self.section(name))
    }

    /// Tables by the names that the file gave them.
    pub(in crate::config) fn named(&self, name: &str) -> Vec<(At<String>, At<Self>)> {
        let Some(Value::Map(entries)) = self.value(name) else {
            return Vec::new();
        };
        let section = |(name, at): (At<String>, At<Value>)| match at.value {
            Value::Section(value) => Some((
                name,
                At {
                    span: at.span,
                    value,
                },
            )),
            _ => None,
        };
        entries.into_iter().filter_map(section).collect()
    }

    /// Names that the file chose, and what it gave them.
    pub(in crate::config) fn pairs(&self, name: &str) -> Vec<(At<String>, At<Value>)> {
        match self.value(name) {
            Some(Value::Map(entries)) => entries,
            _ => Vec::new(),
        }
    }

    pub(in crate::config) const fn empty(declared: &'static Table) -> Self {
        Self {
            declared,
            written: BTreeMap::new(),
        }
    }
}
