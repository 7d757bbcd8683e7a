//! `[server]`.

use super::{COUNT, ConfigKey, DURATION_OR_OFF, KeyTable, ValueKind, key};
use crate::config::diagnostic::Code;

const AUTO_OR_COUNT: ValueKind = ValueKind::AnyOf(&[ValueKind::OneOf(&["auto"]), COUNT]);

pub(super) const SERVER: KeyTable = KeyTable {
    doc: "Process-wide settings.",
    keys: &[
        key(
            "workers",
            ValueKind::AnyOf(&[
                ValueKind::OneOf(&["auto"]),
                ValueKind::Integer {
                    least: 1,
                    most: 1024,
                },
            ]),
            "\"auto\"",
            "Data-plane threads; \"auto\" for one per available core.",
        ).shown("workers = 4"),
        key(
            "log",
            ValueKind::Table(&LOG),
            "{}",
            "What is logged to standard error, and how.",
        ),
        key(
            "max_tunnels",
            AUTO_OR_COUNT,
            "\"auto\"",
            "Tunnels at once; \"auto\" for what the limit on open files carries.",
        ).shown("max_tunnels = 100_000"),
        key(
            "shutdown",
            ValueKind::Table(&SHUTDOWN),
            "{}",
            "How the process stops on SIGTERM.",
        ),
        key(
            "allow_warnings",
            ValueKind::List(&ValueKind::OneOf(Code::WARNINGS)),
            "[]",
            "Warnings that are not told, by their codes; `docs/diagnostics.md` lists them.",
        )
        .shown(r#"allow_warnings = ["any-origin"]"#),
        ACCESS_LOG,
        key(
            "watch",
            ValueKind::OneOf(&["certificates", "all", "off"]),
            "\"certificates\"",
            "Which changed files apply by themselves: certificates and keys, the configuration too, or none.",
        ).shown(r#"watch = "all""#),
        key(
            "reason_header",
            ValueKind::Bool,
            "true",
            "Whether our own answers carry `tidegate-reason`.",
        ).shown("reason_header = false"),
        key(
            "request_id",
            ValueKind::Header,
            "",
            "The header that carries a request's id to endpoints and logs.",
        ).shown(r#"request_id = "x-request-id""#),
        key(
            "traceparent",
            ValueKind::OneOf(&["pass", "make"]),
            "\"pass\"",
            "Whether a trace begins here for requests that are part of none, sampled, so that endpoints record it.",
        ).shown(r#"traceparent = "make""#),
        key(
            "core_dumps",
            ValueKind::Bool,
            "false",
            "Whether a crash may leave an image of the memory behind, keys of certificates included.",
        )
        .shown("core_dumps = true"),
        key(
            "upgrade",
            ValueKind::Table(&UPGRADE),
            "{}",
            "Handing over to a new binary, on SIGUSR2 or `tidegate upgrade`.",
        ),
    ],
};

const LOG: KeyTable = KeyTable {
    doc: "What is logged to standard error, and how.",
    keys: &[
        key(
            "level",
            ValueKind::OneOf(&["error", "warn", "info", "debug", "trace"]),
            "\"info\"",
            "The least severe level that is written.",
        )
        .shown(r#"level = "debug""#),
        key(
            "format",
            ValueKind::OneOf(&["text", "json"]),
            "\"text\"",
            "Lines for people, or one JSON object per line.",
        )
        .shown(r#"format = "json""#),
    ],
};

const SHUTDOWN: KeyTable = KeyTable {
    doc: "How the process stops on SIGTERM.",
    keys: &[
        key(
            "grace",
            ValueKind::Duration,
            "\"30s\"",
            "How long live tunnels may stay: they are closed one by one, spread over nine tenths of it.",
        )
        .shown(r#"grace = "2m""#),
        key(
            "delay",
            ValueKind::Duration,
            "\"0s\"",
            "How long connections are still accepted.",
        )
        .shown(r#"delay = "5s""#),
        key(
            "close_code",
            ValueKind::Integer {
                least: 1000,
                most: 4999,
            },
            "1012",
            "Status code of the Close frame that ends a tunnel.",
        )
        .shown("close_code = 1001"),
    ],
};

const ACCESS_LOG: ConfigKey = key(
    "access_log",
    ValueKind::Table(&KeyTable {
        doc: "Where the events of sessions are logged.",
        keys: &[
            key(
                "to",
                ValueKind::Text,
                "\"stderr\"",
                "`stderr`, with everything else in the log, `stdout`, `journald`, `off`, or a path of a file.",
            )
            .shown(r#"to = "/var/log/tidegate/access.log""#),
            key(
                "format",
                ValueKind::OneOf(&["text", "json"]),
                "\"text\"",
                "The shape of its lines on standard output and in a file.",
            )
            .shown("to = \"stdout\"\nformat = \"json\""),
        ],
    }),
    "{}",
    "Where the events of sessions are logged.",
);

const UPGRADE: KeyTable = KeyTable {
    doc: "Handing over to a new binary, on SIGUSR2 or `tidegate upgrade`.",
    keys: &[
        key(
            "max_generations",
            ValueKind::Integer { least: 1, most: 16 },
            "2",
            "Processes, old and new, that may run at once; with 1 there are no upgrades.",
        )
        .shown("max_generations = 3"),
        key(
            "drain",
            DURATION_OR_OFF,
            "\"10m\"",
            "How long the tunnels of the old process may stay: they are closed one by one, spread over nine tenths of it.",
        )
        .shown(r#"drain = "1h""#),
    ],
};
