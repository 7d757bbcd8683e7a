//! Where endpoints come from besides a list.

use super::super::{Kind, Table, key};

pub(super) const DNS: Table = Table {
    doc: "Endpoints from a name.",
    keys: &[
        key("name", Kind::Text, "", "The name.")
            .shown(
                r#"name = "chat.svc"
port = 9000"#,
            )
            .required(),
        key(
            "port",
            Kind::Integer {
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
            Kind::Socket,
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

pub(super) const SRV: Table = Table {
    doc: "Endpoints from SRV records.",
    keys: &[
        key("name", Kind::Text, "", "The name.")
            .shown(r#"name = "_ws._tcp.chat.svc""#)
            .required(),
        key(
            "server",
            Kind::Socket,
            "",
            "The name server that is asked; default: those of the operating system.",
        )
        .shown(
            r#"name = "_ws._tcp.chat.svc"
server = "127.0.0.1:8600""#,
        ),
    ],
};
