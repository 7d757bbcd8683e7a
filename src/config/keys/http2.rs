//! HTTP/2 towards clients.

use super::{DURATION_OR_OFF, KeyTable, ValueKind, key};

pub(super) const HTTP2_OR_NOT: ValueKind =
    ValueKind::AnyOf(&[ValueKind::Bool, ValueKind::Table(&HTTP2)]);

/// The largest window that HTTP/2 has (RFC 9113 section 6.9.1).
const MAX_WINDOW: u64 = (1 << 31) - 1;

/// Few bytes are refused by the code that reads the key, which says why.
const STREAM_WINDOW: ValueKind = ValueKind::Size {
    min: 1,
    max: 16 * 1024 * 1024,
};

/// As above.
const CONNECTION_WINDOW: ValueKind = ValueKind::AnyOf(&[
    ValueKind::OneOf(&["auto"]),
    ValueKind::Size {
        min: 1,
        max: MAX_WINDOW,
    },
]);

const HTTP2: KeyTable = KeyTable {
    doc: "These settings control HTTP/2 connections of clients.",
    keys: &[
        key(
            "websockets",
            ValueKind::Bool,
            "true",
            "If `true`, clients may open WebSockets over HTTP/2 connections (RFC 8441); if `false`, HTTP/2 carries plain requests only, and clients open WebSockets over HTTP/1.1.",
        )
        .shown("websockets = false"),
        key(
            "streams",
            ValueKind::Integer { min: 1, max: 1000 },
            "100",
            "A client may have at most this many streams open at once on one HTTP/2 connection: tunnels and plain requests together. Browsers wait or open another connection when all are in use.",
        )
        .shown("streams = 200"),
        key(
            "stream_window",
            STREAM_WINDOW,
            "\"64KiB\"",
            "A client may send at most this many bytes on a stream before tidegate has passed them on. Larger windows allow a faster upload over a long distance, and cost up to this much memory for each stream whose endpoint accepts nothing. At least 65,535 bytes, with which every stream begins.",
        )
        .shown(r#"stream_window = "256KiB""#),
        key(
            "connection_window",
            CONNECTION_WINDOW,
            "\"auto\"",
            "A client may send at most this many bytes on all streams of a connection before tidegate has passed them on. `auto` is `streams` times `stream_window`. With less, streams whose endpoints accept nothing can use it up, and all others on the connection wait.",
        )
        .shown(r#"connection_window = "2MiB""#),
        key(
            "max_age",
            DURATION_OR_OFF,
            "\"off\"",
            "An HTTP/2 connection is closed after this time: its tunnels with 1001, and its requests are served first. Clients open a new connection.",
        )
        .shown(r#"max_age = "24h""#),
    ],
};
