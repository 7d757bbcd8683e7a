//! What does the opening handshake cost? A request that hyper has parsed is validated and written to
//! the endpoint, and the response of the endpoint is parsed and validated.

use std::net::IpAddr;

use divan::{Bencher, black_box};
use http::request::Parts;
use tidegate::config::model::{HeaderChanges, Strictness};
use tidegate::protocol::edit::{Edit, TemplateValues};
use tidegate::protocol::forwarded::ForwardingFacts;
use tidegate::protocol::handshake::{Handshake, HandshakeRequest, Intent};
use tidegate::protocol::handshake_response::ResponseHead;
use tidegate::protocol::header_case::HeaderCase;
use tidegate::protocol::target::Target;

/// A handshake as Chromium sends it.
const HEAD: &str = "GET /realtime?room=7 HTTP/1.1\r\n\
    Host: chat.example.com\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://chat.example.com\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Cookie: sid=0123456789abcdef0123456789abcdef\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
    Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n";

const ANSWER: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n";

fn parts() -> Parts {
    let mut lines = HEAD.trim_end().lines();
    let uri = lines.next().unwrap().split(' ').nth(1).unwrap();
    let mut request = http::Request::get(uri);
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

fn handshake(parts: &Parts) -> Handshake<'_> {
    Intent::of(parts).handshake().unwrap().unwrap()
}

#[divan::bench]
fn request_check(bencher: Bencher<'_, '_>) {
    let parts = parts();
    bencher.bench_local(|| {
        black_box(handshake(black_box(&parts)));
        Target::of(&parts).unwrap()
    });
}

#[divan::bench]
fn request_write(bencher: Bencher<'_, '_>) {
    let parts = parts();
    let changes = HeaderChanges::default();
    let edit = Edit::new(&changes, &[], &TemplateValues::default());
    let mut out = Vec::with_capacity(2048);
    bencher.bench_local(|| {
        out.clear();
        HandshakeRequest {
            parts: black_box(&parts),
            origin_form: "/realtime?room=7",
            host: "chat.example.com",
            forwarding: ForwardingFacts {
                client: Some(IpAddr::from([192, 0, 2, 1])),
                is_known: true,
                proxies: &[],
                secure: true,
                host: Some("chat.example.com"),
                port: Some(443),
            },
            edit: &edit,
            compression: true,
            header_case: HeaderCase::of(HEAD.as_bytes()),
        }
        .write(&mut out);
        out.len()
    });
}

#[divan::bench]
fn answer_check(bencher: Bencher<'_, '_>) {
    let parts = parts();
    let handshake = handshake(&parts);
    bencher.bench_local(|| {
        let (answer, _) = ResponseHead::parse(black_box(ANSWER.as_bytes()))
            .unwrap()
            .unwrap();
        let switch = answer.check_switch(&handshake, Strictness::Strict).unwrap();
        switch.subprotocol().map(str::len)
    });
}
