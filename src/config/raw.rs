//! The configuration as written: the TOML tree held against the declared keys.
//!
//! The only module that knows TOML. It finds what is wrong with single keys and values; what they
//! mean together is `build`'s and `check`'s business. serde's derive would stop at the first
//! mistake and lose its place behind untagged values, so the tree is walked by hand.

mod in_force;
mod section;

pub use self::in_force::{compared, in_force};
pub(super) use self::section::Section;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use http::{HeaderName, Method};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Code, Diagnostic, nearest};
use super::keys::{Key, Kind, ROOT, Status, Table};
use super::model::{Address, Bind, HostPattern, Net, Origin, Piece, Template, Variable};
use super::value;

/// A value and where it stands. Two are equal if their values are, wherever they stand.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) span: Range<usize>,
    pub(super) value: T,
}

impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// A value of a declared kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    Duration(Duration),
    Size(u64),
    Rate(f64),
    Bind(Bind),
    Address(Address),
    Host(HostPattern),
    Net(Net),
    Ip(IpAddr),
    Socket(SocketAddr),
    Origin(Origin),
    Header(HeaderName),
    Method(Method),
    Template(Template),
    Mode(u32),
    List(Vec<At<Self>>),
    Map(Vec<(At<String>, At<Self>)>),
    Section(Section),
    /// Something that is wrong, as was said: it is there, though nobody knows what it is.
    Broken,
}

/// Reads a whole file; `environment` looks up `${NAME}`.
pub(super) fn read(
    source: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    found: &mut Vec<Diagnostic>,
) -> Section {
    let (tree, errors) = DeTable::parse_recoverable(source);
    let mut in_array = false;
    let mut last_line = None;
    for error in errors {
        let message = error.message().trim_end_matches('\n').replace('\n', ", ");
        let line = error
            .span()
            .and_then(|span| Some(source.get(..span.start)?.matches('\n').count()));
        // One mistake makes the parser stumble more than once: over the rest of its line, and if
        // it leaves an array open, over every line after it.
        let repeated =
            (line.is_some() && line == last_line) || (in_array && message.contains("array"));
        (in_array, last_line) = (message.contains("array"), line);
        if repeated {
            continue;
        }
        found.push(match error.span() {
            Some(span) => Diagnostic::error(Code::Syntax, span, message),
            None => Diagnostic::of_file(Code::Syntax, message),
        });
    }
    Reader { environment, found }.table(&ROOT, tree.get_ref(), tree.span())
}

impl Key {
    /// What leaving it out means, if that is a value.
    pub(super) fn default_value(&'static self) -> Option<Value> {
        if self.default.is_empty() {
            return None;
        }
        let text = format!("x = {}", self.default);
        let tree = DeTable::parse(&text).ok()?;
        let value = tree.get_ref().get("x")?;
        let mut found = Vec::new();
        Reader {
            environment: &|_| None,
            found: &mut found,
        }
        .value(&self.kind, value)
    }
}

struct Reader<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    found: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn table(
        &mut self,
        declared: &'static Table,
        tree: &DeTable<'_>,
        span: Range<usize>,
    ) -> Section {
        let mut section = Section::empty(declared);
        for (name, value) in tree {
            let Some(key) = declared.key(name.get_ref()) else {
                self.unknown(declared, name);
                continue;
            };
            let read = self.value(&key.kind, value);
            if let Some(read) = &read {
                self.check_status(key, read, name.span());
            }
            let at = At {
                span: value.span(),
                value: read.unwrap_or(Value::Broken),
            };
            section.written.insert(key.name, at);
        }
        for key in declared.keys {
            if key.required && !tree.contains_key(key.name) {
                self.found.push(
                    Diagnostic::error(
                        Code::Missing,
                        span.clone(),
                        format!("`{}` is missing", key.name),
                    )
                    .hint(format!("it takes {}", key.kind.expected())),
                );
            }
        }
        section
    }

    fn unknown(&mut self, declared: &Table, name: &Spanned<impl AsRef<str>>) {
        let written = name.get_ref().as_ref();
        let known: Vec<&str> = declared.keys.iter().map(|key| key.name).collect();
        let diagnostic = Diagnostic::error(
            Code::UnknownKey,
            name.span(),
            format!("unknown key `{written}`"),
        );
        self.found
            .push(diagnostic.hint(match nearest(written, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", known.join(", ")),
            }));
    }

    /// What has no effect yet says so, unless it says the same as leaving it out.
    fn check_status(&mut self, key: &'static Key, value: &Value, span: Range<usize>) {
        if key.status == Status::InEffect || key.default_value().as_ref() == Some(value) {
            return;
        }
        let message = format!("`{}` is not in effect in this version", key.name);
        self.found
            .push(Diagnostic::warning(Code::NotInEffect, span, message));
    }

    fn value(&mut self, kind: &'static Kind, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        // What stands in for a value that is not there: the syntax error has been told.
        if value.span().is_empty() {
            return None;
        }
        match (kind, value.get_ref()) {
            (Kind::AnyOf(kinds), _) => self.any_of(kind, kinds, value),
            (Kind::Table(declared), DeValue::Table(tree)) => {
                Some(Value::Section(self.table(declared, tree, value.span())))
            }
            (Kind::Map(kind), DeValue::Table(tree)) => {
                self.check_names(tree);
                Some(self.map(kind, tree))
            }
            (Kind::Pairs(kind), DeValue::Table(tree)) => Some(self.map(kind, tree)),
            (Kind::List(kind), DeValue::Array(list)) => {
                let each = |each: &Spanned<DeValue<'_>>| At {
                    span: each.span(),
                    value: self.value(kind, each).unwrap_or(Value::Broken),
                };
                Some(Value::List(list.iter().map(each).collect()))
            }
            (Kind::Bool, DeValue::Boolean(value)) => Some(Value::Bool(*value)),
            (Kind::Integer { .. } | Kind::Number { .. }, DeValue::Integer(number)) => {
                let digits = number.as_str().replace('_', "");
                let number = i64::from_str_radix(&digits, number.radix()).ok();
                self.number(
                    kind,
                    number,
                    number.map(|number| number as f64),
                    value.span(),
                )
            }
            (Kind::Number { .. }, DeValue::Float(number)) => {
                let number = number.as_str().replace('_', "").parse().ok();
                self.number(kind, None, number, value.span())
            }
            (Kind::Template, DeValue::String(text)) => {
                self.template(text, value.span()).map(Value::Template)
            }
            (_, DeValue::String(text)) if kind.is_textual() => {
                let text = self.expand(text, value.span())?;
                if let Kind::OneOf(names) = kind
                    && !names.contains(&text.as_str())
                {
                    self.none_of(names, kind, &text, value.span());
                    return None;
                }
                let parsed = parse(kind, text);
                parsed.map_err(|wrong| self.wrong(value.span(), wrong)).ok()
            }
            _ => {
                self.wrong_type(kind, value);
                None
            }
        }
    }

    /// The first alternative that the value fits. If there is only one of its type, what is wrong
    /// with it is told by that one.
    fn any_of(
        &mut self,
        kind: &Kind,
        kinds: &'static [Kind],
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Value> {
        let fitting: Vec<&'static Kind> = kinds
            .iter()
            .filter(|kind| kind.takes(value.get_ref()))
            .collect();
        if let [only] = fitting.as_slice() {
            return self.value(only, value);
        }
        if fitting.is_empty() {
            self.wrong_type(kind, value);
            return None;
        }
        for kind in fitting {
            let mut found = Vec::new();
            let read = Reader {
                environment: self.environment,
                found: &mut found,
            }
            .value(kind, value);
            if read.is_some() {
                self.found.append(&mut found);
                return read;
            }
        }
        self.wrong(value.span(), format!("expected {}", kind.expected()));
        None
    }

    /// Says what there is instead of `text`; a long list is not told where a name of it is meant.
    fn none_of(&mut self, names: &[&str], kind: &Kind, text: &str, span: Range<usize>) {
        /// Names that fit into a sentence.
        const FEW: usize = 6;
        let near = nearest(text, names).map(|near| format!("did you mean `\"{near}\"`?"));
        let (message, hint) = if names.len() > FEW {
            let known = || format!("known here: {}", names.join(", "));
            let message = format!("`\"{text}\"` is none of what this takes");
            (message, Some(near.unwrap_or_else(known)))
        } else {
            (
                format!("expected {}, not `\"{text}\"`", kind.expected()),
                near,
            )
        };
        let mut wrong = Diagnostic::error(Code::Value, span, message);
        wrong.hint = hint;
        self.found.push(wrong);
    }

    fn check_names(&mut self, tree: &DeTable<'_>) {
        for name in tree.keys() {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            if name.get_ref().is_empty() || !name.get_ref().bytes().all(allowed) {
                self.found.push(
                    Diagnostic::error(
                        Code::Name,
                        name.span(),
                        format!("`{}` cannot be a name", name.get_ref()),
                    )
                    .hint("names have letters, digits, `-`, `_` and `.`"),
                );
            }
        }
    }

    fn map(&mut self, kind: &'static Kind, tree: &DeTable<'_>) -> Value {
        let mut entries = Vec::with_capacity(tree.len());
        for (name, value) in tree {
            let name = At {
                span: name.span(),
                value: name.get_ref().to_string(),
            };
            let value = At {
                span: value.span(),
                value: self.value(kind, value).unwrap_or(Value::Broken),
            };
            entries.push((name, value));
        }
        Value::Map(entries)
    }

    fn number(
        &mut self,
        kind: &Kind,
        whole: Option<i64>,
        number: Option<f64>,
        span: Range<usize>,
    ) -> Option<Value> {
        let value = match (kind, whole, number) {
            (Kind::Integer { least, most }, Some(whole), _)
                if (*least..=*most).contains(&whole) =>
            {
                Some(Value::Integer(whole))
            }
            (Kind::Number { least, most }, _, Some(number))
                if (*least..=*most).contains(&number) =>
            {
                Some(Value::Number(number))
            }
            _ => None,
        };
        if value.is_none() {
            self.wrong(span, format!("expected {}", kind.expected()));
        }
        value
    }

    /// Puts in what `${NAME}` stands for.
    fn expand(&mut self, text: &str, span: Range<usize>) -> Option<String> {
        let pieces = self.pieces(text, span, &|_| None)?;
        let text = |piece| match piece {
            Piece::Text(text) => Some(String::from(text)),
            Piece::Variable(_) => None,
        };
        pieces.into_iter().map(text).collect()
    }

    /// The same, but leaves what stands for something of a request.
    fn template(&mut self, text: &str, span: Range<usize>) -> Option<Template> {
        self.pieces(text, span, &Variable::named).map(Template::new)
    }

    fn pieces(
        &mut self,
        text: &str,
        span: Range<usize>,
        variable: &dyn Fn(&str) -> Option<Variable>,
    ) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut before = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((text, after)) = rest.split_once("${") {
            before.push_str(text);
            let Some((name, after)) = after.split_once('}') else {
                self.wrong(span, "`${` without `}`".to_owned());
                return None;
            };
            if let Some(variable) = variable(name) {
                pieces.push(Piece::Text(std::mem::take(&mut before).into()));
                pieces.push(Piece::Variable(variable));
            } else if let Some(value) = (self.environment)(name) {
                before.push_str(&value);
            } else {
                let message = format!("the environment has no variable `{name}`");
                let diagnostic = Diagnostic::error(Code::Environment, span, message);
                self.found.push(if variable("host").is_some() {
                    diagnostic.hint(format!(
                        "of requests there are: {}",
                        Variable::NAMES.join(", ")
                    ))
                } else {
                    diagnostic
                });
                return None;
            }
            rest = after;
        }
        before.push_str(rest);
        pieces.push(Piece::Text(before.into()));
        Some(pieces)
    }

    fn wrong_type(&mut self, kind: &Kind, value: &Spanned<DeValue<'_>>) {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("expected {}, not {found}", kind.expected());
        self.found
            .push(Diagnostic::error(Code::Type, value.span(), message));
    }

    fn wrong(&mut self, span: Range<usize>, message: String) {
        self.found
            .push(Diagnostic::error(Code::Value, span, message));
    }
}

impl Kind {
    fn is_textual(&self) -> bool {
        matches!(
            self,
            Self::Text
                | Self::Duration
                | Self::Size
                | Self::Rate
                | Self::Bind
                | Self::Address
                | Self::Host
                | Self::Path
                | Self::Origin
                | Self::Net
                | Self::Ip
                | Self::Socket
                | Self::Header
                | Self::Method
                | Self::Token
                | Self::File
                | Self::Mode
                | Self::OneOf(_)
        )
    }

    /// Whether the TOML type could be right.
    fn takes(&self, value: &DeValue<'_>) -> bool {
        match self {
            Self::AnyOf(kinds) => kinds.iter().any(|kind| kind.takes(value)),
            Self::Bool => matches!(value, DeValue::Boolean(_)),
            Self::Integer { .. } => matches!(value, DeValue::Integer(_)),
            Self::Number { .. } => matches!(value, DeValue::Integer(_) | DeValue::Float(_)),
            Self::List(_) => matches!(value, DeValue::Array(_)),
            Self::Map(_) | Self::Pairs(_) | Self::Table(_) => matches!(value, DeValue::Table(_)),
            _ => matches!(value, DeValue::String(_)),
        }
    }
}

fn parse(kind: &Kind, text: String) -> Result<Value, String> {
    match kind {
        Kind::Duration => value::duration(&text).map(Value::Duration),
        Kind::Size => value::size(&text).map(Value::Size),
        Kind::Rate => value::rate(&text).map(Value::Rate),
        Kind::Bind => value::bind(&text).map(Value::Bind),
        Kind::Address => value::address(&text).map(Value::Address),
        Kind::Host => value::host(&text).map(Value::Host),
        Kind::Mode => value::mode(&text).map(Value::Mode),
        Kind::Path => value::path(&text).map(|path| Value::Text(path.into())),
        Kind::Origin => value::origin(&text).map(Value::Origin),
        Kind::Net => value::net(&text).map(Value::Net),
        Kind::Ip => value::ip(&text).map(Value::Ip),
        Kind::Socket => value::socket(&text).map(Value::Socket),
        Kind::Header => value::header(&text).map(Value::Header),
        Kind::Method => value::method(&text).map(Value::Method),
        Kind::Token => value::token(&text).map(|()| Value::Text(text)),
        _ => Ok(Value::Text(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_key(table: &'static Table, visit: &mut dyn FnMut(&'static Key)) {
        fn each_kind(kind: &'static Kind, visit: &mut dyn FnMut(&'static Key)) {
            match kind {
                Kind::Table(table) => each_key(table, visit),
                Kind::List(kind) | Kind::Map(kind) | Kind::Pairs(kind) => each_kind(kind, visit),
                Kind::AnyOf(kinds) => kinds.iter().for_each(|kind| each_kind(kind, visit)),
                _ => {}
            }
        }
        for key in table.keys {
            visit(key);
            each_kind(&key.kind, visit);
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_key() {
        let mut keys = 0;
        each_key(&ROOT, &mut |key| {
            keys += 1;
            let fits = key.default.is_empty() || key.default_value().is_some();
            assert!(fits, "{} = {}", key.name, key.default);
            assert!(key.doc.ends_with('.'), "{}", key.name);
        });
        assert!(keys > 100, "{keys}");
    }

    #[track_caller]
    fn check(source: &str, expected: &[&str]) {
        let mut found = Vec::new();
        let environment = |name: &str| (name == "PORT").then(|| "9000".to_owned());
        read(source, &environment, &mut found);
        let messages: Vec<&str> = found.iter().map(|each| each.message.as_str()).collect();
        assert_eq!(messages, expected, "{source}");
    }

    #[test]
    fn single_keys_and_values() {
        check("[server]\nworkers = 2\n", &[]);
        check("[server]\nworkers = \"auto\"\n", &[]);
        check("[server]\nworker = 2\n", &["unknown key `worker`"]);
        check(
            "[server]\nworkers = 0\n",
            &["expected a whole number from 1 to 1024"],
        );
        check(
            "[server]\nworkers = true\n",
            &["expected `\"auto\"`, or a whole number from 1 to 1024, not a boolean"],
        );
        check(
            "[server]\nwatch = \"some\"\n",
            &["expected `\"certificates\"` or `\"all\"` or `\"off\"`, not `\"some\"`"],
        );
        check("[listener.a]\n", &["`bind` is missing"]);
        check("[upstream.\"a b\"]\n", &["`a b` cannot be a name"]);
    }

    #[test]
    fn the_environment_is_put_in() {
        check("[upstream.a]\nendpoints = [\"127.0.0.1:${PORT}\"]\n", &[]);
        check(
            "[upstream.a]\nendpoints = [\"127.0.0.1:${OTHER}\"]\n",
            &["the environment has no variable `OTHER`"],
        );
    }

    #[test]
    fn variables_of_requests_are_left_in_templates_alone() {
        let header = |value: &str| {
            format!("[[route]]\nupstream = \"a\"\nrequest_headers.set.x-a = \"{value}\"\n")
        };
        check(&header("${PORT}-${client_address}"), &[]);
        check(
            &header("${nobody}"),
            &["the environment has no variable `nobody`"],
        );
        check(&header("${host"), &["`${` without `}`"]);
        check(
            "[upstream.a]\nendpoints = [\"127.0.0.1:${host}\"]\n",
            &["the environment has no variable `host`"],
        );
    }

    #[test]
    fn what_is_not_in_effect_says_so_unless_it_is_the_default() {
        check(
            "[listener.a]\nbind = [\"127.0.0.1:80\"]\nhttp2 = false\n",
            &[],
        );
        check(
            "[listener.a]\nbind = [\"127.0.0.1:80\"]\nhttp2 = true\n",
            &["`http2` is not in effect in this version"],
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(source in "(\\[\\[?[a-z.]{0,8}\\]?\\]\n|[a-z_]{1,9} = [\"a-z0-9\\[\\]{}=, ]{0,12}\n|\\PC{0,20}\n){0,6}") {
            read(&source, &|_| None, &mut Vec::new());
        }
    }
}
