//! `[traces]`.

use super::{KeyTable, ValueKind, key};

pub(super) const TRACES: KeyTable = KeyTable {
    doc: "tidegate sends a span for each sampled handshake, and one for the tunnel that it opened, to a collector (OpenTelemetry).",
    keys: &[
        key(
            "url",
            ValueKind::Text,
            "",
            "Spans go to this `http` or `https` URL of a collector, by OTLP over HTTP in JSON.",
        )
        .shown(r#"url = "http://127.0.0.1:4318/v1/traces""#)
        .required(),
        key(
            "ca",
            ValueKind::File,
            "",
            "The certificate of the collector must be issued by one of the CA certificates in this PEM file; without this key, by one that the operating system trusts.",
        )
        .shown(
            r#"url = "https://otel.internal:4318/v1/traces"
ca = "internal.pem""#,
        ),
        key(
            "headers",
            ValueKind::Pairs(&ValueKind::Text),
            "{}",
            "Requests to the collector carry these headers, for example a key that a hosted collector requires.",
        )
        .shown(
            r#"url = "https://otel.example.com/v1/traces"
headers = { x-api-key = "7f3c" }"#,
        ),
        key(
            "headers_file",
            ValueKind::File,
            "",
            "Requests to the collector carry the headers in this file, too, which has one in each line: `name: value`.",
        )
        .shown(
            r#"url = "https://otel.example.com/v1/traces"
headers_file = "collector.headers""#,
        ),
        key(
            "ratio",
            ValueKind::Number { min: 0.0, max: 1.0 },
            "0.01",
            "This share of the handshakes is sampled, of those for which no caller decides; `0` means none, `1` all.",
        )
        .shown(
            r#"url = "http://127.0.0.1:4318/v1/traces"
ratio = 0.1"#,
        ),
        key(
            "parent",
            ValueKind::OneOf(&["trusted", "any", "ignore"]),
            "\"trusted\"",
            "The `traceparent` header of a handshake says whether its caller samples the trace, and this decides for tidegate, too, where the caller is one of `trusted_proxies` (`trusted`), for every caller (`any`), or never (`ignore`). Elsewhere, `ratio` decides. A sampled handshake belongs to the trace of its caller in each case.",
        )
        .shown(
            r#"url = "http://127.0.0.1:4318/v1/traces"
parent = "any""#,
        ),
        key(
            "service_name",
            ValueKind::Text,
            "\"tidegate\"",
            "Collectors show the spans as those of the service with this name.",
        )
        .shown(
            r#"url = "http://127.0.0.1:4318/v1/traces"
service_name = "edge""#,
        ),
    ],
};
