//! Long inputs for every check: what an attacker would send to make a parser work hard.
//!
//! Fuzzers hardly find these, because their inputs are short. Each case makes inputs of any length that
//! differ in nothing but their length, so that `tests/growth.rs` sees how the work grows.

/// A kind of long input.
pub(crate) struct Case {
    /// The check in `fuzz/checks` that reads it.
    pub(crate) check: &'static str,
    /// What is long.
    pub(crate) name: &'static str,
    /// An input of about this many bytes.
    pub(crate) make: fn(usize) -> Vec<u8>,
}

/// The most lines that a head may have, and some of them are taken by what every head has.
const LINES: usize = 88;

/// Every kind of long input.
pub(crate) const CASES: &[Case] = &[
    case("request", "escaped-escapes", |n| {
        get(&path("/%", "25", "41", n), &[])
    }),
    case("request", "escaped-dots", |n| {
        get(&path("/a%", "25", "2e/", n), &[])
    }),
    case("request", "escaped-bytes", |n| {
        get(&path("/", "%C3%A9", "", n), &[])
    }),
    case("request", "slashes", |n| get(&path("/", "/", "", n), &[])),
    case("request", "segments", |n| {
        get(&path("/a", "/a", "", n), &[])
    }),
    case("request", "escaped-slashes", |n| {
        get(&path("/a", "%2f", "", n), &[])
    }),
    case("request", "escaped-backslashes", |n| {
        get(&path("/a/", "%25", "5Cb", n), &[])
    }),
    case("request", "brackets", |n| get(&path("/", "[", "", n), &[])),
    case("request", "path-parameters", |n| {
        get(&path("/a", ";", "", n), &[])
    }),
    case("request", "query", |n| {
        get(&path("/rooms?room", "=9&room", "", n), &[])
    }),
    case("request", "query-names", |n| {
        get(&format!("/rooms?{}", numbered("&k", "", n)), &[])
    }),
    case("request", "escaped-query", |n| {
        get(&path("/rooms?", "%61", "=1", n), &[])
    }),
    case("request", "cookies", |n| {
        get("/", &[field("Cookie", fill("a=1; ", n))])
    }),
    case("request", "semicolons", |n| {
        get("/", &[field("Cookie", fill(";", n))])
    }),
    case("request", "cookie-lines", |n| {
        get("/", &lines("Cookie", "a=1; ", n))
    }),
    case("request", "origin", |n| {
        get("/", &[field("Origin", path("https://a", ".a", "", n))])
    }),
    case("request", "origin-labels", |n| {
        get(
            "/",
            &[field(
                "Origin",
                path("https://", "a.", "chat.example.com", n),
            )],
        )
    }),
    case("request", "trace", |n| {
        get("/", &[field("traceparent", path("00", "-0", "", n))])
    }),
    case("request", "variants", |n| {
        get("/", &fields("x_forwarded_for-", n))
    }),
    case("request", "connection", |n| get("/", &connection(n))),
    case("request", "connection-names", |n| {
        get("/", &[field("Connection", numbered(", k", "", n))])
    }),
    case("request", "connection-lines", |n| {
        get("/", &lines("Connection", "a,", n))
    }),
    case("request", "codings", |n| {
        get("/", &[field("Transfer-Encoding", fill("chunked,", n))])
    }),
    case("credential", "query", |n| {
        get(&path("/?a", "&%74oken=t", "", n), &[])
    }),
    case("credential", "other-pairs", |n| {
        get(&format!("/?token=t{}", numbered("&k", "", n)), &[])
    }),
    case("credential", "token", |n| {
        get(&path("/?token=", "%41", "", n), &[])
    }),
    case("credential", "cookies", |n| {
        get("/", &[field("Cookie", fill("jwt=a; ", n))])
    }),
    case("credential", "bearers", |n| {
        get("/", &lines("Authorization", "Bearer a", n))
    }),
    case("credential", "offers", |n| {
        get(
            "/",
            &[field(
                SUBPROTOCOLS,
                format!("bearer,t{}", numbered(",p", "", n)),
            )],
        )
    }),
    case("credential", "marked-offers", |n| {
        get("/", &[field(SUBPROTOCOLS, fill("bearer,t,token.t,", n))])
    }),
    case("handshake", "connection", |n| handshake(&connection(n))),
    case("handshake", "names", |n| handshake(&fields("x-", n))),
    case("handshake", "values", |n| {
        handshake(&[field("X-A", fill("a", n))])
    }),
    case("handshake", "subprotocols", |n| {
        handshake(&[field(SUBPROTOCOLS, numbered(",p", "", n))])
    }),
    case("handshake", "extensions", |n| {
        handshake(&[field(EXTENSIONS, fill("a; b=\",\", ", n))])
    }),
    case("handshake", "compression", |n| {
        handshake(&[field(EXTENSIONS, fill("permessage-deflate,", n))])
    }),
    case("answer", "connection", |n| answer(&connection(n))),
    case("answer", "names", |n| answer(&fields("x-", n))),
    case("answer", "extensions", |n| {
        answer(&[field(EXTENSIONS, numbered(",e", "", n))])
    }),
    case("answer", "parameters", |n| {
        answer(&[field(EXTENSIONS, fill("permessage-deflate; a=1,", n))])
    }),
    case("forwarded", "commas", |n| fill(",", n).into()),
    case("forwarded", "proxies", |n| fill("10.0.0.1, ", n).into()),
    case("forwarded", "elements", |n| {
        fill("for=10.0.0.1;proto=https, ", n).into()
    }),
    case("forwarded", "pairs", |n| fill("a=b;", n).into()),
    case("forwarded", "quoted", |n| {
        path("for=\"", "\\\"", "\", for=10.0.0.1", n).into()
    }),
    case("forwarded", "spaces", |n| {
        path("for=10.0.0.1", " \t", "", n).into()
    }),
    case("load_report", "members", |n| numbered("k", ",", n).into()),
    case("load_report", "one-key", |n| fill("tunnels=1,", n).into()),
    case("load_report", "lines", |n| fill("drain\n", n).into()),
    case("load_report", "parameters", |n| {
        path("a", ";b=1", "", n).into()
    }),
    case("load_report", "inner-list", |n| {
        path("a=(", "1 ", ")", n).into()
    }),
    case("load_report", "string", |n| {
        path("a=\"", "\\\\", "\"", n).into()
    }),
    case("load_report", "display-string", |n| {
        path("a=%\"", "%c3%bc", "\"", n).into()
    }),
    case("load_report", "blanks", |n| path("a", " ", ",b", n).into()),
    case("proxy_header", "fields", |n| {
        proxy(&[0xee, 0, 1, 0].repeat(n / 4))
    }),
    case("proxy_header", "value", |n| proxy(&value(n))),
    case("proxy_header", "line", |n| {
        path("PROXY UNKNOWN ", "x", "", n).into()
    }),
    case("frame", "empty", |n| {
        stream(&[7], &[0x82, 0x80, 0, 0, 0, 0], n)
    }),
    case("frame", "pings", |n| {
        stream(&[7], &[0x89, 0x80, 0, 0, 0, 0], n)
    }),
    case("frame", "fragments", |n| {
        stream(&[7, 0x02, 0x80, 0, 0, 0, 0], &[0x00, 0x80, 0, 0, 0, 0], n)
    }),
    case("frame", "message", |n| {
        stream(&[7, 0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 0], &[0], n)
    }),
    case("forwarder", "single-bytes", |n| {
        steps(0, &[0x82, 0x80, 0, 0, 0, 0], 1, n)
    }),
    case("forwarder", "frames", |n| {
        steps(0, &[0x82, 0x80, 0, 0, 0, 0], 240, n)
    }),
    case("forwarder", "limited", |n| {
        steps(9, &[0x89, 0x80, 0, 0, 0, 0], 240, n)
    }),
    case("limits", "fragments", |n| stream(&[255, 255, 0], &[9], n)),
    case("limits", "behind-a-violation", |n| {
        stream(&[1, 255, 0, 16], &[3], n)
    }),
    case("limits", "reads", |n| {
        stream(&[255, 255, 255], &[0, 6, 4, 14], n)
    }),
    case("endpoint_cookie", "cookies", |n| {
        fill("server=a.1.b; ", n).into()
    }),
    case("endpoint_cookie", "name", |n| {
        path("server=", "a", ".1900000000.AAAA", n).into()
    }),
    case("endpoint_cookie", "dots", |n| {
        path("server=a", ".1", "", n).into()
    }),
    case("endpoint_cookie", "signature", |n| {
        path("server=a.1900000000.", "A", "", n).into()
    }),
    case("endpoint_map", "lines", |n| {
        numbered("room-", " game-1\n", n).into()
    }),
    case("endpoint_map", "twice", |n| fill("red game-1\n", n).into()),
    case("endpoint_map", "errors", |n| fill("?\n", n).into()),
    case("endpoint_map", "comments", |n| fill("#", n).into()),
    case("endpoint_map", "words", |n| {
        path("red", " a", "\n", n).into()
    }),
    case("endpoint_map", "escapes", |n| {
        path("/", "%41", " game-1\n", n).into()
    }),
    case("endpoint_map", "name", |n| {
        path("red ", "a", "\n", n).into()
    }),
    case("etcd_message", "items", |n| {
        let item = r#"{"key":"YQ==","value":"eA=="},"#;
        path(r#"{"kvs":["#, item, "{}]}", n).into()
    }),
    case("etcd_message", "events", |n| {
        let event = r#"{"type":"DELETE","kv":{"key":"YQ=="}},"#;
        path(r#"{"result":{"events":["#, event, "{}]}}", n).into()
    }),
    case("etcd_message", "value", |n| {
        path(r#"{"kvs":[{"key":"YQ==","value":""#, "AAAA", "\"}]}", n).into()
    }),
    case("etcd_message", "number", |n| {
        path(r#"{"count":""#, "1", "\"}", n).into()
    }),
    case("etcd_message", "nesting", |n| fill("[", n).into()),
    case("etcd_message", "drains", |n| {
        path(
            r#"{"node":"edge-1","instance":"a","drains":["#,
            "\"a\",",
            "\"\"]}",
            n,
        )
        .into()
    }),
    case("endpoint_slices", "endpoints", |n| {
        let endpoints = numbered(r#"{"addresses":["10.0.0.1"],"weight":"#, "},", n);
        slices(r#""name":"ws","port":9000"#, &endpoints)
    }),
    case("endpoint_slices", "addresses", |n| {
        slices(r#""name":"ws","port":9000"#, &addressed(n))
    }),
    case("endpoint_slices", "ports", |n| {
        let ports = path(
            r#""port":1},"#,
            r#"{"name":"ws","port":1},"#,
            r#"{"port":2"#,
            n,
        );
        slices(&ports, r#"{"addresses":["10.0.0.1"]},"#)
    }),
    case("endpoint_slices", "other-ports", |n| {
        let ports = numbered(r#""port":1},{"name":"a"#, r#"","#, n) + r#""port":2"#;
        slices(&ports, r#"{"addresses":["10.0.0.1"]},"#)
    }),
    case("endpoint_slices", "slices", |n| {
        let unit = r#"{"metadata":{},"addressType":"IPv4"},"#;
        path(
            r#"{"metadata":{},"items":["#,
            unit,
            r#"{"metadata":{}}]}"#,
            n,
        )
        .into()
    }),
    case("endpoint_slices", "events", |n| {
        let object = r#"","resourceVersion":"1"},"addressType":"IPv4"}}"#;
        let begin = "\n{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"";
        numbered(begin, object, n).into()
    }),
    case("endpoint_slices", "brackets", |n| fill("[", n).into()),
    case("endpoints_file", "lines", |n| {
        numbered("10.0.0.1:2", "\n", n).into()
    }),
    case("endpoints_file", "twice", |n| {
        fill("10.0.0.1:80\n", n).into()
    }),
    case("endpoints_file", "errors", |n| fill("?\n", n).into()),
    case("endpoints_file", "comments", |n| fill("#", n).into()),
    case("endpoints_file", "attributes", |n| {
        path("10.0.0.1:80", " backup", "\n", n).into()
    }),
    case("endpoints_file", "json", |n| {
        format!("[{}]", addresses(n)).into()
    }),
    case("endpoints_file", "brackets", |n| fill("[", n).into()),
    case("http2_head", "fields", |n| stream_head(&fields("x-", n))),
    case("http2_head", "lines", |n| {
        stream_head(&lines("x-a", "a", n))
    }),
    case("http2_head", "cookies", |n| {
        stream_head(&lines("cookie", "jwt=a; ", n))
    }),
    case("http2_head", "semicolons", |n| {
        stream_head(&[field("cookie", fill(";", n))])
    }),
    case("http2_head", "blanks", |n| {
        stream_head(&[field("x-a", path("a", " ", "", n))])
    }),
    case("http2_head", "protocols", |n| {
        stream_head(&lines("sec-websocket-protocol", "bearer,", n))
    }),
    case("http2_head", "path", |n| {
        path(
            ":method: GET\n:scheme: https\n:authority: a\n:path: /",
            "a/",
            "",
            n,
        )
        .into()
    }),
    case("http2_head", "response", |n| {
        head("HTTP/1.1 101 Switching Protocols", &fields("x-", n))
    }),
    case("http2_stream", "small-frames", |n| {
        stream(&[0x20 | 2], &[2, 4, 7, 0], n)
    }),
    case("http2_stream", "small-frames-taken-in", |n| {
        stream(&[0x20 | 2], &[2, 4, 19, 0], n)
    }),
    case("http2_stream", "body-taken-in", |n| {
        stream(&[2], &[2, 4, 19, 0], n)
    }),
    case("http2_stream", "body-read", |n| {
        stream(&[2], &[0, 40, 19, 0, 10, 0], n)
    }),
    case("http2_stream", "single-bytes-read", |n| {
        stream(&[0x20 | 2], &[0, 20, 19, 0, 10, 1], n)
    }),
    case("http2_stream", "small-window", |n| {
        stream(&[0x20], &[0, 200, 7, 0, 10, 200], n)
    }),
    case("http2_stream", "writes", |n| {
        stream(&[0x20 | 2 | 3 << 2], &[14, 40, 7, 0, 5, 3], n)
    }),
    case("http2_stream", "narrow-pipe", |n| {
        stream(&[0x30 | 2], &[0, 20, 18, 0, 19, 0], n)
    }),
    case("config", "routes", |n| {
        fill("[[route]]\nhosts = [\"a.b\"]\nupstream = \"a\"\n", n).into()
    }),
    case("config", "upstreams", |n| {
        numbered("[upstream.u", "]\nendpoints = [\"10.0.0.1:80\"]\n", n).into()
    }),
    case("config", "endpoints", |n| {
        format!("[upstream.a]\nendpoints = [{}]\n", addresses(n)).into()
    }),
    case("config", "unknown-keys", |n| {
        numbered("k", " = 1\n", n).into()
    }),
    case("config", "unknown-tables", |n| {
        numbered("[t", "]\nk = 1\n", n).into()
    }),
    case("config", "wrong-items", |n| {
        path("[[route]]\nmethods = [\n", "1,\n", "]\n", n).into()
    }),
    case("config", "broken-lines", |n| fill("a = = 1\n", n).into()),
    case("config", "broken-headers", |n| fill("[a\n", n).into()),
    case("config", "comments", |n| fill("# a\n", n).into()),
    case("config", "included-files", |n| {
        numbered(
            "\n#---\n[upstream.u",
            "]\nendpoints = [\"10.0.0.1:80\"]\n",
            n,
        )
        .into()
    }),
    case("config", "included-twice", |n| {
        fill("\n#---\n[upstream.u]\nendpoints = [\"10.0.0.1:80\"]\n", n).into()
    }),
    case("config", "brackets", |n| path("a = ", "[", "", n).into()),
    case("config", "escapes", |n| {
        path("a = \"", "\\t", "\"\n", n).into()
    }),
    case("tls_records", "no-record", |n| stream(&[14], b"GET ", n)),
    case("tls_records", "one-record", |n| {
        // As long as a record may be, and cut into single bytes.
        stream(b"\x00\x16\x03\x01\x40\x00\x01\x00\xf0\x00", b"a", n)
    }),
    case("tls_records", "fragments", |n| {
        let begin = b"\x04\x16\x03\x01\x00\x04\x01\x00\xf0\x00";
        stream(begin, b"\x16\x03\x01\x00\x01a", n)
    }),
    case("tls_records", "fragments-at-once", |n| {
        let begin = b"\x0e\x16\x03\x01\x00\x04\x01\x00\xf0\x00";
        stream(begin, b"\x16\x03\x01\x00\x01a", n)
    }),
];

const fn case(check: &'static str, name: &'static str, make: fn(usize) -> Vec<u8>) -> Case {
    Case { check, name, make }
}

const SUBPROTOCOLS: &str = "Sec-WebSocket-Protocol";
const EXTENSIONS: &str = "Sec-WebSocket-Extensions";

/// A header field.
type Field = (String, String);

fn field(name: &str, value: String) -> Field {
    (name.to_owned(), value)
}

/// `unit`, as often as fits.
fn fill(unit: &str, n: usize) -> String {
    unit.repeat(n / unit.len())
}

/// The same between a beginning and an end.
fn path(begin: &str, unit: &str, end: &str, n: usize) -> String {
    format!("{begin}{}{end}", fill(unit, n))
}

/// Units that differ in a number, which has four digits.
fn numbered(before: &str, after: &str, n: usize) -> String {
    let count = n / (before.len() + 4 + after.len());
    (0..count)
        .map(|number| format!("{before}{number:04}{after}"))
        .collect()
}

/// A list of addresses, in quotation marks.
fn addresses(n: usize) -> String {
    let list = numbered("\"10.0.0.1:2", "\",", n);
    list.trim_end_matches(',').to_owned()
}

/// More lines with more bytes; [`LINES`] at 4 KiB.
/// A list of one EndpointSlice with these members of its first port, and these endpoints.
fn slices(port: &str, endpoints: &str) -> Vec<u8> {
    format!(
        r#"{{"metadata":{{"resourceVersion":"1"}},"items":[{{"metadata":{{"name":"a"}},"addressType":"IPv4",
"ports":[{{{port}}}],"endpoints":[{endpoints}{{}}]}}]}}"#
    )
    .replace('\n', "")
    .into()
}

/// Endpoints of a slice, each with an address of its own, in about this many bytes.
fn addressed(n: usize) -> String {
    let mut text = String::new();
    let mut number = 0_u32;
    while text.len() < n {
        let address = std::net::Ipv4Addr::from_bits(0x0a00_0001 + number);
        text.push_str(&format!("{{\"addresses\":[\"{address}\"]}},"));
        number += 1;
    }
    text
}

fn line_count(n: usize) -> usize {
    (n * LINES / (4 << 10)).clamp(1, LINES)
}

/// More and longer lines of one field.
fn lines(name: &str, unit: &str, n: usize) -> Vec<Field> {
    let count = line_count(n);
    vec![field(name, fill(unit, n / count)); count]
}

/// More fields, whose long names differ at their ends only.
fn fields(prefix: &str, n: usize) -> Vec<Field> {
    let count = line_count(n);
    let long = fill("n", (n / count).saturating_sub(prefix.len() + 8));
    let field = |number| (format!("{prefix}{long}{number:02}"), "1".to_owned());
    (0..count).map(field).collect()
}

/// A long `Connection`, and many fields that it does not name.
fn connection(n: usize) -> Vec<Field> {
    let other = |number| (format!("x-{number}"), String::new());
    let mut lines: Vec<_> = (0..line_count(n)).map(other).collect();
    lines.push(field("Connection", fill("a,", n)));
    lines
}

fn head(first: &str, fields: &[Field]) -> Vec<u8> {
    let lines = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    format!("{first}\r\n{}\r\n", lines.collect::<String>()).into()
}

fn get(path: &str, fields: &[Field]) -> Vec<u8> {
    let host = field("Host", "a".to_owned());
    head(&format!("GET {path} HTTP/1.1"), &[&[host], fields].concat())
}

/// These fields of a handshake and some more.
fn with(own: &[(&str, &str)], fields: &[Field]) -> Vec<Field> {
    let own = own
        .iter()
        .map(|(name, value)| field(name, (*value).to_owned()));
    own.chain(fields.iter().cloned()).collect()
}

/// A head of HTTP/2 that asks for a WebSocket, as its check reads it.
fn stream_head(fields: &[Field]) -> Vec<u8> {
    let own = [
        (":method", "CONNECT"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/"),
        (":protocol", "websocket"),
        ("sec-websocket-version", "13"),
    ];
    let lines = with(&own, fields).into_iter();
    let lines: Vec<_> = lines
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    lines.join("\n").into()
}

fn handshake(fields: &[Field]) -> Vec<u8> {
    let own = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    get("/", &with(&own, fields))
}

fn answer(fields: &[Field]) -> Vec<u8> {
    let own = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ];
    head("HTTP/1.1 101 Switching Protocols", &with(&own, fields))
}

/// A PROXY header, version 2 over IPv4, with these fields behind the addresses.
fn proxy(fields: &[u8]) -> Vec<u8> {
    let length = (12 + fields.len()) as u16;
    let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11";
    let addresses = [10, 0, 0, 1, 10, 0, 0, 2, 0, 80, 0, 80];
    [&fixed[..], &length.to_be_bytes(), &addresses, fields].concat()
}

/// One long field of such a header.
fn value(n: usize) -> Vec<u8> {
    let length = (n as u16).to_be_bytes();
    [&[0xee], &length[..], &vec![0; n]].concat()
}

/// `unit` again and again behind a beginning.
fn stream(begin: &[u8], unit: &[u8], n: usize) -> Vec<u8> {
    [begin, &unit.repeat(n / unit.len())].concat()
}

/// The same as steps of the forwarder's check, with a limit and the most bytes of one step.
fn steps(limit: u8, unit: &[u8], most: usize, n: usize) -> Vec<u8> {
    let stream = stream(&[], unit, n);
    let step = |piece: &[u8]| [&[0, piece.len() as u8], piece].concat();
    let steps: Vec<_> = stream.chunks(most).map(step).collect();
    [&[0, limit], &steps.concat()[..]].concat()
}
