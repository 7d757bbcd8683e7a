//! `[route.probe]`.

use super::super::{DURATION, KeyTable, ValueKind, key};

pub(super) const PROBE: KeyTable = KeyTable {
    doc: "tidegate probes the route at intervals, as `tidegate probe` does: it picks an endpoint as for a client, performs a WebSocket handshake, sends a Ping and a Close. Metrics and `tidegate status` show the result; nothing else depends on it.",
    keys: &[
        key(
            "interval",
            DURATION,
            "\"30s\"",
            "The route is probed once in this interval, which varies by a tenth at random.",
        ),
        key(
            "timeout",
            DURATION,
            "\"10s\"",
            "A probe that takes longer than this fails.",
        ),
        key(
            "path",
            ValueKind::Text,
            "",
            "The probe requests this path and query, as a client would; without this key, the route's own `path` or `path_prefix`.",
        )
        .shown(r#"path = "/realtime?probe=1""#),
        key(
            "host",
            ValueKind::Text,
            "",
            "The probe requests this host; without this key, the first of the route's `hosts`, or the endpoint's address if the route has none.",
        )
        .shown(r#"host = "chat.example.com""#),
        key(
            "origin",
            ValueKind::Origin,
            "",
            "The probe sends this `Origin` header; without this key, none.",
        )
        .shown(r#"origin = "https://chat.example.com""#),
        key(
            "subprotocols",
            ValueKind::List(&ValueKind::Token),
            "[]",
            "The probe offers these subprotocols, and fails unless the endpoint selects one of them.",
        )
        .shown(r#"subprotocols = ["chat"]"#),
        key(
            "headers",
            ValueKind::Pairs(&ValueKind::Text),
            "{}",
            "The probe sends these headers in addition, for example a cookie that the endpoint requires.",
        )
        .shown(r#"headers = { x-probe = "1" }"#),
        key(
            "ping",
            ValueKind::Bool,
            "true",
            "If `true`, the endpoint must also answer a Ping after the handshake.",
        )
        .shown("ping = false"),
    ],
};
