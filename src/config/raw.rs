//! The configuration as written: the TOML tree held against the declared keys.
//!
//! This is the only module that knows TOML. It finds what is wrong with single keys and values;
//! `build` and `check` decide what they mean together. serde's derive would stop at the first
//! mistake and lose its place behind untagged values, so the tree is walked by hand.

mod bounds;
mod effective;
mod reader;
mod section;

pub use self::effective::{compared, effective};
pub(super) use self::section::Section;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use http::{HeaderName, Method};
use toml::de::{DeTable, DeValue};

use self::reader::Reader;
use super::diagnostic::{Code, Diagnostic};
use super::keys::{ConfigKey, ROOT, ValueKind};
use super::model::{Address, Bind, HostPattern, Net, Origin, OriginPattern, Template};

/// A value and its place in the file. Two are equal if their values are, wherever they stand.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) span: Range<usize>,
    pub(super) value: T,
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// A value of a declared kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ConfigValue {
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
    OriginPattern(OriginPattern),
    Header(HeaderName),
    Method(Method),
    Template(Template),
    Mode(u32),
    List(Vec<Located<Self>>),
    Map(Vec<(Located<String>, Located<Self>)>),
    Section(Section),
    /// A value that is wrong and was reported: the key is present, but its value is unknown.
    Broken,
}

/// Reads a whole file. `environment` looks up variables of the form `${NAME}`.
pub(super) fn read(
    source: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Section {
    let (tree, errors) = DeTable::parse_recoverable(source);
    let mut in_array = false;
    let mut last_line = None;
    for error in errors {
        let message = error.message().trim_end_matches('\n').replace('\n', ", ");
        let line = error
            .span()
            .and_then(|span| Some(source.get(..span.start)?.matches('\n').count()));
        // One mistake causes several parser errors: for the rest of its line, and if it leaves an
        // array open, for every line after it. Only the first one helps.
        let repeated =
            (line.is_some() && line == last_line) || (in_array && message.contains("array"));
        (in_array, last_line) = (message.contains("array"), line);
        if repeated {
            continue;
        }
        diagnostics.push(match error.span() {
            Some(span) => Diagnostic::error(Code::Syntax, span, message),
            None => Diagnostic::of_file(Code::Syntax, message),
        });
    }
    Reader {
        environment,
        diagnostics,
    }
    .table(&ROOT, tree.get_ref(), tree.span())
}

impl ConfigKey {
    /// The value that the key has if it is left out, if that is a value.
    pub(super) fn default_value(&'static self) -> Option<ConfigValue> {
        if self.default.is_empty() {
            return None;
        }
        let text = format!("x = {}", self.default);
        let tree = DeTable::parse(&text).ok()?;
        let value = tree.get_ref().get("x")?;
        let mut diagnostics = Vec::new();
        Reader {
            environment: &|_| None,
            diagnostics: &mut diagnostics,
        }
        .key(self, value)
    }
}

impl ValueKind {
    fn is_textual(&self) -> bool {
        matches!(
            self,
            Self::Text
                | Self::Duration { .. }
                | Self::Size { .. }
                | Self::Rate
                | Self::Bind
                | Self::Address
                | Self::Host
                | Self::Path
                | Self::Origin
                | Self::OriginPattern
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

    /// Whether a value of this kind has the TOML type of `value`.
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

#[cfg(test)]
mod tests {
    use super::super::keys::KeyTable;
    use super::*;

    fn each_key(table: &'static KeyTable, visit: &mut dyn FnMut(&'static ConfigKey)) {
        fn each_kind(kind: &'static ValueKind, visit: &mut dyn FnMut(&'static ConfigKey)) {
            match kind {
                ValueKind::Table(table) => each_key(table, visit),
                ValueKind::List(kind) | ValueKind::Map(kind) | ValueKind::Pairs(kind) => {
                    each_kind(kind, visit)
                }
                ValueKind::AnyOf(kinds) => kinds.iter().for_each(|kind| each_kind(kind, visit)),
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

    /// What zero is in the values of this kind: every way to write it.
    fn zeros(kind: &ValueKind) -> Vec<&'static str> {
        match kind {
            ValueKind::Duration { .. } => vec!["\"0s\"", "\"0ms\"", "\"999us\""],
            ValueKind::Size { .. } => vec!["\"0\"", "\"0B\"", "\"0KiB\""],
            ValueKind::Rate => vec!["\"0/s\"", "\"0/h\""],
            ValueKind::Integer { .. } => vec!["0", "-0", "0x0"],
            ValueKind::Number { .. } => vec!["0", "0.0", "-0.0"],
            ValueKind::AnyOf(kinds) => kinds.iter().flat_map(zeros).collect(),
            ValueKind::List(kind) => zeros(kind),
            _ => Vec::new(),
        }
    }

    /// The keys for which zero has a meaning, and how it is written. The documentation of each says what
    /// it means.
    const ZERO_HAS_A_MEANING: [(&str, &str); 5] = [
        ("delay", "`0s`"),
        ("grace", "`0s`"),
        ("max_age_jitter", "`0`"),
        ("min_age", "`0s`"),
        ("weight", "`0`"),
    ];

    #[test]
    fn a_zero_without_a_meaning_is_refused_and_the_message_says_what_to_write() {
        let mut refused = 0;
        let mut meant = Vec::new();
        each_key(&ROOT, &mut |key| {
            for zero in zeros(&key.kind) {
                let text = match key.kind {
                    ValueKind::List(_) => format!("x = [{zero}]"),
                    _ => format!("x = {zero}"),
                };
                let tree = DeTable::parse(&text).unwrap();
                let mut diagnostics = Vec::new();
                let read = Reader {
                    environment: &|_| None,
                    diagnostics: &mut diagnostics,
                }
                .key(key, tree.get_ref().get("x").unwrap());
                let Some(_) = read else {
                    refused += 1;
                    let [error] = diagnostics.as_slice() else {
                        panic!("{} = {zero}: {diagnostics:?}", key.name);
                    };
                    let can_be_left_out = key.default.is_empty() && !key.required;
                    let offers_off = key.kind.expected().contains("`\"off\"`");
                    let hint = error.hint.as_deref().unwrap_or_default();
                    assert!(!offers_off || hint.contains("`\"off\"`"), "{}", key.name);
                    assert!(!can_be_left_out || !hint.is_empty(), "{}", key.name);
                    // This hint is true only of limits.
                    let leave_out = format!("for no limit, leave `{}` out", key.name);
                    let is_limit = key.doc.contains("By default, there is no limit.");
                    assert_eq!(hint == leave_out, is_limit, "{}", key.name);
                    continue;
                };
                assert_eq!(diagnostics, [], "{} = {zero}", key.name);
                meant.push(key);
            }
        });
        for key in &meant {
            let means = ZERO_HAS_A_MEANING
                .iter()
                .find(|(name, _)| *name == key.name);
            let (_, zero) = means.unwrap_or_else(|| panic!("{} accepts a zero", key.name));
            assert!(key.doc.contains(zero), "the documentation of {}", key.name);
        }
        for (name, _) in ZERO_HAS_A_MEANING {
            assert!(meant.iter().any(|key| key.name == name), "{name}");
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn durations_that_would_overflow_are_refused() {
        check("[server.shutdown]\ngrace = \"100y\"\n", &[]);
        check(
            "[server.shutdown]\ngrace = \"300000000000y\"\n",
            &["expected a duration of at most `100years`"],
        );
    }

    #[track_caller]
    fn check(source: &str, expected: &[&str]) {
        let mut diagnostics = Vec::new();
        let environment = |name: &str| (name == "PORT").then(|| "9000".to_owned());
        read(source, &environment, &mut diagnostics);
        let messages: Vec<&str> = diagnostics
            .iter()
            .map(|each| each.message.as_str())
            .collect();
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
            &["expected `\"auto\"`, or a whole number from 1 to 1024, found a boolean"],
        );
        check(
            "[server]\nwatch = \"some\"\n",
            &["expected `\"certificates\"`, `\"all\"` or `\"off\"`, found `\"some\"`"],
        );
        check("[listener.a]\n", &["`bind` is missing"]);
        check("[upstream.\"a b\"]\n", &["`a b` is not a valid name"]);
    }

    #[test]
    fn the_environment_is_put_in() {
        check("[upstream.a]\nendpoints = [\"127.0.0.1:${PORT}\"]\n", &[]);
        check(
            "[upstream.a]\nendpoints = [\"127.0.0.1:${OTHER}\"]\n",
            &["environment variable `OTHER` is not set"],
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
            &["environment variable `nobody` is not set"],
        );
        check(&header("${host"), &["`${` is not closed by `}`"]);
        check(
            "[upstream.a]\nendpoints = [\"127.0.0.1:${host}\"]\n",
            &["environment variable `host` is not set"],
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
            &["`http2` has no effect in this version"],
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(source in "(\\[\\[?[a-z.]{0,8}\\]?\\]\n|[a-z_]{1,9} = [\"a-z0-9\\[\\]{}=, ]{0,12}\n|\\PC{0,20}\n){0,6}") {
            read(&source, &|_| None, &mut Vec::new());
        }
    }
}
