//! `[upstream.NAME]`.

use super::{COUNT, DURATION_OR_OFF, Kind, NAMES, Table, key};

pub(super) const UPSTREAM: Table = Table {
    doc: "A named group of endpoints with a balancing policy.",
    keys: &[
        key(
            "endpoints",
            Kind::List(&Kind::AnyOf(&[Kind::Address, Kind::Table(&ENDPOINT)])),
            "",
            "Addresses: `10.0.0.1:9000`, `name:9000`, `unix:/path`, or tables.",
        )
        .required(),
        key(
            "balance",
            Kind::AnyOf(&[
                Kind::OneOf(&["least_connections", "round_robin"]),
                Kind::Later(&Kind::OneOf(&["random", "power_of_two"])),
                Kind::Later(&Kind::Table(&HASH)),
            ]),
            "\"least_connections\"",
            "How an endpoint is picked.",
        ),
        key(
            "tries",
            Kind::Integer { least: 1, most: 16 },
            "2",
            "Endpoints tried for one request.",
        ),
        key(
            "tls",
            Kind::Table(&TLS),
            "",
            "TLS towards endpoints; plain text without it.",
        ),
        key(
            "timeouts",
            Kind::Table(&TIMEOUTS),
            "{}",
            "Deadlines towards endpoints.",
        ),
        key(
            "dns",
            Kind::Table(&DNS),
            "",
            "Endpoints from a name, instead of a list.",
        )
        .later(),
        key(
            "srv",
            Kind::Table(&SRV),
            "",
            "Endpoints from SRV records, instead of a list.",
        )
        .later(),
        key(
            "endpoints_file",
            Kind::File,
            "",
            "Endpoints from a file, instead of a list.",
        )
        .later(),
        key(
            "sticky",
            Kind::Table(&STICKY),
            "",
            "A cookie that leads back to the same endpoint.",
        )
        .later(),
        key(
            "slow_start",
            DURATION_OR_OFF,
            "\"off\"",
            "How long a new endpoint takes to get its share.",
        )
        .later(),
        key(
            "retry_on",
            NAMES,
            "[]",
            "Answers after which another endpoint is tried, before the 101.",
        )
        .later(),
        key(
            "queue",
            Kind::Table(&QUEUE),
            "",
            "Where handshakes wait when all endpoints are full.",
        )
        .later(),
        key(
            "all_down",
            Kind::OneOf(&["refuse", "try_any"]),
            "\"refuse\"",
            "What happens when no endpoint is up.",
        )
        .later(),
        key(
            "send_proxy",
            Kind::OneOf(&["off", "v1", "v2"]),
            "\"off\"",
            "The PROXY header that endpoints get; each request then has a connection of its own.",
        ),
        key(
            "keepalive",
            Kind::Table(&KEEPALIVE),
            "",
            "TCP keepalive towards endpoints.",
        )
        .later(),
        key(
            "source",
            Kind::List(&Kind::Text),
            "[]",
            "Local addresses that connections are spread over.",
        )
        .later(),
        key(
            "health",
            Kind::Table(&HEALTH),
            "",
            "Checks that endpoints must pass.",
        )
        .later(),
        key(
            "ejection",
            Kind::Table(&EJECTION),
            "",
            "When an endpoint is left out because of failures.",
        )
        .later(),
        key(
            "on_down",
            Kind::Table(&AFTERMATH),
            "",
            "Tunnels of an endpoint that is down.",
        )
        .later(),
        key(
            "on_removed",
            Kind::Table(&AFTERMATH),
            "",
            "Tunnels of an endpoint that was removed.",
        )
        .later(),
        key(
            "on_drain",
            Kind::Table(&AFTERMATH),
            "",
            "Tunnels of an endpoint that is drained.",
        )
        .later(),
    ],
};

const ENDPOINT: Table = Table {
    doc: "One address, with settings of its own.",
    keys: &[
        key("address", Kind::Address, "", "Where it listens.").required(),
        key(
            "weight",
            Kind::Integer {
                least: 1,
                most: 10_000,
            },
            "1",
            "Its share, relative to the others.",
        ),
        key("max_tunnels", COUNT, "", "Tunnels at once.").later_restriction(),
        key(
            "drain",
            Kind::Bool,
            "false",
            "Whether it takes nothing new.",
        )
        .later_restriction(),
        key(
            "backup",
            Kind::Bool,
            "false",
            "Whether it serves only when no other does.",
        )
        .later_restriction(),
    ],
};

const HASH: Table = Table {
    doc: "The same endpoint for the same key.",
    keys: &[key(
        "hash",
        Kind::AnyOf(&[
            Kind::OneOf(&["client_ip", "path", "sni"]),
            Kind::Table(&Table {
                doc: "What the key is.",
                keys: &[
                    key("header", Kind::Text, "", "The value of this header."),
                    key("cookie", Kind::Text, "", "The value of this cookie."),
                    key(
                        "query",
                        Kind::Text,
                        "",
                        "The value of this query parameter.",
                    ),
                ],
            }),
        ]),
        "",
        "What the key is.",
    )
    .required()],
};

const TLS: Table = Table {
    doc: "TLS towards endpoints.",
    keys: &[
        key(
            "ca",
            Kind::File,
            "",
            "The authorities that are believed; default: the operating system's.",
        ),
        key(
            "server_name",
            Kind::Text,
            "",
            "The name that is asked for and checked; default: the address.",
        ),
        key(
            "client_cert",
            Kind::File,
            "",
            "The certificate that we show.",
        ),
        key("client_key", Kind::File, "", "Its private key."),
    ],
};

const TIMEOUTS: Table = Table {
    doc: "Deadlines towards endpoints.",
    keys: &[
        key(
            "connect",
            Kind::Duration,
            "\"3s\"",
            "For one connection, TLS included.",
        ),
        key(
            "handshake",
            Kind::Duration,
            "\"10s\"",
            "For the answer to a handshake.",
        ),
        key(
            "response",
            Kind::Duration,
            "\"60s\"",
            "For the head of a plain reply.",
        ),
    ],
};

const DNS: Table = Table {
    doc: "Endpoints from a name.",
    keys: &[
        key("name", Kind::Text, "", "The name.").required(),
        key(
            "port",
            Kind::Integer {
                least: 1,
                most: 65_535,
            },
            "",
            "The port.",
        )
        .required(),
    ],
};

const SRV: Table = Table {
    doc: "Endpoints from SRV records.",
    keys: &[key("name", Kind::Text, "", "The name.").required()],
};

const STICKY: Table = Table {
    doc: "A cookie that leads back to the same endpoint.",
    keys: &[
        key("cookie", Kind::Text, "\"tidegate\"", "Its name."),
        key("ttl", Kind::Duration, "\"1h\"", "How long it holds."),
        key(
            "secret_file",
            Kind::File,
            "",
            "The key that it is signed with.",
        ),
    ],
};

const QUEUE: Table = Table {
    doc: "Where handshakes wait when all endpoints are full.",
    keys: &[
        key("size", COUNT, "1000", "Handshakes that may wait."),
        key("timeout", Kind::Duration, "\"5s\"", "How long."),
    ],
};

const KEEPALIVE: Table = Table {
    doc: "TCP keepalive towards endpoints.",
    keys: &[
        key(
            "idle",
            Kind::Duration,
            "\"30s\"",
            "Quiet time before the first probe.",
        ),
        key(
            "interval",
            Kind::Duration,
            "\"10s\"",
            "Time between probes.",
        ),
        key(
            "count",
            Kind::Integer {
                least: 1,
                most: 127,
            },
            "3",
            "Probes without an answer.",
        ),
        key(
            "user_timeout",
            Kind::Duration,
            "\"30s\"",
            "How long sent bytes may stay unacknowledged.",
        ),
    ],
};

const HEALTH: Table = Table {
    doc: "Checks that endpoints must pass.",
    keys: &[
        key(
            "websocket",
            Kind::Table(&HEALTH_WEBSOCKET),
            "",
            "By a WebSocket handshake.",
        ),
        key("http", Kind::Table(&HEALTH_HTTP), "", "By a plain request."),
        key(
            "tcp",
            Kind::Table(&Table {
                doc: "By a connection.",
                keys: &[],
            }),
            "",
            "By a connection.",
        ),
        key("interval", Kind::Duration, "\"5s\"", "Time between checks."),
        key("timeout", Kind::Duration, "\"2s\"", "For one check."),
        key(
            "rise",
            COUNT,
            "2",
            "Checks passed before an endpoint is up.",
        ),
        key("fall", COUNT, "3", "Checks failed before it is down."),
    ],
};

const HEALTH_WEBSOCKET: Table = Table {
    doc: "By a WebSocket handshake.",
    keys: &[
        key("path", Kind::Text, "\"/\"", "Path and query."),
        key("host", Kind::Text, "", "The Host."),
        key("origin", Kind::Origin, "", "The Origin."),
        key(
            "subprotocols",
            NAMES,
            "[]",
            "Subprotocols that are offered.",
        ),
        key("headers", Kind::Map(&Kind::Text), "{}", "Further headers."),
        key(
            "ping",
            Kind::Bool,
            "false",
            "Whether a Ping must be answered, too.",
        ),
    ],
};

const HEALTH_HTTP: Table = Table {
    doc: "By a plain request.",
    keys: &[
        key("path", Kind::Text, "\"/\"", "Path and query."),
        key("host", Kind::Text, "", "The Host."),
        key(
            "expect",
            Kind::Text,
            "\"200-299\"",
            "Status codes that pass.",
        ),
    ],
};

const EJECTION: Table = Table {
    doc: "When an endpoint is left out because of failures.",
    keys: &[
        key("failures", COUNT, "5", "Failures within the window."),
        key("window", Kind::Duration, "\"30s\"", "The window."),
        key(
            "base",
            Kind::Duration,
            "\"10s\"",
            "How long at first; doubled each time.",
        ),
        key("ceiling", Kind::Duration, "\"5m\"", "How long at most."),
        key(
            "max_share",
            Kind::Number {
                least: 0.0,
                most: 1.0,
            },
            "0.5",
            "Share of endpoints left out at most.",
        ),
    ],
};

const AFTERMATH: Table = Table {
    doc: "What happens to live tunnels.",
    keys: &[
        key(
            "action",
            Kind::OneOf(&["keep", "close", "drain"]),
            "\"keep\"",
            "They stay, end at once, or are closed one by one.",
        ),
        key("rate", Kind::Rate, "", "So many per time."),
        key("over", Kind::Duration, "", "Spread over so long."),
        key(
            "order",
            Kind::OneOf(&["oldest", "random"]),
            "\"oldest\"",
            "Which first.",
        ),
    ],
};
