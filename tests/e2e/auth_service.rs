//! A service that decides about requests: what it is asked, and what its responses do.

use crate::harness::guarded::{
    Guarded, LIES, NO_CONTENT, OK, get, handshake, lines, to_guarded, values,
};
use crate::harness::scrape::Scrape;
use crate::harness::wire::{SWITCH, handshake_with};

#[tokio::test]
async fn the_service_gets_a_get_with_the_chosen_fields_and_nothing_else() {
    let settings = "request_headers = [\"cookie\", \"authorization\", \"x-key\"]";
    let guarded = Guarded::start(settings, "", "").await;
    let credentials = "Cookie: a=1\r\nCookie: b=2\r\nAuthorization: Bearer x\r\nX_Key: no\r\n";
    let body = "TE: trailers\r\nTrailer: Cookie\r\nExpect: 100-continue\r\n\
                Transfer-Encoding: chunked\r\nConnection: keep-alive, x-own\r\nX-Own: 1\r\n";
    let path = "/app/admin/%61?token=a%2Fb&x=1";
    let plain = get(path, &[credentials, body, LIES].concat()).replace("GET", "POST");
    let (_client, mut service, asked) = guarded.ask(&plain).await;
    let host = guarded.service.address;
    let expected = |method: &str, uri: &str| {
        let mut lines: Vec<String> = [
            "get /verify?from=tidegate http/1.1",
            &format!("host: {host}"),
            &format!("x-forwarded-method: {method}"),
            "x-forwarded-proto: http",
            "x-forwarded-host: a.example.com",
            &format!("x-forwarded-uri: {uri}"),
            "x-forwarded-for: 127.0.0.1",
            "cookie: a=1",
            "cookie: b=2",
            "authorization: bearer x",
        ]
        .map(str::to_owned)
        .into();
        lines.sort();
        lines
    };
    let mut got = lines(&asked);
    got.retain(|line| !line.starts_with("x-request-id: "));
    assert_eq!(got, expected("post", "/app/admin/%61?token=a%2fb&x=1"));
    assert!(asked.value("x-request-id").is_some());
    service.stays_quiet().await;
    let shakes = handshake(&[credentials, LIES].concat());
    let (_client, _service, asked) = guarded.ask(&shakes).await;
    let mut got = lines(&asked);
    got.retain(|line| !line.starts_with("x-request-id: "));
    assert_eq!(got, expected("get", "/app/admin"));
}

#[tokio::test]
async fn named_fields_replace_what_clients_send_in_any_spelling() {
    let settings = "response_headers = [\"remote-user\", \"remote-groups\", \"authorization\"]";
    let own = "request_headers.set = { x-user = \"${claim_remote-user}\", x-groups = \"${claim_remote-groups}\" }";
    let guarded = Guarded::start(settings, "", own).await;
    let answer = "HTTP/1.1 200 OK\r\nRemote-User: eve\r\nRemote-Groups: a\r\nRemote-Groups: b\r\n\
                  X-Other: 1\r\nSet-Cookie: a=1\r\nContent-Length: 2\r\n\r\nok";
    let lies = [LIES, "Authorization: Basic eDp5\r\nX-User: root\r\n"].concat();
    for request in [to_guarded(&lies), handshake(&lies)] {
        let (_client, _app, head) = guarded.admitted(&request, answer).await;
        assert_eq!(values(&head, "remote-user"), ["eve"], "{head:?}");
        assert_eq!(values(&head, "remote-groups"), ["a", "b"], "{head:?}");
        assert!(values(&head, "authorization").is_empty(), "{head:?}");
        assert_eq!(values(&head, "x-user"), ["eve"], "{head:?}");
        assert_eq!(values(&head, "x-groups"), ["a,b"], "{head:?}");
        assert!(values(&head, "x-other").is_empty(), "{head:?}");
        assert!(values(&head, "set-cookie").is_empty(), "{head:?}");
        assert_eq!(values(&head, "x-forwarded-for"), ["127.0.0.1"], "{head:?}");
        // Absent from the response: absent from the request.
        let (_client, _app, head) = guarded.admitted(&request, NO_CONTENT).await;
        for name in ["remote-user", "remote-groups", "authorization", "x-user"] {
            assert!(values(&head, name).is_empty(), "{name}: {head:?}");
        }
    }
}

#[tokio::test]
async fn a_field_cannot_come_as_a_trailer_or_folded() {
    let guarded = Guarded::start("response_headers = [\"remote-user\"]", "", "").await;
    let chunked = to_guarded(
        "Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Sum, Remote-User, remote_user\r\n",
    );
    let post = chunked.replace("GET", "POST");
    let request = [
        &post,
        "2\r\nhi\r\n0\r\nRemote-User: admin\r\nremote_user: root\r\nX-Sum: 1\r\n\r\n",
    ];
    let (_client, mut app, head) = guarded.admitted(&request.concat(), OK).await;
    assert!(values(&head, "remote-user").is_empty(), "{head:?}");
    let mut body = Vec::new();
    while !body.ends_with(b"\r\n\r\n") {
        body.extend(app.exactly(1).await);
    }
    let body = String::from_utf8(body).unwrap().to_ascii_lowercase();
    assert!(
        body.contains("x-sum: 1") && !body.contains("user"),
        "{body}"
    );
    // A line that is folded is refused before anybody is asked.
    let mut client = guarded.proxy.connect().await;
    let folded = "X: a\r\n Remote-User: admin\r\n";
    client.send(to_guarded(folded)).await;
    assert_eq!(client.head().await.status(), 400);
    guarded.service.stays_quiet().await;
}

#[tokio::test]
async fn fields_of_a_service_are_reserved_wherever_its_endpoints_are_reached() {
    let settings = "response_headers = [\"remote-user\", \"authorization\"]";
    let guarded = Guarded::start(settings, "", "").await;
    let fields = "Remote-User: admin\r\nremote_user: admin\r\nAuthorization: Basic eDp5\r\n";
    for request in [
        get("/app", fields),
        handshake_with(fields).replace("/chat", "/app"),
    ] {
        let mut client = guarded.proxy.connect().await;
        client.send(request).await;
        let (_app, head) = guarded.app.request().await;
        assert!(values(&head, "remote-user").is_empty(), "{head:?}");
        assert!(values(&head, "authorization").is_empty(), "{head:?}");
    }
    // No guarded route leads to this upstream: these fields mean nothing there.
    let mut client = guarded.proxy.connect().await;
    client.send(get("/other", fields)).await;
    let (_other, head) = guarded.other.request().await;
    assert_eq!(values(&head, "authorization"), ["Basic eDp5"]);
    assert_eq!(values(&head, "remote-user"), ["admin", "admin"]);
    guarded.service.stays_quiet().await;
}

#[tokio::test]
async fn another_response_goes_to_the_client() {
    let guarded = Guarded::start("client_headers = [\"location\", \"set-cookie\"]", "", "").await;
    for (number, (status, request)) in [
        ("302 Found", to_guarded("")),
        ("401 Unauthorized", to_guarded("")),
        ("403 Forbidden", handshake("")),
        ("404 Not Found", handshake("")),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = format!(
            "HTTP/1.1 {status}\r\nLocation: https://id/\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
             Content-Type: text/html\r\nX-Secret: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\n<p>\r\n4\r\nhi\r\n\r\n0\r\n\r\n"
        );
        let (head, body) = guarded.refused(&request, &answer).await;
        assert_eq!(head.start(), format!("HTTP/1.1 {status}"));
        assert_eq!(body, "<p>hi\r\n");
        assert_eq!(head.value("location"), Some("https://id/"));
        assert_eq!(head.values("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(head.value("content-type"), Some("text/html"));
        assert_eq!(head.value("cache-control"), Some("no-store"));
        assert_eq!(head.value("tidegate-reason"), Some("auth-denied"));
        assert_eq!(head.value("x-secret"), None);
        let logged = guarded.proxy.log().wait("rejected", number + 1).await;
        let logged = logged.last().unwrap();
        assert_eq!(logged["reason"], "auth-denied");
        assert_eq!(logged["status"], head.status());
        assert_eq!(logged["route"], "guarded");
    }
    guarded.app.stays_quiet().await;
    let scrape = Scrape::of(&guarded.proxy).await;
    let denied = ["auth=\"sso\"", "result=\"denied\""];
    assert_eq!(scrape.sum("tidegate_auth_total", &denied), 4.0);
    assert_eq!(scrape.sum("tidegate_auth_total", &[]), 4.0);
    assert_eq!(scrape.sum("tidegate_auth_seconds_count", &[]), 4.0);
    let denied = ["route=\"guarded\"", "reason=\"auth-denied\""];
    assert_eq!(scrape.sum("tidegate_rejections_total", &denied), 4.0);
    let rejected = ["route=\"guarded\"", "outcome=\"rejected\""];
    assert_eq!(scrape.sum("tidegate_handshakes_total", &rejected), 2.0);
}

#[tokio::test]
async fn a_refusal_that_cannot_be_passed_on_is_still_one() {
    // Not even with this does it become an admission.
    let guarded = Guarded::start("on_error = \"allow\", timeout = \"300ms\"", "", "").await;
    let long = format!(
        "HTTP/1.1 401 Unauthorized\r\nContent-Type: text/html\r\nWww-Authenticate: Basic\r\n\
         Content-Length: 100000\r\n\r\n{}",
        "x".repeat(100_000)
    );
    let cut = "HTTP/1.1 401 Unauthorized\r\nContent-Type: text/html\r\nWww-Authenticate: Basic\r\n\
               Content-Length: 9\r\n\r\nabc";
    for answer in [&long, cut] {
        let (head, body) = guarded.refused(&to_guarded(""), answer).await;
        assert_eq!(head.status(), 401);
        assert_eq!(head.value("www-authenticate"), Some("Basic"));
        let type_of_ours = Some("text/plain; charset=utf-8");
        assert_eq!(head.value("content-type"), type_of_ours);
        assert_eq!(
            body,
            "The authentication service has refused the request.\n"
        );
    }
    guarded.app.stays_quiet().await;
}

#[tokio::test]
async fn each_request_of_a_connection_is_decided_anew_and_before_its_body() {
    let guarded = Guarded::start("", "", "").await;
    let mut client = guarded.proxy.connect().await;
    client.send(to_guarded("Cookie: a=1\r\n")).await;
    let (mut service, asked) = guarded.service.request().await;
    assert_eq!(asked.value("cookie"), Some("a=1"));
    service
        .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 401);
    // The same connections, on either side.
    client.send(to_guarded("Cookie: a=2\r\n")).await;
    assert_eq!(service.head().await.value("cookie"), Some("a=2"));
    service.send(OK).await;
    let (mut app, _) = guarded.app.request().await;
    app.send(NO_CONTENT).await;
    assert_eq!(client.head().await.status(), 204);
    // A client that waits for a 100 gets the refusal instead, and sends nothing.
    let post = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    client.send(to_guarded(post).replace("GET", "POST")).await;
    service.head().await;
    service
        .send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.head().await.status(), 403);
    // What follows does not become a request.
    client.send("GET /other HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.rest().await;
    guarded.other.stays_quiet().await;
}

#[tokio::test]
async fn plain_requests_and_handshakes_are_asked_about_alike() {
    let guarded = Guarded::start("response_headers = [\"remote-user\"]", "", "").await;
    let (mut client, mut app, _) = guarded.admitted(&handshake(""), OK).await;
    app.send(SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    client.send("from the client").await;
    assert_eq!(app.exactly(15).await, b"from the client");
    let long_poll = to_guarded("").replace("/app/admin", "/app/admin/poll?transport=polling");
    let (head, _) = guarded
        .refused(
            &long_poll,
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
    assert_eq!(head.status(), 403);
    guarded.app.stays_quiet().await;
    let scrape = Scrape::of(&guarded.proxy).await;
    assert_eq!(
        scrape.sum("tidegate_auth_total", &["result=\"granted\""]),
        1.0
    );
    assert_eq!(
        scrape.sum("tidegate_auth_total", &["result=\"denied\""]),
        1.0
    );
}

#[tokio::test]
async fn no_spelling_of_a_guarded_path_takes_the_open_route() {
    let guarded = Guarded::start("", "", "").await;
    let mut asked = 0;
    for path in [
        "/app/admin",
        "/app/admin/",
        "/app/%61dmin",
        "/app/%61%64min/x",
        "/app/admin?x",
        "/app\\admin",
        "/app%5Cadmin",
        "//app/admin",
        "/app//admin",
        "/app/./admin",
        "/app/a;/../admin",
        "/app/x/../admin",
        "/app/x/%2e%2e/admin",
        "/app/x/.%2E/admin",
        "/app/admin;x",
        "/app/;x/admin",
        "/app;x/admin",
        "/app%2Fadmin",
        "/app%2fadmin",
        "/app/%2561dmin",
        "/app%252Fadmin",
        "/app/admin%2F",
        "/app/admin%3Bx",
        "/app/adm%69n",
        "/app/admin#x",
        "http://a.example.com/app/admin",
        "http://a.example.com//app/admin",
    ] {
        for request in [get(path, ""), handshake("").replace("/app/admin", path)] {
            let mut client = guarded.proxy.connect().await;
            client.send(&request).await;
            let status = tokio::select! {
                head = client.head() => head.status(),
                (mut service, _) = guarded.service.request() => {
                    asked += 1;
                    service.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
                    client.head().await.status()
                }
                (_, head) = guarded.app.request() => panic!("{path} reached the endpoint: {head:?}"),
            };
            assert!(matches!(status, 400 | 401 | 404), "{path}: {status}");
        }
    }
    assert!(asked >= 10, "{asked}");
    guarded.app.stays_quiet().await;
}
