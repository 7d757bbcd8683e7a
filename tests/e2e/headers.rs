//! Changes to heads: paths, header fields, compression offers, request ids.

use crate::harness::endpoint::Endpoint;
use crate::harness::proxy::{Proxy, settings};
use crate::harness::wire::{HANDSHAKE, Head, SWITCH, handshake_with};

async fn start(server: &str, listener: &str, route: &str) -> (Endpoint, Proxy) {
    let endpoint = Endpoint::bind().await;
    let config = settings(&[endpoint.address], listener, route);
    let server = format!("[server]\nworkers = 2\nlog.format = \"json\"\n{server}\n");
    let proxy = Proxy::start(&(server + &config)).await;
    (endpoint, proxy)
}

/// The head that the endpoint gets for a plain request, and the head of the response at the client.
async fn plain(endpoint: &Endpoint, proxy: &Proxy, target: &str, fields: &str) -> (Head, Head) {
    let mut client = proxy.connect().await;
    client
        .send(format!(
            "GET {target} HTTP/1.1\r\nHost: A.example.com:8080\r\n{fields}\r\n"
        ))
        .await;
    let (mut wire, request) = endpoint.request().await;
    wire.send("HTTP/1.1 200 OK\r\nServer: old\r\nX_Powered_By: y\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n")
        .await;
    (request, client.head().await)
}

/// The same for a handshake.
async fn handshake(endpoint: &Endpoint, proxy: &Proxy, fields: &str) -> (Head, Head) {
    let mut client = proxy.connect().await;
    client.send(handshake_with(fields)).await;
    let (mut wire, request) = endpoint.request().await;
    let answer = SWITCH.replace(
        "\r\n\r\n",
        "\r\nServer: old\r\nX_Powered_By: y\r\nX-Kept: 1\r\n\r\n",
    );
    wire.send(answer).await;
    (request, client.head().await)
}

#[tokio::test]
async fn header_fields_are_set_and_removed_in_both_directions() {
    let route = r#"
        request_headers.set.x-env = "prod"
        request_headers.set.x-from = "${client_address} ${host} ${scheme} ${uri} ${listener}/${route}"
        request_headers.set.x-real-ip = "${client_address}"
        request_headers.set.x-tls = "${tls_version}${client_certificate_subject}"
        request_headers.remove = ["x-debug", "cookie", "x-forwarded-host"]
        response_headers.set.server = "tidegate"
        response_headers.set.x-room = "${uri}"
        response_headers.remove = ["x-powered-by"]
    "#;
    let (endpoint, proxy) = start("", "", route).await;
    let lies = "X-Env: lie\r\nX_Env: lie\r\nX-Real-IP: 6.6.6.6\r\nX-Tls: lie\r\n\
        X-Debug: 1\r\nx_debug: 1\r\nCookie: a=b\r\nX-Kept: 1\r\n";
    let of_plain = plain(&endpoint, &proxy, "/r?x=1", lies).await;
    let of_handshake = handshake(&endpoint, &proxy, lies).await;
    for ((request, reply), from, room) in [
        (
            of_plain,
            "127.0.0.1 a.example.com http /r?x=1 main/main",
            "/r?x=1",
        ),
        (
            of_handshake,
            "127.0.0.1 chat.example.com http /chat main/main",
            "/chat",
        ),
    ] {
        assert_eq!(request.value("x-env"), Some("prod"));
        assert_eq!(request.value("x-from"), Some(from));
        assert_eq!(request.value("x-real-ip"), Some("127.0.0.1"));
        assert_eq!(request.value("x-kept"), Some("1"));
        for gone in [
            "x_env",
            "x-tls",
            "x-debug",
            "x_debug",
            "cookie",
            "x-forwarded-host",
        ] {
            assert_eq!(request.value(gone), None, "{gone}");
        }
        assert_eq!(reply.value("server"), Some("tidegate"));
        assert_eq!(reply.value("x-room"), Some(room));
        assert_eq!(reply.value("x-kept"), Some("1"));
        assert_eq!(reply.value("x_powered_by"), None);
    }
}

#[tokio::test]
async fn paths_are_rewritten_and_nothing_else_of_the_target() {
    let route = "path_prefix = \"/api\"\n\
        rewrite = { strip_prefix = \"/api\", add_prefix = \"/v1\" }\n";
    let (endpoint, proxy) = start("", "", route).await;
    for (target, expected) in [
        (
            "/api/rooms?next=/api/x",
            "GET /v1/rooms?next=/api/x HTTP/1.1",
        ),
        ("/api", "GET /v1 HTTP/1.1"),
        ("/api/?q", "GET /v1/?q HTTP/1.1"),
        ("/api/%7Euser/a%2Fb", "GET /v1/%7Euser/a%2Fb HTTP/1.1"),
        ("http://a.example.com:8080/api/x", "GET /v1/x HTTP/1.1"),
    ] {
        let (request, _) = plain(&endpoint, &proxy, target, "").await;
        assert_eq!(request.start(), expected);
    }
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE.replace("/chat", "/api/chat")).await;
    let (_wire, request) = endpoint.request().await;
    assert_eq!(request.start(), "GET /v1/chat HTTP/1.1");
    // The route matches, but the prefix is encoded differently and cannot be stripped.
    let mut client = proxy.connect().await;
    client
        .send("GET /%61pi/rooms HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (400, Some("path-prefix"))
    );
    let mut client = proxy.connect().await;
    client.send("GET /apis HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 404);
}

/// The head that a client gets if the endpoint answers with these fields.
async fn answered(endpoint: &Endpoint, proxy: &Proxy, request: &str, answer: &str) -> Head {
    let mut client = proxy.connect().await;
    client.send(request).await;
    let (mut wire, _) = endpoint.request().await;
    wire.send(answer).await;
    client.head().await
}

#[tokio::test]
async fn a_stripped_prefix_is_put_back_where_a_response_names_a_path() {
    let rewrite = "path_prefix = \"/api\"\nrewrite.strip_prefix = \"/api\"\n";
    let get = "GET /api/rooms HTTP/1.1\r\nHost: A.example.com:8080\r\n\r\n";
    let fields = "Location: http://a.example.com:8080/login?next=/a\r\nContent-Location: /rooms/1\r\n\
        Set-Cookie: a=1; Path=/; HttpOnly\r\nSet-Cookie: b=2; Path=/rooms\r\n\
        Set-Cookie: c=3; Path=/api/x\r\nX-Path: /rooms\r\n";
    let found = format!("HTTP/1.1 302 Found\r\n{fields}Content-Length: 0\r\n\r\n");
    let switch = SWITCH.replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
    let handshake = HANDSHAKE.replace("/chat", "/api/chat");
    let (endpoint, proxy) = start("", "", rewrite).await;
    let head = answered(&endpoint, &proxy, get, &found).await;
    let location = "http://a.example.com:8080/api/login?next=/a";
    assert_eq!(head.value("location"), Some(location));
    assert_eq!(head.value("content-location"), Some("/api/rooms/1"));
    let cookies = [
        "a=1; Path=/; HttpOnly",
        "b=2; Path=/api/rooms",
        "c=3; Path=/api/x",
    ];
    assert_eq!(head.values("set-cookie"), cookies);
    assert_eq!(head.value("x-path"), Some("/rooms"));
    // The cookies of a 101, and a response in place of one.
    let head = answered(&endpoint, &proxy, &handshake, &switch).await;
    assert_eq!(
        (head.status(), head.values("set-cookie")),
        (101, cookies.to_vec())
    );
    let found = found.replace("http://a.example.com:8080", "");
    let head = answered(&endpoint, &proxy, &handshake, &found).await;
    assert_eq!(head.value("location"), Some("/api/login?next=/a"));
    // The endpoint's own name is of no use to the client.
    let own = "preserve_host = false\nresponse_headers.set.x-path = \"/set\"\n";
    let (endpoint, proxy) = start("", "", &format!("{own}{rewrite}")).await;
    let found = found.replace(
        "Location: ",
        &format!("Location: http://{}", endpoint.address),
    );
    let head = answered(&endpoint, &proxy, get, &found).await;
    assert_eq!(head.value("location"), Some("/api/login?next=/a"));
    assert_eq!(head.value("x-path"), Some("/set"));
    // Not where the route says so.
    let kept = format!("{rewrite}rewrite.restore_prefix = false\n");
    let (endpoint, proxy) = start("", "", &kept).await;
    let head = answered(
        &endpoint,
        &proxy,
        get,
        "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(head.value("location"), Some("/login"));
}

#[tokio::test]
async fn compression_offers_can_be_removed() {
    let (endpoint, proxy) = start("", "", "compression = \"strip\"\n").await;
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-foo; a=\"1, 2\"\r\n\
        Sec-WebSocket-Extensions: Permessage-Deflate\r\n";
    let (request, reply) = handshake(&endpoint, &proxy, offer).await;
    assert_eq!(
        request.value("sec-websocket-extensions"),
        Some("x-foo; a=\"1, 2\"")
    );
    assert_eq!(reply.status(), 101);
    // An endpoint that agrees to compression anyway violates the protocol.
    let mut client = proxy.connect().await;
    client.send(handshake_with(offer)).await;
    let (mut wire, _) = endpoint.request().await;
    wire.send(SWITCH.replace(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    ))
    .await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (502, Some("bad-switch"))
    );
}

/// The only request id that the endpoint gets, whatever the case of its name.
fn id(head: &Head) -> String {
    assert_eq!(head.value("x_request_id"), None);
    head.value("x-request-id").unwrap().to_owned()
}

#[tokio::test]
async fn an_untrusted_client_cannot_choose_the_request_id() {
    let server = "request_id = \"x-request-id\"";
    let (endpoint, proxy) = start(server, "", "").await;
    let lies = "X-Request-Id: chosen\r\nX_Request_Id: chosen\r\n";
    let (of_plain, _) = plain(&endpoint, &proxy, "/", lies).await;
    let (of_handshake, _) = handshake(&endpoint, &proxy, lies).await;
    assert_eq!(proxy.logged("request").await["session"], id(&of_plain));
    assert_eq!(
        proxy.logged("tunnel opened").await["session"],
        id(&of_handshake)
    );
    assert_ne!(id(&of_plain), id(&of_handshake));
}

#[tokio::test]
async fn the_id_of_a_trusted_proxy_is_passed_on_and_logged() {
    let server = "request_id = \"x-request-id\"";
    let (endpoint, proxy) = start(server, "trusted_proxies = [\"127.0.0.1\"]", "").await;
    let given = "X-Request-Id: 7f3c-1\r\nX_Request_Id: other\r\n";
    let (request, _) = plain(&endpoint, &proxy, "/", given).await;
    assert_eq!(id(&request), "7f3c-1");
    let (request, _) = handshake(&endpoint, &proxy, given).await;
    assert_eq!(id(&request), "7f3c-1");
    assert_eq!(proxy.logged("request").await["request_id"], "7f3c-1");
    assert_eq!(proxy.logged("tunnel opened").await["request_id"], "7f3c-1");
    // An invalid id is replaced.
    for wrong in ["two words", "", "a\r\nX-Request-Id: b"] {
        let fields = format!("X-Request-Id: {wrong}\r\n");
        let (request, _) = plain(&endpoint, &proxy, "/", &fields).await;
        assert_eq!(id(&request).len(), 16, "{wrong:?}");
    }
}

/// A field that is not allowed in the head is not allowed in the trailers either.
#[tokio::test]
async fn trailers_cannot_carry_removed_fields() {
    let route = "request_headers.remove = [\"x-debug\"]\n";
    let (endpoint, proxy) = start("request_id = \"x-request-id\"", "", route).await;
    let names = "X-Forwarded-For, X_Forwarded_For, X-Request-Id, X-Debug, X_Debug, Cookie, X-Sum";
    let trailers: String = names
        .split(", ")
        .map(|name| format!("{name}: 1\r\n"))
        .collect();
    let mut client = proxy.connect().await;
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: {names}\r\n\r\n\
             1\r\nx\r\n0\r\n{trailers}\r\n"
        ))
        .await;
    let (mut wire, _) = endpoint.request().await;
    assert_eq!(wire.chunk().await.unwrap(), b"x");
    assert!(wire.chunk().await.is_none());
    assert_eq!(wire.line().await.to_ascii_lowercase(), "x-sum: 1");
    assert_eq!(wire.line().await, "");
}
