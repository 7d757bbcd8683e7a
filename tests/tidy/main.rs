//! What holds everywhere in the tree, checked on its text. Each check is shown to be able to fail.
#![expect(
    clippy::unwrap_used,
    reason = "a test that fails has nothing to clean up"
)]

mod circles;
mod names;
mod source;
mod warnings;
mod words;

use std::fs;
use std::path::Path;

use self::source::{Source, layers, root, sources};

/// Lines that a file of the program may have before its unit tests begin.
const FILE_LINES: usize = 450;

/// Lines that a file of tests may have.
const TEST_LINES: usize = 600;

/// Names that say nothing about what is in a file.
const NAMELESS: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "misc"];

/// Marks of work that was left for later.
const LEFTOVERS: [&str; 3] = ["TODO", "FIXME", "XXX"];

/// Code that only decides: no waiting, no clock, no sockets.
const PURE: [&str; 14] = [
    "src/kubernetes/objects.rs",
    "src/kubernetes/slices.rs",
    "src/protocol/",
    "src/route.rs",
    "src/upstream/balance.rs",
    "src/upstream/discovery/answer.rs",
    "src/upstream/health.rs",
    "src/upstream/health/",
    "src/store/key_agreement.rs",
    "src/tunnel/forwarder.rs",
    "src/tunnel/framing.rs",
    "src/tunnel/framing/",
    "src/displace/rebalance/share.rs",
    "src/displace/rebalance/budget.rs",
];

/// Modules outside the order: the program on top of the library.
const PROGRAM: [&str; 2] = ["src/main.rs", "src/cli"];

/// The top-level module that a file belongs to.
fn layer_of(path: &str) -> &str {
    let path = path.strip_prefix("src/").unwrap();
    path.split(['/', '.']).next().unwrap()
}

/// Imports of modules that stand below the importing one.
fn upward(layers: &[&str], source: &Source) -> Vec<String> {
    let own = layers
        .iter()
        .position(|layer| *layer == layer_of(&source.path));
    let Some(own) = own else {
        return vec![format!("{} is in no layer", source.path)];
    };
    let mentioned = source.production().split("crate::").skip(1);
    mentioned
        .filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            let position = layers.iter().position(|layer| *layer == name)?;
            (position > own).then(|| format!("{} uses {name}", source.path))
        })
        .collect()
}

#[test]
fn a_file_imports_only_from_layers_above_its_own() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let layers = layers(&lib);
    assert!(layers.len() > 10, "{layers:?}");
    let library = sources("src").into_iter().filter(|source| {
        source.path != "src/lib.rs" && !PROGRAM.iter().any(|each| source.path.starts_with(each))
    });
    let found: Vec<String> = library
        .flat_map(|source| upward(&layers, &source))
        .collect();
    assert!(found.is_empty(), "{found:#?}");

    let wrong = Source::new(
        "src/protocol/token.rs",
        "use crate::net::stream;\nfn a() { crate::config::b() }",
    );
    assert_eq!(upward(&layers, &wrong), ["src/protocol/token.rs uses net"]);
    assert_eq!(upward(&layers, &Source::new("src/odd.rs", "")).len(), 1);
}

fn impurities(source: &Source) -> Vec<String> {
    [
        "async ",
        ".await",
        "tokio::",
        "::now(",
        "std::net::Tcp",
        "std::fs",
    ]
    .iter()
    .filter(|forbidden| source.production().contains(*forbidden))
    .map(|forbidden| format!("{}: {forbidden}", source.path))
    .collect()
}

#[test]
fn pure_code_neither_waits_nor_looks_at_the_clock() {
    let all = sources("src");
    for prefix in PURE {
        let mut pure = all
            .iter()
            .filter(|source| source.path.starts_with(prefix))
            .peekable();
        assert!(pure.peek().is_some(), "{prefix} is nowhere");
        let found: Vec<String> = pure.flat_map(impurities).collect();
        assert!(found.is_empty(), "{found:#?}");
    }
    assert_eq!(impurities(&Source::new("x", "Instant::now()")).len(), 1);
    assert_eq!(
        impurities(&Source::new(
            "x",
            "fn a() {}\n#[cfg(test)]\nmod tests { tokio::x }"
        ))
        .len(),
        0
    );
}

/// Only these know what their names say.
#[test]
fn knowledge_stays_where_it_belongs() {
    let allowed: [(&str, &[&str]); 5] = [
        ("toml::", &["src/config/raw"]),
        (
            "aws_lc_rs::signature",
            &["src/auth/signature.rs", "src/auth/testing.rs"],
        ),
        ("println!", &[]),
        (
            "hyper::server",
            &[
                "src/front/http.rs",
                "src/admin/http.rs",
                "src/cli/demo/",
                "src/cli/operate/dashboard/",
            ],
        ),
        ("unsafe ", &[]),
    ];
    for source in sources("src") {
        for (word, files) in allowed {
            let used = source
                .production()
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .any(|line| line.contains(word));
            assert!(
                !used || files.iter().any(|file| source.path.starts_with(file)),
                "{}: {word}",
                source.path
            );
        }
    }
}

fn oddities(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.production().lines().count();
    let limit = match source.path.starts_with("src/") {
        true => FILE_LINES,
        false => TEST_LINES,
    };
    if lines > limit {
        found.push(format!("{} has {lines} lines", source.path));
    }
    let stem = Path::new(&source.path)
        .file_stem()
        .unwrap()
        .to_str()
        .unwrap();
    if NAMELESS.contains(&stem) {
        found.push(format!("{}: this name says nothing", source.path));
    }
    for (number, line) in source.text.lines().enumerate() {
        // This file has to name them.
        let leftover = LEFTOVERS.iter().any(|mark| line.contains(mark));
        if leftover && source.path != "tests/tidy/main.rs" {
            found.push(format!("{}:{}: {line}", source.path, number + 1));
        }
    }
    found
}

#[test]
fn files_are_short_and_named_and_finished() {
    let all = [sources("src"), sources("tests")].concat();
    let found: Vec<String> = all.iter().flat_map(oddities).collect();
    assert!(found.is_empty(), "{found:#?}");

    let long = Source::new("src/long.rs", &"\n".repeat(FILE_LINES + 1));
    assert_eq!(oddities(&long).len(), 1);
    assert_eq!(
        oddities(&Source::new("src/utils.rs", "// TODO: all of it")).len(),
        2
    );
}

/// The one place that lets time pass, and clients that talk at a pace.
const SLEEPS: [&str; 3] = [
    "tests/e2e/harness.rs",
    "tests/e2e/harness/talking_clients.rs",
    "tests/e2e/upheaval.rs",
];

#[test]
fn tests_wait_for_events_and_not_for_time() {
    let sleeping: Vec<String> = sources("tests")
        .into_iter()
        .filter(|source| source.text.contains("sleep(") && source.path != "tests/tidy/main.rs")
        .map(|source| source.path)
        .filter(|path| !SLEEPS.contains(&path.as_str()))
        .collect();
    assert!(sleeping.is_empty(), "{sleeping:?}");
}

/// Each module says what it owns.
#[test]
fn every_file_begins_with_what_it_is() {
    for source in [sources("src"), sources("tests")].concat() {
        assert!(source.text.starts_with("//! "), "{}", source.path);
    }
}
