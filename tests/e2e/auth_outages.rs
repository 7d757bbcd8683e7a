//! A service that decides about requests: what happens without it, and when it is not asked.

use crate::harness::guarded::{Guarded, LIES, NO_CONTENT, OK, handshake, to_guarded, values};
use crate::harness::operator::Operator;
use crate::harness::scrape::Scrape;

#[tokio::test]
async fn without_an_answer_no_client_is_let_in_or_refused() {
    let guarded = Guarded::start("timeout = \"300ms\"", "", "").await;
    for answer in [
        "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nExpires-In: soon\r\nContent-Length: 0\r\n\r\n",
        "nonsense\r\n\r\n",
        // Silence.
        "",
        "HTTP/1.1 200 OK\r\nContent-",
    ] {
        for request in [to_guarded(""), handshake("")] {
            let (mut client, mut service, _) = guarded.ask(&request).await;
            service.send(answer).await;
            let head = client.head().await;
            assert_eq!(head.status(), 503, "{answer}");
            assert_eq!(head.value("tidegate-reason"), Some("auth-unavailable"));
        }
    }
    let scrape = Scrape::of(&guarded.proxy).await;
    let unavailable = ["result=\"unavailable\""];
    assert_eq!(scrape.sum("tidegate_auth_total", &unavailable), 16.0);
    guarded.app.stays_quiet().await;
}

#[tokio::test]
async fn a_service_that_is_gone_is_retried_and_then_unavailable() {
    let guarded = Guarded::start("", "", "").await;
    // It closes one connection without a word: there is no other endpoint.
    let (mut client, service, _) = guarded.ask(&to_guarded("")).await;
    drop(service);
    assert_eq!(client.head().await.status(), 503);
    let Guarded { proxy, service, .. } = guarded;
    drop(service);
    let mut client = proxy.connect().await;
    client.send(handshake("")).await;
    let head = client.head().await;
    assert_eq!(head.value("tidegate-reason"), Some("auth-unavailable"));
    let logged = proxy.log().wait("rejected", 2).await;
    let detail = logged[1]["detail"].as_str().unwrap();
    assert!(detail.starts_with("upstream sso: 127.0.0.1:"), "{detail}");
}

#[tokio::test]
async fn an_idle_connection_to_the_service_may_close() {
    let guarded = Guarded::start("", "", "").await;
    let (mut client, mut app, _) = guarded.admitted(&to_guarded(""), OK).await;
    app.send(NO_CONTENT).await;
    assert_eq!(client.head().await.status(), 204);
    // The endpoint's connection is idle as well: an open one would get the next request.
    drop(app);
    // The connection is closed by the time it is used again, or just then.
    let (mut client, mut service, _) = guarded.ask(&to_guarded("")).await;
    service.send(OK).await;
    let (mut app, _) = guarded.app.request().await;
    app.send(NO_CONTENT).await;
    assert_eq!(client.head().await.status(), 204);
}

#[tokio::test]
async fn requests_may_pass_without_the_service_but_without_an_identity() {
    let settings =
        "on_error = \"allow\", response_headers = [\"remote-user\"], timeout = \"300ms\"";
    let guarded = Guarded::start(settings, "", "").await;
    let broken = "HTTP/1.1 502 Bad Gateway\r\nRemote-User: admin\r\nContent-Length: 0\r\n\r\n";
    for answer in [broken, ""] {
        for request in [to_guarded(LIES), handshake(LIES)] {
            let (_client, _app, head) = guarded.admitted(&request, answer).await;
            assert!(values(&head, "remote-user").is_empty(), "{head:?}");
        }
    }
    let message = "authentication service unavailable; requests pass without an identity";
    let logged = guarded.proxy.log().wait(message, 4).await;
    assert_eq!(logged[0]["auth"], "sso");
    assert_eq!(logged[0]["level"], "WARN");
    let scrape = Scrape::of(&guarded.proxy).await;
    let allowed = ["result=\"allowed\""];
    assert_eq!(scrape.sum("tidegate_auth_total", &allowed), 4.0);
    // Nothing about that makes a refusal an admission.
    let no = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(guarded.refused(&to_guarded(""), no).await.0.status(), 403);
}

#[tokio::test]
async fn what_a_route_requires_is_a_claim_of_the_service() {
    let settings = "on_error = \"allow\", response_headers = [\"remote-user\", \"remote-groups\"], subject_header = \"remote-user\"";
    let guarded = Guarded::start(settings, "", "require = { remote-groups = [\"chat\"] }").await;
    let member = "HTTP/1.1 200 OK\r\nRemote-User: eve, chat\r\nRemote-Groups: a, chat\r\n\
                  Content-Length: 0\r\n\r\n";
    let (_client, _app, head) = guarded.admitted(&handshake(""), member).await;
    assert_eq!(values(&head, "remote-groups"), ["a, chat"]);
    let other = member.replace("a, chat", "chatty");
    let unavailable = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
    for answer in [&other, OK, unavailable] {
        let (head, _) = guarded.refused(&to_guarded(LIES), answer).await;
        assert_eq!(head.value("tidegate-reason"), Some("claim-denied"));
    }
    guarded.app.stays_quiet().await;
}

#[tokio::test]
async fn requests_wait_for_their_turn() {
    let guarded = Guarded::start("at_once = 1, timeout = \"1m\"", "", "").await;
    let (mut first, mut service, _) = guarded.ask(&to_guarded("Cookie: n=1\r\n")).await;
    let mut second = guarded.proxy.connect().await;
    second.send(to_guarded("Cookie: n=2\r\n")).await;
    guarded.service.stays_quiet().await;
    service.send(OK).await;
    let (mut app, _) = guarded.app.request().await;
    app.send(NO_CONTENT).await;
    assert_eq!(first.head().await.status(), 204);
    assert_eq!(service.head().await.value("cookie"), Some("n=2"));
    // A client that leaves makes room.
    drop(second);
    let (_third, _service, asked) = guarded.ask(&to_guarded("Cookie: n=3\r\n")).await;
    assert_eq!(asked.value("cookie"), Some("n=3"));
}

#[tokio::test]
async fn a_verdict_holds_for_requests_that_look_the_same() {
    let settings = "cache = \"1h\", response_headers = [\"remote-user\"]";
    let guarded = Guarded::start(settings, "", "").await;
    let answer = "HTTP/1.1 200 OK\r\nRemote-User: eve\r\nContent-Length: 0\r\n\r\n";
    let eve = to_guarded("Cookie: user=eve\r\n");
    guarded.admitted(&eve, answer).await;
    for _ in 0..2 {
        let mut client = guarded.proxy.connect().await;
        client.send(&eve).await;
        let (_app, head) = guarded.app.request().await;
        assert_eq!(values(&head, "remote-user"), ["eve"]);
    }
    // Each of these differs in something that the service gets.
    let no = "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
    for request in [
        to_guarded(""),
        to_guarded("Cookie: user=eve\r\nCookie: x\r\n"),
        to_guarded("Cookie: user=eve2\r\n"),
        to_guarded("Authorization: user=eve\r\n"),
        eve.replace("/app/admin", "/app/admin/x"),
        eve.replace("GET", "POST"),
        eve.replace("a.example.com", "b.example.com"),
    ] {
        let (head, body) = guarded.refused(&request, no).await;
        assert_eq!((head.status(), &*body), (403, "no\n"));
        // Refusals hold as well.
        let mut client = guarded.proxy.connect().await;
        client.send(&request).await;
        let (head, body) = client.reply().await;
        assert_eq!((head.status(), &*body), (403, "no\n"));
    }
    // What is not a decision does not hold, nor does an identity that has expired.
    let busy = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let login =
        "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let cookie = "HTTP/1.1 401 Unauthorized\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for (number, answer) in [busy, login, cookie].into_iter().enumerate() {
        let request = to_guarded(&format!("Cookie: user={number}\r\n"));
        for _ in 0..2 {
            guarded.refused(&request, answer).await;
        }
    }
    let expired =
        "HTTP/1.1 200 OK\r\nExpires-In: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let short = to_guarded("Cookie: user=short\r\n");
    for _ in 0..2 {
        guarded.admitted(&short, expired).await;
    }
    let scrape = Scrape::of(&guarded.proxy).await;
    assert_eq!(
        scrape.sum("tidegate_auth_total", &["result=\"cached\""]),
        9.0
    );
}

#[tokio::test]
async fn a_preflight_request_passes_if_it_may() {
    let preflight = to_guarded(
        "Origin: https://a\r\nAccess-Control-Request-Method: GET\r\nRemote-User: admin\r\n",
    )
    .replace("GET /", "OPTIONS /");
    let settings = "response_headers = [\"remote-user\"]";
    let passes = Guarded::start(settings, "preflight = \"pass\"", "").await;
    let mut client = passes.proxy.connect().await;
    client.send(&preflight).await;
    let (_app, head) = passes.app.request().await;
    assert!(values(&head, "remote-user").is_empty(), "{head:?}");
    passes.service.stays_quiet().await;
    let asks = Guarded::start(settings, "", "").await;
    let (_client, _service, asked) = asks.ask(&preflight).await;
    assert_eq!(asked.value("x-forwarded-method"), Some("OPTIONS"));
}

#[tokio::test]
async fn the_order_of_the_checks() {
    let origins = "origins = [\"https://a\"]\ndeny = [\"127.0.0.2\"]";
    let guarded = Guarded::start("", "", origins).await;
    // An origin that is refused costs the service nothing.
    let mut client = guarded.proxy.connect().await;
    client.send(handshake("Origin: https://b\r\n")).await;
    let head = client.head().await;
    assert_eq!(head.value("tidegate-reason"), Some("origin-denied"));
    let mut client = guarded.proxy.connect_from("127.0.0.2", "main").await;
    client.send(to_guarded("")).await;
    let head = client.head().await;
    assert_eq!(head.value("tidegate-reason"), Some("address-denied"));
    guarded.service.stays_quiet().await;
    guarded.ask(&handshake("Origin: https://a\r\n")).await;
}

#[tokio::test]
async fn explain_says_who_is_asked() {
    let guarded = Guarded::start("", "", "").await;
    let operator = Operator::of(&guarded.proxy).await;
    let explained = operator
        .explain(serde_json::json!({ "url": "ws://a.example.com/app/admin", "listener": "main" }))
        .await;
    let depends = explained["depends_on"].as_array().unwrap();
    let depends: Vec<_> = depends.iter().filter_map(|it| it.as_str()).collect();
    let expected =
        "what the service of auth `sso` answers: upstream `sso` is asked about the request";
    assert!(depends.contains(&expected), "{explained}");
    guarded.service.stays_quiet().await;
}

#[tokio::test]
async fn a_reload_changes_who_is_asked() {
    let guarded = Guarded::start("cache = \"1h\"", "", "").await;
    let close = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    guarded.admitted(&to_guarded(""), close).await;
    let config = std::fs::read_to_string(guarded.proxy.folder().join("config.toml")).unwrap();
    let changed = config.replace("from=tidegate", "from=reload");
    guarded.proxy.reload(&changed).await;
    // What was remembered for other settings holds no longer.
    let (_client, _service, asked) = guarded.ask(&to_guarded("")).await;
    assert_eq!(asked.start(), "GET /verify?from=reload HTTP/1.1");
}
