//! The configuration as written: the TOML tree held against the declared keys.
//!
//! This is the only module that knows TOML. It finds what is wrong with single keys and values;
//! `build` and `check` decide what they mean together. serde's derive would stop at the first
//! mistake and lose its place behind untagged values, so the tree is walked by hand.

mod bounds;
mod cure;
mod effective;
mod format;
mod merge;
mod reader;
mod section;
mod syntax;
mod variable;

pub use self::effective::{compared, effective};
pub(super) use self::merge::Merger;
pub(super) use self::section::Section;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, Method};
use toml::de::{DeTable, DeValue};

use self::reader::Reader;
use super::diagnostic::Diagnostic;
use super::keys::{ConfigKey, INCLUDABLE, ROOT, ValueKind};
use super::model::{Address, Bind, HostPattern, Net, Origin, OriginPattern, Template};
use super::sources::{SourceId, Span};

/// A value and its place. Two are equal if their values are, wherever they stand.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) span: Span,
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

/// Reads a text. `environment` looks up variables of the form `${NAME}`.
pub(super) fn read(
    id: SourceId,
    source: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Section {
    let (tree, errors) = DeTable::parse_recoverable(source);
    if !errors.is_empty()
        && let Some(other) = format::recognised(id, source)
    {
        diagnostics.push(other);
        return Section::unknown(&ROOT);
    }
    let is_broken = !errors.is_empty();
    let mut found = Vec::new();
    let broken_headers = syntax::report(id, source, errors, &mut found);
    let mut root = Reader {
        source: id,
        environment,
        diagnostics: &mut found,
    }
    .table(&ROOT, tree.get_ref(), &id.span(tree.span()));
    syntax::drop_consequences(&broken_headers, &mut found);
    diagnostics.append(&mut found);
    if is_broken && id != SourceId::MAIN {
        // Other files may refer to what the parser has skipped.
        root.doubtful.extend(INCLUDABLE);
    }
    root
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
            source: SourceId::MAIN,
            environment: &|_| None,
            diagnostics: &mut diagnostics,
        }
        .key(self, value)
    }
}

impl ValueKind {
    /// Whether a value of this kind has the TOML type of `value`.
    fn takes(&self, value: &DeValue<'_>) -> bool {
        match self {
            Self::AnyOf(kinds) => kinds.iter().any(|kind| kind.takes(value)),
            Self::Bool => matches!(value, DeValue::Boolean(_)),
            Self::Integer { .. } => matches!(value, DeValue::Integer(_)),
            Self::Number { .. } => matches!(value, DeValue::Integer(_) | DeValue::Float(_)),
            Self::List(_) => matches!(value, DeValue::Array(_)) || self.takes_as_text(value),
            Self::Table(_) => matches!(value, DeValue::Table(_)) || self.takes_as_text(value),
            Self::Map(_) | Self::Pairs(_) => matches!(value, DeValue::Table(_)),
            _ => matches!(value, DeValue::String(_)),
        }
    }

    /// Whether `value` is a string, and one stands for a list or a table of this kind.
    fn takes_as_text(&self, value: &DeValue<'_>) -> bool {
        self.takes_text() && matches!(value, DeValue::String(_))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::keys::KeyTable;
    use super::super::sources::{SourceText, Sources};
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
    const ZERO_HAS_A_MEANING: [(&str, &str); 9] = [
        ("delay", "`0s`"),
        ("dns_propagation", "`0s`"),
        ("grace", "`0s`"),
        ("leeway", "`0s`"),
        ("max_age_jitter", "`0`"),
        ("min_age", "`0s`"),
        ("ratio", "`0`"),
        ("spread", "`0s`"),
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
                    source: SourceId::MAIN,
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
        read(SourceId::MAIN, source, &environment, &mut diagnostics);
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
    fn one_string_stands_for_a_list_and_a_rate_for_its_table() {
        let short = "[listener.a]\nbind = \"127.0.0.1:80\"\nlimits.handshakes_per_ip = \"20/s\"\n\
                     [[route]]\nhosts = \"a.example\"\norigins = \"https://a.example\"\n\
                     limits.bytes_per_second = \"1MiB\"\n\
                     [upstream.a]\nendpoints = \"127.0.0.1:${PORT}\"\nretry_on = \"502\"\n";
        let long = "[listener.a]\nbind = [\"127.0.0.1:80\"]\n\
                    limits.handshakes_per_ip = { rate = \"20/s\" }\n\
                    [[route]]\nhosts = [\"a.example\"]\norigins = [\"https://a.example\"]\n\
                    limits.bytes_per_second = { rate = \"1MiB\" }\n\
                    [upstream.a]\nendpoints = [\"127.0.0.1:${PORT}\"]\nretry_on = [\"502\"]\n";
        let loaded = |source: &str| {
            let mut diagnostics = Vec::new();
            let root = read(
                SourceId::MAIN,
                source,
                &|_| Some("9000".to_owned()),
                &mut diagnostics,
            );
            assert_eq!(diagnostics, [], "{source}");
            root
        };
        assert_eq!(loaded(short), loaded(long));
        let sources = |text: &str| Sources::new(SourceText::new(Path::new("config.toml"), text));
        let (short, long) = (sources(short), sources(long));
        assert_eq!(effective(&short), effective(&long));
        assert_eq!(compared(&short), compared(&long));
        let zero = "[listener.a]\nbind = \"127.0.0.1:80\"\nlimits.handshakes_per_ip = \"0/s\"\n";
        check(zero, &["expected a rate above zero"]);
        check(
            "[listener.a]\nbind = \"here\"\n",
            &[
                "`here` is not a valid listen address; use e.g. `0.0.0.0:443`, `[::]:443`, `unix:/path` or `systemd:NAME`",
            ],
        );
        // A list of tables, or of numbers, is not one string.
        let tls = "[listener.a]\nbind = \"127.0.0.1:80\"\ntls.certificates = \"a.pem\"\n";
        check(
            tls,
            &["expected a list, each item of which is a table, found a string"],
        );
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

    proptest::proptest! {
        #[test]
        fn nothing_panics(source in "(\\[\\[?[a-z.]{0,8}\\]?\\]\n|[a-z_]{1,9} = [\"a-z0-9\\[\\]{}=, ]{0,12}\n|\\PC{0,20}\n){0,6}") {
            read(SourceId::MAIN, &source, &|_| None, &mut Vec::new());
        }
    }
}
