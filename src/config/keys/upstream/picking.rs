//! How an endpoint is picked: hashing, the cookie that leads back, the waiting room.

use super::super::{COUNT, Kind, Table, key};

pub(super) const HASH: Table = Table {
    doc: "The same endpoint for the same key.",
    keys: &[
        key(
        "hash",
        Kind::AnyOf(&[
            Kind::OneOf(&["client_ip", "path", "sni"]),
            Kind::Table(&Table {
                doc: "What the key is.",
                keys: &[
                    key("header", Kind::Text, "", "The value of this header.")
                        .shown(r#"header = "x-user""#),
                    key("cookie", Kind::Text, "", "The value of this cookie.")
                        .shown(r#"cookie = "sid""#),
                    key(
                        "query",
                        Kind::Text,
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
            Kind::Number {
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

pub(super) const STICKY: Table = Table {
    doc: "A cookie that leads back to the same endpoint.",
    keys: &[
        key("cookie", Kind::Token, "\"tidegate\"", "Its name."),
        key("ttl", Kind::Duration, "\"1h\"", "How long it holds."),
        key("path", Kind::Path, "\"/\"", "Its `Path`."),
        key(
            "same_site",
            Kind::OneOf(&["strict", "lax", "none"]),
            "\"lax\"",
            "Its `SameSite`; browsers take `none` with https only.",
        ),
        key(
            "secret_file",
            Kind::File,
            "",
            "The key that it is signed with; several nodes with the same one understand each other. Default: one of our own, kept across reloads.",
        )
        .shown(r#"secret_file = "sticky.key""#),
    ],
};

pub(super) const QUEUE: Table = Table {
    doc: "Where requests wait when every endpoint has its `max_tunnels`.",
    keys: &[
        key("size", COUNT, "1000", "Requests that may wait."),
        key("timeout", Kind::Duration, "\"5s\"", "How long."),
    ],
};
