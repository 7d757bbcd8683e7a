//! `[limit.NAME]`.

use super::request_key::REQUEST_KEY;
use super::{COUNT, KeyTable, RATE_AND_BURST, ValueKind, key, optional_table};

pub(super) const LIMIT: KeyTable = KeyTable {
    doc: "A limit on what each client, user or room may have, whichever route its requests match.",
    keys: &[
        key(
            "key",
            REQUEST_KEY,
            "",
            "Requests with the same key count together: the key is the client's address (`client_ip`; IPv6: the /64 network), the path of the request (`path`), the TLS server name that the client asked for (`sni`), or the value of a claim, header, cookie or query parameter.",
        )
        .shown(r#"key = "client_ip""#)
        .required(),
        key(
            "missing",
            ValueKind::OneOf(&["client_ip", "refuse"]),
            "\"client_ip\"",
            "Requests without the key count for the client's address (`client_ip`), or are rejected with 403 (`refuse`).",
        )
        .shown(
            r#"key = "sni"
missing = "refuse""#,
        ),
        key(
            "tunnels",
            COUNT,
            "",
            "A key may have at most this many tunnels at once; `when_full` says what happens to further handshakes. By default, there is no limit.",
        )
        .shown(
            r#"key = "client_ip"
tunnels = 5"#,
        ),
        key(
            "when_full",
            ValueKind::OneOf(&["refuse", "close_oldest"]),
            "\"refuse\"",
            "What happens when a key has all its tunnels: `refuse` rejects further handshakes with 429; `close_oldest` closes the oldest tunnel with 1008 once a new one opens, which frees clients of tunnels that they have lost, for example by changing from one network to another.",
        )
        .shown(
            r#"key = "client_ip"
tunnels = 5
when_full = "close_oldest""#,
        ),
        optional_table("handshakes", &HANDSHAKES),
        optional_table("requests", &REQUESTS),
        key(
            "keys",
            ValueKind::Integer {
                min: 1,
                max: 1_048_576,
            },
            "262_144",
            "At most this many keys are counted one by one at the same time; further ones share one count, with the same limits. A key takes about 100 bytes of memory, and is forgotten once it has no tunnel and no used-up rate.",
        ),
    ],
};

const HANDSHAKES: KeyTable = KeyTable {
    doc: "A key may open WebSocket handshakes at this rate; further ones are rejected with 429. By default, there is no limit.",
    keys: &RATE_AND_BURST,
};

const REQUESTS: KeyTable = KeyTable {
    doc: "A key may send plain HTTP requests at this rate, those that are redirected or answered by tidegate included; further ones are rejected with 429. By default, there is no limit.",
    keys: &RATE_AND_BURST,
};
