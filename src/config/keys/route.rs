//! `[[route]]`.

use super::{COUNT, DURATION_OR_OFF, KeyTable, NAMES, NETS, ValueKind, key};

const STRINGS: ValueKind = ValueKind::Pairs(&ValueKind::Text);

const HEADERS: ValueKind = ValueKind::List(&ValueKind::Header);

pub(super) const ROUTE: KeyTable = KeyTable {
    doc: "A match, and where its requests go.",
    keys: &[
        key(
            "name",
            ValueKind::Text,
            "",
            "Its name in logs and metrics; default: from its position.",
        ).shown(r#"name = "lobby""#),
        key(
            "listeners",
            NAMES,
            "",
            "The listeners it is bound to; default: all.",
        ).shown(r#"listeners = ["public"]"#),
        key(
            "hosts",
            ValueKind::List(&ValueKind::Host),
            "[]",
            "Hosts; `*.` at the start fits one label; default: any.",
        ).shown(r#"hosts = ["chat.example.com", "*.chat.example.com"]"#),
        key("path", ValueKind::Path, "", "This path.").shown(r#"path = "/realtime""#),
        key(
            "path_prefix",
            ValueKind::Path,
            "",
            "This path and all below it, by whole segments.",
        ).shown(r#"path_prefix = "/socket.io/""#),
        key(
            "upstream",
            ValueKind::Text,
            "",
            "Where its requests go. Required, unless it redirects.",
        ).shown(r#"upstream = "chat""#),
        key(
            "http",
            ValueKind::OneOf(&["proxy", "reject"]),
            "\"proxy\"",
            "What plain HTTP gets: passed on, or 426.",
        ).shown(r#"http = "reject""#),
        key(
            "handshake",
            ValueKind::OneOf(&["strict", "lenient"]),
            "\"strict\"",
            "How an endpoint's 101 is judged; \"lenient\" excuses what is missing, never what is wrong.",
        ).shown(r#"handshake = "lenient""#),
        key(
            "preserve_host",
            ValueKind::Bool,
            "true",
            "Whether endpoints see the client's Host rather than their own address.",
        ).shown("preserve_host = false"),
        key(
            "timeouts",
            ValueKind::Table(&TIMEOUTS),
            "{}",
            "Deadlines of its tunnels.",
        ),
        key(
            "limits",
            ValueKind::Table(&LIMITS),
            "{}",
            "What its tunnels may take.",
        ),
        key(
            "methods",
            ValueKind::List(&ValueKind::Method),
            "[]",
            "Methods that plain requests may have here; default: any.",
        ).shown(r#"methods = ["GET", "POST"]"#),
        key(
            "headers",
            STRINGS,
            "{}",
            "Headers that a request has, with these values.",
        ).shown(r#"headers = { x-tenant = "acme" }"#),
        key(
            "query",
            STRINGS,
            "{}",
            "Query parameters that a request has, with these values, decoded.",
        ).shown(r#"query = { v = "2" }"#),
        key(
            "subprotocols",
            ValueKind::List(&ValueKind::Token),
            "[]",
            "Subprotocols, one of which a handshake offers; default: any or none.",
        ).shown(r#"subprotocols = ["graphql-transport-ws", "graphql-ws"]"#),
        key(
            "redirect",
            ValueKind::Table(&REDIRECT),
            "",
            "Where plain requests are sent instead; handshakes are refused.",
        ),
        key(
            "origins",
            ValueKind::List(&ValueKind::Origin),
            "[]",
            "Origins whose pages may connect, by scheme, host and port; default: any.",
        ).shown(r#"origins = ["https://chat.example.com", "http://localhost:3000"]"#),
        key(
            "origins_required",
            ValueKind::Bool,
            "false",
            "Whether a handshake must have an Origin.",
        ).shown(r#"origins = ["https://chat.example.com"]
origins_required = true"#),
        key(
            "allow",
            NETS,
            "[]",
            "Client addresses that may connect; default: any.",
        ).shown(r#"allow = ["10.0.0.0/8", "2001:db8::/32"]"#),
        key("deny", NETS, "[]", "Client addresses that may not connect.").shown(r#"deny = ["10.0.0.66"]"#),
        key(
            "client_certificate",
            ValueKind::OneOf(&["off", "required"]),
            "\"off\"",
            "Whether a client certificate is needed.",
        ).shown(r#"client_certificate = "required""#),
        key(
            "rewrite",
            ValueKind::Table(&REWRITE),
            "",
            "What becomes of the path.",
        ),
        key(
            "request_headers",
            ValueKind::Table(&HEADER_CHANGES),
            "{}",
            "Changes to the headers that endpoints get.",
        ),
        key(
            "response_headers",
            ValueKind::Table(&HEADER_CHANGES),
            "{}",
            "Changes to the headers that come back from endpoints.",
        ),
        key(
            "compression",
            ValueKind::OneOf(&["pass", "strip"]),
            "\"pass\"",
            "Whether the offer to compress messages is passed on.",
        ).shown(r#"compression = "strip""#),
    ],
};

const TIMEOUTS: KeyTable = KeyTable {
    doc: "Deadlines of tunnels.",
    keys: &[
        key(
            "idle",
            DURATION_OR_OFF,
            "\"10m\"",
            "No bytes either way for so long.",
        )
        .shown(r#"idle = "1h""#),
        key(
            "half_closed",
            DURATION_OR_OFF,
            "\"10s\"",
            "No bytes for so long in the direction that is still open.",
        )
        .shown(r#"half_closed = "30s""#),
        key(
            "max_age",
            DURATION_OR_OFF,
            "\"off\"",
            "Age at which a tunnel is closed.",
        )
        .shown(r#"max_age = "12h""#),
        key(
            "max_age_jitter",
            ValueKind::Number {
                least: 0.0,
                most: 1.0,
            },
            "0.2",
            "Share of that age by which a tunnel may be younger, so that not all come back together.",
        ),
        key(
            "ping",
            DURATION_OR_OFF,
            "\"off\"",
            "A side that has sent nothing for so long is pinged. `idle` is off then, unless it is written.",
        )
        .shown(r#"ping = "25s""#),
        key(
            "pong",
            ValueKind::Duration,
            "\"20s\"",
            "How long an answer to that may take before the side is taken for gone.",
        )
        .shown(r#"pong = "10s""#),
    ],
};

const LIMITS: KeyTable = KeyTable {
    doc: "What tunnels may take.",
    keys: &[
        key("tunnels", COUNT, "", "Tunnels at once.").shown("tunnels = 50_000"),
        key(
            "message_bytes",
            ValueKind::Size,
            "",
            "Size of a message; longer ones close with 1009.",
        )
        .shown(r#"message_bytes = "1MiB""#),
        key(
            "messages_per_second",
            COUNT,
            "",
            "Messages of the client's per second, and so many at once; more close with 1008.",
        )
        .shown("messages_per_second = 100"),
        key(
            "bytes_per_second",
            ValueKind::Table(&KeyTable {
                doc: "Bytes of the client's per second, and so many at once.",
                keys: &[
                    key("rate", ValueKind::Size, "", "So many bytes.")
                        .shown(r#"rate = "256KiB""#)
                        .required(),
                    key(
                        "action",
                        ValueKind::OneOf(&["throttle", "close"]),
                        "\"throttle\"",
                        "What happens beyond: it is read more slowly, or closed with 1008.",
                    )
                    .shown(
                        r#"rate = "256KiB"
action = "close""#,
                    ),
                ],
            }),
            "",
            "Bytes of the client's per second, and so many at once.",
        ),
        key(
            "slow_reader",
            DURATION_OR_OFF,
            "\"off\"",
            "Bytes wait for a side and it has taken none for so long: closed with 1008.",
        )
        .shown(r#"slow_reader = "30s""#),
    ],
};

const REDIRECT: KeyTable = KeyTable {
    doc: "Where plain requests are sent.",
    keys: &[
        key(
            "to",
            ValueKind::Template,
            "",
            "The address; `${host}` and `${uri}` are those of the request.",
        )
        .shown(r#"to = "https://chat.example.com${uri}""#)
        .required(),
        key(
            "status",
            ValueKind::Integer {
                least: 301,
                most: 308,
            },
            "308",
            "301, 302, 303, 307 or 308.",
        )
        .shown(
            r#"to = "https://chat.example.com/"
status = 302"#,
        ),
    ],
};

const REWRITE: KeyTable = KeyTable {
    doc: "What becomes of the path.",
    keys: &[
        key(
            "strip_prefix",
            ValueKind::Path,
            "",
            "Taken off the front: the beginning of the route's path.",
        )
        .shown(r#"strip_prefix = "/socket.io""#),
        key("add_prefix", ValueKind::Path, "", "Then put on the front.")
            .shown(r#"add_prefix = "/v1""#),
    ],
};

const HEADER_CHANGES: KeyTable = KeyTable {
    doc: "Changes to headers.",
    keys: &[
        key(
            "set",
            ValueKind::Pairs(&ValueKind::Template),
            "{}",
            "Names and values that are set; `${client_address}` and the like stand for what is known.",
        ).shown(r#"set = { x-env = "prod", x-real-ip = "${client_address}" }"#),
        key("remove", HEADERS, "[]", "Names that are removed.").shown(r#"remove = ["x-debug"]"#),
    ],
};
