//! The reference of the file, for people; made from the declared keys, as the schema is.

use std::fmt::Write as _;

use tidegate::config::keys::{ConfigKey, KeyStatus, KeyTable, ROOT, ValueKind};

const BEGINNING: &str = "# Configuration

Every key, with what it is, its default, and an example that works. This page is made from the program
itself; `config.example.toml` shows the same keys in one file, and `config.schema.json` tells them to
editors. `tidegate check FILE` says what is wrong with a file, and where.

Durations are written `\"250ms\"`, `\"30s\"`, `\"5m\"`, `\"1h 30m\"`; sizes `\"512B\"`, `\"64KiB\"`,
`\"1MiB\"`; rates `\"20/s\"`. Names of files are relative to the folder of the configuration. `${NAME}` in
a string is the environment's variable. In headers that are set and in redirects, these stand for what
is known of the request, and for nothing where nothing is known: `${client_address}`, `${host}`,
`${uri}`, `${scheme}`, `${request_id}`, `${listener}`, `${route}`, `${tls_version}`, `${tls_cipher}`,
`${tls_server_name}`, `${client_certificate_subject}`, `${client_certificate_fingerprint}`.

What is *not in effect yet* warns, or is refused where it would keep somebody out.
";

/// The reference, in Markdown.
pub(crate) fn reference() -> String {
    let mut text = BEGINNING.to_owned();
    for key in ROOT.keys {
        let path = match key.kind {
            ValueKind::Map(_) => Place::new(key.name, name_of(key.name)),
            ValueKind::List(_) => Place::list(key.name),
            _ => Place::new(key.name, ""),
        };
        let later = key.status != KeyStatus::InEffect;
        each_table(&key.kind, later, &mut |declared, later| {
            let _ = write!(text, "\n## `{}`\n\n{}\n", path.header(), declared.doc);
            table(&mut text, declared, &path, later);
        });
    }
    text
}

/// What examples call the things that the file names.
fn name_of(kind: &str) -> &'static str {
    match kind {
        "listener" => "public",
        _ => "chat",
    }
}

/// Where a table stands in the file.
#[derive(Debug, Clone)]
struct Place {
    path: String,
    /// Whether it is one of a list.
    listed: bool,
    /// The list above it, which has to be written, too.
    above: Option<String>,
}

impl Place {
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

fn table(text: &mut String, declared: &'static KeyTable, place: &Place, later: bool) {
    for key in declared.keys {
        let later = later || key.status != KeyStatus::InEffect;
        entry(text, key, place, later);
        each_table(&key.kind, later, &mut |declared, later| {
            table(text, declared, &place.below(key), later);
        });
    }
}

fn entry(text: &mut String, key: &ConfigKey, place: &Place, later: bool) {
    let path = &place.path;
    let _ = write!(text, "\n### `{path}.{}`\n\n{}", key.name, key.doc);
    if key.required {
        text.push_str(" Required.");
    } else if !matches!(key.default, "" | "{}") {
        let _ = write!(text, " Default: `{}`.", key.default);
    }
    if later {
        text.push_str(" *Not in effect yet.*");
    }
    text.push('\n');
    if let Some(example) = key.example() {
        let above = place.above.iter().map(|above| format!("{above}\n"));
        let above: String = above.collect();
        let header = place.header();
        let _ = write!(text, "\n```toml\n{above}{header}\n{example}\n```\n");
    }
}

/// Every table that values of this kind may be, and whether that is not in effect yet.
fn each_table(
    kind: &'static ValueKind,
    later: bool,
    visit: &mut dyn FnMut(&'static KeyTable, bool),
) {
    match kind {
        ValueKind::Table(declared) => visit(declared, later),
        ValueKind::List(kind) | ValueKind::Map(kind) => each_table(kind, later, visit),
        ValueKind::AnyOf(kinds) => kinds.iter().for_each(|kind| each_table(kind, later, visit)),
        _ => {}
    }
}
