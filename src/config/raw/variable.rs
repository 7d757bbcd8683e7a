//! Variables of other programs: text such as `$remote_addr`, which tidegate does not replace.

use crate::config::model::Variable;

/// A variable of another program, or one of ours in the spelling of another program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ForeignVariable {
    /// As it is written.
    pub(super) written: String,
    /// What to write instead, if there is anything.
    pub(super) instead: Option<String>,
    /// Whether it is a variable of the environment rather than of a request.
    pub(super) is_of_environment: bool,
}

/// What variables of nginx, HAProxy and Caddy are called here; empty if there is no such variable.
const COUNTERPARTS: [(&str, &str); 40] = [
    ("remote_addr", "client_address"),
    ("realip_remote_addr", "client_address"),
    ("binary_remote_addr", "client_address"),
    ("proxy_add_x_forwarded_for", "client_address"),
    ("proxy_protocol_addr", "client_address"),
    ("remote_host", "client_address"),
    ("client_ip", "client_address"),
    ("src", "client_address"),
    ("REMOTE_ADDR", "client_address"),
    ("http_host", "host"),
    ("hostport", "host"),
    ("server_name", "host"),
    ("req.hdr(host)", "host"),
    ("request_uri", "uri"),
    ("url", "uri"),
    ("document_uri", ""),
    ("args", ""),
    ("query_string", ""),
    ("is_args", ""),
    ("path", ""),
    ("query", ""),
    ("method", ""),
    ("request_method", ""),
    ("request", ""),
    ("status", ""),
    ("remote", ""),
    ("remote_port", ""),
    ("remote_user", ""),
    ("server_addr", ""),
    ("server_port", ""),
    ("server_protocol", ""),
    ("connection_upgrade", ""),
    ("time_local", ""),
    ("ssl_protocol", "tls_version"),
    ("ssl_cipher", "tls_cipher"),
    ("ssl_server_name", "tls_server_name"),
    ("ssl_fc_sni", "tls_server_name"),
    ("ssl_client_s_dn", "client_certificate_subject"),
    ("ssl_client_fingerprint", "client_certificate_fingerprint"),
    ("ssl_fc_protocol", "tls_version"),
];

/// Longer text between brackets is not a variable.
const MAX_LENGTH: usize = 64;

/// Families of variables of nginx and Caddy, none of which has a counterpart.
const FAMILIES: [&str; 8] = [
    "http_",
    "arg_",
    "cookie_",
    "upstream_",
    "sent_http_",
    "proxy_",
    "ssl_",
    "http.",
];

/// What to write instead of variable `name` of another program; `None` if it is not known as one.
pub(super) fn counterpart(name: &str) -> Option<Option<String>> {
    let ours = |name: &str| Some(format!("${{{name}}}"));
    if Variable::named(name).is_some() {
        return Some(ours(name));
    }
    if let Some((_, counterpart)) = COUNTERPARTS.iter().find(|(known, _)| *known == name) {
        return Some(
            Some(*counterpart)
                .filter(|name| !name.is_empty())
                .and_then(ours),
        );
    }
    let is_of_family = FAMILIES.iter().any(|family| name.starts_with(family));
    is_of_family.then_some(None)
}

/// The first variable of another program in `text`.
pub(super) fn foreign_variable(text: &str) -> Option<ForeignVariable> {
    let starts = text.match_indices(['$', '{', '%']);
    starts
        .filter_map(|(at, _)| Some((text.get(..at)?, text.get(at..)?)))
        .find_map(|(before, rest)| variable_at(before, rest))
}

fn variable_at(before: &str, rest: &str) -> Option<ForeignVariable> {
    let variable = |written: &str, instead| ForeignVariable {
        written: written.to_owned(),
        instead,
        is_of_environment: false,
    };
    if let Some(after) = rest.strip_prefix('$') {
        let name = identifier(after);
        let written = rest.get(..name.len() + 1)?;
        if let Some(instead) = counterpart(name) {
            return Some(variable(written, instead));
        }
        // The shell's spelling of environment variables.
        let stands_alone = !before.ends_with(|c: char| c.is_ascii_alphanumeric());
        let is_upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let is_environment = name.len() > 1
            && name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.chars().all(is_upper);
        return (is_environment && stands_alone).then(|| ForeignVariable {
            is_of_environment: true,
            ..variable(written, Some(format!("${{{name}}}")))
        });
    }
    let (open, close) = match rest.as_bytes() {
        [b'%', b'[', ..] => ("%[", ']'),
        [b'%', b'{', ..] => ("%{", '}'),
        [b'{', ..] if !before.ends_with(['$', '%']) => ("{", '}'),
        _ => return None,
    };
    let end = rest
        .char_indices()
        .take(MAX_LENGTH)
        .find(|(_, c)| *c == close);
    let name = rest.get(open.len()..end?.0)?;
    let written = rest.get(..open.len() + name.len() + 1)?;
    let instead = counterpart(name);
    // Samples of HAProxy are known by their brackets, whatever is in them.
    (open == "%[" || instead.is_some()).then(|| variable(written, instead.flatten()))
}

/// The name that `text` begins with.
fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let name = text.get(..end.unwrap_or(text.len())).unwrap_or_default();
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => "",
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_others_are_found_and_translated() {
        for (text, written, instead) in [
            ("$remote_addr", "$remote_addr", Some("${client_address}")),
            (
                "for=$remote_addr;",
                "$remote_addr",
                Some("${client_address}"),
            ),
            ("https://$host$request_uri", "$host", Some("${host}")),
            ("$http_upgrade", "$http_upgrade", None),
            (
                "$client_address",
                "$client_address",
                Some("${client_address}"),
            ),
            ("%[src]", "%[src]", Some("${client_address}")),
            ("%[ssl_c_s_dn]", "%[ssl_c_s_dn]", None),
            ("{remote_host}", "{remote_host}", Some("${client_address}")),
            ("{http.request.uuid}", "{http.request.uuid}", None),
            ("{host}", "{host}", Some("${host}")),
            (
                "%{REMOTE_ADDR}",
                "%{REMOTE_ADDR}",
                Some("${client_address}"),
            ),
            ("$BACKEND:9000", "$BACKEND", Some("${BACKEND}")),
            ("/run/$NAME.sock", "$NAME", Some("${NAME}")),
        ] {
            let found = foreign_variable(text).unwrap();
            assert_eq!(found.written, written, "{text}");
            assert_eq!(found.instead.as_deref(), instead, "{text}");
            assert_eq!(
                found.is_of_environment,
                instead.is_some_and(|it| it.contains("BACKEND") || it.contains("NAME")),
                "{text}"
            );
        }
        for text in [
            "",
            "$",
            "costs $5",
            "$metadata",
            "pa$WORD",
            "${host}",
            "a${PORT}b",
            "{\"a\": 1}",
            "{id}",
            "100%",
            "%7Bhost%7D",
            "$2y$10$abc",
            "ä$ö",
        ] {
            assert_eq!(foreign_variable(text), None, "{text}");
        }
    }
}
