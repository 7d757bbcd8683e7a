//! What a file says in full, for operators: every key, with its default where nothing is written.
//!
//! Strings are as they are written, `${NAME}` and all. What headers and queries are given as values is
//! not shown: that may be a secret.

use serde_json::{Map, Value, json};
use toml::de::{DeTable, DeValue};

use crate::config::keys::{Kind, ROOT, Table};

/// What stands for a value that may be a secret.
const MASK: &str = "(not shown)";

/// All of it, in the shape of the file.
pub(in crate::config) fn in_force(source: &str) -> Value {
    let (tree, _) = DeTable::parse_recoverable(source);
    table(&ROOT, tree.get_ref())
}

fn table(declared: &Table, tree: &DeTable<'_>) -> Value {
    let mut shown = Map::new();
    for key in declared.keys {
        let value = match tree.get(key.name) {
            Some(written) => value(&key.kind, written.get_ref()),
            None if key.default.is_empty() => continue,
            None => default(&key.kind, key.default),
        };
        shown.insert(key.name.to_owned(), value);
    }
    Value::Object(shown)
}

fn default(kind: &Kind, text: &str) -> Value {
    let text = format!("x = {text}");
    let (tree, _) = DeTable::parse_recoverable(&text);
    let tree = tree.get_ref();
    tree.get("x")
        .map_or(Value::Null, |written| value(kind, written.get_ref()))
}

fn value(kind: &Kind, written: &DeValue<'_>) -> Value {
    match (kind, written) {
        (Kind::Table(declared), DeValue::Table(tree)) => table(declared, tree),
        (Kind::AnyOf(kinds), DeValue::Table(_) | DeValue::Array(_)) => {
            let mut fitting = kinds.iter().filter(|kind| kind.takes(written));
            fitting
                .next()
                .map_or_else(|| plain(written), |kind| value(kind, written))
        }
        (Kind::Map(each), DeValue::Table(tree)) => {
            let entries = tree.iter();
            let shown = |value_of: &DeValue<'_>| value(each, value_of);
            Value::Object(
                entries
                    .map(|(name, it)| (name.get_ref().to_string(), shown(it.get_ref())))
                    .collect(),
            )
        }
        (Kind::Pairs(_), DeValue::Table(tree)) => {
            let names = tree.keys();
            Value::Object(
                names
                    .map(|name| (name.get_ref().to_string(), json!(MASK)))
                    .collect(),
            )
        }
        (Kind::List(each), DeValue::Array(list)) => {
            let shown = list.iter().map(|it| value(each, it.get_ref()));
            Value::Array(shown.collect())
        }
        _ => plain(written),
    }
}

/// As it is written.
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

    #[test]
    fn defaults_are_filled_in_and_secrets_left_out() {
        let shown = in_force(
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
}
