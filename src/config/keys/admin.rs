//! `[admin]`.

use super::{Kind, Table, key};

pub(super) const ADMIN: Table = Table {
    doc: "Where operators connect.",
    keys: &[
        key(
            "bind",
            Kind::Bind,
            "\"unix:/run/tidegate/admin.sock\"",
            "Where the interface listens.",
        )
        .shown(r#"bind = "127.0.0.1:9900""#)
        .later(),
        key(
            "token_file",
            Kind::File,
            "",
            "The token that changes over TCP need.",
        )
        .shown(r#"token_file = "admin.token""#)
        .later(),
        key(
            "metrics_bind",
            Kind::Bind,
            "",
            "Where `/metrics`, `/healthz` and `/readyz` are served, read-only, to anybody who can connect.",
        )
        .shown(r#"metrics_bind = "127.0.0.1:9901""#),
    ],
};
