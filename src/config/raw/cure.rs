//! Cures: what to write instead of a wrong value, where it shows what was meant.

mod address;
mod number;

use toml::de::{DeTable, DeValue};

use crate::config::keys::{ConfigKey, KeyTable, ValueKind};

/// What to write instead of `value`, which is not a value of `key` or of an item of its list.
pub(super) fn of_value(key: &'static ConfigKey, value: &DeValue<'_>) -> Option<String> {
    if let Some(cure) = by_name(key, value).or_else(|| list_of_tables(key, value)) {
        return Some(cure);
    }
    let kinds = leaves(&key.kind);
    if let ([ValueKind::Table(declared)], DeValue::String(text)) = (kinds.as_slice(), value) {
        return Some(of_word(key, declared, text));
    }
    kinds.into_iter().find_map(|kind| match value {
        DeValue::String(text) => of_text(key, kind, text),
        DeValue::Integer(number) => number::of_number(kind, &number.to_string()),
        DeValue::Float(number) => number::of_number(kind, number.as_str()),
        DeValue::Boolean(is_on) => of_bool(key, kind, *is_on),
        DeValue::Array(list) => of_list(key, kind, list.first().map(toml::Spanned::get_ref)),
        _ => None,
    })
}

/// A name that other programs use, the name here, and how it is written.
type ForeignKey = (&'static str, &'static str, &'static str);

/// Tables of other programs.
const TABLES: [ForeignKey; 8] = [
    ("frontend", "listener", "[listener.public]"),
    ("entryPoints", "listener", "[listener.public]"),
    ("backend", "upstream", "[upstream.chat]"),
    ("backends", "upstream", "[upstream.chat]"),
    ("service", "upstream", "[upstream.chat]"),
    ("services", "upstream", "[upstream.chat]"),
    ("location", "route", "[[route]]"),
    ("routers", "route", "[[route]]"),
];

const CERTIFICATES: &str = "certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]";
const TLS_CERTIFICATES: &str = "tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]";

/// Keys of other programs.
const KEYS: [ForeignKey; 27] = [
    ("address", "bind", "bind = \"0.0.0.0:80\""),
    ("addresses", "bind", "bind = [\"0.0.0.0:80\", \"[::]:80\"]"),
    ("listen", "bind", "bind = \"0.0.0.0:80\""),
    ("port", "bind", "bind = \"0.0.0.0:80\""),
    ("ssl", "tls", ""),
    ("certificate", "certificates", CERTIFICATES),
    ("cert", "certificates", CERTIFICATES),
    ("key", "certificates", CERTIFICATES),
    ("ssl_certificate", "tls", TLS_CERTIFICATES),
    ("ssl_certificate_key", "tls", TLS_CERTIFICATES),
    ("server_name", "hosts", "hosts = [\"chat.example.com\"]"),
    ("domain", "hosts", "hosts = [\"chat.example.com\"]"),
    ("domains", "hosts", "hosts = [\"chat.example.com\"]"),
    ("location", "path_prefix", "path_prefix = \"/chat\""),
    ("prefix", "path_prefix", "path_prefix = \"/chat\""),
    ("proxy_pass", "upstream", "upstream = \"chat\""),
    ("backend", "upstream", "upstream = \"chat\""),
    ("service", "upstream", "upstream = \"chat\""),
    ("server", "endpoints", "endpoints = [\"10.0.0.11:9000\"]"),
    ("servers", "endpoints", "endpoints = [\"10.0.0.11:9000\"]"),
    ("backends", "endpoints", "endpoints = [\"10.0.0.11:9000\"]"),
    ("targets", "endpoints", "endpoints = [\"10.0.0.11:9000\"]"),
    ("ip_hash", "balance", "balance = { hash = \"client_ip\" }"),
    ("hash", "balance", "balance = { hash = \"client_ip\" }"),
    ("least_conn", "balance", "balance = \"least_connections\""),
    ("lb_policy", "balance", "balance = \"least_connections\""),
    ("algorithm", "balance", "balance = \"least_connections\""),
];

/// The key that is meant by `written`, which does not exist in this table, and how it is written.
pub(super) fn of_key(declared: &KeyTable, written: &str) -> Option<(&'static str, String)> {
    let is_root = declared.key("listener").is_some();
    let names: &[ForeignKey] = if is_root { &TABLES } else { &KEYS };
    let (_, key, example) = names
        .iter()
        .find(|(name, key, _)| *name == written && declared.key(key).is_some())?;
    let cure = match *example {
        "" => format!("did you mean `{key}`?"),
        example => format!("write e.g. `{example}`"),
    };
    Some((key, cure))
}

/// Cures that belong to one key.
fn by_name(key: &ConfigKey, value: &DeValue<'_>) -> Option<String> {
    match (key.name, value) {
        ("balance", DeValue::String(text)) => balance(text),
        ("health", DeValue::Boolean(true)) => {
            Some("write e.g. `health = { websocket = {} }`".to_owned())
        }
        ("expect", DeValue::Integer(status)) => Some(format!("write `expect = \"{status}\"`")),
        ("expect", DeValue::Array(list)) => {
            let status = |each: &toml::Spanned<DeValue<'_>>| match each.get_ref() {
                DeValue::Integer(number) => Some(number.to_string()),
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            };
            let all: Vec<String> = list.iter().filter_map(status).collect();
            Some(format!(
                "write all in one string: `expect = \"{}\"`",
                all.join(", ")
            ))
        }
        _ => None,
    }
}

/// Policies as other programs call them.
fn balance(text: &str) -> Option<String> {
    let policy = match text.to_ascii_lowercase().replace('-', "_").as_str() {
        "ip_hash" | "source" | "client_ip" | "iphash" => "balance = { hash = \"client_ip\" }",
        "uri" | "path" | "url_hash" => "balance = { hash = \"path\" }",
        "hash" | "ring_hash" | "maglev" | "consistent_hash" => {
            "balance = { hash = { header = \"x-user\" } }"
        }
        "least_conn" | "leastconn" | "least_request" => "balance = \"least_connections\"",
        "roundrobin" | "rr" | "wrr" | "static_rr" => "balance = \"round_robin\"",
        "p2c" | "random_two" => "balance = \"power_of_two\"",
        "sticky" | "cookie" => "sticky = {}",
        _ => return None,
    };
    Some(format!("write `{policy}`"))
}

/// Where a list of tables is expected and one table is written, or the other way round.
fn list_of_tables(key: &ConfigKey, value: &DeValue<'_>) -> Option<String> {
    let name = key.name;
    match (&key.kind, value) {
        (ValueKind::List(ValueKind::Table(_)), DeValue::Table(_)) if name == "route" => {
            Some("write `[[route]]`, in double brackets, for each route".to_owned())
        }
        (ValueKind::List(ValueKind::Table(_)), DeValue::Table(_)) => {
            Some(format!("put it in brackets: `{name} = [{{ … }}]`"))
        }
        (ValueKind::Map(ValueKind::Table(_)), DeValue::Array(list)) => {
            let first = list.first().map(toml::Spanned::get_ref);
            Some(match first.and_then(name_in) {
                Some(named) => format!(
                    "write `[{name}.{named}]`, in single brackets, and remove `name`: the name belongs in the header"
                ),
                None => format!(
                    "the name of the {name} belongs in its header, in single brackets: `[{name}.{}]`",
                    a_name(name)
                ),
            })
        }
        _ => None,
    }
}

/// The value of `name` in a table, if it can be a name.
fn name_in(value: &DeValue<'_>) -> Option<String> {
    let DeValue::Table(table) = value else {
        return None;
    };
    match table.get("name")?.get_ref() {
        DeValue::String(text) if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            Some(text.to_string())
        }
        _ => None,
    }
}

/// A name to show in an example.
fn a_name(kind: &str) -> &'static str {
    match kind {
        "listener" => "public",
        "acme" => "letsencrypt",
        "limit" => "per-client",
        _ => "chat",
    }
}

/// The error about `[listener]` with the keys of a listener in it, if that is what `table` is.
pub(super) fn of_nameless(
    key: &'static ConfigKey,
    kind: &ValueKind,
    table: &DeTable<'_>,
) -> Option<(String, String)> {
    let ValueKind::Table(declared) = kind else {
        return None;
    };
    let belongs = |(name, value): (
        &toml::Spanned<std::borrow::Cow<'_, str>>,
        &toml::Spanned<DeValue<'_>>,
    )| {
        declared.key(name.get_ref()).is_some() && !matches!(value.get_ref(), DeValue::Table(_))
    };
    table.iter().any(belongs).then(|| {
        let name = key.name;
        let what = match name {
            "acme" => "authority",
            other => other,
        };
        (
            format!("the {what} has no name"),
            format!("write e.g. `[{name}.{}]`", a_name(name)),
        )
    })
}

/// The kinds of single values that a kind consists of.
fn leaves(kind: &'static ValueKind) -> Vec<&'static ValueKind> {
    match kind {
        ValueKind::AnyOf(kinds) => kinds.iter().flat_map(leaves).collect(),
        ValueKind::List(kind) => leaves(kind),
        ValueKind::Table(declared) => {
            let lone = declared.lone_key().map(|key| &key.kind);
            std::iter::once(kind).chain(lone).collect()
        }
        kind => vec![kind],
    }
}

fn of_text(key: &ConfigKey, kind: &ValueKind, text: &str) -> Option<String> {
    match kind {
        ValueKind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some("write `true`, without quotes".to_owned()),
            "false" | "no" | "off" | "0" => Some("write `false`, without quotes".to_owned()),
            _ => None,
        },
        ValueKind::Integer { .. } | ValueKind::Number { .. } => number::in_quotes(text),
        ValueKind::Duration { .. } if is_number(text) => {
            Some(format!("add the unit: `\"{text}s\"` is {text} seconds"))
        }
        ValueKind::Rate => number::rate(text),
        ValueKind::OneOf(words) => {
            let ends = |word: &&&str| text.len() > word.len() && text.ends_with(**word);
            words
                .iter()
                .find(ends)
                .map(|word| format!("write `\"{word}\"`"))
        }
        ValueKind::Bind => address::of_bind(text),
        ValueKind::Address => address::of_endpoint(text),
        ValueKind::Host => address::of_host(key.name, text),
        ValueKind::Origin | ValueKind::OriginPattern => address::of_origin(key.name, text),
        ValueKind::Net => address::of_net(key.name, text),
        ValueKind::Path => address::of_path(text),
        _ => None,
    }
}

/// A table is expected, and there is a word: perhaps the value of one of the table's keys.
fn of_word(key: &ConfigKey, declared: &'static KeyTable, text: &str) -> String {
    if matches!(text, "off" | "no" | "false" | "none") && !key.required {
        return format!("leave `{}` out", key.name);
    }
    let takes = |each: &&ConfigKey| {
        leaves_of(each).any(|kind| matches!(kind, ValueKind::OneOf(words) if words.contains(&text)))
    };
    let named = declared.keys.iter().find(takes);
    match named {
        Some(each) => format!("write `{} = {{ {} = \"{text}\" }}`", key.name, each.name),
        None if matches!(key.kind, ValueKind::List(_)) => {
            format!(
                "write e.g. `{} = [{{ {} }}]`",
                key.name,
                required_in(declared)
            )
        }
        None => format!("write e.g. `{}`", table_example(key.name, declared)),
    }
}

fn leaves_of(key: &ConfigKey) -> impl Iterator<Item = &ValueKind> {
    let several = match &key.kind {
        ValueKind::AnyOf(kinds) => *kinds,
        kind => std::slice::from_ref(kind),
    };
    several.iter()
}

fn of_bool(key: &ConfigKey, kind: &ValueKind, is_on: bool) -> Option<String> {
    match kind {
        _ if matches!(key.kind, ValueKind::List(_)) => None,
        ValueKind::Table(declared) if is_on => {
            let defaults = match required_in(declared).as_str() {
                "" => " for the defaults",
                _ => "",
            };
            let example = table_example(key.name, declared);
            Some(format!("write `{example}`{defaults}"))
        }
        ValueKind::Table(_) if !key.required => Some(format!("leave `{}` out", key.name)),
        ValueKind::OneOf(words) => {
            let fits = |word: &&&str| (**word == "off") != is_on;
            let mut fitting = words.iter().filter(fits);
            match (fitting.next(), fitting.next()) {
                (Some(word), None) => Some(format!("write `\"{word}\"`")),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A list where one value is expected.
fn of_list(key: &ConfigKey, kind: &ValueKind, first: Option<&DeValue<'_>>) -> Option<String> {
    match (kind, first) {
        (ValueKind::Table(_), Some(DeValue::Table(_))) => {
            Some(format!("write `{}` once, in single brackets", key.name))
        }
        (ValueKind::OneOf(words), Some(DeValue::String(text))) if words.contains(&&**text) => {
            Some(format!("write `\"{text}\"`, without brackets"))
        }
        (_, Some(DeValue::String(_)))
            if kind.takes_text() && !matches!(key.kind, ValueKind::List(_)) =>
        {
            Some("write one value, without brackets".to_owned())
        }
        _ => None,
    }
}

/// A table of this key with what is required in it.
fn table_example(name: &str, declared: &'static KeyTable) -> String {
    match required_in(declared).as_str() {
        "" => format!("{name} = {{}}"),
        inner => format!("{name} = {{ {inner} }}"),
    }
}

fn required_in(declared: &'static KeyTable) -> String {
    let mut lines: Vec<String> = Vec::new();
    for key in declared.keys.iter().filter(|key| key.required) {
        let example = match &key.kind {
            ValueKind::List(ValueKind::Table(inner)) => {
                format!("{} = [{{ {} }}]", key.name, shortest(inner))
            }
            ValueKind::Table(inner) => table_example(key.name, inner),
            _ => key.example().unwrap_or_default(),
        };
        for line in example.lines().map(str::to_owned) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines.join(", ")
}

/// What a table may consist of: what is required, or else its first key at work.
fn shortest(declared: &'static KeyTable) -> String {
    let required = required_in(declared);
    let first = declared.keys.first().and_then(ConfigKey::example);
    match (required.as_str(), first) {
        ("", Some(lines)) => lines.lines().collect::<Vec<_>>().join(", "),
        _ => required,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}
