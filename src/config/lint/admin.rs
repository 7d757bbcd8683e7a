//! Warnings about the admin interface over TCP.

use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Bind, Config};

pub(super) fn lint(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let Some(Bind::Tcp(address)) = &config.admin.bind else {
        return;
    };
    let Some(span) = &places.admin_bind else {
        return;
    };
    let access = &config.admin.access;
    let mut warn = |code, message: String, hint: &str| {
        diagnostics.push(Diagnostic::warning(code, span.clone(), message).hint(hint));
    };
    if access.is_reading_open && !address.ip().is_loopback() {
        warn(
            Code::OpenAdmin,
            format!(
                "everyone who can connect to `{address}` sees all clients and the configuration"
            ),
            "leave out `read = \"open\"`, or use a unix socket or a loopback address",
        );
    }
    if access.tokens.is_empty() && !access.is_reading_open {
        warn(
            Code::NoEffect,
            format!("every operation at `{address}` is refused: there is no token"),
            "set `tokens` or `token_file`, or use a unix socket, which needs none",
        );
    }
}
