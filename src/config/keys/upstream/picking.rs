//! Selecting an endpoint: hashing, sticky cookies, and the queue for times when all are full.

use super::super::request_key::REQUEST_KEY;
use super::super::{COUNT, DURATION, KeyTable, ValueKind, key};

pub(super) const HASH: KeyTable = KeyTable {
    doc: "Requests with the same key go to the same endpoint.",
    keys: &[
        key(
            "hash",
            REQUEST_KEY,
            "",
            "The key is the client's address (`client_ip`), the path of the request (`path`), the TLS server name that the client asked for (`sni`), or the value of a header, cookie or query parameter.",
        )
        .shown(r#"hash = "client_ip""#)
        .required(),
        key(
            "load_factor",
            ValueKind::Number {
                min: 1.0,
                max: 100.0,
            },
            "1.25",
            "An endpoint may have this many times its fair share in flight before a key goes to the next endpoint.",
        )
        .shown(
            r#"hash = "path"
load_factor = 1.5"#,
        ),
    ],
};

pub(super) const STICKY: KeyTable = KeyTable {
    doc: "A sticky cookie brings each client back to the endpoint that it used before.",
    keys: &[
        key(
            "cookie",
            ValueKind::Token,
            "\"tidegate\"",
            "The sticky cookie has this name.",
        ),
        key(
            "ttl",
            DURATION,
            "\"1h\"",
            "The sticky cookie is valid for this long.",
        ),
        key(
            "domain",
            ValueKind::Text,
            "",
            "The sticky cookie has this `Domain` attribute: browsers send it to this host and to all hosts below it; without this key, only to the host of the request.",
        )
        .shown(r#"domain = "example.com""#),
        key(
            "path",
            ValueKind::Path,
            "\"/\"",
            "The sticky cookie has this `Path` attribute.",
        ),
        key(
            "same_site",
            ValueKind::OneOf(&["strict", "lax", "none"]),
            "\"lax\"",
            "The sticky cookie has this `SameSite` attribute; browsers accept `none` over https only.",
        ),
        key(
            "partitioned",
            ValueKind::Bool,
            "false",
            "If `true`, the sticky cookie has the `Partitioned` attribute over https: browsers that block cookies of other sites keep it where a page is embedded in another site. It requires `same_site = \"none\"`.",
        )
        .shown(
            r#"same_site = "none"
partitioned = true"#,
        ),
        key(
            "secret_file",
            ValueKind::File,
            "",
            "This file contains the key that signs the sticky cookie; nodes with the same key accept each other's cookies. Without it, tidegate generates a key, which it keeps across reloads.",
        )
        .shown(r#"secret_file = "sticky.key""#),
    ],
};

pub(super) const QUEUE: KeyTable = KeyTable {
    doc: "Requests wait in a queue when every endpoint has reached its `max_tunnels`; without this table, they are rejected with 503.",
    keys: &[
        key(
            "size",
            COUNT,
            "1000",
            "At most this many requests wait in the queue; further ones are rejected with 503.",
        )
        .instead_of_zero("to reject requests at once, leave the table `queue` out"),
        key(
            "timeout",
            DURATION,
            "\"5s\"",
            "A request that has waited in the queue for this long is rejected with 503.",
        )
        .instead_of_zero("to reject requests at once, leave the table `queue` out"),
    ],
};

pub(super) const REPORTS: KeyTable = KeyTable {
    doc: "Endpoints report their load in the header `tidegate-load` of responses to handshakes and health checks, and tidegate respects it; without this table, the header is ignored.",
    keys: &[
        key(
            "max_age",
            DURATION,
            "\"30s\"",
            "A report is valid for this long. After that, tidegate counts only its own tunnels of the endpoint, until there is another report. With `health` by `http` or `websocket`, it is at least twice the `interval` and the `timeout`.",
        )
        .instead_of_zero("to ignore reports, leave the table `reports` out"),
    ],
};
