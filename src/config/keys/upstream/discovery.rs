//! Where endpoints come from besides a list.

use super::super::{KeyTable, ValueKind, key};

pub(super) const DNS: KeyTable = KeyTable {
    doc: "Endpoints from a name.",
    keys: &[
        key("name", ValueKind::Text, "", "The name.")
            .shown(
                r#"name = "chat.svc"
port = 9000"#,
            )
            .required(),
        key(
            "port",
            ValueKind::Integer {
                least: 1,
                most: 65_535,
            },
            "",
            "The port.",
        )
        .shown(
            r#"name = "chat.svc"
port = 9000"#,
        )
        .required(),
        key(
            "server",
            ValueKind::Socket,
            "",
            "The name server that is asked; default: those of the operating system.",
        )
        .shown(
            r#"name = "chat.svc"
port = 9000
server = "127.0.0.1:8600""#,
        ),
    ],
};

pub(super) const SRV: KeyTable = KeyTable {
    doc: "Endpoints from SRV records.",
    keys: &[
        key("name", ValueKind::Text, "", "The name.")
            .shown(r#"name = "_ws._tcp.chat.svc""#)
            .required(),
        key(
            "server",
            ValueKind::Socket,
            "",
            "The name server that is asked; default: those of the operating system.",
        )
        .shown(
            r#"name = "_ws._tcp.chat.svc"
server = "127.0.0.1:8600""#,
        ),
    ],
};
