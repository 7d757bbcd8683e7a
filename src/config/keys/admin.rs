//! `[admin]`.

use super::{KeyTable, ValueKind, key, optional_table};

pub(super) const ADMIN: KeyTable = KeyTable {
    doc: "These settings control the admin interface, which `tidegate status` and other operator commands connect to.",
    keys: &[
        key(
            "bind",
            ValueKind::AnyOf(&[ValueKind::OneOf(&["off"]), ValueKind::Bind]),
            "\"unix:/run/tidegate/admin.sock\"",
            "The admin interface (operator commands such as `tidegate status`, and the HTTP API under `/v1`) listens on this address; `off` disables it. Without this key, `$XDG_RUNTIME_DIR/tidegate/admin.sock` is used where the default is not available.",
        )
        .shown(
            r#"bind = "127.0.0.1:9900"
token_file = "admin.token""#,
        ),
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
            "This file contains a token for every operation over TCP, where each requires one as `Authorization: Bearer`. It is the same as an item of `tokens` with the name `token_file` and the role `all`.",
        )
        .shown(r#"token_file = "admin.token""#),
        key(
            "tokens",
            ValueKind::List(&ValueKind::Table(&TOKEN)),
            "[]",
            "Operators and programs have tokens of their own for requests over TCP, each with a role. Without any token, the admin interface refuses every operation over TCP that `read` does not open.",
        ),
        key(
            "read",
            ValueKind::OneOf(&["token", "open"]),
            "\"token\"",
            "With `token`, reading over TCP requires a token as everything else does; with `open`, everybody who can connect may read all that the admin interface shows, client addresses and the configuration included.",
        )
        .shown(
            r#"bind = "127.0.0.1:9900"
read = "open""#,
        ),
        optional_table("tls", &TLS),
        key(
            "metrics_bind",
            ValueKind::Bind,
            "",
            "`/metrics`, `/healthz` and `/readyz` are served on this address, read-only and without authentication; without this key, they are not served.",
        )
        .shown(r#"metrics_bind = "127.0.0.1:9901""#),
    ],
};

const TLS: KeyTable = KeyTable {
    doc: "These settings make the admin interface speak TLS, over TCP only; without this table, tokens cross the network in plain text.",
    keys: &[
        key(
            "cert",
            ValueKind::File,
            "",
            "This PEM file contains the certificate chain of the admin interface, its own certificate first. A new certificate in it is applied automatically.",
        )
        .shown(
            r#"cert = "chat.pem"
key = "chat.key""#,
        )
        .required(),
        key(
            "key",
            ValueKind::File,
            "",
            "This PEM file contains the private key of the certificate.",
        )
        .shown(
            r#"cert = "chat.pem"
key = "chat.key""#,
        )
        .required(),
        key(
            "client_ca",
            ValueKind::File,
            "",
            "Clients must present a certificate issued by one of the CA certificates in this PEM file, in addition to a token; without this key, they are not asked for one.",
        )
        .shown(
            r#"cert = "chat.pem"
key = "chat.key"
client_ca = "clients.pem""#,
        ),
    ],
};

const TOKEN: KeyTable = KeyTable {
    doc: "A token of the admin interface: whose it is, and what it allows.",
    keys: &[
        key(
            "name",
            ValueKind::Token,
            "",
            "The audit lines in the log have this name for requests with the token.",
        )
        .shown(
            r#"name = "dashboard"
file = "admin.token"
role = "read""#,
        )
        .required(),
        key(
            "file",
            ValueKind::File,
            "",
            "This file contains the token: at least 16 visible characters. A new token in it is applied automatically.",
        )
        .shown(
            r#"name = "dashboard"
file = "admin.token"
role = "read""#,
        )
        .required(),
        key(
            "role",
            ValueKind::OneOf(&["read", "steer", "revoke", "all"]),
            "",
            "The role of the token: `read` shows everything, `steer` also changes what runs (drain, close, reload, upgrade, renew), `revoke` only revokes and extends what clients were granted, and `all` allows everything.",
        )
        .shown(
            r#"name = "deploy"
file = "admin.token"
role = "steer""#,
        )
        .required(),
    ],
};
