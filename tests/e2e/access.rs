//! Access by client address and by origin, and the trust in forwarded addresses.

use tempfile::TempDir;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::proxy::{Proxy, settings};
use crate::harness::wire::{HANDSHAKE, Head, Wire, handshake_with};

async fn start(listener: &str, route: &str) -> (Endpoint, Proxy) {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&settings(&[endpoint.address], listener, route)).await;
    (endpoint, proxy)
}

/// The head that the endpoint gets for a plain request with these fields.
async fn seen(endpoint: &Endpoint, proxy: &Proxy, fields: &str) -> Head {
    let mut client = proxy.connect().await;
    let request = format!("GET /p HTTP/1.1\r\nHost: a.example.com\r\n{fields}\r\n");
    client.send(request).await;
    let (mut wire, head) = endpoint.request().await;
    wire.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 204);
    head
}

/// The head that the endpoint gets for a handshake with these fields.
async fn seen_of_handshake(endpoint: &Endpoint, proxy: &Proxy, fields: &str) -> Head {
    let mut client = proxy.connect().await;
    client.send(handshake_with(fields)).await;
    endpoint.request().await.1
}

/// Every header field that an application may read as the origin of a request.
fn claims(head: &Head) -> Vec<String> {
    let mut claims: Vec<String> = head
        .0
        .lines()
        .map(|line| line.to_ascii_lowercase().replace('_', "-"))
        .filter(|line| {
            ["x-forwarded", "forwarded", "x-real-ip"]
                .iter()
                .any(|begin| line.starts_with(begin))
        })
        .collect();
    claims.sort();
    claims
}

/// Spellings of a claim to come from 6.6.6.6.
const LIES: &str = "X-Forwarded-For: 6.6.6.6\r\n\
    x-forwarded-for: 6.6.6.6\r\n\
    X_Forwarded_For: 6.6.6.6\r\n\
    X-Forwarded_For: 6.6.6.6\r\n\
    x_forwarded-proto: https\r\n\
    X-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: 6.6.6.6\r\n\
    X-Forwarded-Port: 666\r\n\
    X-Forwarded-Server: 6.6.6.6\r\n\
    X-Forwarded: for=6.6.6.6\r\n\
    Forwarded: for=6.6.6.6;proto=https;host=6.6.6.6\r\n\
    FORWARDED: for=6.6.6.6\r\n\
    X-Real-IP: 6.6.6.6\r\n\
    X_Real_IP: 6.6.6.6\r\n\
    X-Real_Ip: 6.6.6.6\r\n";

#[tokio::test]
async fn forwarding_headers_of_an_untrusted_client_are_ignored_in_any_spelling() {
    for trusted in ["", "trusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n"] {
        for family in ["x-forwarded", "forwarded"] {
            let listener = match trusted {
                "" => String::new(),
                _ => format!("{trusted}trusted_header = \"{family}\"\n"),
            };
            let (endpoint, proxy) = start(&listener, "").await;
            let port = proxy.address().port();
            let expected = |host: &str| {
                vec![
                    format!("forwarded: for=127.0.0.1;host=\"{host}\";proto=http"),
                    "x-forwarded-for: 127.0.0.1".to_owned(),
                    format!("x-forwarded-host: {host}"),
                    format!("x-forwarded-port: {port}"),
                    "x-forwarded-proto: http".to_owned(),
                ]
            };
            let head = seen(&endpoint, &proxy, LIES).await;
            assert_eq!(claims(&head), expected("a.example.com"), "{head:?}");
            let head = seen_of_handshake(&endpoint, &proxy, LIES).await;
            assert_eq!(claims(&head), expected("chat.example.com"), "{head:?}");
        }
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_trusted_in_one_header_family_only() {
    let listener = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n";
    let (endpoint, proxy) = start(listener, "").await;
    let fields = "X-Forwarded-For: 6.6.6.6, 192.0.2.1, 10.0.0.1\r\n\
        X-Forwarded-Proto: wss\r\n\
        X-Forwarded-Host: public.example.com\r\n\
        Forwarded: for=6.6.6.6;host=evil\r\n\
        X-Real-IP: 6.6.6.6\r\n\
        X_Forwarded_For: 6.6.6.6\r\n";
    let expected = [
        "forwarded: for=192.0.2.1;host=\"public.example.com\";proto=https, for=10.0.0.1, for=127.0.0.1",
        "x-forwarded-for: 192.0.2.1, 10.0.0.1, 127.0.0.1",
        "x-forwarded-host: public.example.com",
        "x-forwarded-port: 443",
        "x-forwarded-proto: https",
    ];
    assert_eq!(claims(&seen(&endpoint, &proxy, fields).await), expected);
    assert_eq!(
        claims(&seen_of_handshake(&endpoint, &proxy, fields).await),
        expected
    );
    assert_eq!(proxy.logged("request").await["client"], "192.0.2.1");

    proxy
        .reload(&settings(
            &[endpoint.address],
            &format!("{listener}trusted_header = \"forwarded\"\n"),
            "",
        ))
        .await;
    let fields = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: http\r\n\
        Forwarded: for=6.6.6.6, for=\"[2001:db8::1]:4711\";proto=https\r\n\
        Forwarded: for=10.0.0.1\r\n";
    let head = seen(&endpoint, &proxy, fields).await;
    assert_eq!(
        head.value("x-forwarded-for"),
        Some("2001:db8::1, 10.0.0.1, 127.0.0.1")
    );
    assert_eq!(head.value("x-forwarded-proto"), Some("https"));
}

/// Each proxy appends to the list, so it is read from the right, like that of the addresses.
#[tokio::test]
async fn a_list_of_schemes_is_read_like_the_list_of_addresses() {
    let listener = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n";
    let (endpoint, proxy) = start(listener, "").await;
    for (addresses, protos, expected) in [
        // The client claims https, and the trusted proxy has seen http.
        ("192.0.2.1", "https, http", "http"),
        ("192.0.2.1", "http, https", "https"),
        // The trusted proxy next to the client has seen https, the one behind it http.
        ("192.0.2.1, 10.0.0.1", "https, http", "https"),
        ("6.6.6.6, 192.0.2.1", "https, http", "http"),
        ("192.0.2.1, 10.0.0.1", "https", "https"),
    ] {
        let fields = format!("X-Forwarded-For: {addresses}\r\nX-Forwarded-Proto: {protos}\r\n");
        let head = seen(&endpoint, &proxy, &fields).await;
        let proto = head.value("x-forwarded-proto");
        assert_eq!(proto, Some(expected), "{fields}");
    }
    let head = seen(&endpoint, &proxy, "X-Forwarded-Proto: https, http\r\n").await;
    assert_eq!(head.value("x-forwarded-proto"), Some("http"));
}

/// The client writes the beginning of the line, and the trusted proxy appends to it.
#[tokio::test]
async fn a_client_cannot_hide_what_a_trusted_proxy_adds() {
    let listener = "trusted_proxies = [\"127.0.0.1\"]\ntrusted_header = \"forwarded\"\n";
    let (endpoint, proxy) = start(listener, "allow = [\"127.0.0.0/8\"]\n").await;
    for (begin, status) in [
        ("for=\"", 400),
        ("for=127.0.0.1;x=\"", 400),
        ("for=127.0.0.1", 403),
        (",", 403),
    ] {
        let mut client = proxy.connect().await;
        client
            .send(handshake_with(&format!(
                "Forwarded: {begin}, for=203.0.113.5\r\n"
            )))
            .await;
        assert_eq!(client.head().await.status(), status, "{begin}");
    }
    endpoint.stays_quiet().await;
}

#[tokio::test]
async fn clients_of_a_unix_socket_are_trusted_only_if_configured() {
    let endpoint = Endpoint::bind().await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("in.sock");
    for (trusted, expected) in [("", None), ("\"unix:\"", Some("192.0.2.1"))] {
        let listener = format!(
            "trusted_proxies = [{trusted}]\n[listener.local]\nbind = [\"unix:{}\"]\n\
             trusted_proxies = [{trusted}]\n",
            path.display()
        );
        let proxy = Proxy::start(&settings(&[endpoint.address], &listener, "")).await;
        let mut client = Wire::unix(tokio::net::UnixStream::connect(&path).await.unwrap());
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
            .await;
        let (_wire, head) = endpoint.request().await;
        assert_eq!(head.value("x-forwarded-for"), expected);
        drop(proxy);
    }
}

#[tokio::test]
async fn allow_and_deny_apply_to_the_trusted_client_address() {
    let (endpoint, proxy) = start(
        "trusted_proxies = [\"127.0.0.1\"]\n",
        "allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\ndeny = [\"192.0.2.66\"]\n",
    )
    .await;
    for (address, passes) in [
        ("192.0.2.1", true),
        ("::ffff:192.0.2.1", true),
        ("2001:db8::1", true),
        ("192.0.2.66", false),
        ("::ffff:192.0.2.66", false),
        ("198.51.100.1", false),
        ("192.0.2.1, 198.51.100.1", false),
        ("", false),
        // The trusted proxy says that it does not know the client.
        ("192.0.2.1, unknown", false),
        ("\u{e9}, 192.0.2.1", true),
        ("192.0.2.1, \u{e9}", false),
    ] {
        let mut client = proxy.connect().await;
        client
            .send(handshake_with(&format!("X-Forwarded-For: {address}\r\n")))
            .await;
        if passes {
            let _endpoint = endpoint.tunnel().await;
            assert_eq!(client.head().await.status(), 101, "{address}");
        } else {
            let (head, _) = client.reply().await;
            assert_eq!(head.status(), 403, "{address}");
            assert_eq!(head.value("tidegate-reason"), Some("address-denied"));
        }
    }
    endpoint.stays_quiet().await;
    // The same claim from an untrusted address is ignored.
    let mut client = proxy.connect_from("127.0.0.2", "main").await;
    client
        .send(handshake_with("X-Forwarded-For: 192.0.2.1\r\n"))
        .await;
    assert_eq!(client.head().await.status(), 403);
    let logged = proxy.logged_by_now("rejected").await;
    let last = logged.last().unwrap()["client"].as_str().unwrap();
    assert!(last.starts_with("127.0.0.2:"), "{last}");
}

#[tokio::test]
async fn handshakes_from_other_origins_are_rejected() {
    let echo = Echo::start("echo").await;
    let with = |route: &str| settings(&[echo.address], "", route);
    let listed = "origins = [\"https://chat.example.com\", \"null\", \"https://*.example.org\", \
        \"capacitor://localhost\", \"file://\"]\norigins_required = true\n";
    let proxy = Proxy::start(&with(listed)).await;
    for (origin, expected) in [
        (Some("https://chat.example.com"), None),
        (Some("HTTPS://chat.example.com:443"), None),
        (Some("null"), None),
        (Some("https://a.example.org"), None),
        (Some("capacitor://localhost"), None),
        (Some("file://"), None),
        (Some("https://example.org"), Some("origin-denied")),
        (Some("https://a.b.example.org"), Some("origin-denied")),
        (Some("ionic://localhost"), Some("origin-denied")),
        (Some("http://chat.example.com"), Some("origin-denied")),
        (Some("https://chat.example.com:8443"), Some("origin-denied")),
        (
            Some("https://chat.example.com.evil.com"),
            Some("origin-denied"),
        ),
        (
            Some("https://evil.com/https://chat.example.com"),
            Some("origin-denied"),
        ),
        (
            Some("https://chat.example.com\r\nOrigin: https://evil.com"),
            Some("origin-denied"),
        ),
        (Some(""), Some("origin-denied")),
        (None, Some("origin-missing")),
    ] {
        let field = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
        let mut client = proxy.connect().await;
        client.send(handshake_with(&field)).await;
        let head = client.head().await;
        assert_eq!(head.value("tidegate-reason"), expected, "{origin:?}");
        assert_eq!(head.status(), if expected.is_none() { 101 } else { 403 });
    }
    proxy.reload(&with("origins = [\"https://a\"]\n")).await;
    let mut client = proxy.connect().await;
    client.send(handshake_with("Origin: null\r\n")).await;
    assert_eq!(client.head().await.status(), 403, "null is not listed");
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    assert_eq!(
        client.head().await.status(),
        101,
        "no origin, and none required"
    );
}
