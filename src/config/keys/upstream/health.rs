//! Which endpoints are left out, and what becomes of their tunnels.

use super::super::{COUNT, KeyTable, NAMES, ValueKind, key};

pub(super) const HEALTH: KeyTable = KeyTable {
    doc: "Checks that endpoints must pass.",
    keys: &[
        key(
            "websocket",
            ValueKind::Table(&HEALTH_WEBSOCKET),
            "",
            "By a WebSocket handshake.",
        ),
        key(
            "http",
            ValueKind::Table(&HEALTH_HTTP),
            "",
            "By a plain request.",
        ),
        key(
            "tcp",
            ValueKind::Table(&KeyTable {
                doc: "By a connection.",
                keys: &[],
            }),
            "",
            "By a connection.",
        )
        .shown("tcp = {}"),
        key(
            "interval",
            ValueKind::Duration,
            "\"5s\"",
            "Time between checks.",
        ),
        key("timeout", ValueKind::Duration, "\"2s\"", "For one check."),
        key(
            "rise",
            COUNT,
            "2",
            "Checks passed before an endpoint is up.",
        ),
        key("fall", COUNT, "3", "Checks failed before it is down."),
    ],
};

const HEALTH_WEBSOCKET: KeyTable = KeyTable {
    doc: "By a WebSocket handshake.",
    keys: &[
        key("path", ValueKind::Text, "\"/\"", "Path and query.").shown(r#"path = "/health""#),
        key("host", ValueKind::Text, "", "The Host.").shown(r#"host = "chat.internal""#),
        key("origin", ValueKind::Origin, "", "The Origin.")
            .shown(r#"origin = "https://chat.example.com""#),
        key(
            "subprotocols",
            NAMES,
            "[]",
            "Subprotocols that are offered.",
        )
        .shown(r#"subprotocols = ["chat"]"#),
        key(
            "headers",
            ValueKind::Pairs(&ValueKind::Text),
            "{}",
            "Further headers.",
        )
        .shown(r#"headers = { x-probe = "1" }"#),
        key(
            "ping",
            ValueKind::Bool,
            "false",
            "Whether a Ping must be answered, too.",
        )
        .shown("ping = true"),
    ],
};

const HEALTH_HTTP: KeyTable = KeyTable {
    doc: "By a plain request.",
    keys: &[
        key("path", ValueKind::Text, "\"/\"", "Path and query.").shown(r#"path = "/health""#),
        key("host", ValueKind::Text, "", "The Host.").shown(r#"host = "chat.internal""#),
        key(
            "expect",
            ValueKind::Text,
            "\"200-299\"",
            "Status codes that pass.",
        )
        .shown(r#"expect = "200-299, 404""#),
    ],
};

pub(super) const EJECTION: KeyTable = KeyTable {
    doc: "When an endpoint is left out because of failures.",
    keys: &[
        key("failures", COUNT, "5", "Failures within the window."),
        key("window", ValueKind::Duration, "\"30s\"", "The window."),
        key(
            "base",
            ValueKind::Duration,
            "\"10s\"",
            "How long at first; doubled each time.",
        ),
        key(
            "ceiling",
            ValueKind::Duration,
            "\"5m\"",
            "How long at most.",
        ),
        key(
            "max_share",
            ValueKind::Number {
                least: 0.0,
                most: 1.0,
            },
            "0.5",
            "Share of endpoints left out at most.",
        ),
    ],
};

pub(super) const AFTERMATH: KeyTable = KeyTable {
    doc: "What happens to live tunnels.",
    keys: &[
        key(
            "action",
            ValueKind::OneOf(&["keep", "close", "drain"]),
            "\"keep\"",
            "They stay, end at once, or are closed one by one.",
        )
        .shown(
            r#"action = "drain"
rate = "100/s""#,
        ),
        key("rate", ValueKind::Rate, "", "So many per time.").shown(
            r#"action = "drain"
rate = "100/s""#,
        ),
        key(
            "over",
            ValueKind::Duration,
            "",
            "Spread evenly over so long; a minute where neither is written.",
        )
        .shown(
            r#"action = "drain"
over = "2m""#,
        ),
        key(
            "order",
            ValueKind::OneOf(&["oldest", "random"]),
            "\"oldest\"",
            "Which first.",
        )
        .shown(
            r#"action = "drain"
order = "random""#,
        ),
    ],
};
