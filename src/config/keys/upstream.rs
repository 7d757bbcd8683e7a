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
        .shown(r#"endpoints = ["10.0.0.11:9000", "chat.internal:9000", "unix:/run/chat.sock"]"#)
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
        )
        .shown(r#"balance = "round_robin""#),
        key(
            "tries",
            Kind::Integer { least: 1, most: 16 },
            "2",
            "Endpoints tried for one request.",
        )
        .shown("tries = 3"),
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
        .shown(r#"endpoints_file = "chat.endpoints""#)
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
        .shown(r#"slow_start = "30s""#)
        .later(),
        key(
            "retry_on",
            NAMES,
            "[]",
            "Answers after which another endpoint is tried, before the 101.",
        )
        .shown(r#"retry_on = ["502", "503", "timeout"]"#)
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
        .shown(r#"all_down = "try_any""#)
        .later(),
        key(
            "send_proxy",
            Kind::OneOf(&["off", "v1", "v2"]),
            "\"off\"",
            "The PROXY header that endpoints get; each request then has a connection of its own.",
        )
        .shown(r#"send_proxy = "v2""#),
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
        .shown(r#"source = ["10.0.0.2", "10.0.0.3"]"#)
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
        key("address", Kind::Address, "", "Where it listens.")
            .shown(r#"address = "10.0.0.11:9000""#)
            .required(),
        key(
            "weight",
            Kind::Integer {
                least: 1,
                most: 10_000,
            },
            "1",
            "Its share, relative to the others.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
weight = 2"#,
        ),
        key("max_tunnels", COUNT, "", "Tunnels at once.").shown(
            r#"address = "10.0.0.11:9000"
max_tunnels = 10_000"#,
        ),
        key(
            "drain",
            Kind::Bool,
            "false",
            "Whether it takes nothing new.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
drain = true"#,
        )
        .later_restriction(),
        key(
            "backup",
            Kind::Bool,
            "false",
            "Whether it serves only when no other does.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
backup = true"#,
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
        )
        .shown(r#"ca = "internal.pem""#),
        key(
            "server_name",
            Kind::Text,
            "",
            "The name that is asked for and checked; default: the address.",
        )
        .shown(r#"server_name = "chat.internal""#),
        key(
            "client_cert",
            Kind::File,
            "",
            "The certificate that we show.",
        )
        .shown(
            r#"client_cert = "tidegate.pem"
client_key = "tidegate.key""#,
        ),
        key("client_key", Kind::File, "", "Its private key.").shown(
            r#"client_cert = "tidegate.pem"
client_key = "tidegate.key""#,
        ),
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
        )
        .shown(r#"connect = "1s""#),
        key(
            "handshake",
            Kind::Duration,
            "\"10s\"",
            "For the answer to a handshake.",
        )
        .shown(r#"handshake = "5s""#),
        key(
            "response",
            Kind::Duration,
            "\"60s\"",
            "For the head of a plain reply.",
        )
        .shown(r#"response = "2m""#),
    ],
};

const DNS: Table = Table {
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
    ],
};

const SRV: Table = Table {
    doc: "Endpoints from SRV records.",
    keys: &[key("name", Kind::Text, "", "The name.")
        .shown(r#"name = "_ws._tcp.chat.svc""#)
        .required()],
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
        )
        .shown(r#"secret_file = "sticky.key""#),
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
        )
        .shown("tcp = {}"),
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
        key("path", Kind::Text, "\"/\"", "Path and query.").shown(r#"path = "/health""#),
        key("host", Kind::Text, "", "The Host.").shown(r#"host = "chat.internal""#),
        key("origin", Kind::Origin, "", "The Origin.")
            .shown(r#"origin = "https://chat.example.com""#),
        key(
            "subprotocols",
            NAMES,
            "[]",
            "Subprotocols that are offered.",
        )
        .shown(r#"subprotocols = ["chat"]"#),
        key("headers", Kind::Map(&Kind::Text), "{}", "Further headers.")
            .shown(r#"headers = { x-probe = "1" }"#),
        key(
            "ping",
            Kind::Bool,
            "false",
            "Whether a Ping must be answered, too.",
        )
        .shown("ping = true"),
    ],
};

const HEALTH_HTTP: Table = Table {
    doc: "By a plain request.",
    keys: &[
        key("path", Kind::Text, "\"/\"", "Path and query.").shown(r#"path = "/health""#),
        key("host", Kind::Text, "", "The Host.").shown(r#"host = "chat.internal""#),
        key(
            "expect",
            Kind::Text,
            "\"200-299\"",
            "Status codes that pass.",
        )
        .shown(r#"expect = "200-299, 404""#),
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
        )
        .shown(
            r#"action = "drain"
rate = "100/s""#,
        ),
        key("rate", Kind::Rate, "", "So many per time.").shown(
            r#"action = "drain"
rate = "100/s""#,
        ),
        key("over", Kind::Duration, "", "Spread over so long.").shown(
            r#"action = "drain"
over = "2m""#,
        ),
        key(
            "order",
            Kind::OneOf(&["oldest", "random"]),
            "\"oldest\"",
            "Which first.",
        )
        .shown(
            r#"action = "drain"
order = "random""#,
        ),
    ],
};
