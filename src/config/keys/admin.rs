//! `[admin]`.

use super::{KeyTable, ValueKind, key};

pub(super) const ADMIN: KeyTable = KeyTable {
    doc: "These settings control the admin interface, which `tidegate status` and other operator commands connect to.",
    keys: &[
        key(
            "bind",
            ValueKind::AnyOf(&[ValueKind::OneOf(&["off"]), ValueKind::Bind]),
            "\"unix:/run/tidegate/admin.sock\"",
            "The admin interface (operator commands such as `tidegate status`, and the HTTP API under `/v1`) listens on this address; `off` disables it. Without this key, `$XDG_RUNTIME_DIR/tidegate/admin.sock` is used where the default is not available.",
        )
        .shown(r#"bind = "127.0.0.1:9900""#),
        key(
            "mode",
            ValueKind::Mode,
            "\"0600\"",
            "The unix socket of the admin interface has these permission bits (octal). Every user who may write to the socket has full control.",
        )
        .shown(r#"mode = "0660""#),
        key(
            "token_file",
            ValueKind::File,
            "",
            "This file contains the token that changes over TCP require as `Authorization: Bearer`; without it, changes over TCP are refused.",
        )
        .shown(r#"token_file = "admin.token""#),
        key(
            "metrics_bind",
            ValueKind::Bind,
            "",
            "`/metrics`, `/healthz` and `/readyz` are served on this address, read-only and without authentication; without this key, they are not served.",
        )
        .shown(r#"metrics_bind = "127.0.0.1:9901""#),
    ],
};
