//! Recognises the configuration of another program: one sentence about that helps more than a hundred
//! errors of a TOML parser.

use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::keys::ROOT;
use crate::config::sources::SourceId;

/// The other program's format, as a sentence puts it, and where to continue.
type OtherFormat = (&'static str, &'static str);

const NGINX: OtherFormat = (
    "an nginx configuration",
    "docs/migration.md shows the same configuration for tidegate, under \"From nginx\"",
);
const HAPROXY: OtherFormat = (
    "an HAProxy configuration",
    "docs/migration.md shows the same configuration for tidegate, under \"From HAProxy\"",
);
const YAML: OtherFormat = (
    "YAML",
    "docs/migration.md shows configurations of Traefik and ingress-nginx, and the same for tidegate",
);
/// Where the keys are ours already.
const SYNTAX: &str = "config.example.toml shows every key; a table is written `[listener.public]`, a key `bind = \"0.0.0.0:80\"`";
const OUR_YAML: OtherFormat = ("YAML", SYNTAX);
const JSON: OtherFormat = ("JSON", SYNTAX);
const CADDYFILE: OtherFormat = (
    "a Caddyfile",
    "docs/migration.md compares configurations of other proxies with tidegate's; config.example.toml shows every key",
);

/// The one error about a file that is not TOML at all, if its format is known. It is asked only about files
/// with syntax errors.
pub(super) fn recognised(id: SourceId, source: &str) -> Option<Diagnostic> {
    if source.lines().any(is_ours) {
        return None;
    }
    let (format, hint) = format_of(source)?;
    let mut start = 0;
    let mut lines = source.split_inclusive('\n');
    let first = lines.find(|line| {
        let is_first = is_significant(line);
        start += if is_first { 0 } else { line.len() };
        is_first
    })?;
    let message = format!("this is {format}, but tidegate reads TOML");
    let span = start..start + first.trim_end().len();
    Some(Diagnostic::error(Code::Syntax, id.span(span), message).hint(hint))
}

/// Whether a line is the header of one of our tables: such a file is meant for us.
fn is_ours(line: &str) -> bool {
    let line = line.trim_start();
    let Some(name) = line.strip_prefix('[') else {
        return false;
    };
    let name = name.trim_start_matches(['[', ' ']);
    ROOT.keys.iter().any(|key| {
        let rest = name.strip_prefix(key.name);
        rest.is_some_and(|rest| rest.starts_with(['.', ']', ' ']))
    })
}

fn is_significant(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('#')
}

fn format_of(source: &str) -> Option<OtherFormat> {
    let lines: Vec<&str> = source.lines().filter(|line| is_significant(line)).collect();
    let first = lines.first()?.trim();
    if is_json(source) {
        Some(JSON)
    } else if is_nginx(&lines) {
        Some(NGINX)
    } else if lines.iter().any(|line| begins_haproxy_section(line)) {
        Some(HAPROXY)
    } else if is_caddyfile(&lines) {
        Some(CADDYFILE)
    } else if begins_yaml(first) {
        let key = lines
            .iter()
            .find_map(|line| line.split_once(':'))
            .map(|it| it.0);
        let is_ours = key.is_some_and(|key| ROOT.key(key).is_some());
        Some(if is_ours { OUR_YAML } else { YAML })
    } else {
        None
    }
}

/// An object, or a list of objects or strings. A Caddyfile may begin with a brace, too, but not with a
/// quote after it.
fn is_json(source: &str) -> bool {
    let text = source.trim_start();
    let inner = text.strip_prefix('{').map(str::trim_start);
    let item = text.strip_prefix('[').map(str::trim_start);
    inner.is_some_and(|inner| inner.starts_with(['"', '}']))
        || item.is_some_and(|item| item.starts_with(['{', '"']) && text.trim_end().ends_with(']'))
}

fn is_nginx(lines: &[&str]) -> bool {
    const BLOCKS: [&str; 6] = ["http", "server", "events", "stream", "upstream", "location"];
    let opens = |line: &&str| {
        let line = line.trim();
        let word = line.split([' ', '{']).next().unwrap_or_default();
        BLOCKS.contains(&word) && line.ends_with('{')
    };
    let is_directive = |line: &&str| {
        let line = line.split('#').next().unwrap_or_default().trim_end();
        let line = line.trim_end_matches([' ', '}']);
        line.ends_with(';') && !line.contains(" = ")
    };
    lines.iter().any(is_directive) && lines.iter().any(|line| opens(line) || line.contains("{ "))
        || lines.iter().all(is_directive)
}

/// Sections of HAProxy begin at the start of a line, and their names stand without quotes.
fn begins_haproxy_section(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let section = words.next().unwrap_or_default();
    let is_indented = line.starts_with([' ', '\t']);
    match (section, words.next()) {
        _ if is_indented => false,
        ("global" | "defaults", None) => true,
        ("frontend" | "backend" | "listen", Some(name)) => {
            !name.starts_with(['=', '{', ':']) && !line.ends_with(['{', ';'])
        }
        _ => false,
    }
}

fn is_caddyfile(lines: &[&str]) -> bool {
    let proxies = |line: &&str| line.trim_start().starts_with("reverse_proxy ");
    let opens = |line: &&str| line.trim_end().ends_with(" {") || line.trim() == "{";
    lines.iter().any(|line| proxies(&line.trim()))
        || lines.first().is_some_and(opens) && !lines.iter().any(|line| line.contains(" = "))
}

/// `key:`, `key: value`, `- item` or `---`.
fn begins_yaml(line: &str) -> bool {
    let is_key = |key: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./\"'".contains(&b);
        !key.is_empty() && key.bytes().all(plain)
    };
    line == "---"
        || line.starts_with("- ")
        || line.strip_suffix(':').is_some_and(is_key)
        || line.split_once(": ").is_some_and(|(key, _)| is_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: Option<&str>) {
        let found = format_of(source).map(|(name, _)| name);
        let found = found.filter(|_| recognised(SourceId::MAIN, source).is_some());
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn other_formats_are_known_by_their_looks() {
        check("{\"listener\": {}}", Some("JSON"));
        check("[\n  {\"a\": 1}\n]\n", Some("JSON"));
        check(
            "# a\nserver {\n  listen 80;\n}\n",
            Some("an nginx configuration"),
        );
        check("proxy_pass http://a;\n", Some("an nginx configuration"));
        check(
            "http { server { listen 443 ssl; } }",
            Some("an nginx configuration"),
        );
        check(
            "global\n  maxconn 10\nfrontend a\n  bind :80\n",
            Some("an HAProxy configuration"),
        );
        check(
            "backend ws\n  server a 10.0.0.1:80\n",
            Some("an HAProxy configuration"),
        );
        check("---\nlistener:\n  a: 1\n", Some("YAML"));
        check("apiVersion: v1\nkind: Service\n", Some("YAML"));
        check("- a\n- b\n", Some("YAML"));
        check(
            "chat.example.com {\n  reverse_proxy 10.0.0.1:9000\n}\n",
            Some("a Caddyfile"),
        );
        check("{\n  email a@b\n}\n:80 {\n}\n", Some("a Caddyfile"));
        check(":80\nreverse_proxy 10.0.0.1:9000\n", Some("a Caddyfile"));
    }

    #[test]
    fn files_that_are_meant_for_us_are_not_mistaken() {
        for source in [
            "",
            "# nothing\n",
            "[listener.a]\nbind: \"0.0.0.0:80\"\n",
            "[listener.a\nbind = [\"0.0.0.0:80\"]\n",
            "[[route]]\nupstream: a;\n",
            "workers = = 4\n",
            "listener.a.bind = [\"127.0.0.1:80\"\n",
            "[upstream.a] {\n",
        ] {
            check(source, None);
        }
    }
}
