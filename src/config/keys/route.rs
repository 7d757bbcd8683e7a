//! `[[route]]`.

mod destination;
mod naming;
mod probe;

use self::destination::{REDIRECT, RESPOND, SPLIT_BRANCH};
use self::naming::NAMING;
use super::request_key::REQUEST_KEY;
use super::{
    COUNT, DURATION, DURATION_OR_OFF, FRACTION, KeyTable, NAMES, NETS, SIZE, ValueKind, key,
    optional_table, table,
};

const STRINGS: ValueKind = ValueKind::Pairs(&ValueKind::Text);

const HEADERS: ValueKind = ValueKind::List(&ValueKind::Header);

pub(super) const ROUTE: KeyTable = KeyTable {
    doc: "A route matches requests and sends them to an upstream, redirects them, or answers them.",
    keys: &[
        key(
            "name",
            ValueKind::Text,
            "",
            "Logs and metrics show the route under this name; without this key, under its position, for example `route-1`.",
        )
        .shown(r#"name = "lobby""#),
        key(
            "listeners",
            NAMES,
            "",
            "The route applies only to requests on these listeners; without this key, to requests on all listeners.",
        )
        .shown(r#"listeners = ["public"]"#),
        key(
            "hosts",
            ValueKind::List(&ValueKind::Host),
            "[]",
            "The route matches only requests for these hosts; `*.` at the start stands for exactly one label. An empty list matches any host.",
        )
        .shown(r#"hosts = ["chat.example.com", "*.chat.example.com"]"#),
        key(
            "path",
            ValueKind::Path,
            "",
            "The route matches only this path. It excludes `path_prefix`; without either, the route matches any path.",
        )
        .shown(r#"path = "/realtime""#),
        key(
            "path_prefix",
            ValueKind::Path,
            "",
            "The route matches this path and all paths below it, by whole segments. It excludes `path`; without either, the route matches any path.",
        )
        .shown(r#"path_prefix = "/socket.io/""#),
        key(
            "upstream",
            ValueKind::Text,
            "",
            "Requests that match go to the upstream with this name. It is required unless the route has `split`, `redirect` or `respond`.",
        )
        .shown(r#"upstream = "chat""#),
        key(
            "split",
            ValueKind::List(&ValueKind::Table(&SPLIT_BRANCH)),
            "",
            "Requests go to one of these upstreams. A sticky cookie of one of them decides first, then `split_by`, then chance. If no endpoint of the one that was chosen can serve, the request goes to another one.",
        )
        .shown(
            r#"split = [{ upstream = "chat", weight = 90 }, { upstream = "next", weight = 10 }]
split_by = "client_ip""#,
        ),
        key(
            "split_by",
            REQUEST_KEY,
            "",
            "Requests with the same key go to the same upstream of `split`: the key is the client's address (`client_ip`), the path of the request (`path`), the TLS server name that the client asked for (`sni`), or the value of a header, cookie or query parameter. Without this key, and for requests without one, chance decides.",
        )
        .shown(
            r#"split = [{ upstream = "chat", weight = 90 }, { upstream = "next", weight = 10 }]
split_by = { header = "x-user" }"#,
        ),
        optional_table("endpoint", &NAMING),
        key(
            "endpoint_fallback",
            ValueKind::OneOf(&["reject", "balance"]),
            "\"reject\"",
            "A request that names no endpoint of the route is rejected with 404 (`reject`), or goes to the endpoint that the policy of the upstream picks (`balance`). It requires `endpoint`.",
        )
        .shown(
            r#"endpoint = { query = "room", map_file = "rooms.map" }
endpoint_fallback = "balance""#,
        ),
        key(
            "http",
            ValueKind::OneOf(&["proxy", "reject"]),
            "\"proxy\"",
            "`proxy` forwards plain HTTP requests to the upstream; `reject` answers them with 426 (Upgrade Required).",
        )
        .shown(r#"http = "reject""#),
        key(
            "handshake",
            ValueKind::OneOf(&["strict", "lenient"]),
            "\"strict\"",
            "`strict` requires that an endpoint's 101 response is complete and correct; `lenient` also accepts one in which headers are missing, one of HTTP/1.0, and one with a subprotocol that the client did not offer, but none with a wrong `Sec-WebSocket-Accept` or an extension that was not offered.",
        )
        .shown(r#"handshake = "lenient""#),
        key(
            "preserve_host",
            ValueKind::Bool,
            "true",
            "If `true`, endpoints receive the client's `Host` header; if `false`, they receive their own name and port in it, or their address if no name is known.",
        )
        .shown("preserve_host = false"),
        key(
            "host",
            ValueKind::Text,
            "",
            "Endpoints receive this `Host` header, with a port or without; without this key, the one that `preserve_host` decides. It excludes `preserve_host = false`. The requests that the route matches do not depend on it: that is `hosts`.",
        )
        .shown(r#"host = "chat.internal""#),
        table("timeouts", &TIMEOUTS),
        table("limits", &LIMITS),
        key(
            "only",
            ValueKind::OneOf(&["handshakes", "plain"]),
            "",
            "The route matches only WebSocket handshakes (`handshakes`) or only plain HTTP requests (`plain`); without this key, it matches both.",
        )
        .shown(r#"only = "handshakes""#),
        key(
            "methods",
            ValueKind::List(&ValueKind::Method),
            "[]",
            "The route matches only plain HTTP requests with these methods; handshakes are not affected. An empty list matches any method.",
        )
        .shown(r#"methods = ["GET", "POST"]"#),
        key(
            "headers",
            STRINGS,
            "{}",
            "The route matches only requests that carry all of these headers with these values.",
        )
        .shown(r#"headers = { x-tenant = "acme" }"#),
        key(
            "query",
            STRINGS,
            "{}",
            "The route matches only requests that have all of these query parameters with these values (compared after decoding).",
        )
        .shown(r#"query = { v = "2" }"#),
        key(
            "subprotocols",
            ValueKind::List(&ValueKind::Token),
            "[]",
            "The route matches only handshakes that offer one of these subprotocols. An empty list matches any handshake.",
        )
        .shown(r#"subprotocols = ["graphql-transport-ws", "graphql-ws"]"#),
        optional_table("redirect", &REDIRECT),
        optional_table("respond", &RESPOND),
        key(
            "origins",
            ValueKind::List(&ValueKind::OriginPattern),
            "[]",
            "Only pages from these origins (scheme, host and port) may use the route: handshakes and plain requests with another Origin are rejected with 403. `https://*.` stands for exactly one label; apps have schemes of their own, such as `capacitor://localhost`. An empty list allows any origin.",
        )
        .shown(r#"origins = ["https://chat.example.com", "https://*.example.com", "capacitor://localhost"]"#),
        key(
            "origins_required",
            ValueKind::Bool,
            "false",
            "If `true`, handshakes without an `Origin` header are rejected with 403.",
        )
        .shown(
            r#"origins = ["https://chat.example.com"]
origins_required = true"#,
        ),
        key(
            "allow",
            NETS,
            "[]",
            "Only clients with these addresses or networks may use the route; others are rejected with 403. An empty list allows any client.",
        )
        .shown(r#"allow = ["10.0.0.0/8", "2001:db8::/32"]"#),
        key(
            "deny",
            NETS,
            "[]",
            "Clients with these addresses or networks are rejected with 403, even if `allow` lists them.",
        )
        .shown(r#"deny = ["10.0.0.66"]"#),
        key(
            "client_certificate",
            ValueKind::AnyOf(&[
                ValueKind::OneOf(&["off", "required"]),
                ValueKind::Table(&CLIENT_CERTIFICATE),
            ]),
            "\"off\"",
            "With `required` or a table, requests on connections without a client certificate are rejected with 403, and so are those whose certificate is not one that the table describes.",
        )
        .shown(r#"client_certificate = { san = ["spiffe://prod/*"] }"#),
        key(
            "auth",
            ValueKind::Text,
            "",
            "Requests must prove who their client is, as `[auth.NAME]` with this name says; plain requests as well as handshakes.",
        )
        .shown(r#"auth = "players""#),
        key(
            "require",
            ValueKind::Pairs(&NAMES),
            "{}",
            "The identity that `auth` has established must have each of these claims, with one of the values listed; other requests are rejected with 403 `claim-denied`. A dot leads into an object, as in `\"realm_access.roles\"`.",
        )
        .shown(
            r#"auth = "players"
require = { role = ["player"] }"#,
        ),
        optional_table("rewrite", &REWRITE),
        key(
            "request_headers",
            ValueKind::Table(&HEADER_CHANGES),
            "{}",
            "These settings change the request headers that endpoints receive.",
        ),
        key(
            "response_headers",
            ValueKind::Table(&HEADER_CHANGES),
            "{}",
            "These settings change the response headers of endpoints, the 101 included, before clients receive them.",
        ),
        key(
            "compression",
            ValueKind::OneOf(&["pass", "strip"]),
            "\"pass\"",
            "`pass` forwards a client's offer to compress messages; `strip` removes it, so that messages are not compressed.",
        )
        .shown(r#"compression = "strip""#),
        optional_table("probe", &probe::PROBE),
    ],
};

const TIMEOUTS: KeyTable = KeyTable {
    doc: "These timeouts apply to the tunnels of the route, and to its streams.",
    keys: &[
        key(
            "idle",
            DURATION_OR_OFF,
            "\"10m\"",
            "A tunnel is closed if no bytes pass in either direction for this long.",
        )
        .shown(r#"idle = "1h""#),
        key(
            "half_closed",
            DURATION_OR_OFF,
            "\"10s\"",
            "After one side has ended its stream, or both have sent a Close, the tunnel is closed if nothing comes for this long.",
        )
        .shown(r#"half_closed = "30s""#),
        key(
            "max_age",
            DURATION_OR_OFF,
            "\"off\"",
            "A tunnel is closed when it reaches this age.",
        )
        .shown(r#"max_age = "12h""#),
        key(
            "max_age_jitter",
            FRACTION,
            "0.2",
            "`max_age` is shortened for each tunnel by a random part of up to this fraction, so that tunnels that opened together do not reconnect together; with `0`, it is not shortened. The same applies to `stream_max_age`.",
        ),
        key(
            "stream_idle",
            DURATION_OR_OFF,
            "\"off\"",
            "A stream, which is a plain request that has lasted longer than three seconds, is ended if no bytes pass in either direction for this long.",
        )
        .shown(r#"stream_idle = "5m""#),
        key(
            "stream_max_age",
            DURATION_OR_OFF,
            "\"off\"",
            "A stream, which is a plain request that has lasted longer than three seconds, is ended when it reaches this age.",
        )
        .shown(r#"stream_max_age = "1h""#),
        key(
            "ping",
            DURATION_OR_OFF,
            "\"off\"",
            "tidegate sends a Ping to a side that has sent nothing for this long. This disables the default of `idle`; an `idle` that is set explicitly still applies.",
        )
        .shown(r#"ping = "25s""#),
        key(
            "pong",
            DURATION,
            "\"20s\"",
            "A side that sends neither a Pong nor anything else within this time after a Ping counts as dead, and its tunnel is closed.",
        )
        .shown(r#"pong = "10s""#),
    ],
};

const LIMITS: KeyTable = KeyTable {
    doc: "These limits apply to the tunnels and to the plain HTTP requests of the route.",
    keys: &[
        key(
            "tunnels",
            COUNT,
            "",
            "The route carries at most this many tunnels at once and rejects further handshakes with 503. By default, there is no limit.",
        )
        .shown("tunnels = 50_000"),
        key(
            "shared",
            NAMES,
            "[]",
            "Requests of the route count towards the limits with these names (`[limit.NAME]`), together with those of all other routes that name them.",
        )
        .shown(r#"shared = ["per-client"]"#),
        key(
            "body_bytes",
            SIZE,
            "",
            "The maximum size of the body of a plain HTTP request. A larger one is rejected with 413. If the endpoint has already begun its response, the connection is closed in the middle of the response instead, which is logged and counted with the same reason. By default, there is no limit.",
        )
        .shown(r#"body_bytes = "1MiB""#),
        key(
            "message_bytes",
            SIZE,
            "",
            "A message may have at most this size, in either direction; a longer one closes the tunnel with 1009. By default, there is no limit.",
        )
        .shown(r#"message_bytes = "1MiB""#),
        key(
            "messages_per_second",
            COUNT,
            "",
            "The maximum number of messages per second from a client, and the size of a burst. A client that exceeds it is closed with 1008. These count as a message, too: an empty fragment, every 64 fragments of less than 1 KiB, and a control frame, except a Close or the Pong that answers a Ping. The last fragment of a message never counts separately. By default, there is no limit.",
        )
        .shown("messages_per_second = 100"),
        optional_table("bytes_per_second", &BYTES_PER_SECOND),
        key(
            "slow_reader",
            DURATION_OR_OFF,
            "\"off\"",
            "A tunnel is closed if one of its sides accepts no data for this long while data is waiting for it. If the endpoint is the slow side, the client receives 1008; a slow client receives no Close frame.",
        )
        .shown(r#"slow_reader = "30s""#),
    ],
};

const BYTES_PER_SECOND: KeyTable = KeyTable {
    doc: "A client may send bytes at this rate, and as many in one burst as in one second. By default, there is no limit.",
    keys: &[
        key(
            "rate",
            SIZE,
            "",
            "A client may send at most this many bytes per second, and as many in one burst.",
        )
        .shown(r#"rate = "256KiB""#)
        .instead_of_zero("for no limit, leave `bytes_per_second` out")
        .required(),
        key(
            "action",
            ValueKind::OneOf(&["throttle", "close"]),
            "\"throttle\"",
            "When a client exceeds the rate, `throttle` reads from it more slowly, and `close` closes the tunnel with 1008.",
        )
        .shown(
            r#"rate = "256KiB"
action = "close""#,
        ),
    ],
};

const CLIENT_CERTIFICATE: KeyTable = KeyTable {
    doc: "The client certificates that a route admits, of those that a CA of the listener has issued. A certificate must meet all of these conditions.",
    keys: &[
        key(
            "san",
            NAMES,
            "[]",
            "One of the certificate's subject alternative names (DNS names, URIs, e-mail addresses) must be one of these; `*` at the end of a name stands for any rest.",
        )
        .shown(r#"san = ["spiffe://prod/*", "ops@example.com"]"#),
        key(
            "subject",
            NAMES,
            "[]",
            "The certificate's subject must be one of these, in the form that the log and `${client_certificate_subject}` have.",
        )
        .shown(r#"subject = ["CN=alice,O=Example"]"#),
    ],
};

const REWRITE: KeyTable = KeyTable {
    doc: "These settings change the path that endpoints receive, and the paths in their responses.",
    keys: &[
        key(
            "strip_prefix",
            ValueKind::Path,
            "",
            "tidegate removes this prefix from the path. The route's own `path` or `path_prefix` must begin with it.",
        )
        .shown(r#"strip_prefix = "/socket.io""#),
        key(
            "add_prefix",
            ValueKind::Path,
            "",
            "tidegate puts this prefix in front of the path, after it has removed `strip_prefix`.",
        )
        .shown(r#"add_prefix = "/v1""#),
        key(
            "restore_prefix",
            ValueKind::Bool,
            "true",
            "If `true`, a path of the endpoint that a response names in `Location`, `Content-Location` or as the path of a cookie gets `strip_prefix` back, in place of `add_prefix`; a path that has it already, other hosts, cookies for `/`, and other headers such as `Link` and `Refresh` stay as they are. If `false`, responses pass unchanged.",
        )
        .shown(
            r#"strip_prefix = "/socket.io"
restore_prefix = false"#,
        ),
    ],
};

const HEADER_CHANGES: KeyTable = KeyTable {
    doc: "These settings change headers.",
    keys: &[
        key(
            "set",
            ValueKind::Pairs(&ValueKind::Template),
            "{}",
            "tidegate sets these headers to these values and replaces existing ones; variables such as `${client_address}` stand for properties of the request.",
        )
        .shown(r#"set = { x-env = "prod", x-real-ip = "${client_address}" }"#),
        key(
            "remove",
            HEADERS,
            "[]",
            "tidegate removes these headers.",
        )
        .shown(r#"remove = ["x-debug"]"#),
    ],
};
