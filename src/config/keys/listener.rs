//! `[listener.NAME]`.

use super::http2::HTTP2_OR_NOT;
use super::keepalive::KEEPALIVE_OR_OFF;
use super::{
    COUNT, DURATION, KeyTable, NETS, RATE_AND_BURST, ValueKind, key, optional_table, table,
};

pub(super) const LISTENER: KeyTable = KeyTable {
    doc: "A listener accepts client connections on one or more addresses.",
    keys: &[
        key(
            "bind",
            ValueKind::List(&ValueKind::AnyOf(&[ValueKind::Bind, ValueKind::Table(&BIND)])),
            "",
            "The listener accepts connections on these addresses: `0.0.0.0:443`, `[::]:443`, `unix:/path`, or `systemd:NAME` for the sockets that a systemd socket unit passes under that name.",
        )
        .shown(r#"bind = ["0.0.0.0:443", "[::]:443"]"#)
        .required(),
        optional_table("tls", &TLS),
        table("timeouts", &TIMEOUTS),
        key(
            "keepalive",
            KEEPALIVE_OR_OFF,
            "{}",
            "These settings control TCP keepalive on client connections, so that a client without a network is noticed; with `off`, those of the operating system apply.",
        ),
        key(
            "http2",
            HTTP2_OR_NOT,
            "",
            "With `true` or a table of settings, the listener offers HTTP/2 in TLS handshakes (ALPN), with WebSockets over it (RFC 8441); clients that do not choose it use HTTP/1.1. Requires `tls`. By default, or with `false`, the listener speaks HTTP/1.1 only.",
        )
        .shown("http2 = true"),
        key(
            "proxy_protocol",
            ValueKind::OneOf(&["off", "required"]),
            "\"off\"",
            "With `required`, every connection must begin with a PROXY protocol header (version 1 or 2), which states the client's address.",
        )
        .shown(
            r#"proxy_protocol = "required"
trusted_proxies = ["10.0.0.0/8"]"#,
        ),
        key(
            "trusted_proxies",
            NETS,
            "[]",
            "tidegate trusts PROXY protocol headers and forwarding headers from peers with these addresses or networks; `unix:` stands for peers on a unix socket. Forwarding headers from other peers are replaced.",
        )
        .shown(r#"trusted_proxies = ["10.0.0.0/8", "2001:db8::/32", "unix:"]"#),
        key(
            "trusted_header",
            ValueKind::OneOf(&["x-forwarded", "forwarded"]),
            "\"x-forwarded\"",
            "Trusted proxies state the client's address in this family of headers: `x-forwarded` (`X-Forwarded-For` and related) or `forwarded` (RFC 7239). The other family is ignored.",
        )
        .shown(
            r#"trusted_header = "forwarded"
trusted_proxies = ["10.0.0.0/8"]"#,
        ),
        key(
            "redirect_to_https",
            ValueKind::Bool,
            "false",
            "If `true`, the listener redirects plain HTTP requests to `https` and rejects handshakes with 403, except on routes that name this listener.",
        )
        .shown("redirect_to_https = true"),
        table("limits", &LIMITS),
    ],
};

const BIND: KeyTable = KeyTable {
    doc: "A listen address with the permission bits of its unix socket.",
    keys: &[
        key(
            "address",
            ValueKind::Bind,
            "",
            "The listener accepts connections on this address.",
        )
        .shown(r#"address = "unix:/run/tidegate/http.sock""#)
        .required(),
        key(
            "mode",
            ValueKind::Mode,
            "\"0660\"",
            "The unix socket has these permission bits (octal).",
        )
        .shown(
            r#"address = "unix:/run/tidegate/http.sock"
mode = "0600""#,
        ),
    ],
};

const TLS: KeyTable = KeyTable {
    doc: "These settings enable TLS for client connections; without this table, the listener speaks plain text.",
    keys: &[
        key(
            "certificates",
            ValueKind::List(&ValueKind::Table(&CERTIFICATE)),
            "",
            "The listener selects one of these certificates by the server name (SNI) that the client asks for, and by the type of key that the client can verify; the first one is the default.",
        )
        .required(),
        key(
            "min_version",
            ValueKind::OneOf(&["1.2", "1.3"]),
            "\"1.2\"",
            "The listener refuses TLS versions older than this.",
        )
        .shown(r#"min_version = "1.3""#),
        key(
            "policy",
            ValueKind::OneOf(&["modern", "intermediate"]),
            "\"intermediate\"",
            "The versions and ciphers that the listener accepts, by the names of Mozilla's recommendations: `modern` is TLS 1.3 only; `intermediate` is also TLS 1.2 with forward secrecy and authenticated encryption.",
        )
        .shown(r#"policy = "modern""#),
        optional_table("client_auth", &CLIENT_AUTH),
        key(
            "ticket_keys_file",
            ValueKind::File,
            "",
            "This file contains the keys of TLS session tickets, so that several nodes can resume each other's sessions; without it, each node uses keys of its own.",
        )
        .shown(r#"ticket_keys_file = "tickets.key""#),
        key(
            "handshakes_at_once",
            COUNT,
            "1024",
            "Each worker performs at most this many TLS handshakes at once. Four times as many connections may wait for one; further connections are closed.",
        )
        .shown("handshakes_at_once = 64"),
    ],
};

const CERTIFICATE: KeyTable = KeyTable {
    doc: "A certificate: files with it and its private key (`cert` and `key`), or names for which tidegate obtains one by itself (`names` and `acme`).",
    keys: &[
        key(
            "cert",
            ValueKind::File,
            "",
            "This PEM file contains the certificate chain, the server's own certificate first.",
        )
        .shown(
            r#"cert = "chat.pem"
key = "chat.key""#,
        ),
        key(
            "key",
            ValueKind::File,
            "",
            "This PEM file contains the private key of the certificate.",
        )
        .shown(
            r#"cert = "chat.pem"
key = "chat.key""#,
        ),
        key(
            "names",
            ValueKind::List(&ValueKind::Host),
            "",
            "tidegate obtains a certificate for these names, and renews it.",
        )
        .shown(
            r#"names = ["chat.example.com"]
acme = "letsencrypt""#,
        ),
        key(
            "acme",
            ValueKind::Text,
            "",
            "The authority of this name, `[acme.NAME]`, issues the certificate for `names`.",
        )
        .shown(
            r#"names = ["chat.example.com"]
acme = "letsencrypt""#,
        ),
    ],
};

const CLIENT_AUTH: KeyTable = KeyTable {
    doc: "These settings make the listener ask clients for a certificate (mutual TLS).",
    keys: &[
        key(
            "ca",
            ValueKind::File,
            "",
            "A client certificate must be issued by one of the CA certificates in this PEM file.",
        )
        .shown(r#"ca = "clients.pem""#)
        .required(),
        key(
            "mode",
            ValueKind::OneOf(&["required", "optional"]),
            "\"required\"",
            "With `required`, connections without a client certificate are refused; with `optional`, each route decides by `client_certificate`.",
        )
        .shown(
            r#"ca = "clients.pem"
mode = "optional""#,
        ),
        key(
            "crl",
            ValueKind::List(&ValueKind::File),
            "[]",
            "These files contain revocation lists, in PEM or DER; of several from one issuer, the newest counts. Every certificate of a client's chain must be covered by one of them, and listed in none.",
        )
        .shown(
            r#"ca = "clients.pem"
crl = ["revoked.pem"]"#,
        ),
        key(
            "expired_crl",
            ValueKind::OneOf(&["refuse", "warn"]),
            "\"refuse\"",
            "With `refuse`, certificates that are covered by an expired revocation list are refused until it is replaced; with `warn`, the list still counts.",
        )
        .shown(
            r#"ca = "clients.pem"
crl = ["revoked.pem"]
expired_crl = "warn""#,
        ),
        key(
            "header",
            ValueKind::Header,
            "",
            "This header describes the client certificate to endpoints; without this key, endpoints receive no such header.",
        )
        .shown(
            r#"ca = "clients.pem"
header = "x-client-cert""#,
        ),
    ],
};

const TIMEOUTS: KeyTable = KeyTable {
    doc: "These timeouts apply to client connections.",
    keys: &[
        key(
            "tls_handshake",
            DURATION,
            "\"10s\"",
            "A TLS handshake must be complete within this time, or the connection is closed.",
        )
        .shown(r#"tls_handshake = "5s""#),
        key(
            "request_header",
            DURATION,
            "\"10s\"",
            "A request head must be complete within this time, or the connection is closed. The time starts with the connection, or with the first byte of a further request.",
        )
        .shown(r#"request_header = "5s""#),
        key(
            "keep_alive",
            DURATION,
            "\"60s\"",
            "A connection is closed if no further request begins within this time after a response.",
        )
        .shown(r#"keep_alive = "2m""#),
        key(
            "request_body",
            DURATION,
            "\"30s\"",
            "A request is rejected with 408 if no further part of its body arrives within this time.",
        )
        .shown(r#"request_body = "1m""#),
        key(
            "response_body",
            DURATION,
            "\"60s\"",
            "A connection is closed if the client accepts no part of a pending response for this long.",
        )
        .shown(r#"response_body = "30s""#),
    ],
};

const LIMITS: KeyTable = KeyTable {
    doc: "These limits apply to the clients of the listener.",
    keys: &[
        key(
            "connections",
            COUNT,
            "",
            "The listener accepts at most this many connections at once; further ones are closed. By default, there is no limit.",
        )
        .shown("connections = 100_000"),
        key(
            "connections_per_ip",
            COUNT,
            "",
            "A client address (IPv6: a /64 network) may have at most this many connections at once; further ones are closed. By default, there is no limit.",
        )
        .shown("connections_per_ip = 256"),
        key(
            "handshakes_per_second",
            COUNT,
            "",
            "The listener accepts at most this many WebSocket handshakes per second and rejects further ones with 503. By default, there is no limit.",
        )
        .shown("handshakes_per_second = 2_000"),
        optional_table("handshakes_per_ip", &HANDSHAKES_PER_IP),
        optional_table("requests_per_ip", &REQUESTS_PER_IP),
        key(
            "header_bytes",
            ValueKind::Size {
                min: 1024,
                max: 1024 * 1024,
            },
            "\"16KiB\"",
            "A request head may have at most this size; larger ones are rejected with 431.",
        ),
        key(
            "header_count",
            ValueKind::Integer { min: 1, max: 1000 },
            "100",
            "A request head may have at most this many header lines; more are rejected with 431.",
        ),
    ],
};

const HANDSHAKES_PER_IP: KeyTable = KeyTable {
    doc: "A client address (IPv6: a /64 network) may open WebSocket handshakes at this rate; further ones are rejected with 429. By default, there is no limit.",
    keys: &RATE_AND_BURST,
};

const REQUESTS_PER_IP: KeyTable = KeyTable {
    doc: "The maximum rate of plain HTTP requests from one client address (for IPv6, from a /64 network). Requests that are not valid count, and so do a load balancer's checks of a route with `respond`. Further requests are rejected with 429. By default, there is no limit.",
    keys: &RATE_AND_BURST,
};
