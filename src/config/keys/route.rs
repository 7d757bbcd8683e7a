//! `[[route]]`.

use super::{COUNT, DURATION_OR_OFF, Kind, NAMES, NETS, Table, key};

const STRINGS: Kind = Kind::Map(&Kind::Text);

pub(super) const ROUTE: Table = Table {
    doc: "A match, and where its requests go.",
    keys: &[
        key(
            "name",
            Kind::Text,
            "",
            "Its name in logs and metrics; default: from its position.",
        ),
        key(
            "listeners",
            NAMES,
            "",
            "The listeners it is bound to; default: all.",
        ),
        key(
            "hosts",
            Kind::List(&Kind::Host),
            "[]",
            "Hosts; `*.` at the start fits one label; default: any.",
        ),
        key("path", Kind::Path, "", "This path."),
        key(
            "path_prefix",
            Kind::Path,
            "",
            "This path and all below it, by whole segments.",
        ),
        key(
            "upstream",
            Kind::Text,
            "",
            "Where its requests go. Required, unless it redirects.",
        ),
        key(
            "http",
            Kind::OneOf(&["proxy", "reject"]),
            "\"proxy\"",
            "What plain HTTP gets: passed on, or 426.",
        ),
        key(
            "handshake",
            Kind::OneOf(&["strict", "lenient"]),
            "\"strict\"",
            "How an endpoint's 101 is judged; \"lenient\" excuses what is missing, never what is wrong.",
        ),
        key(
            "preserve_host",
            Kind::Bool,
            "true",
            "Whether endpoints see the client's Host rather than their own address.",
        ),
        key(
            "timeouts",
            Kind::Table(&TIMEOUTS),
            "{}",
            "Deadlines of its tunnels.",
        ),
        key(
            "limits",
            Kind::Table(&LIMITS),
            "{}",
            "What its tunnels may take.",
        ),
        key(
            "methods",
            NAMES,
            "[]",
            "Methods of plain requests; default: any.",
        )
        .later_restriction(),
        key("headers", STRINGS, "{}", "Headers and their values.").later_restriction(),
        key("query", STRINGS, "{}", "Query parameters and their values.").later_restriction(),
        key(
            "subprotocols",
            NAMES,
            "[]",
            "Subprotocols, one of which is offered.",
        )
        .later_restriction(),
        key(
            "redirect",
            Kind::Table(&REDIRECT),
            "",
            "Where plain requests are sent instead.",
        )
        .later(),
        key(
            "origins",
            Kind::List(&Kind::Origin),
            "[]",
            "Origins that may connect; default: any.",
        )
        .later_restriction(),
        key(
            "origins_required",
            Kind::Bool,
            "false",
            "Whether a request must have an Origin.",
        )
        .later_restriction(),
        key(
            "allow",
            NETS,
            "[]",
            "Client addresses that may connect; default: any.",
        )
        .later_restriction(),
        key("deny", NETS, "[]", "Client addresses that may not connect.").later_restriction(),
        key(
            "client_certificate",
            Kind::OneOf(&["off", "required"]),
            "\"off\"",
            "Whether a client certificate is needed.",
        )
        .later_restriction(),
        key(
            "rewrite",
            Kind::Table(&REWRITE),
            "",
            "What becomes of the path.",
        )
        .later(),
        key(
            "request_headers",
            Kind::Table(&HEADERS),
            "{}",
            "Changes to requests' headers.",
        )
        .later(),
        key(
            "response_headers",
            Kind::Table(&HEADERS),
            "{}",
            "Changes to replies' headers.",
        )
        .later(),
        key(
            "compression",
            Kind::OneOf(&["pass", "strip"]),
            "\"pass\"",
            "Whether the offer to compress messages is passed on.",
        )
        .later(),
    ],
};

const TIMEOUTS: Table = Table {
    doc: "Deadlines of tunnels.",
    keys: &[
        key(
            "idle",
            DURATION_OR_OFF,
            "\"10m\"",
            "No bytes either way for so long.",
        ),
        key(
            "half_closed",
            DURATION_OR_OFF,
            "\"10s\"",
            "No bytes for so long in the direction that is still open.",
        ),
        key(
            "max_age",
            DURATION_OR_OFF,
            "\"off\"",
            "Age at which a tunnel is closed.",
        )
        .later(),
        key(
            "max_age_jitter",
            Kind::Number {
                least: 0.0,
                most: 1.0,
            },
            "0.2",
            "Share by which that age varies.",
        )
        .later(),
        key(
            "ping",
            DURATION_OR_OFF,
            "\"off\"",
            "Quiet time after which both ends are pinged.",
        )
        .later(),
        key(
            "pong",
            Kind::Duration,
            "\"20s\"",
            "How long an answer to that may take.",
        )
        .later(),
    ],
};

const LIMITS: Table = Table {
    doc: "What tunnels may take.",
    keys: &[
        key("tunnels", COUNT, "", "Tunnels at once.").later_restriction(),
        key(
            "message_bytes",
            Kind::Size,
            "",
            "Size of a message; longer ones close with 1009.",
        ),
        key(
            "messages_per_second",
            COUNT,
            "",
            "Messages per second; more close with 1008.",
        )
        .later_restriction(),
        key(
            "bytes_per_second",
            Kind::Table(&Table {
                doc: "Bytes per second.",
                keys: &[
                    key("rate", Kind::Size, "", "So many bytes.").required(),
                    key(
                        "action",
                        Kind::OneOf(&["throttle", "close"]),
                        "\"throttle\"",
                        "What happens beyond.",
                    ),
                ],
            }),
            "",
            "Bytes per second.",
        )
        .later_restriction(),
        key(
            "slow_reader",
            DURATION_OR_OFF,
            "\"off\"",
            "Bytes pending and none accepted for so long.",
        )
        .later_restriction(),
    ],
};

const REDIRECT: Table = Table {
    doc: "Where plain requests are sent.",
    keys: &[
        key("to", Kind::Text, "", "The address.").required(),
        key(
            "status",
            Kind::Integer {
                least: 300,
                most: 399,
            },
            "308",
            "The status code.",
        ),
    ],
};

const REWRITE: Table = Table {
    doc: "What becomes of the path.",
    keys: &[
        key("strip_prefix", Kind::Path, "", "Taken off the front."),
        key("add_prefix", Kind::Path, "", "Put on the front."),
    ],
};

const HEADERS: Table = Table {
    doc: "Changes to headers.",
    keys: &[
        key("set", STRINGS, "{}", "Names and values that are set."),
        key("remove", NAMES, "[]", "Names that are removed."),
    ],
};
