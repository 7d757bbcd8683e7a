//! Taking endpoints out of rotation, and what happens to their tunnels.

use super::super::{COUNT, DURATION, KeyTable, NAMES, ValueKind, key, optional_table};

const PATH: &str = "The health check requests this path and query.";

const HOST: &str = "The health check sends this `Host` header; without this key, the endpoint's own name or address.";

pub(super) const HEALTH: KeyTable = KeyTable {
    doc: "Endpoints must pass health checks to be in rotation. A check is one of `websocket`, `http` and `tcp`.",
    keys: &[
        optional_table("websocket", &HEALTH_WEBSOCKET),
        optional_table("http", &HEALTH_HTTP),
        optional_table("tcp", &HEALTH_TCP).shown("tcp = {}"),
        key(
            "interval",
            DURATION,
            "\"5s\"",
            "Each endpoint is checked once in this interval.",
        ),
        key(
            "timeout",
            DURATION,
            "\"2s\"",
            "A health check that takes longer than this fails.",
        ),
        key(
            "rise",
            COUNT,
            "2",
            "An endpoint counts as up after this many successful checks in a row.",
        ),
        key(
            "fall",
            COUNT,
            "3",
            "An endpoint counts as down after this many failed checks in a row.",
        ),
    ],
};

const HEALTH_TCP: KeyTable = KeyTable {
    doc: "The health check opens a connection to the endpoint, over TLS if the upstream uses it, and succeeds if that works.",
    keys: &[],
};

const HEALTH_WEBSOCKET: KeyTable = KeyTable {
    doc: "The health check performs a WebSocket handshake and succeeds if the handshake does.",
    keys: &[
        key("path", ValueKind::Text, "\"/\"", PATH).shown(r#"path = "/health""#),
        key("host", ValueKind::Text, "", HOST).shown(r#"host = "chat.internal""#),
        key(
            "origin",
            ValueKind::Origin,
            "",
            "The health check sends this `Origin` header; without this key, none.",
        )
        .shown(r#"origin = "https://chat.example.com""#),
        key(
            "subprotocols",
            NAMES,
            "[]",
            "The health check offers these subprotocols.",
        )
        .shown(r#"subprotocols = ["chat"]"#),
        key(
            "headers",
            ValueKind::Pairs(&ValueKind::Text),
            "{}",
            "The health check sends these headers in addition.",
        )
        .shown(r#"headers = { x-probe = "1" }"#),
        key(
            "ping",
            ValueKind::Bool,
            "false",
            "If `true`, the endpoint must also answer a Ping after the handshake.",
        )
        .shown("ping = true"),
    ],
};

const HEALTH_HTTP: KeyTable = KeyTable {
    doc: "The health check sends a plain HTTP request and succeeds if the response has an expected status code.",
    keys: &[
        key("path", ValueKind::Text, "\"/\"", PATH).shown(r#"path = "/health""#),
        key("host", ValueKind::Text, "", HOST).shown(r#"host = "chat.internal""#),
        key(
            "expect",
            ValueKind::Text,
            "\"200-299\"",
            "The health check succeeds if the response has one of these status codes.",
        )
        .shown(r#"expect = "200-299, 404""#),
    ],
};

pub(super) const EJECTION: KeyTable = KeyTable {
    doc: "An endpoint that fails in use is ejected: it is taken out of rotation for a while.",
    keys: &[
        key(
            "failures",
            COUNT,
            "5",
            "An endpoint is ejected after at least this many failures within `window`, if no fewer sessions failed than succeeded.",
        ),
        key(
            "window",
            DURATION,
            "\"30s\"",
            "Failures count towards an ejection for this long.",
        ),
        key(
            "base",
            DURATION,
            "\"10s\"",
            "The first ejection of an endpoint lasts this long; each further one lasts twice as long as the one before.",
        ),
        key(
            "ceiling",
            DURATION,
            "\"5m\"",
            "An ejection lasts at most this long.",
        ),
        key(
            "max_share",
            ValueKind::Number {
                min: 0.01,
                max: 1.0,
            },
            "0.5",
            "At most this fraction of the upstream's endpoints is ejected at once.",
        )
        .instead_of_zero("to eject no endpoint, leave the table `ejection` out"),
    ],
};

pub(super) const DISPLACEMENT: KeyTable = KeyTable {
    doc: "These settings decide what happens to live tunnels.",
    keys: &[
        key(
            "action",
            ValueKind::OneOf(&["keep", "close", "drain"]),
            "\"keep\"",
            "`keep` leaves live tunnels open, `close` closes all of them at once, and `drain` closes them one by one.",
        )
        .shown(
            r#"action = "drain"
rate = "100/s""#,
        ),
        key(
            "rate",
            ValueKind::Rate,
            "",
            "`drain` closes tunnels at this rate, for example `100/s`. It excludes `over`.",
        )
        .shown(
            r#"action = "drain"
rate = "100/s""#,
        )
        .instead_of_zero("to close no tunnel, write `action = \"keep\"`"),
        key(
            "over",
            DURATION,
            "",
            "`drain` spreads the closing of all tunnels evenly over this time: over one minute, if neither `rate` nor `over` is written.",
        )
        .shown(
            r#"action = "drain"
over = "2m""#,
        )
        .instead_of_zero("to close all tunnels at once, write `action = \"close\"`"),
        key(
            "order",
            ValueKind::OneOf(&["oldest", "random"]),
            "\"oldest\"",
            "`drain` closes the oldest tunnels first (`oldest`), or tunnels in random order (`random`).",
        )
        .shown(
            r#"action = "drain"
order = "random""#,
        ),
    ],
};
