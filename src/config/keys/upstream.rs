//! `[upstream.NAME]`.

mod discovery;
mod health;
mod picking;
mod rebalance;

use self::discovery::{DNS, SRV};
use self::health::{AFTERMATH, EJECTION, HEALTH};
use self::picking::{HASH, QUEUE, STICKY};
use self::rebalance::REBALANCE;
use super::{COUNT, DURATION_OR_OFF, Kind, Table, key};

pub(super) const UPSTREAM: Table = Table {
    doc: "A named group of endpoints with a balancing policy.",
    keys: &[
        key(
            "endpoints",
            Kind::List(&Kind::AnyOf(&[Kind::Address, Kind::Table(&ENDPOINT)])),
            "",
            "Addresses: `10.0.0.1:9000`, `name:9000`, `unix:/path`, or tables.",
        )
        .shown(r#"endpoints = ["10.0.0.11:9000", "chat.internal:9000", "unix:/run/chat.sock"]"#),
        key(
            "balance",
            Kind::AnyOf(&[
                Kind::OneOf(&["least_connections", "round_robin", "random", "power_of_two"]),
                Kind::Table(&HASH),
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
        ),
        key(
            "srv",
            Kind::Table(&SRV),
            "",
            "Endpoints from SRV records, instead of a list.",
        ),
        key(
            "endpoints_file",
            Kind::File,
            "",
            "Endpoints from a file, instead of a list.",
        )
        .shown(r#"endpoints_file = "chat.endpoints""#),
        key(
            "sticky",
            Kind::Table(&STICKY),
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
            Kind::List(&Kind::OneOf(&[
                "429", "500", "502", "503", "504", "timeout",
            ])),
            "[]",
            "Answers after which another endpoint is tried, before the 101.",
        )
        .shown(r#"retry_on = ["502", "503", "timeout"]"#),
        key(
            "queue",
            Kind::Table(&QUEUE),
            "",
            "Where requests wait when every endpoint has its `max_tunnels`.",
        ),
        key(
            "all_down",
            Kind::OneOf(&["refuse", "try_any"]),
            "\"refuse\"",
            "What happens when no endpoint is up.",
        )
        .shown(r#"all_down = "try_any""#),
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
            "TCP keepalive towards endpoints; the system's own settings without it.",
        ),
        key(
            "source",
            Kind::List(&Kind::Ip),
            "[]",
            "Local addresses that connections are spread over.",
        )
        .shown(r#"source = ["10.0.0.2", "10.0.0.3"]"#),
        key(
            "health",
            Kind::Table(&HEALTH),
            "",
            "Checks that endpoints must pass.",
        ),
        key(
            "ejection",
            Kind::Table(&EJECTION),
            "",
            "When an endpoint is left out because of failures.",
        ),
        key(
            "on_down",
            Kind::Table(&AFTERMATH),
            "",
            "Tunnels of an endpoint that is down.",
        ),
        key(
            "on_removed",
            Kind::Table(&AFTERMATH),
            "",
            "Tunnels of an endpoint that was removed.",
        ),
        key(
            "on_drain",
            Kind::Table(&AFTERMATH),
            "",
            "Tunnels of an endpoint that is drained.",
        ),
        key(
            "rebalance",
            Kind::Table(&REBALANCE),
            "",
            "Moves tunnels from endpoints that have more than their share.",
        ),
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
            Kind::Bool,
            "false",
            "Whether it takes nothing new.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
drain = true"#,
        ),
        key(
            "backup",
            Kind::Bool,
            "false",
            "Whether it serves only when no other does.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
backup = true"#,
        ),
    ],
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
