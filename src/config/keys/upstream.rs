//! `[upstream.NAME]`.

mod discovery;
mod health;
mod picking;
mod rebalance;

use self::discovery::{DNS, KUBERNETES, SRV};
use self::health::{DISPLACEMENT, EJECTION, HEALTH};
use self::picking::{HASH, QUEUE, REPORTS, STICKY};
use self::rebalance::REBALANCE;
use super::keepalive::KEEPALIVE_OR_OFF;
use super::{
    COUNT, DURATION, DURATION_OR_OFF, KeyTable, NAMES, ValueKind, WEIGHT, key, optional_table,
    table,
};

pub(super) const UPSTREAM: KeyTable = KeyTable {
    doc: "An upstream is a named group of endpoints that share a balancing policy.",
    keys: &[
        key(
            "endpoints",
            ValueKind::List(&ValueKind::AnyOf(&[
                ValueKind::Address,
                ValueKind::Table(&ENDPOINT),
            ])),
            "",
            "The upstream consists of these endpoints: addresses (`10.0.0.1:9000`, `name:9000`, `unix:/path`) or tables.",
        )
        .shown(r#"endpoints = ["10.0.0.11:9000", "chat.internal:9000", "unix:/run/chat.sock"]"#),
        key(
            "balance",
            ValueKind::AnyOf(&[
                ValueKind::OneOf(&["least_connections", "round_robin", "random", "power_of_two"]),
                ValueKind::Table(&HASH),
            ]),
            "\"least_connections\"",
            "tidegate selects the endpoint of each request by this policy. Every policy respects the weights of endpoints.",
        )
        .shown(r#"balance = "round_robin""#),
        key(
            "tries",
            ValueKind::Integer { min: 1, max: 16 },
            "2",
            "tidegate tries at most this many endpoints for one request. It tries another one only if it has sent no byte of the request, or if `retry_on` allows it.",
        )
        .shown("tries = 3"),
        optional_table("tls", &TLS),
        table("timeouts", &TIMEOUTS),
        table("limits", &LIMITS),
        optional_table("dns", &DNS),
        optional_table("srv", &SRV),
        optional_table("kubernetes", &KUBERNETES),
        key(
            "endpoints_file",
            ValueKind::File,
            "",
            "The endpoints are listed in this file, one per line or as JSON. This excludes the other sources of endpoints.",
        )
        .shown(r#"endpoints_file = "chat.endpoints""#),
        optional_table("sticky", &STICKY),
        key(
            "slow_start",
            DURATION_OR_OFF,
            "\"off\"",
            "The share of a new endpoint grows to its full size over this time; with `off`, it has its full share at once.",
        )
        .shown(r#"slow_start = "30s""#),
        key(
            "retry_on",
            ValueKind::List(&ValueKind::OneOf(&[
                "429", "500", "502", "503", "504", "closed", "timeout",
            ])),
            "[\"closed\"]",
            "tidegate sends a handshake, or a GET or HEAD request without a body, to another endpoint after a response with one of these status codes, if the endpoint closed the connection without any byte of a response (`closed`), or after no response in time (`timeout`). After a 101, it never does. In any ten seconds, at most a fifth of an upstream's requests are sent a second time, or ten if that is more.",
        )
        .shown(r#"retry_on = ["502", "503", "closed", "timeout"]"#),
        optional_table("queue", &QUEUE),
        optional_table("reports", &REPORTS).shown("reports = {}"),
        key(
            "all_down",
            ValueKind::OneOf(&["refuse", "try_any"]),
            "\"refuse\"",
            "When no endpoint is up, `refuse` rejects requests with 503, and `try_any` treats every endpoint that is not drained as up.",
        )
        .shown(r#"all_down = "try_any""#),
        key(
            "send_proxy",
            ValueKind::OneOf(&["off", "v1", "v2"]),
            "\"off\"",
            "Connections to endpoints begin with a PROXY protocol header of this version, and each request uses a connection of its own; with `off`, there is no such header.",
        )
        .shown(r#"send_proxy = "v2""#),
        key(
            "reuse",
            ValueKind::OneOf(&["on", "off"]),
            "\"on\"",
            "With `on`, a connection to an endpoint serves plain HTTP requests of all clients, one after another; one that is authenticated by NTLM or Negotiate serves one client connection. With `off`, each request uses a connection of its own.",
        )
        .shown(r#"reuse = "off""#),
        key(
            "keepalive",
            KEEPALIVE_OR_OFF,
            "{}",
            "These settings control TCP keepalive on connections to endpoints, so that the death of an endpoint's machine is noticed; with `off`, those of the operating system apply.",
        ),
        key(
            "source",
            ValueKind::List(&ValueKind::Ip),
            "[]",
            "Connections to endpoints are spread over these local addresses; with an empty list, the operating system chooses the address.",
        )
        .shown(r#"source = ["10.0.0.2", "10.0.0.3"]"#),
        optional_table("health", &HEALTH),
        optional_table("ejection", &EJECTION),
        key(
            "on_down",
            ValueKind::Table(&DISPLACEMENT),
            "",
            "These settings decide what happens to the live tunnels of an endpoint that is down.",
        ),
        key(
            "on_removed",
            ValueKind::Table(&DISPLACEMENT),
            "",
            "These settings decide what happens to the live tunnels of an endpoint that a reload or service discovery has removed.",
        ),
        key(
            "on_drain",
            ValueKind::Table(&DISPLACEMENT),
            "",
            "These settings decide what happens to the live tunnels of an endpoint that is drained.",
        ),
        optional_table("rebalance", &REBALANCE),
    ],
};

const ENDPOINT: KeyTable = KeyTable {
    doc: "An endpoint with settings of its own.",
    keys: &[
        key("address", ValueKind::Address, "", "The endpoint listens on this address.")
            .shown(r#"address = "10.0.0.11:9000""#)
            .required(),
        key(
            "name",
            ValueKind::Text,
            "",
            "The endpoint has this name, which is unique within its upstream: letters, digits, `.`, `_` and `-`. Requests may ask for it (`route.endpoint`), and operators may use it in place of the address.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
name = "game-7""#,
        ),
        key(
            "weight",
            WEIGHT,
            "1",
            "The endpoint receives a share of the requests in proportion to this weight; with `0`, it receives only requests with a sticky cookie for it.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
weight = 2"#,
        ),
        key("max_tunnels", COUNT, "", "The endpoint carries at most this many tunnels, handshakes and requests at once. By default, there is no limit.").shown(
            r#"address = "10.0.0.11:9000"
max_tunnels = 10_000"#,
        ),
        key(
            "drain",
            ValueKind::Bool,
            "false",
            "If `true`, the endpoint is drained: it receives no new handshakes or requests.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
drain = true"#,
        ),
        key(
            "backup",
            ValueKind::Bool,
            "false",
            "If `true`, the endpoint receives requests only when no other endpoint can.",
        )
        .shown(
            r#"address = "10.0.0.11:9000"
backup = true"#,
        ),
    ],
};

const TLS: KeyTable = KeyTable {
    doc: "These settings enable TLS for connections to endpoints; without this table, they are plain text.",
    keys: &[
        key(
            "ca",
            ValueKind::File,
            "",
            "An endpoint's certificate must be issued by one of the CA certificates in this PEM file, or must itself be in it, as a self-signed one; without this key, by one that the operating system trusts.",
        )
        .shown(r#"ca = "internal.pem""#),
        key(
            "server_name",
            ValueKind::Text,
            "",
            "tidegate asks for this server name (SNI), and the endpoint's certificate must be valid for it; without this key, the host of the endpoint's address is used.",
        )
        .shown(r#"server_name = "chat.internal""#),
        key(
            "fingerprint",
            NAMES,
            "[]",
            "Only certificates with one of these SHA-256 fingerprints are accepted, whatever their names, issuer and dates; `openssl x509 -noout -fingerprint -sha256 -in FILE` prints one. It excludes `ca`.",
        )
        .shown(r#"fingerprint = ["9f:86:d0:81:88:4c:7d:65:9a:2f:ea:a0:c5:5a:d0:15:a3:bf:4f:1b:2b:0b:82:2c:d1:5d:6c:15:b0:f0:0a:08"]"#),
        key(
            "client_cert",
            ValueKind::File,
            "",
            "tidegate presents the certificate in this PEM file to endpoints that ask for one. It requires `client_key`.",
        )
        .shown(
            r#"client_cert = "tidegate.pem"
client_key = "tidegate.key""#,
        ),
        key("client_key", ValueKind::File, "", "This PEM file contains the private key of `client_cert`.").shown(
            r#"client_cert = "tidegate.pem"
client_key = "tidegate.key""#,
        ),
    ],
};

const TIMEOUTS: KeyTable = KeyTable {
    doc: "These timeouts apply to connections to endpoints.",
    keys: &[
        key(
            "connect",
            DURATION,
            "\"3s\"",
            "A connection to an endpoint must be established within this time, TLS included; otherwise, the attempt fails.",
        )
        .shown(r#"connect = "1s""#),
        key(
            "handshake",
            DURATION,
            "\"10s\"",
            "An endpoint must answer a WebSocket handshake within this time; otherwise, the client receives 504.",
        )
        .shown(r#"handshake = "5s""#),
        key(
            "response",
            DURATION,
            "\"60s\"",
            "An endpoint must send the head of its response to a plain HTTP request within this time; otherwise, the client receives 504.",
        )
        .shown(r#"response = "2m""#),
        key(
            "body",
            DURATION_OR_OFF,
            "\"off\"",
            "The longest pause in the body of an endpoint's response. After it, tidegate ends the response early, and the client can tell that it is incomplete. A pause in which the endpoint waits for more of the client's request does not count. By default, there is no limit, because event streams may be silent for long; `keepalive` detects an endpoint that has vanished.",
        )
        .shown(r#"body = "2m""#),
    ],
};

const LIMITS: KeyTable = KeyTable {
    doc: "These limits apply to the responses of endpoints.",
    keys: &[key(
        "header_count",
        ValueKind::Integer { min: 1, max: 1000 },
        "100",
        "The head of a response may have at most this many header lines; the client receives 502 in place of one with more.",
    )],
};
