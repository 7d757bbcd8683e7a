//! Advice about errors that were reported: what to write instead.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::{ConfigValue, Located, cure};
use super::Reader;
use crate::config::diagnostic::{Code, Diagnostic, nearest};
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
        for error in found.filter(lacks) {
            let mut written = std::iter::once(value).chain(items);
            let written =
                written.find(|each| error.span.as_ref() == Some(&source.span(each.span())));
            error.hint = written.and_then(|written| cure::of_value(key, written.get_ref()));
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
        /// Names are compared with one another only in files with few of them.
        const FEW: usize = 100;
        if tree.len() > FEW {
            return;
        }
        let lacks = |each: &&mut Diagnostic| {
            each.code == Code::Missing && each.span.as_ref() == Some(&value.span)
        };
        let found = self.diagnostics.iter_mut().skip(before);
        let mut found = found.filter(lacks).peekable();
        if found.peek().is_none() {
            return;
        }
        let others = tree.keys().map(|key| key.get_ref().as_ref());
        let others: Vec<&str> = others.filter(|other| *other != name).collect();
        if let Some(near) = nearest(name, &others) {
            for error in found {
                error.hint = Some(format!(
                    "add it, or correct the name: did you mean `{near}` instead of `{name}`?"
                ));
            }
        }
    }
}
