//! Where a route leads if not to one upstream: to one of several, to another address, or nowhere.

use super::super::{DURATION, KeyTable, ValueKind, WEIGHT, key};

pub(super) const REDIRECT: KeyTable = KeyTable {
    doc: "The route redirects plain HTTP requests instead of sending them to an upstream; it rejects handshakes with 403.",
    keys: &[
        key(
            "to",
            ValueKind::Template,
            "",
            "Requests are redirected to this address; `${host}` and `${uri}` stand for those of the request.",
        )
        .shown(r#"to = "https://chat.example.com${uri}""#)
        .required(),
        key(
            "status",
            ValueKind::Integer { min: 301, max: 308 },
            "308",
            "The redirect has this status code: 301, 302, 303, 307 or 308.",
        )
        .shown(
            r#"to = "https://chat.example.com/"
status = 302"#,
        ),
    ],
};

pub(super) const RESPOND: KeyTable = KeyTable {
    doc: "tidegate itself answers the requests of the route, handshakes included, instead of sending them to an upstream.",
    keys: &[
        key(
            "status",
            ValueKind::AnyOf(&[
                ValueKind::Integer { min: 200, max: 599 },
                ValueKind::OneOf(&["ready"]),
            ]),
            "200",
            "The response has this status code. With `ready`, the route answers as `/readyz` of `admin.metrics_bind` does: with 200, or with 503 once a stop has begun or every listener is drained. These requests count towards `limits.requests_per_ip` of the listener, too: allow for a load balancer's checks.",
        )
        .shown(r#"status = "ready""#),
        key(
            "body",
            ValueKind::Text,
            "",
            "The response has this body; without this key, it has none.",
        )
        .shown(
            r#"status = 503
body = "Back at 14:00 UTC.""#,
        ),
        key(
            "content_type",
            ValueKind::Text,
            "\"text/plain; charset=utf-8\"",
            "The body is of this type (the header `Content-Type`).",
        )
        .shown(
            r#"body = "{}"
content_type = "application/json""#,
        ),
        key(
            "retry_after",
            DURATION,
            "",
            "Clients are asked to try again after this time, in whole seconds (the header `Retry-After`).",
        )
        .shown(
            r#"status = 503
retry_after = "5m""#,
        )
        .instead_of_zero("to send no `Retry-After`, leave `retry_after` out"),
    ],
};

/// One of the upstreams of `split`.
pub(super) const SPLIT_BRANCH: KeyTable = KeyTable {
    doc: "One of the upstreams among which the requests of the route are divided.",
    keys: &[
        key(
            "upstream",
            ValueKind::Text,
            "",
            "Requests of this branch go to the upstream with this name.",
        )
        .shown(r#"upstream = "chat""#)
        .required(),
        key(
            "weight",
            WEIGHT,
            "1",
            "The branch receives a share of the clients in proportion to this weight; with `0`, it receives only requests with a sticky cookie of this upstream.",
        )
        .shown(
            r#"upstream = "chat"
weight = 90"#,
        ),
    ],
};
