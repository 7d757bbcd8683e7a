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
    let is_remote = !address.ip().is_loopback();
    let tls = config.admin.tls.as_ref();
    let admits_all = tls.is_none_or(|tls| tls.client_auth.is_none());
    let mut warn = |code, message: String, hint: &str| {
        diagnostics.push(Diagnostic::warning(code, span.clone(), message).hint(hint));
    };
    if access.is_reading_open && is_remote && admits_all {
        warn(
            Code::OpenAdmin,
            format!(
                "everyone who can connect to `{address}` sees all clients and the configuration"
            ),
            "leave out `read = \"open\"`, or use a unix socket or a loopback address",
        );
    }
    if !access.tokens.is_empty() && is_remote && tls.is_none() {
        warn(
            Code::PlainToken,
            format!("tokens of operators cross the network to `{address}` in plain text"),
            "set `tls`, or use a unix socket or a loopback address",
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
