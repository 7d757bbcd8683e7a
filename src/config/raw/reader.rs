//! Reads TOML tables and values by their declarations.

mod advice;
mod renamed;
mod text;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigValue, Located, Section, cure};
use crate::config::diagnostic::{Code, Diagnostic, Severity, nearest};
use crate::config::keys::{ConfigKey, KeyTable, ValueKind};
use crate::config::sources::{SourceId, Span};
use crate::config::value;

pub(super) struct Reader<'a> {
    /// The text that is read.
    pub(super) source: SourceId,
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    pub(super) diagnostics: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    pub(super) fn table(
        &mut self,
        declared: &'static KeyTable,
        tree: &DeTable<'_>,
        span: &Span,
    ) -> Section {
        let mut section = Section::empty(declared);
        let before = self.diagnostics.len();
        for (name, value) in tree {
            let key = match (
                declared.key(name.get_ref()),
                declared.renamed(name.get_ref()),
            ) {
                (Some(key), _) => key,
                (None, Some(key)) if self.accepts_former_name(key, name, tree) => key,
                (None, Some(_)) => continue,
                (None, None) => {
                    section.doubtful.extend(self.unknown(declared, name, value));
                    continue;
                }
            };
            let read = self.key(key, value);
            if read.is_none() {
                section.doubtful.push(key.name);
            }
            let at = Located {
                span: self.source.span(value.span()),
                value: read.unwrap_or(ConfigValue::Broken),
            };
            section.written.insert(key.name, at);
        }
        for key in declared.keys {
            if key.required && !section.written.contains_key(key.name) {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::Missing,
                        span.clone(),
                        format!("`{}` is missing", key.name),
                    )
                    .hint(format!("it must be {}", key.kind.expected())),
                );
            }
        }
        let mut found = self.diagnostics.iter().skip(before);
        section.is_flawed = found.any(|each| each.severity == Severity::Error);
        section
    }

    /// Reports a key that does not exist; returns the one that was probably meant.
    fn unknown(
        &mut self,
        declared: &KeyTable,
        name: &Spanned<impl AsRef<str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<&'static str> {
        let written = name.get_ref().as_ref();
        let known: Vec<&str> = declared.keys.iter().map(|key| key.name).collect();
        let diagnostic = Diagnostic::error(
            Code::UnknownKey,
            self.source.span(name.span()),
            format!("unknown key `{written}`"),
        );
        let fitting = declared
            .keys
            .iter()
            .filter(|key| key.kind.takes(value.get_ref()));
        let fitting: Vec<&str> = fitting.map(|key| key.name).collect();
        let near = nearest(written, &fitting).or_else(|| nearest(written, &known));
        let cure = cure::of_key(declared, written);
        let hint = match (&cure, near) {
            _ if written == "include" => {
                "`include` stands at the beginning of the main file, above the first table"
                    .to_owned()
            }
            (Some((_, cure)), _) => cure.clone(),
            (None, Some(near)) => format!("did you mean `{near}`?"),
            (None, None) => format!("the keys of this table are: {}", known.join(", ")),
        };
        self.diagnostics.push(diagnostic.hint(hint));
        cure.map(|(key, _)| key).or(near)
    }

    /// Reads the value of a key. `None` if it is wrong, which is reported.
    pub(super) fn key(
        &mut self,
        key: &'static ConfigKey,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<ConfigValue> {
        let before = self.diagnostics.len();
        let read = self.value_of(key, value);
        self.add_cures(before, key, value);
        let read = read?;
        self.check_bounds(key, &key.kind, &read, self.source.span(value.span()))
            .then_some(read)
    }

    fn value_of(
        &mut self,
        key: &'static ConfigKey,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<ConfigValue> {
        if let (ValueKind::Map(kind), DeValue::Table(tree)) = (&key.kind, value.get_ref())
            && let Some((message, hint)) = cure::of_nameless(key, kind, tree)
        {
            let error = Diagnostic::error(Code::Missing, self.source.span(value.span()), message);
            self.diagnostics.push(error.hint(hint));
            return None;
        }
        self.value(&key.kind, value)
    }

    /// Whether a value, and everything in it, is within the bounds of its kind.
    fn check_bounds(
        &mut self,
        key: &ConfigKey,
        kind: &ValueKind,
        value: &ConfigValue,
        span: Span,
    ) -> bool {
        match (kind, value) {
            (ValueKind::AnyOf(kinds), _) => {
                let mut kinds = kinds.iter().filter(|kind| kind.measures(value));
                kinds.all(|kind| self.check_bounds(key, kind, value, span.clone()))
            }
            (ValueKind::List(kind), ConfigValue::List(list)) => {
                let check = |at: &Located<ConfigValue>| {
                    self.check_bounds(key, kind, &at.value, at.span.clone())
                };
                list.iter().map(check).fold(true, |all, one| all & one)
            }
            (ValueKind::Map(kind) | ValueKind::Pairs(kind), ConfigValue::Map(entries)) => {
                let check = |(_, at): &(Located<String>, Located<ConfigValue>)| {
                    self.check_bounds(key, kind, &at.value, at.span.clone())
                };
                entries.iter().map(check).fold(true, |all, one| all & one)
            }
            _ if kind.measures(value) && !kind.includes(value) => {
                let message = format!("expected {}", kind.bounds());
                let mut error = Diagnostic::error(Code::Value, span, message);
                error.hint = value.is_zero().then(|| key.zero_hint()).flatten();
                self.diagnostics.push(error);
                false
            }
            _ => true,
        }
    }

    fn value(
        &mut self,
        kind: &'static ValueKind,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<ConfigValue> {
        // The parser puts an empty placeholder in place of a missing value. The syntax error that caused
        // it was reported.
        if value.span().is_empty() {
            return None;
        }
        match (kind, value.get_ref()) {
            (ValueKind::AnyOf(kinds), _) => self.any_of(kind, kinds, value),
            (ValueKind::Table(declared), DeValue::Table(tree)) => Some(ConfigValue::Section(
                self.table(declared, tree, &self.source.span(value.span())),
            )),
            (ValueKind::Table(declared), DeValue::String(_)) if kind.takes_text() => {
                self.lone(declared, value).map(ConfigValue::Section)
            }
            (ValueKind::Map(kind), DeValue::Table(tree)) => {
                self.check_names(tree);
                Some(self.map(kind, tree))
            }
            (ValueKind::Pairs(kind), DeValue::Table(tree)) => Some(self.map(kind, tree)),
            (ValueKind::List(kind), DeValue::Array(list)) => {
                let each = |each: &Spanned<DeValue<'_>>| Located {
                    span: self.source.span(each.span()),
                    value: self.value(kind, each).unwrap_or(ConfigValue::Broken),
                };
                Some(ConfigValue::List(list.iter().map(each).collect()))
            }
            (ValueKind::List(kind), DeValue::String(_)) if kind.takes_text() => {
                let only = Located {
                    span: self.source.span(value.span()),
                    value: self.value(kind, value)?,
                };
                Some(ConfigValue::List(vec![only]))
            }
            (ValueKind::Bool, DeValue::Boolean(value)) => Some(ConfigValue::Bool(*value)),
            (ValueKind::Integer { .. } | ValueKind::Number { .. }, DeValue::Integer(number)) => {
                let digits = number.as_str().replace('_', "");
                let number = i64::from_str_radix(&digits, number.radix()).ok();
                self.number(
                    kind,
                    number,
                    number.map(|number| number as f64),
                    self.source.span(value.span()),
                )
            }
            (ValueKind::Number { .. }, DeValue::Float(number)) => {
                let number = number.as_str().replace('_', "").parse().ok();
                self.number(kind, None, number, self.source.span(value.span()))
            }
            (ValueKind::Template, DeValue::String(text)) => self
                .template(text, self.source.span(value.span()))
                .map(ConfigValue::Template),
            (ValueKind::OneOf(names), DeValue::String(text)) => {
                self.one_of(names, kind, text, self.source.span(value.span()))
            }
            (_, DeValue::String(text)) if kind.takes_text() => {
                let text = self.expand(text, self.source.span(value.span()))?;
                let parsed = parse(kind, text);
                parsed
                    .map_err(|error| self.invalid(self.source.span(value.span()), error))
                    .ok()
            }
            _ => {
                self.wrong_type(kind, value);
                None
            }
        }
    }

    /// A table that is written as the value of its only required key.
    fn lone(
        &mut self,
        declared: &'static KeyTable,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Section> {
        let key = declared.lone_key()?;
        let mut section = Section::empty(declared);
        let at = Located {
            span: self.source.span(value.span()),
            value: self.key(key, value)?,
        };
        section.written.insert(key.name, at);
        Some(section)
    }

    /// One of these words. `kind` has all that is possible instead.
    fn one_of(
        &mut self,
        names: &[&str],
        kind: &ValueKind,
        text: &str,
        span: Span,
    ) -> Option<ConfigValue> {
        let text = self.expand(text, span.clone())?;
        if names.contains(&text.as_str()) {
            return Some(ConfigValue::Text(text));
        }
        self.none_of(names, kind, &text, span);
        None
    }

    /// Reads a value by the first alternative that it fits. If only one alternative has its type, the
    /// error is that of this alternative.
    fn any_of(
        &mut self,
        kind: &ValueKind,
        kinds: &'static [ValueKind],
        value: &Spanned<DeValue<'_>>,
    ) -> Option<ConfigValue> {
        let fitting: Vec<&'static ValueKind> = kinds
            .iter()
            .filter(|kind| kind.takes(value.get_ref()))
            .collect();
        match (fitting.as_slice(), value.get_ref()) {
            // The value may have been meant for another alternative, such as a number.
            ([ValueKind::OneOf(names)], DeValue::String(text)) => {
                return self.one_of(names, kind, text, self.source.span(value.span()));
            }
            ([only], _) => return self.value(only, value),
            _ => {}
        }
        if fitting.is_empty() {
            self.wrong_type(kind, value);
            return None;
        }
        // Each attempt has diagnostics of its own: those of a failed one would mislead.
        for kind in fitting {
            let mut diagnostics = Vec::new();
            let read = Reader {
                source: self.source,
                environment: self.environment,
                diagnostics: &mut diagnostics,
            }
            .value(kind, value);
            if read.is_some() {
                self.diagnostics.append(&mut diagnostics);
                return read;
            }
        }
        let found = match value.get_ref() {
            DeValue::String(text) => format!(", found `\"{text}\"`"),
            _ => String::new(),
        };
        let message = format!("expected {}{found}", kind.expected());
        self.invalid(self.source.span(value.span()), message);
        None
    }

    /// Reports that `text` is none of `names`. A long list of names is left out where one of them is
    /// similar.
    fn none_of(&mut self, names: &[&str], kind: &ValueKind, text: &str, span: Span) {
        /// The number of names that fit into a sentence.
        const FEW: usize = 6;
        let near = nearest(text, names).map(|near| format!("did you mean `\"{near}\"`?"));
        let (message, hint) = if names.len() > FEW {
            let known = || format!("the possible values are: {}", names.join(", "));
            let message = format!("`\"{text}\"` is not one of the possible values");
            (message, Some(near.unwrap_or_else(known)))
        } else {
            (
                format!("expected {}, found `\"{text}\"`", kind.expected()),
                near,
            )
        };
        let mut error = Diagnostic::error(Code::Value, span, message);
        error.hint = hint;
        self.diagnostics.push(error);
    }

    fn check_names(&mut self, tree: &DeTable<'_>) {
        for name in tree.keys() {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            // Some names become those of folders: `.` and `..` would be others.
            let is_dots = name.get_ref().bytes().all(|b| b == b'.');
            if is_dots || !name.get_ref().bytes().all(allowed) {
                self.diagnostics.push(
                    Diagnostic::error(
                        Code::Name,
                        self.source.span(name.span()),
                        format!("`{}` is not a valid name", name.get_ref()),
                    )
                    .hint("a name consists of letters, digits, `-`, `_` and `.`, and not of dots alone"),
                );
            }
        }
    }

    fn map(&mut self, kind: &'static ValueKind, tree: &DeTable<'_>) -> ConfigValue {
        let mut entries = Vec::with_capacity(tree.len());
        for (name, value) in tree {
            let before = self.diagnostics.len();
            let name = Located {
                span: self.source.span(name.span()),
                value: name.get_ref().to_string(),
            };
            let value = Located {
                span: self.source.span(value.span()),
                value: self.value(kind, value).unwrap_or(ConfigValue::Broken),
            };
            self.suggest_name(before, &name.value, &value, tree);
            entries.push((name, value));
        }
        ConfigValue::Map(entries)
    }

    fn number(
        &mut self,
        kind: &ValueKind,
        whole: Option<i64>,
        number: Option<f64>,
        span: Span,
    ) -> Option<ConfigValue> {
        let value = match (kind, whole, number) {
            (ValueKind::Integer { .. }, Some(whole), _) => Some(ConfigValue::Integer(whole)),
            (ValueKind::Number { .. }, _, Some(number)) => Some(ConfigValue::Number(number)),
            _ => None,
        };
        if value.is_none() {
            self.invalid(span, format!("expected {}", kind.expected()));
        }
        value
    }

    fn wrong_type(&mut self, kind: &ValueKind, value: &Spanned<DeValue<'_>>) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a decimal number",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("expected {}, found {found}", kind.expected());
        self.diagnostics.push(Diagnostic::error(
            Code::Type,
            self.source.span(value.span()),
            message,
        ));
    }

    fn invalid(&mut self, span: Span, message: String) {
        self.diagnostics
            .push(Diagnostic::error(Code::Value, span, message));
    }
}

fn parse(kind: &ValueKind, text: String) -> Result<ConfigValue, String> {
    match kind {
        ValueKind::Duration { .. } => value::duration(&text).map(ConfigValue::Duration),
        ValueKind::Size { .. } => value::size(&text).map(ConfigValue::Size),
        ValueKind::Rate => value::rate(&text).map(ConfigValue::Rate),
        ValueKind::Bind => value::bind(&text).map(ConfigValue::Bind),
        ValueKind::Address => value::address(&text).map(ConfigValue::Address),
        ValueKind::Host => value::host(&text).map(ConfigValue::Host),
        ValueKind::Mode => value::mode(&text).map(ConfigValue::Mode),
        ValueKind::Path => value::path(&text).map(|path| ConfigValue::Text(path.into())),
        ValueKind::Origin => value::origin(&text).map(ConfigValue::Origin),
        ValueKind::OriginPattern => value::origin_pattern(&text).map(ConfigValue::OriginPattern),
        ValueKind::Net => value::net(&text).map(ConfigValue::Net),
        ValueKind::Ip => value::ip(&text).map(ConfigValue::Ip),
        ValueKind::Socket => value::socket(&text).map(ConfigValue::Socket),
        ValueKind::Header => value::header(&text).map(ConfigValue::Header),
        ValueKind::Method => value::method(&text).map(ConfigValue::Method),
        ValueKind::Token => value::token(&text).map(|()| ConfigValue::Text(text)),
        _ => Ok(ConfigValue::Text(text)),
    }
}
