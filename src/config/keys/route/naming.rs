//! `route.endpoint`: how requests name the endpoint that they go to.

use super::super::{KeyTable, ValueKind, key};

pub(super) const NAMING: KeyTable = KeyTable {
    doc: "Each request names the endpoint that it goes to, by its `name`: in a claim, in a signed cookie, or by a key that a file maps to a name. It goes to no other endpoint.",
    keys: &[
        key(
            "claim",
            ValueKind::Text,
            "",
            "The name is this claim of the identity that the route's `auth` has established; or, with `map_file`, the value of this claim is the key. One of `claim`, `cookie`, `header`, `query` and `key` is required.",
        )
        .shown(r#"claim = "server""#),
        key(
            "cookie",
            ValueKind::Token,
            "",
            "The name is in this cookie, which the application signs; or, with `map_file`, the value of this cookie is the key.",
        )
        .shown(
            r#"cookie = "server"
secret_file = "server.key""#,
        ),
        key(
            "header",
            ValueKind::Text,
            "",
            "The key is the value of this header. It requires `map_file`.",
        )
        .shown(
            r#"header = "x-room"
map_file = "rooms.map""#,
        ),
        key(
            "query",
            ValueKind::Text,
            "",
            "The key is the value of this query parameter. It requires `map_file`.",
        )
        .shown(
            r#"query = "room"
map_file = "rooms.map""#,
        ),
        key(
            "key",
            ValueKind::OneOf(&["client_ip", "path", "sni"]),
            "",
            "The key is the client's address (`client_ip`), the path of the request (`path`), or the TLS server name that the client asked for (`sni`). It requires `map_file`.",
        )
        .shown(
            r#"key = "path"
map_file = "rooms.map""#,
        ),
        key(
            "map_file",
            ValueKind::File,
            "",
            "This file gives each key the name of an endpoint, one per line. A change is applied automatically.",
        )
        .shown(
            r#"query = "room"
map_file = "rooms.map""#,
        ),
        key(
            "secret_file",
            ValueKind::File,
            "",
            "This file contains the key with which the application signs the cookie; without it, `sticky.secret_file` of the upstream does.",
        )
        .shown(
            r#"cookie = "server"
secret_file = "server.key""#,
        ),
    ],
};
