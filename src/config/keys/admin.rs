//! `[admin]`.

use super::{KeyTable, ValueKind, key};

pub(super) const ADMIN: KeyTable = KeyTable {
    doc: "Where operators connect.",
    keys: &[
        key(
            "bind",
            ValueKind::AnyOf(&[ValueKind::OneOf(&["off"]), ValueKind::Bind]),
            "\"unix:/run/tidegate/admin.sock\"",
            "Where `tidegate status` and its like, and the HTTP interface under `/v1`, are served; `off` for nowhere.",
        )
        .shown(r#"bind = "127.0.0.1:9900""#),
        key(
            "mode",
            ValueKind::Mode,
            "\"0600\"",
            "Permission bits of that, if it is a unix socket: who may write to it may do everything.",
        )
        .shown(r#"mode = "0660""#),
        key(
            "token_file",
            ValueKind::File,
            "",
            "The token that changes over TCP need, as `Authorization: Bearer`; without it there are none.",
        )
        .shown(r#"token_file = "admin.token""#),
        key(
            "metrics_bind",
            ValueKind::Bind,
            "",
            "Where `/metrics`, `/healthz` and `/readyz` are served, read-only, to anybody who can connect.",
        )
        .shown(r#"metrics_bind = "127.0.0.1:9901""#),
    ],
};
