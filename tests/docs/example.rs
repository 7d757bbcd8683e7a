//! Compares `config.example.toml` with the declared keys: it has every key, with its default, and
//! nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use tidegate::config::diagnostic::{Code, Severity};
use tidegate::config::keys::{ConfigKey, KeyTable, ROOT, ValueKind};
use tidegate::config::parse;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const EXAMPLE: &str = include_str!("../../config.example.toml");

/// Keys that exclude another one; they are mentioned in a comment only.
const ALTERNATIVES: [&str; 16] = [
    "auth.jwt.from.cookie",
    "auth.jwt.from.query",
    "auth.jwt.from.subprotocol_after",
    "auth.jwt.from.subprotocol_prefix",
    "limit.key.claim",
    "limit.key.cookie",
    "limit.key.header",
    "limit.key.query",
    "route.client_certificate.san",
    "route.client_certificate.subject",
    "route.split_by.cookie",
    "route.split_by.query",
    "route.split_by.claim",
    "upstream.balance.hash.cookie",
    "upstream.balance.hash.query",
    "upstream.balance.hash.claim",
];

/// The example with every setting turned on.
fn all_on() -> String {
    EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => setting,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Collects every path of keys that is written, with all its places.
fn collect<'a>(
    path: &str,
    tree: &'a DeTable<'a>,
    kind: &ValueKind,
    into: &mut BTreeMap<String, Vec<&'a Spanned<DeValue<'a>>>>,
) {
    for (name, value) in tree {
        let child = match kind {
            ValueKind::Map(_) => path.to_owned(),
            _ if path.is_empty() => name.get_ref().to_string(),
            _ => format!("{path}.{}", name.get_ref()),
        };
        let below: Vec<&DeTable<'_>> = match value.get_ref() {
            DeValue::Table(table) => vec![table],
            DeValue::Array(list) => list
                .iter()
                .filter_map(|each| each.get_ref().as_table())
                .collect(),
            _ => Vec::new(),
        };
        for table in below {
            let kind = match child.as_str() {
                "acme" | "auth" | "limit" | "listener" | "upstream" if path.is_empty() => {
                    &ValueKind::Map(&ValueKind::Bool)
                }
                _ => &ValueKind::Bool,
            };
            collect(&child, table, kind, into);
        }
        if !matches!(kind, ValueKind::Map(_)) {
            into.entry(child).or_default().push(value);
        }
    }
}

/// Visits every key with its path.
fn each_key(path: &str, table: &'static KeyTable, visit: &mut dyn FnMut(&str, &'static ConfigKey)) {
    fn below(
        path: &str,
        kind: &'static ValueKind,
        visit: &mut dyn FnMut(&str, &'static ConfigKey),
    ) {
        match kind {
            ValueKind::Table(table) => each_key(path, table, visit),
            ValueKind::List(kind) | ValueKind::Map(kind) | ValueKind::Pairs(kind) => {
                below(path, kind, visit)
            }
            ValueKind::AnyOf(kinds) => kinds.iter().for_each(|kind| below(path, kind, visit)),
            _ => {}
        }
    }
    for key in table.keys {
        let path = if path.is_empty() {
            key.name.to_owned()
        } else {
            format!("{path}.{}", key.name)
        };
        visit(&path, key);
        below(&path, &key.kind, visit);
    }
}

fn as_value(text: &str) -> toml::Value {
    let document: toml::Table = toml::from_str(&format!("x = {text}")).unwrap();
    document["x"].clone()
}

#[test]
fn every_key_is_shown_with_its_default() {
    let source = all_on();
    let tree = DeTable::parse(&source).unwrap();
    let mut written = BTreeMap::new();
    collect("", tree.get_ref(), &ValueKind::Bool, &mut written);
    let mut missing = Vec::new();
    each_key("", &ROOT, &mut |path, key| {
        if ALTERNATIVES.contains(&path) {
            assert!(EXAMPLE.contains(&format!("{{ {} = ", key.name)), "{path}");
            return;
        }
        let Some(places) = written.get(path) else {
            missing.push(path.to_owned());
            return;
        };
        if !matches!(key.default, "" | "[]" | "{}") {
            let shown = |place: &&Spanned<DeValue<'_>>| {
                as_value(&source[place.span()]) == as_value(key.default)
            };
            assert!(
                places.iter().any(shown),
                "{path} is shown with another value"
            );
        }
    });
    assert!(missing.is_empty(), "not in the example: {missing:?}");
}

#[test]
fn every_setting_in_it_is_a_setting() {
    let report = parse(&all_on(), Path::new("config.example.toml"), &|_| None).unwrap_err();
    // With every setting on, alternatives exclude each other, and the files are missing.
    let beside = [
        Code::NoEffect,
        Code::Conflict,
        Code::File,
        Code::EmptyInclude,
    ];
    let found = report.diagnostics().iter();
    let found = found.filter(|diagnostic| !beside.contains(&diagnostic.code));
    let found: Vec<&str> = found.map(|diagnostic| &*diagnostic.message).collect();
    assert_eq!(
        found,
        [
            "there is no upstream `authelia`",
            "`remote-user` is not one of `response_headers`",
            "a health check must be exactly one of `websocket`, `http` and `tcp`"
        ]
    );
}

#[test]
fn it_runs_as_it_is_and_so_do_those_of_versions_before() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = ["chat.example.com", "*.chat.example.com"].map(str::to_owned);
    let certified = rcgen::generate_simple_self_signed(hosts).unwrap();
    std::fs::write(folder.path().join("chat.pem"), certified.cert.pem()).unwrap();
    std::fs::write(
        folder.path().join("chat.key"),
        certified.signing_key.serialize_pem(),
    )
    .unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(folder.path().join("chat.key"), private).unwrap();
    match parse(EXAMPLE, &folder.path().join("config.toml"), &|_| None) {
        Ok(loaded) => assert_eq!(loaded.warnings.count(Severity::Warning), 0),
        Err(report) => panic!("{}", report.render(false)),
    }
    let before = std::fs::read_dir("tests/compatibility/examples").unwrap();
    let before: Vec<_> = before.map(|entry| entry.unwrap().path()).collect();
    assert!(!before.is_empty());
    for file in before {
        let text = std::fs::read_to_string(&file).unwrap();
        if let Err(report) = parse(&text, &folder.path().join("config.toml"), &|_| None) {
            panic!("{}: {}", file.display(), report.render(false));
        }
    }
}
