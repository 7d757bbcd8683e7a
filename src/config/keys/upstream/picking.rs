//! How an endpoint is picked: hashing, the cookie that leads back, the waiting room.

use super::super::{COUNT, KeyTable, ValueKind, key};

pub(super) const HASH: KeyTable = KeyTable {
    doc: "The same endpoint for the same key.",
    keys: &[
        key(
        "hash",
        ValueKind::AnyOf(&[
            ValueKind::OneOf(&["client_ip", "path", "sni"]),
            ValueKind::Table(&KeyTable {
                doc: "What the key is.",
                keys: &[
                    key("header", ValueKind::Text, "", "The value of this header.")
                        .shown(r#"header = "x-user""#),
                    key("cookie", ValueKind::Text, "", "The value of this cookie.")
                        .shown(r#"cookie = "sid""#),
                    key(
                        "query",
                        ValueKind::Text,
                        "",
                        "The value of this query parameter.",
                    )
                    .shown(r#"query = "room""#),
                ],
            }),
        ]),
        "",
        "What the key is.",
    )
    .shown(r#"hash = "client_ip""#)
    .required(),
        key(
            "load_factor",
            ValueKind::Number {
                least: 1.0,
                most: 100.0,
            },
            "1.25",
            "What an endpoint may have in flight, relative to its fair share, before a key goes to the next one.",
        )
        .shown(
            r#"hash = "path"
load_factor = 1.5"#,
        ),
    ],
};

pub(super) const STICKY: KeyTable = KeyTable {
    doc: "A cookie that leads back to the same endpoint.",
    keys: &[
        key("cookie", ValueKind::Token, "\"tidegate\"", "Its name."),
        key("ttl", ValueKind::Duration, "\"1h\"", "How long it holds."),
        key("path", ValueKind::Path, "\"/\"", "Its `Path`."),
        key(
            "same_site",
            ValueKind::OneOf(&["strict", "lax", "none"]),
            "\"lax\"",
            "Its `SameSite`; browsers take `none` with https only.",
        ),
        key(
            "secret_file",
            ValueKind::File,
            "",
            "The key that it is signed with; several nodes with the same one understand each other. Default: one of our own, kept across reloads.",
        )
        .shown(r#"secret_file = "sticky.key""#),
    ],
};

pub(super) const QUEUE: KeyTable = KeyTable {
    doc: "Where requests wait when every endpoint has its `max_tunnels`.",
    keys: &[
        key("size", COUNT, "1000", "Requests that may wait."),
        key("timeout", ValueKind::Duration, "\"5s\"", "How long."),
    ],
};
