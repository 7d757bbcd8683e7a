//! `[upstream.NAME]`.

mod discovery;
mod health;
mod picking;
mod rebalance;

use self::discovery::{DNS, SRV};
use self::health::{AFTERMATH, EJECTION, HEALTH};
use self::picking::{HASH, QUEUE, STICKY};
use self::rebalance::REBALANCE;
use super::{COUNT, DURATION_OR_OFF, KeyTable, ValueKind, key};

pub(super) const UPSTREAM: KeyTable = KeyTable {
    doc: "A named group of endpoints with a balancing policy.",
    keys: &[
        key(
            "endpoints",
            ValueKind::List(&ValueKind::AnyOf(&[
                ValueKind::Address,
                ValueKind::Table(&ENDPOINT),
            ])),
            "",
            "Addresses: `10.0.0.1:9000`, `name:9000`, `unix:/path`, or tables.",
        )
        .shown(r#"endpoints = ["10.0.0.11:9000", "chat.internal:9000", "unix:/run/chat.sock"]"#),
        key(
            "balance",
            ValueKind::AnyOf(&[
                ValueKind::OneOf(&["least_connections", "round_robin", "random", "power_of_two"]),
                ValueKind::Table(&HASH),
            ]),
            "\"least_connections\"",
            "How an endpoint is picked.",
        )
        .shown(r#"balance = "round_robin""#),
        key(
            "tries",
            ValueKind::Integer { least: 1, most: 16 },
            "2",
            "Endpoints tried for one request.",
        )
        .shown("tries = 3"),
        key(
            "tls",
            ValueKind::Table(&TLS),
            "",
            "TLS towards endpoints; plain text without it.",
        ),
        key(
            "timeouts",
            ValueKind::Table(&TIMEOUTS),
            "{}",
            "Deadlines towards endpoints.",
        ),
        key(
            "dns",
            ValueKind::Table(&DNS),
            "",
            "Endpoints from a name, instead of a list.",
        ),
        key(
            "srv",
            ValueKind::Table(&SRV),
            "",
            "Endpoints from SRV records, instead of a list.",
        ),
        key(
            "endpoints_file",
            ValueKind::File,
            "",
            "Endpoints from a file, instead of a list.",
        )
        .shown(r#"endpoints_file = "chat.endpoints""#),
        key(
            "sticky",
            ValueKind::Table(&STICKY),
            "",
            "A cookie that leads back to the same endpoint.",
        ),
        key(
            "slow_start",
            DURATION_OR_OFF,
            "\"off\"",
            "How long a new endpoint takes to get its share.",
        )
        .shown(r#"slow_start = "30s""#),
        key(
            "retry_on",
            ValueKind::List(&ValueKind::OneOf(&[
                "429", "500", "502", "503", "504", "timeout",
            ])),
            "[]",
            "Answers after which another endpoint is tried, before the 101.",
        )
        .shown(r#"retry_on = ["502", "503", "timeout"]"#),
        key(
            "queue",
            ValueKind::Table(&QUEUE),
            "",
            "Where requests wait when every endpoint has its `max_tunnels`.",
        ),
        key(
            "all_down",
            ValueKind::OneOf(&["refuse", "try_any"]),
            "\"refuse\"",
            "What happens when no endpoint is up.",
        )
        .shown(r#"all_down = "try_any""#),
        key(
            "send_proxy",
            ValueKind::OneOf(&["off", "v1", "v2"]),
            "\"off\"",
            "The PROXY header that endpoints get; each request then has a connection of its own.",
        )
        .shown(r#"send_proxy = "v2""#),
        key(
            "keepalive",
            ValueKind::Table(&KEEPALIVE),
            "",
            "TCP keepalive towards endpoints; the system's own settings without it.",
        ),
        key(
            "source",
            ValueKind::List(&ValueKind::Ip),
            "[]",
            "Local addresses that connections are spread over.",
        )
        .shown(r#"source = ["10.0.0.2", "10.0.0.3"]"#),
        key(
            "health",
            ValueKind::Table(&HEALTH),
            "",
            "Checks that endpoints must pass.",
        ),
        key(
            "ejection",
            ValueKind::Table(&EJECTION),
            "",
            "When an endpoint is left out because of failures.",
        ),
        key(
            "on_down",
            ValueKind::Table(&AFTERMATH),
            "",
            "Tunnels of an endpoint that is down.",
        ),
        key(
            "on_removed",
            ValueKind::Table(&AFTERMATH),
            "",
            "Tunnels of an endpoint that was removed.",
        ),
        key(
            "on_drain",
            ValueKind::Table(&AFTERMATH),
            "",
            "Tunnels of an endpoint that is drained.",
        ),
        key(
            "rebalance",
            ValueKind::Table(&REBALANCE),
            "",
            "Moves tunnels from endpoints that have more than their share.",
        ),
    ],
};

const ENDPOINT: KeyTable = KeyTable {
    doc: "One address, with settings of its own.",
    keys: &[
        key("address", ValueKind::Address, "", "Where it listens.")
            .shown(r#"address = "10.0.0.11:9000""#)
            .required(),
        key(
            "weight",
            ValueKind::Integer {
                least: 0,
                most: 10_000,
            },
            "1",
            "Its share, relative to the others; with 0 only a cookie leads to it.",
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
            ValueKind::Bool,
            "false",
            "Whether it takes nothing new.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
drain = true"#,
        ),
        key(
            "backup",
            ValueKind::Bool,
            "false",
            "Whether it serves only when no other does.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
backup = true"#,
        ),
    ],
};

const TLS: KeyTable = KeyTable {
    doc: "TLS towards endpoints.",
    keys: &[
        key(
            "ca",
            ValueKind::File,
            "",
            "The authorities that are believed; default: the operating system's.",
        )
        .shown(r#"ca = "internal.pem""#),
        key(
            "server_name",
            ValueKind::Text,
            "",
            "The name that is asked for and checked; default: the address.",
        )
        .shown(r#"server_name = "chat.internal""#),
        key(
            "client_cert",
            ValueKind::File,
            "",
            "The certificate that we show.",
        )
        .shown(
            r#"client_cert = "tidegate.pem"
client_key = "tidegate.key""#,
        ),
        key("client_key", ValueKind::File, "", "Its private key.").shown(
            r#"client_cert = "tidegate.pem"
client_key = "tidegate.key""#,
        ),
    ],
};

const TIMEOUTS: KeyTable = KeyTable {
    doc: "Deadlines towards endpoints.",
    keys: &[
        key(
            "connect",
            ValueKind::Duration,
            "\"3s\"",
            "For one connection, TLS included.",
        )
        .shown(r#"connect = "1s""#),
        key(
            "handshake",
            ValueKind::Duration,
            "\"10s\"",
            "For the answer to a handshake.",
        )
        .shown(r#"handshake = "5s""#),
        key(
            "response",
            ValueKind::Duration,
            "\"60s\"",
            "For the head of a plain reply.",
        )
        .shown(r#"response = "2m""#),
    ],
};

const KEEPALIVE: KeyTable = KeyTable {
    doc: "TCP keepalive towards endpoints.",
    keys: &[
        key(
            "idle",
            ValueKind::Duration,
            "\"30s\"",
            "Quiet time before the first probe.",
        ),
        key(
            "interval",
            ValueKind::Duration,
            "\"10s\"",
            "Time between probes.",
        ),
        key(
            "count",
            ValueKind::Integer {
                least: 1,
                most: 127,
            },
            "3",
            "Probes without an answer.",
        ),
        key(
            "user_timeout",
            ValueKind::Duration,
            "\"30s\"",
            "How long sent bytes may stay unacknowledged.",
        ),
    ],
};
