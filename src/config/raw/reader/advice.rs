//! Advice about errors that were reported: what to write instead.

use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::{ConfigValue, Located, cure};
use super::Reader;
use crate::config::diagnostic::{Code, Diagnostic, nearest_other};
use crate::config::keys::ConfigKey;

impl Reader<'_> {
    /// Adds to the errors since `before` what to write instead of `value` or an item of it.
    pub(super) fn add_cures(
        &mut self,
        before: usize,
        key: &'static ConfigKey,
        value: &Spanned<DeValue<'_>>,
    ) {
        let items = match value.get_ref() {
            DeValue::Array(items) => &**items,
            _ => &[],
        };
        let source = self.source;
        let found = self.diagnostics.iter_mut().skip(before);
        let lacks = |error: &&mut Diagnostic| {
            error.hint.is_none() && matches!(error.code, Code::Type | Code::Value)
        };
        let mut found = found.filter(lacks).peekable();
        if found.peek().is_none() {
            return;
        }
        // A list of `[[NAME]]` has the span of its first item, and the error is about the list.
        let written = items.iter().chain([value]);
        let written: HashMap<_, _> = written
            .map(|each| (source.span(each.span()), each.get_ref()))
            .collect();
        for error in found {
            let written = error.span.as_ref().and_then(|span| written.get(span));
            error.hint = written.and_then(|written| cure::of_value(key, written));
        }
    }

    /// A table that lacks a required key may belong to another one with a similar name.
    pub(super) fn suggest_name(
        &mut self,
        before: usize,
        name: &str,
        value: &Located<ConfigValue>,
        tree: &DeTable<'_>,
    ) {
        let lacks = |each: &&mut Diagnostic| {
            each.code == Code::Missing && each.span.as_ref() == Some(&value.span)
        };
        let found = self.diagnostics.iter_mut().skip(before);
        let mut found = found.filter(lacks).peekable();
        if found.peek().is_none() {
            return;
        }
        let names = tree.keys().map(|key| key.get_ref().as_ref());
        if let Some(near) = nearest_other(name, names) {
            for error in found {
                error.hint = Some(format!(
                    "add it, or correct the name: did you mean `{near}` instead of `{name}`?"
                ));
            }
        }
    }
}
