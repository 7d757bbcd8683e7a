//! The effective configuration, for operators: every key, with its default where it is not written.
//!
//! Strings are shown as they are written, including `${NAME}`. What may be a secret is not shown: values
//! of headers and query parameters, queries in paths and URLs, and user names and passwords in URLs.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

use crate::config::keys::{INCLUDABLE, KeyTable, ROOT, ValueKind};
use crate::config::sources::{SourceText, Sources};

/// The text that replaces a value that may be a secret.
const MASK: &str = "(not shown)";

/// How values that may be secrets are replaced.
#[derive(Debug, Clone, Copy)]
enum Secrets {
    /// By the same text, always.
    Hidden,
    /// By a hash that is stable within this process, so that two configurations can be compared.
    Hashed,
}

/// The effective configuration in the shape of one file, with defaults and without secrets.
pub fn effective(sources: &Sources) -> Value {
    all(Secrets::Hidden, sources)
}

/// The same, for comparison with another configuration: a changed secret makes a difference.
pub fn compared(sources: &Sources) -> Value {
    all(Secrets::Hashed, sources)
}

/// All files as one.
fn all(secrets: Secrets, sources: &Sources) -> Value {
    let home = sources.main().folder();
    let mut whole = Shower::new(secrets, home, home).text(sources.main());
    for included in sources.included() {
        let shown = Shower::new(secrets, home, included.folder()).text(included);
        for (kind, more) in shown.as_object().into_iter().flatten() {
            if INCLUDABLE.contains(&kind.as_str()) {
                add(&mut whole[kind], more.clone());
            }
        }
    }
    whole
}

/// Adds the tables of an included file to those of the files before it.
fn add(before: &mut Value, more: Value) {
    match (before, more) {
        (Value::Object(before), Value::Object(more)) => before.extend(more),
        (Value::Array(before), Value::Array(more)) => before.extend(more),
        (before, more) if before.is_null() => *before = more,
        _ => {}
    }
}

/// Shows the values of one file.
#[derive(Debug, Clone, Copy)]
struct Shower<'a> {
    secrets: Secrets,
    /// Where the names of files in it start, as seen from the folder of the main file.
    folder: &'a Path,
}

impl<'a> Shower<'a> {
    fn new(secrets: Secrets, home: &Path, folder: &'a Path) -> Self {
        Self {
            secrets,
            folder: folder.strip_prefix(home).unwrap_or(folder),
        }
    }

    fn text(self, source: &SourceText) -> Value {
        let (tree, _) = DeTable::parse_recoverable(source.text());
        self.table(&ROOT, tree.get_ref())
    }

    /// The name of a file, relative to the folder of the main file.
    fn file(self, text: &str) -> String {
        // An absolute path may come from the environment.
        if self.folder.as_os_str().is_empty() || text.starts_with("${") {
            return text.to_owned();
        }
        self.folder.join(text).display().to_string()
    }

    fn table(self, declared: &KeyTable, tree: &DeTable<'_>) -> Value {
        let mut shown = Map::new();
        for key in declared.keys {
            let former = || Some(key.former_name).filter(|name| !name.is_empty());
            let written = tree.get(key.name);
            let value = match written.or_else(|| tree.get(former()?)) {
                Some(written) => self.value(&key.kind, written.get_ref()),
                None if key.default.is_empty() => continue,
                None => self.default(&key.kind, key.default),
            };
            shown.insert(key.name.to_owned(), value);
        }
        Value::Object(shown)
    }

    fn default(self, kind: &ValueKind, text: &str) -> Value {
        let text = format!("x = {text}");
        let (tree, _) = DeTable::parse_recoverable(&text);
        let tree = tree.get_ref();
        tree.get("x")
            .map_or(Value::Null, |written| self.value(kind, written.get_ref()))
    }

    fn value(self, kind: &ValueKind, written: &DeValue<'_>) -> Value {
        match (kind, written) {
            (ValueKind::Table(declared), DeValue::Table(tree)) => self.table(declared, tree),
            (ValueKind::AnyOf(kinds), DeValue::Table(_) | DeValue::Array(_)) => {
                let mut fitting = kinds.iter().filter(|kind| kind.takes(written));
                fitting
                    .next()
                    .map_or_else(|| plain(written), |kind| self.value(kind, written))
            }
            (ValueKind::Map(each), DeValue::Table(tree)) => {
                let entries = tree.iter();
                let shown = |value_of: &DeValue<'_>| self.value(each, value_of);
                Value::Object(
                    entries
                        .map(|(name, it)| (name.get_ref().to_string(), shown(it.get_ref())))
                        .collect(),
                )
            }
            (ValueKind::Pairs(_), DeValue::Table(tree)) => {
                let entries = tree.iter();
                let shown = |value_of: &DeValue<'_>| self.mask(&plain(value_of).to_string());
                Value::Object(
                    entries
                        .map(|(name, it)| (name.get_ref().to_string(), json!(shown(it.get_ref()))))
                        .collect(),
                )
            }
            (ValueKind::List(each), DeValue::Array(list)) => {
                let shown = list.iter().map(|it| self.value(each, it.get_ref()));
                Value::Array(shown.collect())
            }
            (ValueKind::File, DeValue::String(text)) => json!(self.file(text)),
            // What may be written in short is shown in full, so that both ways are the same configuration.
            (ValueKind::List(_), DeValue::String(text)) => json!([self.address(text)]),
            (ValueKind::Table(declared), DeValue::String(text)) => self.lone(declared, text),
            (_, DeValue::String(text)) => json!(self.address(text)),
            _ => plain(written),
        }
    }

    /// A table that is written as the value of its only required key.
    fn lone(self, declared: &KeyTable, text: &str) -> Value {
        let mut shown = self.table(declared, &DeTable::new());
        if let (Some(key), Some(table)) = (declared.lone_key(), shown.as_object_mut()) {
            table.insert(key.name.to_owned(), json!(text));
        }
        shown
    }

    /// The text that replaces `secret`.
    fn mask(self, secret: &str) -> String {
        // Random for each process: a fixed hash of a short secret could be looked up in a table.
        static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        match self.secrets {
            Secrets::Hidden => MASK.to_owned(),
            Secrets::Hashed => format!("#{:x}", SEED.hash_one(secret)),
        }
    }

    /// A path or URL without its query, user name and password; other strings as they are.
    fn address(self, text: &str) -> String {
        let (before, query) = match text.split_once('?') {
            Some((before, query)) if before.contains('/') => (before, Some(query)),
            _ => (text, None),
        };
        let query = query.map(|query| format!("?{}", self.mask(query)));
        let shown = match before.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                match authority.rsplit_once('@') {
                    Some((user, host)) => format!("{scheme}://{}@{host}{path}", self.mask(user)),
                    None => before.to_owned(),
                }
            }
            None => before.to_owned(),
        };
        shown + &query.unwrap_or_default()
    }
}

/// A value as it is written.
fn plain(written: &DeValue<'_>) -> Value {
    match written {
        DeValue::String(text) => json!(text),
        DeValue::Boolean(value) => json!(value),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            json!(i64::from_str_radix(&digits, number.radix()).ok())
        }
        DeValue::Float(number) => json!(number.as_str().replace('_', "").parse::<f64>().ok()),
        DeValue::Datetime(time) => json!(time.to_string()),
        DeValue::Array(list) => list.iter().map(|it| plain(it.get_ref())).collect(),
        DeValue::Table(tree) => {
            let entries = tree.iter();
            let shown = entries.map(|(name, it)| (name.get_ref().to_string(), plain(it.get_ref())));
            Value::Object(shown.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sources::SourceId;

    fn main_file(text: &str) -> Sources {
        Sources::new(SourceText::new(Path::new("config.toml"), text))
    }

    fn effective(text: &str) -> Value {
        super::effective(&main_file(text))
    }

    fn compared(text: &str) -> Value {
        super::compared(&main_file(text))
    }

    #[test]
    fn included_tables_are_shown_with_the_names_of_their_files_as_seen_from_the_main_file() {
        let mut sources = main_file("[[route]]\nname = \"a\"\nupstream = \"a\"\n");
        for (path, text) in [
            (
                "conf.d/b.toml",
                "[[route]]\nname = \"b\"\nupstream = \"b\"\n\
                 [upstream.b]\nendpoints_file = \"b.txt\"\n",
            ),
            (
                "/srv/c.toml",
                "[upstream.c]\nendpoints_file = \"c.txt\"\n\
                 [upstream.d]\nendpoints_file = \"${HOME}/d.txt\"\n\
                 [upstream.e]\nendpoints_file = \"/e.txt\"\n",
            ),
        ] {
            sources.add(SourceText::new(Path::new(path), text));
        }
        let shown = super::effective(&sources);
        assert_eq!(shown["route"][0]["name"], "a");
        assert_eq!(shown["route"][1]["name"], "b");
        for (name, file) in [
            ("b", "conf.d/b.txt"),
            ("c", "/srv/c.txt"),
            ("d", "${HOME}/d.txt"),
            ("e", "/e.txt"),
        ] {
            assert_eq!(shown["upstream"][name]["endpoints_file"], file);
        }
    }

    #[test]
    fn defaults_are_filled_in_and_secrets_left_out() {
        let shown = effective(
            "[listener.a]\nbind = [\"127.0.0.1:80\"]\n\
             [[route]]\nupstream = \"${NAME}\"\nrequest_headers.set = { authorization = \"Basic abc\" }\n\
             [upstream.a]\nendpoints = [{ address = \"10.0.0.1:9000\", weight = 1_0 }]\n",
        );
        assert_eq!(shown["listener"]["a"]["bind"][0], "127.0.0.1:80");
        assert_eq!(shown["listener"]["a"]["timeouts"]["keep_alive"], "60s");
        assert_eq!(shown["route"][0]["upstream"], "${NAME}");
        assert_eq!(shown["route"][0]["timeouts"]["idle"], "10m");
        let headers = &shown["route"][0]["request_headers"];
        assert_eq!(headers["set"]["authorization"], MASK);
        assert_eq!(shown["upstream"]["a"]["endpoints"][0]["weight"], 10);
        assert_eq!(shown["upstream"]["a"]["balance"], "least_connections");
        assert_eq!(shown["server"]["shutdown"]["grace"], "30s");
        assert!(!shown.to_string().contains("abc"));
    }

    /// One secret in each place that takes one.
    fn with(secret: &str) -> String {
        format!(
            "[[route]]\nheaders = {{ x-key = \"{secret}\" }}\nquery = {{ key = \"{secret}\" }}\n\
             request_headers.set = {{ authorization = \"{secret}\" }}\n\
             response_headers.set = {{ x-key = \"{secret}\" }}\nupstream = \"a\"\n\
             [[route]]\nredirect = {{ to = \"https://{secret}@a.example/b?key={secret}\" }}\n\
             [upstream.a]\nendpoints = [\"10.0.0.1:9000\"]\n\
             health = {{ websocket = {{ path = \"/health?key={secret}\", headers = {{ x-key = \"{secret}\" }} }} }}\n\
             [upstream.b]\nendpoints = [\"10.0.0.1:9000\"]\n\
             health = {{ http = {{ path = \"/health?key={secret}\" }} }}\n"
        )
    }

    #[test]
    fn no_secret_is_shown_and_each_makes_a_difference() {
        let (one, other) = (with("tops3cret"), with("0thersecret"));
        let loaded = crate::config::raw::read(SourceId::MAIN, &one, &|_| None, &mut Vec::new());
        assert!(loaded.has_any("route"));
        let text = effective(&one).to_string() + &compared(&one).to_string();
        assert!(!text.contains("tops3cret"), "{text}");
        assert!(
            text.contains("/health?") && text.contains("@a.example/b?"),
            "{text}"
        );
        assert_eq!(effective(&one), effective(&other));
        let (one, other) = (compared(&one), compared(&other));
        assert_ne!(one["route"][0]["headers"], other["route"][0]["headers"]);
        assert_ne!(one["route"][0]["query"], other["route"][0]["query"]);
        assert_ne!(one["route"][1], other["route"][1]);
        assert_ne!(one["upstream"]["a"], other["upstream"]["a"]);
        assert_ne!(one["upstream"]["b"], other["upstream"]["b"]);
        assert_eq!(one["server"], other["server"]);
    }
}
