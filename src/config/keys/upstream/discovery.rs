//! Sources of endpoints other than a list.

use super::super::{KeyTable, NAME_SERVER, ValueKind, key};

pub(super) const DNS: KeyTable = KeyTable {
    doc: "The endpoints are the addresses of a DNS name (A and AAAA records). This excludes the other sources of endpoints.",
    keys: &[
        key(
            "name",
            ValueKind::Text,
            "",
            "The addresses of this DNS name are the endpoints.",
        )
        .shown(
            r#"name = "chat.svc"
port = 9000"#,
        )
        .required(),
        key(
            "port",
            ValueKind::Integer {
                min: 1,
                max: 65_535,
            },
            "",
            "Every endpoint listens on this port.",
        )
        .shown(
            r#"name = "chat.svc"
port = 9000"#,
        )
        .required(),
        key("server", ValueKind::Socket, "", NAME_SERVER).shown(
            r#"name = "chat.svc"
port = 9000
server = "127.0.0.1:8600""#,
        ),
    ],
};

pub(super) const SRV: KeyTable = KeyTable {
    doc: "The endpoints are the targets of DNS SRV records. This excludes the other sources of endpoints.",
    keys: &[
        key(
            "name",
            ValueKind::Text,
            "",
            "The targets of the SRV records of this name are the endpoints.",
        )
        .shown(r#"name = "_ws._tcp.chat.svc""#)
        .required(),
        key("server", ValueKind::Socket, "", NAME_SERVER).shown(
            r#"name = "_ws._tcp.chat.svc"
server = "127.0.0.1:8600""#,
        ),
    ],
};
