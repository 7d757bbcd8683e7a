//! The names that stay, in `tests/compatibility`: docs/compatibility.md says what that means. A name that is gone
//! fails, and one that is new is added with `TIDEGATE_BLESS=1`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;
use tidegate::admin::api::operation::openapi;
use tidegate::config::diagnostic::Code;
use tidegate::config::keys::{ConfigKey, KeyTable, ROOT, ValueKind};
use tidegate::protocol::rejection::Rejection;
use tidegate::streams::ended::StreamEnded;
use tidegate::tunnel::ended::Ended;

use super::read;
use super::source::root;

type Names = BTreeSet<String>;

/// Every list: its file, and the names of the program.
fn lists() -> Vec<(&'static str, Names)> {
    vec![
        ("keys", keys()),
        ("codes", codes()),
        ("reasons", reasons()),
        ("metrics", metrics()),
        ("logs", logs()),
        ("json", json()),
        ("commands", commands()),
        ("exits", exits()),
    ]
}

/// Every key, and every word that it accepts.
fn keys() -> Names {
    let mut names = Names::new();
    table("", &ROOT, &mut names);
    names
}

fn table(path: &str, declared: &KeyTable, names: &mut Names) {
    for ConfigKey {
        name,
        kind,
        former_name,
        ..
    } in declared.keys
    {
        for name in [name, former_name] {
            if !name.is_empty() {
                values(&format!("{path}{name}"), kind, names);
            }
        }
    }
}

fn values(path: &str, kind: &ValueKind, names: &mut Names) {
    names.insert(path.to_owned());
    match kind {
        ValueKind::OneOf(words) => {
            names.extend(words.iter().map(|word| format!("{path} = \"{word}\"")));
        }
        ValueKind::List(each) => values(path, each, names),
        ValueKind::Map(each) => values(&format!("{path}.NAME"), each, names),
        ValueKind::Table(declared) => table(&format!("{path}."), declared, names),
        ValueKind::AnyOf(kinds) => kinds.iter().for_each(|kind| values(path, kind, names)),
        _ => {}
    }
}

/// What `check` prints in brackets, and `server.allow_warnings` lists.
fn codes() -> Names {
    let level = |code: &Code| if code.may_warn() { "warning" } else { "error" };
    let line = |code: &Code| format!("{} {}", level(code), code.token());
    Code::ALL.iter().map(line).collect()
}

fn reasons() -> Names {
    let rejection = |it: &Rejection| format!("rejected {} {}", it.status().as_u16(), it.token());
    let rejections = Rejection::ALL.iter().map(rejection);
    let tunnels = Ended::ALL.iter();
    let tunnels = tunnels.map(|ended| format!("tunnel ended {}", ended.token()));
    let streams = StreamEnded::all().map(|ended| format!("stream ended {}", ended.token()));
    rejections.chain(tunnels).chain(streams).collect()
}

/// The families with their labels, as the page has them; tests/e2e/metrics.rs compares that with the program.
fn metrics() -> Names {
    let mut names = Names::new();
    for row in read("docs/metrics.md").lines() {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let Some(name) = cells.next().and_then(|cell| cell.strip_prefix('`')) else {
            continue;
        };
        let name = name.trim_end_matches('`');
        if !name.starts_with("tidegate_") && !name.starts_with("process_") {
            continue;
        }
        let (Some(kind), Some(labels)) = (cells.next(), cells.next()) else {
            continue;
        };
        names.insert(format!("{name} {kind}"));
        let labels = labels.split(',').map(str::trim).filter(|it| !it.is_empty());
        names.extend(labels.map(|label| format!("{name} {{{label}}}")));
    }
    names
}

/// Events and fields, as the page has them.
fn logs() -> Names {
    let page = read("docs/logs.md");
    let rows = page.lines().filter(|row| row.starts_with("| `"));
    let cells = rows.map(|row| row.split(" | ").next().unwrap_or_default());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

/// Every operation, with what it takes and returns.
fn json() -> Names {
    let document = openapi();
    let mut names = Names::new();
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            let place = format!("{} {path}", method.to_uppercase());
            names.insert(place.clone());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                names.insert(format!("{place} ?{}", parameter["name"].as_str().unwrap()));
            }
            let schema = |body: &Value| body["content"]["application/json"]["schema"].clone();
            let mut walk = Walk {
                document: &document,
                names: &mut names,
                inside: Vec::new(),
            };
            walk.schema(
                &format!("{place} takes "),
                &schema(&operation["requestBody"]),
            );
            walk.schema(
                &format!("{place} returns "),
                &schema(&operation["responses"]["200"]),
            );
        }
    }
    names
}

/// Collects the fields of a schema.
struct Walk<'a> {
    document: &'a Value,
    names: &'a mut Names,
    /// The references that lead here: some types contain themselves.
    inside: Vec<String>,
}

impl Walk<'_> {
    fn schema(&mut self, path: &str, schema: &Value) {
        if let Some(reference) = schema["$ref"].as_str() {
            if self.inside.iter().any(|it| it == reference) {
                return;
            }
            let target = self.document.pointer(reference.trim_start_matches('#'));
            self.inside.push(reference.to_owned());
            self.schema(path, target.unwrap());
            self.inside.pop();
            return;
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter_map(text).collect::<Vec<_>>().join("|"),
            kind => text(kind).unwrap_or_default(),
        };
        if !kinds.is_empty() {
            self.names.insert(format!("{path}: {kinds}"));
        }
        if let Some(word) = schema["const"].as_str() {
            self.names.insert(format!("{path} = {word}"));
        }
        for word in schema["enum"].as_array().into_iter().flatten() {
            self.names.insert(format!("{path} = {word}"));
        }
        for several in ["anyOf", "oneOf", "allOf"] {
            for one in schema[several].as_array().into_iter().flatten() {
                self.schema(path, one);
            }
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let separator = if path.ends_with(' ') { "" } else { "." };
            self.schema(&format!("{path}{separator}{name}"), field);
        }
        for (suffix, of) in [("[]", "items"), (".NAME", "additionalProperties")] {
            if schema[of].is_object() {
                self.schema(&format!("{path}{suffix}"), &schema[of]);
            }
        }
    }
}

fn printed(arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = program.args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every command with its options.
fn commands() -> Names {
    let mut names = Names::new();
    let help = printed(&["--help"]);
    let listed = help.split("Commands:\n").nth(1).unwrap();
    let listed = listed.lines().take_while(|line| !line.is_empty());
    let commands = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    for command in commands.filter(|it| !it.is_empty() && *it != "help") {
        names.insert(command.to_owned());
        let help = printed(&[command, "--help"]);
        // Options begin in the third or seventh column, and what is wrapped begins further right.
        let options = help.lines().filter_map(|line| {
            let line = line.strip_prefix("  ")?;
            let line = line.strip_prefix("    ").unwrap_or(line);
            let long = line.split_once(", ").filter(|(short, _)| short.len() == 2);
            let long = long.map_or(line, |(_, long)| long);
            long.strip_prefix("--")?.split([' ', '=', '[']).next()
        });
        names.extend(options.map(|option| format!("{command} --{option}")));
    }
    names
}

/// Exit codes, and signals that `run` acts on. What is said about them is a text.
fn exits() -> Names {
    let help = printed(&["--help"]);
    let mut names = Names::new();
    for (section, name) in [
        ("Exit codes:\n", "exits with"),
        ("Signals to `run`:\n", "on"),
    ] {
        let lines = help.split(section).nth(1).unwrap();
        let lines = lines.lines().take_while(|line| !line.is_empty());
        let numbers_or_names = lines.filter_map(|line| line.trim().split("  ").next());
        names.extend(numbers_or_names.map(|it| format!("{name} {it}")));
    }
    names
}

/// What the file lacks, and what it has beyond the program's names.
fn differences(names: &Names, listed: &str) -> (Names, Names) {
    let listed: Names = listed.lines().map(str::to_owned).collect();
    let new = names.difference(&listed).cloned().collect();
    let gone = listed.difference(names).cloned().collect();
    (new, gone)
}

#[test]
fn names_that_stay_are_there_and_new_ones_are_listed() {
    for (list, names) in lists() {
        let path = root().join(format!("tests/compatibility/{list}.txt"));
        assert!(names.len() > 5, "{list}");
        let (new, gone) = differences(&names, &fs::read_to_string(&path).unwrap_or_default());
        assert!(
            gone.is_empty(),
            "{list}: {gone:#?} would be gone. docs/compatibility.md says how a name changes; only then remove it from \
             {} by hand",
            path.display()
        );
        if std::env::var_os("TIDEGATE_BLESS").is_some() {
            let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
            fs::write(&path, lines).unwrap();
        } else {
            assert!(new.is_empty(), "{list}: not listed, bless it: {new:#?}");
        }
    }
}

#[test]
fn a_name_that_is_gone_is_noticed_and_so_is_a_new_one() {
    let (new, gone) = differences(&keys(), "route\nroute.gone\n");
    assert!(new.contains("route.upstream") && new.contains("listener.NAME.bind"));
    assert_eq!(gone.into_iter().collect::<Vec<_>>(), ["route.gone"]);
    let balance = "upstream.NAME.balance = \"least_connections\"";
    assert!(keys().contains(balance));
    assert!(commands().contains("close --endpoint"));
    assert!(json().contains("GET /v1/listeners returns [].name: string"));
}

#[test]
fn the_page_names_every_list() {
    let page = read("docs/compatibility.md");
    let linked: BTreeSet<&str> = page
        .split("](../tests/compatibility/")
        .skip(1)
        .filter_map(|rest| rest.split(".txt)").next())
        .collect();
    let lists: BTreeSet<&str> = lists().into_iter().map(|(list, _)| list).collect();
    assert_eq!(linked, lists);
}
