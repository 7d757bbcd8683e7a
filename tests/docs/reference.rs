//! The reference of the configuration file, generated from the declared keys, as the schema is.

use std::fmt::Write as _;

use tidegate::config::keys::{ConfigKey, KeyTable, ROOT, ValueKind};

const BEGINNING: &str = "# Configuration

This page describes every key of the configuration file, with its default and an example that works. It
is generated from the program. `config.example.toml` shows the same keys in one file, and
`config.schema.json` describes them to editors. `tidegate check FILE` reports what is wrong with a file,
and where.

Durations are written `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"1h 30m\"`; sizes `\"512B\"`, `\"64KiB\"`,
`\"1MiB\"`; rates `\"20/s\"`. Where a list
is expected, one string stands for a list of one, and a limit on a rate may be written as the rate alone:
`handshakes_per_ip = \"20/s\"`. A zero is refused where it has no meaning: what can be turned off is
turned off with `\"off\"` or by leaving the key out. File names are relative to the folder of the file that
they stand in. `${NAME}` in a string stands for the environment variable of that name. In headers that are set and in redirects,
the following variables stand for properties of the request; a property that a request does not have is
empty: `${client_address}`, `${host}`, `${uri}`, `${scheme}`, `${request_id}`, `${listener}`, `${route}`,
`${tls_version}`, `${tls_cipher}`, `${tls_server_name}`, `${client_certificate_subject}`,
`${client_certificate_fingerprint}`.

## Contents

";

/// The reference, in Markdown.
pub(crate) fn reference() -> String {
    let mut text = BEGINNING.to_owned();
    for key in ROOT.keys {
        contents(&mut text, key);
    }
    for key in ROOT.keys {
        if !has_table(&key.kind) {
            let _ = write!(
                text,
                "\n## `{}`\n\n{} Default: `{}`.\n",
                key.name, key.doc, key.default
            );
            let example = key.example().unwrap_or_default();
            let _ = write!(text, "\n```toml\n{example}\n```\n");
        }
        let place = place_of(key);
        each_table(&key.kind, &mut |declared| {
            let _ = write!(text, "\n## `{}`\n\n{}\n", place.header(), declared.doc);
            table(&mut text, declared, &place);
        });
    }
    text
}

/// Where the table of a key of the root is.
fn place_of(key: &ConfigKey) -> TablePlace {
    match key.kind {
        ValueKind::Map(_) => TablePlace::new(key.name, name_of(key.name)),
        ValueKind::List(_) => TablePlace::list(key.name),
        _ => TablePlace::new(key.name, ""),
    }
}

/// The line of the table of contents for a key of the root: links to its table and the keys in that.
fn contents(text: &mut String, key: &'static ConfigKey) {
    // Anchors are headings without their punctuation.
    let anchor = |heading: &str| heading.replace(['.', '[', ']'], "");
    let place = place_of(key);
    let header = place.header();
    if !has_table(&key.kind) {
        let _ = writeln!(text, "- [`{0}`](#{0})", key.name);
    }
    each_table(&key.kind, &mut |declared| {
        let links: Vec<String> = declared
            .keys
            .iter()
            .map(|key| {
                let path = format!("{}.{}", place.path, key.name);
                format!("[`{}`](#{})", key.name, anchor(&path))
            })
            .collect();
        let links = links.join(", ");
        let _ = writeln!(text, "- [`{header}`](#{}): {links}", anchor(&header));
    });
}

/// The names that examples use for listeners and upstreams.
fn name_of(kind: &str) -> &'static str {
    match kind {
        "listener" => "public",
        _ => "chat",
    }
}

/// The place of a table in the file.
#[derive(Debug, Clone)]
struct TablePlace {
    path: String,
    /// Whether the table is an item of a list.
    listed: bool,
    /// The header of the list above the table, which has to be written, too.
    above: Option<String>,
}

impl TablePlace {
    fn new(name: &str, below: &str) -> Self {
        let dot = if below.is_empty() { "" } else { "." };
        Self {
            path: format!("{name}{dot}{below}"),
            listed: false,
            above: None,
        }
    }

    fn list(name: &str) -> Self {
        Self {
            path: name.to_owned(),
            listed: true,
            above: None,
        }
    }

    fn below(&self, key: &ConfigKey) -> Self {
        Self {
            path: format!("{}.{}", self.path, key.name),
            listed: matches!(key.kind, ValueKind::List(_)),
            above: if self.listed {
                Some(self.header())
            } else {
                self.above.clone()
            },
        }
    }

    fn header(&self) -> String {
        if self.listed {
            format!("[[{}]]", self.path)
        } else {
            format!("[{}]", self.path)
        }
    }
}

fn table(text: &mut String, declared: &'static KeyTable, place: &TablePlace) {
    for key in declared.keys {
        entry(text, key, place);
        each_table(&key.kind, &mut |declared| {
            table(text, declared, &place.below(key));
        });
    }
}

fn entry(text: &mut String, key: &ConfigKey, place: &TablePlace) {
    let path = &place.path;
    let _ = write!(text, "\n### `{path}.{}`\n\n{}", key.name, key.doc);
    if key.required {
        text.push_str(" Required.");
    } else if !matches!(key.default, "" | "{}") {
        let _ = write!(text, " Default: `{}`.", key.default);
    }
    text.push('\n');
    if let Some(example) = key.example() {
        let above = place.above.iter().map(|above| format!("{above}\n"));
        let above: String = above.collect();
        let header = place.header();
        let _ = write!(text, "\n```toml\n{above}{header}\n{example}\n```\n");
    }
}

fn has_table(kind: &'static ValueKind) -> bool {
    let mut has = false;
    each_table(kind, &mut |_| has = true);
    has
}

/// Visits every table that a value of this kind may be.
fn each_table(kind: &'static ValueKind, visit: &mut dyn FnMut(&'static KeyTable)) {
    match kind {
        ValueKind::Table(declared) => visit(declared),
        ValueKind::List(kind) | ValueKind::Map(kind) => each_table(kind, visit),
        ValueKind::AnyOf(kinds) => kinds.iter().for_each(|kind| each_table(kind, visit)),
        _ => {}
    }
}
