//! The documentation agrees with the program.

#![expect(
    clippy::unwrap_used,
    reason = "a test that fails has nothing to clean up"
)]

#[path = "docs/commands.rs"]
mod commands;
#[path = "docs/compatibility.rs"]
mod compatibility;
#[path = "docs/configurations.rs"]
mod configurations;
#[path = "docs/example.rs"]
mod example;
#[path = "docs/links.rs"]
mod links;
#[path = "docs/manifests.rs"]
mod manifests;
#[path = "docs/metrics.rs"]
mod metrics;
#[path = "docs/packaging.rs"]
mod packaging;
#[path = "docs/reference.rs"]
mod reference;
#[path = "tidy/source.rs"]
mod source;

use std::fs;
use std::process::Command;

use tidegate::admin::api::operation::{Operation, openapi};
use tidegate::config::diagnostic::Code;
use tidegate::protocol::rejection::Rejection;
use tidegate::streams::ended::StreamEnded;
use tidegate::tunnel::ended::Ended;

use self::source::{Source, root, sources};

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// The first cell of every table row that begins with code.
fn first_cells(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect()
}

#[test]
fn every_reason_is_documented_with_its_status_and_no_other_is() {
    let text = read("docs/reasons.md");
    let documented = first_cells(&text);
    let rejections = Rejection::ALL.iter().map(|rejection| rejection.token());
    let ended = Ended::ALL.iter().map(|ended| ended.token());
    // Of the reasons of tunnels, a stream has these.
    let shared = [Ended::Idle, Ended::MaxAge, Ended::Killed, Ended::Shutdown];
    let streams = StreamEnded::all().filter(|it| it.forced().is_none_or(|it| shared.contains(&it)));
    let all = rejections
        .chain(ended)
        .chain(streams.map(StreamEnded::token));
    assert_eq!(documented, all.collect::<Vec<_>>());
    for rejection in Rejection::ALL {
        let row = format!(
            "| `{}` | {} |",
            rejection.token(),
            rejection.status().as_u16()
        );
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
fn every_code_is_documented_as_error_or_warning_and_no_other_is() {
    let text = read("docs/diagnostics.md");
    let tokens: Vec<&str> = Code::ALL.iter().map(|code| code.token()).collect();
    assert_eq!(first_cells(&text), tokens);
    let (errors, warnings) = text.split_once("## Warnings").unwrap();
    assert!(first_cells(errors).iter().all(|code| !warns(code)));
    assert!(first_cells(warnings).iter().all(|code| warns(code)));
}

/// Whether warnings may have the code with this token.
fn warns(token: &str) -> bool {
    let mut codes = Code::ALL.iter();
    codes.any(|code| code.token() == token && code.may_warn())
}

#[test]
fn the_figures_in_the_readme_are_those_of_the_newest_run() {
    let runs = fs::read_dir(root().join("benches/runs")).unwrap();
    let names = runs.map(|run| run.unwrap().file_name().into_string().unwrap());
    // A run of a few lines has a suffix after its date.
    let complete = names.filter(|name| name.len() == "2026-01-01".len());
    let newest = complete.max().unwrap();
    let name = format!("benches/runs/{newest}/README.md");
    let (readme, run) = (read("README.md"), read(&name));
    assert!(readme.contains(&format!("({name})")), "{name}");
    let mut figures = readme
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("–**"));
    assert!(figures.clone().count() > 5);
    assert!(figures.all(|line| run.lines().any(|measured| measured == line)));
}

#[test]
fn the_shipped_schema_is_up_to_date() {
    let path = root().join("config.schema.json");
    let mut program = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let printed = program.arg("schema").output().unwrap();
    assert!(printed.status.success());
    let current = String::from_utf8(printed.stdout).unwrap();
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        fs::write(&path, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|shipped| shipped == current),
        "config.schema.json is not up to date: run with TIDEGATE_BLESS=1"
    );
}

#[test]
fn the_shipped_description_of_the_interface_is_up_to_date() {
    let path = root().join("docs/openapi.json");
    let current = format!("{:#}\n", openapi());
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        fs::write(&path, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|shipped| shipped == current),
        "docs/openapi.json is not up to date: run with TIDEGATE_BLESS=1"
    );
}

#[test]
fn every_operation_is_documented_with_its_role_and_no_other_is() {
    let text = read("docs/admin.md");
    let (_, table) = text.split_once("| operation |").unwrap();
    let table = table.split("\n\n").next().unwrap();
    let names = Operation::ALL
        .iter()
        .map(|operation| format!("{} {}", operation.method(), operation.path()));
    assert_eq!(first_cells(table), names.collect::<Vec<_>>());
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    for (row, operation) in rows.zip(Operation::ALL) {
        let role = match operation.is_internal() {
            true => "| none |".to_owned(),
            false => format!("| `{}` |", operation.role()),
        };
        assert!(row.ends_with(&role), "{row}");
    }
}

/// The paths of README.md and of the pages in docs/.
fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for folder in ["docs", "docs/howto"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let markdown = names.filter(|name| name.ends_with(".md"));
        pages.extend(markdown.map(|name| format!("{folder}/{name}")));
    }
    pages.sort();
    assert!(pages.len() > 40, "{pages:?}");
    pages
}

#[test]
fn the_reference_is_up_to_date() {
    let path = root().join("docs/configuration.md");
    let current = reference::reference();
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        fs::write(&path, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|shipped| shipped == current),
        "docs/configuration.md is not up to date: run with TIDEGATE_BLESS=1"
    );
}

#[test]
fn exit_codes_and_signals_are_documented_as_the_help_has_them() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let help = String::from_utf8(program.arg("--help").output().unwrap().stdout).unwrap();
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    let rows = codes.lines().filter_map(|line| {
        let (name, meaning) = line.strip_prefix("  ")?.split_once("  ")?;
        Some(format!("| {name} | {} |", meaning.trim()))
    });
    let rows: Vec<String> = rows.collect();
    assert_eq!(rows.len(), 10 + 5, "{help}");
    let text = read("docs/operating.md");
    for row in rows {
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
fn quoted_log_lines_have_messages_of_the_program() {
    let sources = sources("src");
    let mut quoted = 0;
    for name in pages() {
        for line in read(&name).lines() {
            let levels = [" WARN ", " INFO ", "ERROR "];
            let Some(line) = levels.iter().find_map(|level| line.strip_prefix(level)) else {
                continue;
            };
            let words = line.split(' ').take_while(|word| !word.contains('='));
            let message = words.collect::<Vec<_>>().join(" ");
            let literal = format!("\"{message}\"");
            let mut texts = sources.iter().map(Source::without_tests);
            assert!(
                texts.any(|text| text.contains(&literal)),
                "{name}: {message}"
            );
            quoted += 1;
        }
    }
    assert!(quoted > 3, "{quoted}");
}

/// Every file that the code map of ARCHITECTURE.md names exists.
#[test]
fn the_code_map_has_every_layer_and_existing_files() {
    let text = read("ARCHITECTURE.md");
    let (_, map) = text.split_once("## Code map").unwrap();
    let (map, _) = map.split_once("## Threads").unwrap();
    let exists = |path: &str| {
        let path = root().join("src").join(path);
        path.is_dir() || path.with_extension("rs").is_file()
    };
    let mut layers = Vec::new();
    for layer in map.split("\n- **`").skip(1) {
        let mut names = layer.split('`').step_by(2);
        let name = names.next().unwrap();
        assert!(exists(name), "{name}");
        for file in names {
            let is_key = file.starts_with("on_") || file.starts_with('/');
            let is_there = exists(&format!("{name}/{file}")) || exists(file);
            assert!(is_key || is_there, "{name}: {file}");
        }
        layers.push(name);
    }
    for path in text.split('`').skip(1).step_by(2) {
        let is_path = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '/' | '.');
        if path.contains('/') && !path.starts_with('/') && path.chars().all(is_path) {
            assert!(exists(path) || root().join(path).exists(), "{path}");
        }
    }
    let lib = read("src/lib.rs");
    let expected = [source::layers(&lib), vec!["main.rs"]].concat();
    assert_eq!(layers, expected);
}

#[test]
fn contributing_names_existing_files() {
    let text = read("CONTRIBUTING.md");
    let mut paths = 0;
    for path in text.split('`').skip(1).step_by(2) {
        let folders = ["src/", "tests/", "docs/", "benches/", "fuzz/", ".ci/"];
        if folders.iter().any(|folder| path.starts_with(folder)) {
            assert!(root().join(path).exists(), "{path}");
            paths += 1;
        }
    }
    assert!(paths > 25, "{paths}");
}
