//! What stands for itself although it was meant as something else: a star at the end of a prefix, a variable
//! of another program in the host of a redirect.

use super::super::Builder;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::raw::Section;

impl Builder<'_> {
    /// A prefix covers everything below it anyway: a star at its end cannot be meant as a character.
    pub(super) fn check_prefixes(&mut self, section: &Section) {
        let rewrite = section.section("rewrite");
        let prefixes = [
            (section, "path_prefix"),
            (&rewrite, "strip_prefix"),
            (&rewrite, "add_prefix"),
        ];
        for (section, key) in prefixes {
            let (Some(at), Some(text)) = (section.written(key), section.text(key)) else {
                continue;
            };
            if let Some(prefix) = text.strip_suffix('*') {
                let prefix = match prefix.trim_end_matches(['*', '/']) {
                    "" => "/",
                    prefix => prefix,
                };
                let message = format!("`*` is not a wildcard in `{key}`");
                let hint = format!("write `{prefix}`: it stands for everything below it, too");
                let error = Diagnostic::error(Code::Value, at.span.clone(), message);
                self.diagnostics.push(error.hint(hint));
            }
        }
    }
}

/// Whether what follows `https://` begins with a host. A variable of another program, such as `$host`, is
/// not a valid one.
pub(super) fn has_host(rest: &str) -> bool {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]@".contains(&b);
    !host.is_empty() && host.bytes().all(allowed)
}
