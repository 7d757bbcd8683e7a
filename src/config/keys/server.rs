//! `[server]`.

use std::time::Duration;

use super::{COUNT, DURATION_OR_OFF, DURATION_OR_ZERO, KeyTable, ValueKind, key, table};
use crate::config::diagnostic::Code;

const AUTO_OR_COUNT: ValueKind = ValueKind::AnyOf(&[ValueKind::OneOf(&["auto"]), COUNT]);

pub(super) const SERVER: KeyTable = KeyTable {
    doc: "These settings apply to the whole process.",
    keys: &[
        key(
            "workers",
            ValueKind::AnyOf(&[
                ValueKind::OneOf(&["auto"]),
                ValueKind::Integer { min: 1, max: 1024 },
            ]),
            "\"auto\"",
            "tidegate runs this many worker threads; `auto` means one per available CPU core. A change requires a restart.",
        )
        .shown("workers = 4"),
        table("log", &LOG),
        key(
            "max_tunnels",
            AUTO_OR_COUNT,
            "\"auto\"",
            "The process carries at most this many tunnels at once and rejects further handshakes with 503; `auto` means as many as the limit on open files allows.",
        )
        .shown("max_tunnels = 100_000"),
        key(
            "memory",
            ValueKind::AnyOf(&[
                ValueKind::OneOf(&["auto", "off"]),
                ValueKind::Size {
                    min: 1 << 20,
                    max: u64::MAX,
                },
            ]),
            "\"auto\"",
            "Near this limit on memory, handshakes are rejected with 503, and then the tunnels with the most unread bytes are closed with 1008. `auto` means the limit of the control group (cgroup) that the process is in, and no limit if there is none; a size is compared with the resident memory of the process.",
        )
        .shown(r#"memory = "2GiB""#),
        table("shutdown", &SHUTDOWN),
        key(
            "allow_warnings",
            ValueKind::List(&ValueKind::OneOf(Code::WARNINGS)),
            "[]",
            "Configuration warnings with these codes are not reported; `docs/diagnostics.md` lists all codes.",
        )
        .shown(r#"allow_warnings = ["any-origin"]"#),
        table("access_log", &ACCESS_LOG),
        key(
            "watch",
            ValueKind::OneOf(&["certificates", "all", "off"]),
            "\"certificates\"",
            "tidegate applies changes to these files automatically: `certificates` (certificates, keys, endpoints files and all other files that the configuration names), `all` (the configuration file and those that it includes as well) or `off` (none).",
        )
        .shown(r#"watch = "all""#),
        key(
            "reason_header",
            ValueKind::Bool,
            "true",
            "If `true`, responses that tidegate generates itself carry a `tidegate-reason` header, which says why a request was rejected.",
        )
        .shown("reason_header = false"),
        key(
            "request_id",
            ValueKind::Header,
            "",
            "This header carries a request ID to endpoints. An ID from a trusted proxy is kept and logged as `request_id`; otherwise, tidegate sends its own session ID, which the log has as `session`. Without this key, no such header is sent.",
        )
        .shown(r#"request_id = "x-request-id""#),
        key(
            "traceparent",
            ValueKind::OneOf(&["pass", "make"]),
            "\"pass\"",
            "`pass` forwards the `traceparent` header of a request unchanged, unless it is of a handshake that `traces` samples; `make` also starts a new trace for requests that have none: a sampled one, or, for handshakes with `traces`, one that is sampled if tidegate records it.",
        )
        .shown(r#"traceparent = "make""#),
        key(
            "core_dumps",
            ValueKind::Bool,
            "false",
            "If `true`, a crash may write a core dump, which contains the private keys; if `false`, core dumps are disabled.",
        )
        .shown("core_dumps = true"),
        table("upgrade", &UPGRADE),
    ],
};

const LOG: KeyTable = KeyTable {
    doc: "These settings control the log on standard error.",
    keys: &[
        key(
            "level",
            ValueKind::OneOf(&["error", "warn", "info", "debug", "trace"]),
            "\"info\"",
            "Log lines that are less severe than this level are not written.",
        )
        .shown(r#"level = "debug""#),
        key(
            "format",
            ValueKind::OneOf(&["text", "json"]),
            "\"text\"",
            "`text` writes one readable line per event; `json` writes one JSON object per line.",
        )
        .shown(r#"format = "json""#),
    ],
};

const SHUTDOWN: KeyTable = KeyTable {
    doc: "These settings control how the process stops on SIGTERM, SIGINT or SIGQUIT.",
    keys: &[
        key(
            "grace",
            DURATION_OR_ZERO,
            "\"30s\"",
            "Live tunnels and streams have this long to end: tidegate closes them one by one over the first nine tenths of it, and ends the remaining ones at its end. With `0s`, it ends all of them at once.",
        )
        .shown(r#"grace = "2m""#),
        key(
            "delay",
            DURATION_OR_ZERO,
            "\"0s\"",
            "After SIGTERM, tidegate still accepts connections for this long, so that load balancers can take it out of rotation first. With `0s`, it stops accepting at once.",
        )
        .shown(r#"delay = "5s""#),
        key(
            "close_code",
            ValueKind::Integer {
                min: 1000,
                max: 4999,
            },
            "1012",
            "The Close frame that ends a tunnel at shutdown carries this status code.",
        )
        .shown("close_code = 1001"),
    ],
};

const ACCESS_LOG: KeyTable = KeyTable {
    doc: "These settings control where session events (tunnels, requests, rejections) are logged.",
    keys: &[
        key(
            "to",
            ValueKind::Text,
            "\"stderr\"",
            "Session events are logged to `stderr` (together with all other log lines), `stdout`, `journald`, a file (given by its path), or nowhere (`off`).",
        )
        .shown(r#"to = "/var/log/tidegate/access.log""#),
        key(
            "format",
            ValueKind::OneOf(&["text", "json"]),
            "\"text\"",
            "Session events have this format on standard output and in files; on standard error, `server.log.format` applies.",
        )
        .shown("to = \"stdout\"\nformat = \"json\""),
    ],
};

const UPGRADE: KeyTable = KeyTable {
    doc: "These settings control how the process hands over to a new binary, on SIGUSR2 or `tidegate upgrade`.",
    keys: &[
        key(
            "max_generations",
            ValueKind::Integer { min: 1, max: 16 },
            "2",
            "At most this many processes, old and new ones together, run at once; `1` disables upgrades.",
        )
        .shown("max_generations = 3"),
        key(
            "drain",
            DURATION_OR_OFF,
            "\"10m\"",
            "Live tunnels of the old process have this long to end: it closes them one by one over the first nine tenths of it, and ends the remaining ones at its end. With `off`, they stay open.",
        )
        .shown(r#"drain = "1h""#),
        key(
            "settle",
            SETTLE,
            "\"10s\"",
            "The upgrade is complete when the new process has run for this long; then `tidegate upgrade` returns. If the new process ends before, the old one accepts connections again. A reload of the new process completes the upgrade at once. With `off`, the upgrade is complete as soon as the new process accepts connections.",
        )
        .shown(r#"settle = "5s""#),
    ],
};

/// Operators wait for as long.
const SETTLE: ValueKind = ValueKind::AnyOf(&[
    ValueKind::Duration {
        min: Duration::from_millis(1),
        max: Duration::from_secs(30),
    },
    ValueKind::OneOf(&["off"]),
]);
