//! TCP keepalive, towards clients and towards endpoints.

use std::time::Duration;

use super::{KeyTable, ValueKind, key};

pub(super) const KEEPALIVE_OR_OFF: ValueKind =
    ValueKind::AnyOf(&[ValueKind::OneOf(&["off"]), ValueKind::Table(&KEEPALIVE)]);

/// What the kernel accepts: it counts whole seconds, up to 32,767 of them.
const SECONDS: ValueKind = ValueKind::Duration {
    min: Duration::from_secs(1),
    max: Duration::from_secs(32_767),
};

/// What the kernel accepts: milliseconds in 31 bits.
const USER_TIMEOUT: ValueKind = ValueKind::Duration {
    min: Duration::from_millis(1),
    max: Duration::from_secs(24 * 86_400),
};

const KEEPALIVE: KeyTable = KeyTable {
    doc: "These settings control TCP keepalive.",
    keys: &[
        key(
            "idle",
            SECONDS,
            "\"60s\"",
            "TCP sends the first keepalive probe after a connection has been silent for this long.",
        ),
        key(
            "interval",
            SECONDS,
            "\"15s\"",
            "TCP sends further keepalive probes at this interval.",
        ),
        key(
            "count",
            ValueKind::Integer { min: 1, max: 127 },
            "4",
            "A connection is given up after this many keepalive probes without an answer. Linux goes by `user_timeout` instead, so the two should agree: `idle` plus `count` times `interval`.",
        ),
        key(
            "user_timeout",
            USER_TIMEOUT,
            "\"2m\"",
            "A connection is given up if sent bytes stay unacknowledged for this long, or if the peer's receive window stays full for this long because its program reads nothing.",
        ),
    ],
};
