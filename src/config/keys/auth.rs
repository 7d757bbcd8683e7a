//! `[auth.NAME]`.

use super::{
    COUNT, DURATION, DURATION_OR_OFF, DURATION_OR_ZERO, KeyTable, NAMES, ValueKind, key,
    optional_table,
};

const FIELDS: ValueKind = ValueKind::List(&ValueKind::Header);

pub(super) const AUTH: KeyTable = KeyTable {
    doc: "A way to establish the identity of clients, which routes refer to with `auth`. It is one of `service` and `jwt`.",
    keys: &[
        optional_table("service", &SERVICE),
        optional_table("jwt", &JWT),
        key(
            "preflight",
            ValueKind::OneOf(&["refuse", "pass"]),
            "\"refuse\"",
            "Browsers send CORS preflight requests without credentials: with `pass`, such requests pass without one.",
        ),
        key(
            "spread",
            DURATION_OR_ZERO,
            "\"30s\"",
            "Tunnels end at a random time within this span before their credential expires, so that clients do not come back all at once; with `0s`, when it expires.",
        ),
        key(
            "recheck",
            DURATION_OR_OFF,
            "\"off\"",
            "The service is asked again about each open tunnel once in this interval. Only a 401 or 403 ends the tunnel; a service that fails ends none.",
        )
        .shown(
            r#"service = { upstream = "authelia", path = "/api/authz/forward-auth" }
recheck = "60s""#,
        ),
    ],
};

const SERVICE: KeyTable = KeyTable {
    doc: "An HTTP service decides about each request. It gets a GET request with `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For`, and the headers of `request_headers`. A 2xx response admits the request; the client gets any other response.",
    keys: &[
        key(
            "upstream",
            ValueKind::Text,
            "",
            "The service is the upstream with this name.",
        )
        .shown(r#"upstream = "authelia""#)
        .required(),
        key(
            "path",
            ValueKind::Text,
            "\"/\"",
            "Requests to the service have this path and query.",
        )
        .shown(
            r#"upstream = "authelia"
path = "/api/authz/forward-auth""#,
        ),
        key(
            "request_headers",
            FIELDS,
            "[\"cookie\", \"authorization\"]",
            "The service gets these headers of the client's request, and no others.",
        )
        .shown(
            r#"upstream = "authelia"
request_headers = ["cookie", "authorization", "x-api-key"]"#,
        ),
        key(
            "response_headers",
            FIELDS,
            "[]",
            "Endpoints get these headers of the service's 2xx response, which are also the claims of the identity. What clients send under these names, in any spelling, is removed, also if the service sends no such header, and on every route that shares an upstream with one that refers to this service.",
        )
        .shown(
            r#"upstream = "authelia"
response_headers = ["remote-user", "remote-groups"]"#,
        ),
        key(
            "subject_header",
            ValueKind::Header,
            "",
            "This one of `response_headers` names the user: it becomes the subject of the identity, and the claim `sub`.",
        )
        .shown(
            r#"upstream = "authelia"
response_headers = ["remote-user"]
subject_header = "remote-user""#,
        ),
        key(
            "client_headers",
            FIELDS,
            "[\"location\", \"set-cookie\", \"www-authenticate\"]",
            "If the service refuses, the client gets these headers of its response, with its status code and body, and those that describe the body.",
        )
        .shown(
            r#"upstream = "authelia"
client_headers = ["location", "set-cookie"]"#,
        ),
        key(
            "timeout",
            DURATION,
            "\"2s\"",
            "A request to the service fails if it takes longer than this.",
        )
        .shown(
            r#"upstream = "authelia"
timeout = "1s""#,
        ),
        key(
            "at_once",
            COUNT,
            "64",
            "Each worker has at most this many requests to the service under way. As many others wait; the rest is rejected with 503 `auth-busy`.",
        )
        .shown(
            r#"upstream = "authelia"
at_once = 16"#,
        ),
        key(
            "on_error",
            ValueKind::OneOf(&["deny", "allow"]),
            "\"deny\"",
            "If the service does not respond, or responds with a 5xx status code, requests are rejected with 503 `auth-unavailable`; with `allow`, they pass without an identity, and each worker warns.",
        )
        .shown(
            r#"upstream = "authelia"
on_error = "allow""#,
        ),
        key(
            "cache",
            DURATION_OR_OFF,
            "\"off\"",
            "A 2xx, 401 or 403 response of the service holds this long for requests that look the same to it, on the same worker.",
        )
        .shown(
            r#"upstream = "authelia"
cache = "5s""#,
        ),
    ],
};

const JWT: KeyTable = KeyTable {
    doc: "Requests carry a signed token (JWT, RFC 7519) that the issuer made. It must name the issuer, the audience and the time at which it expires.",
    keys: &[
        key(
            "issuer",
            ValueKind::Text,
            "",
            "Tokens must have this `iss`.",
        )
        .shown(EXAMPLE)
        .required(),
        key(
            "audience",
            NAMES,
            "",
            "Tokens must have one of these in `aud`.",
        )
        .shown(EXAMPLE)
        .required(),
        key(
            "jwks_url",
            ValueKind::Text,
            "",
            "The issuer publishes its keys (JWKS, RFC 7517) at this `https` URL. It excludes `jwks_file` and `secret_file`.",
        )
        .shown(EXAMPLE),
        key(
            "ca",
            ValueKind::File,
            "",
            "The certificate of the server of `jwks_url` must be issued by one of the CA certificates in this PEM file; without this key, by one that the operating system trusts.",
        )
        .shown(
            r#"issuer = "https://id.example.com"
audience = ["chat"]
jwks_url = "https://id.internal/keys"
ca = "internal.pem""#,
        ),
        key(
            "jwks_file",
            ValueKind::File,
            "",
            "The keys (JWKS, RFC 7517) are in this file. It excludes `jwks_url` and `secret_file`.",
        )
        .shown(
            r#"issuer = "https://id.example.com"
audience = ["chat"]
jwks_file = "keys.json""#,
        ),
        key(
            "secret_file",
            ValueKind::File,
            "",
            "Tokens are signed with the secret in this file, of at least 32 bytes, by HS256, HS384 or HS512. It excludes `jwks_url` and `jwks_file`.",
        )
        .shown(
            r#"issuer = "https://id.example.com"
audience = ["chat"]
secret_file = "tokens.key""#,
        ),
        key(
            "leeway",
            DURATION_OR_ZERO,
            "\"5s\"",
            "The issuer's clock may be ahead of this machine's by this much: a token is valid this long before its `nbf` and its `iat`. With `0s`, not at all. It does not prolong a token.",
        )
        .shown(
            r#"issuer = "https://id.example.com"
audience = ["chat"]
jwks_url = "https://id.example.com/keys"
leeway = "30s""#,
        ),
        key(
            "from",
            ValueKind::List(&ValueKind::Table(&SOURCE)),
            "[{ header = \"authorization\" }]",
            "Requests carry the token in one of these places. A request with two different tokens is rejected.",
        )
        .shown(
            r#"issuer = "https://id.example.com"
audience = ["chat"]
jwks_url = "https://id.example.com/keys"
from = [{ header = "authorization" }, { subprotocol_after = "bearer" }]"#,
        ),
    ],
};

const EXAMPLE: &str = r#"issuer = "https://id.example.com"
audience = ["chat"]
jwks_url = "https://id.example.com/keys""#;

const SOURCE: KeyTable = KeyTable {
    doc: "A place in requests where a token may be. Exactly one key is set.",
    keys: &[
        key(
            "header",
            ValueKind::Text,
            "",
            "The token is the value of this header; in `authorization`, behind `Bearer`.",
        )
        .shown(r#"header = "authorization""#),
        key(
            "cookie",
            ValueKind::Text,
            "",
            "The token is the value of this cookie.",
        )
        .shown(r#"cookie = "token""#),
        key(
            "query",
            ValueKind::Text,
            "",
            "The token is the value of this query parameter, which is removed from what endpoints get.",
        )
        .shown(r#"query = "access_token""#),
        key(
            "subprotocol_after",
            ValueKind::Token,
            "",
            "The token is the subprotocol that the client offers next after this one. Both are removed from what endpoints get; if the endpoint selects no subprotocol, the client gets this one.",
        )
        .shown(r#"subprotocol_after = "bearer""#),
        key(
            "subprotocol_prefix",
            ValueKind::Token,
            "",
            "The token is the rest of a subprotocol that begins with this. It is removed from what endpoints get.",
        )
        .shown(r#"subprotocol_prefix = "token.""#),
    ],
};
