//! `[listener.NAME]`.

use super::{COUNT, KeyTable, NETS, ValueKind, key};

pub(super) const LISTENER: KeyTable = KeyTable {
    doc: "A bound address, or several, and how it is spoken to.",
    keys: &[
        key(
            "bind",
            ValueKind::List(&ValueKind::AnyOf(&[ValueKind::Bind, ValueKind::Table(&BIND)])),
            "",
            "Where it listens: `0.0.0.0:443`, `[::]:443`, `unix:/path`, or `systemd:NAME` for the sockets that a socket unit passes under that name.",
        )
        .shown(r#"bind = ["0.0.0.0:443", "[::]:443"]"#)
        .required(),
        key(
            "tls",
            ValueKind::Table(&TLS),
            "",
            "TLS towards clients; plain text without it.",
        ),
        key(
            "timeouts",
            ValueKind::Table(&TIMEOUTS),
            "{}",
            "Deadlines towards clients.",
        ),
        key(
            "http2",
            ValueKind::Bool,
            "false",
            "Whether HTTP/2 is offered, WebSockets over it too.",
        )
        .shown("http2 = true")
        .later(),
        key(
            "proxy_protocol",
            ValueKind::OneOf(&["off", "required"]),
            "\"off\"",
            "Whether connections begin with a PROXY header.",
        )
        .shown(
            r#"proxy_protocol = "required"
trusted_proxies = ["10.0.0.0/8"]"#,
        ),
        key(
            "trusted_proxies",
            NETS,
            "[]",
            "Whose PROXY header and forwarding headers are believed; `unix:` for unix sockets.",
        )
        .shown(r#"trusted_proxies = ["10.0.0.0/8", "2001:db8::/32", "unix:"]"#),
        key(
            "trusted_header",
            ValueKind::OneOf(&["x-forwarded", "forwarded"]),
            "\"x-forwarded\"",
            "The family of forwarding headers that is believed.",
        )
        .shown(
            r#"trusted_header = "forwarded"
trusted_proxies = ["10.0.0.0/8"]"#,
        ),
        key(
            "redirect_to_https",
            ValueKind::Bool,
            "false",
            "Whether plain requests are sent to https, and handshakes refused.",
        )
        .shown("redirect_to_https = true"),
        key(
            "limits",
            ValueKind::Table(&LIMITS),
            "{}",
            "What clients may take.",
        ),
    ],
};

const BIND: KeyTable = KeyTable {
    doc: "A unix socket with a mode.",
    keys: &[
        key("address", ValueKind::Bind, "", "Where it listens.")
            .shown(r#"address = "unix:/run/tidegate/http.sock""#)
            .required(),
        key(
            "mode",
            ValueKind::Mode,
            "\"0660\"",
            "Permission bits of a unix socket.",
        )
        .shown(
            r#"address = "unix:/run/tidegate/http.sock"
mode = "0600""#,
        ),
    ],
};

const TLS: KeyTable = KeyTable {
    doc: "TLS towards clients.",
    keys: &[
        key(
            "certificates",
            ValueKind::List(&ValueKind::Table(&CERTIFICATE)),
            "",
            "Chosen by the name that the client asks for; the first is the default.",
        )
        .required(),
        key(
            "min_version",
            ValueKind::OneOf(&["1.2", "1.3"]),
            "\"1.2\"",
            "The oldest version of TLS that is spoken.",
        ).shown(r#"min_version = "1.3""#),
        key(
            "client_auth",
            ValueKind::Table(&CLIENT_AUTH),
            "",
            "Certificates that clients show.",
        ),
        key(
            "ticket_keys_file",
            ValueKind::File,
            "",
            "Keys of session tickets that several nodes share; without it, keys of each node's own.",
        ).shown(r#"ticket_keys_file = "tickets.key""#),
        key(
            "handshakes_at_once",
            COUNT,
            "1024",
            "TLS handshakes at once, per worker; four times as many may wait, more are closed.",
        ).shown("handshakes_at_once = 64"),
    ],
};

const CERTIFICATE: KeyTable = KeyTable {
    doc: "A certificate and its key, in PEM.",
    keys: &[
        key(
            "cert",
            ValueKind::File,
            "",
            "The chain, the server's own certificate first.",
        )
        .shown(
            r#"cert = "chat.pem"
key = "chat.key""#,
        )
        .required(),
        key("key", ValueKind::File, "", "Its private key.")
            .shown(
                r#"cert = "chat.pem"
key = "chat.key""#,
            )
            .required(),
    ],
};

const CLIENT_AUTH: KeyTable = KeyTable {
    doc: "Certificates that clients show.",
    keys: &[
        key(
            "ca",
            ValueKind::File,
            "",
            "The authorities that are believed.",
        )
        .shown(r#"ca = "clients.pem""#)
        .required(),
        key(
            "mode",
            ValueKind::OneOf(&["required", "optional"]),
            "\"required\"",
            "Whether one must be shown.",
        )
        .shown(
            r#"ca = "clients.pem"
mode = "optional""#,
        ),
        key(
            "header",
            ValueKind::Header,
            "",
            "The header that tells endpoints about it.",
        )
        .shown(
            r#"ca = "clients.pem"
header = "x-client-cert""#,
        ),
    ],
};

const TIMEOUTS: KeyTable = KeyTable {
    doc: "Deadlines towards clients.",
    keys: &[
        key(
            "tls_handshake",
            ValueKind::Duration,
            "\"10s\"",
            "For the TLS handshake.",
        )
        .shown(r#"tls_handshake = "5s""#),
        key(
            "request_header",
            ValueKind::Duration,
            "\"10s\"",
            "For the head of a request, from the accepted connection or its first byte.",
        )
        .shown(r#"request_header = "5s""#),
        key(
            "keep_alive",
            ValueKind::Duration,
            "\"60s\"",
            "Between an answer and the next request.",
        )
        .shown(r#"keep_alive = "2m""#),
        key(
            "request_body",
            ValueKind::Duration,
            "\"30s\"",
            "Between two pieces of a request's body.",
        )
        .shown(r#"request_body = "1m""#),
        key(
            "response_body",
            ValueKind::Duration,
            "\"60s\"",
            "While a client takes nothing of an answer that waits for it.",
        )
        .shown(r#"response_body = "30s""#),
    ],
};

const LIMITS: KeyTable = KeyTable {
    doc: "What clients may take.",
    keys: &[
        key("connections", COUNT, "", "Connections at once.").shown("connections = 100_000"),
        key(
            "connections_per_ip",
            COUNT,
            "",
            "Connections at once per address (IPv6: per /64).",
        )
        .shown("connections_per_ip = 256"),
        key("handshakes_per_second", COUNT, "", "Handshakes per second.")
            .shown("handshakes_per_second = 2_000"),
        key(
            "handshakes_per_ip",
            ValueKind::Table(&KeyTable {
                doc: "Handshakes per address.",
                keys: &[
                    key("rate", ValueKind::Rate, "", "So many per time.")
                        .shown(r#"rate = "20/s""#)
                        .required(),
                    key("burst", COUNT, "1", "So many at once.").shown(
                        r#"rate = "20/s"
burst = 40"#,
                    ),
                ],
            }),
            "",
            "Handshakes per address.",
        ),
        key(
            "header_bytes",
            ValueKind::Size,
            "\"16KiB\"",
            "Size of a request's head.",
        ),
        key(
            "header_count",
            ValueKind::Integer {
                least: 1,
                most: 1000,
            },
            "100",
            "Lines of a request's head.",
        ),
    ],
};
