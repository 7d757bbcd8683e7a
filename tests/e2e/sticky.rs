//! Sticky cookies, with which clients return to their endpoint.

use std::net::SocketAddr;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::wire::{Head, Wire, handshake_with};

const STICKY: &str = "[upstream.main.sticky]\ncookie = \"node\"\npath = \"/chat\"\nttl = \"1h\"\n";

fn sticky(endpoints: &[SocketAddr]) -> String {
    let config = simple(endpoints);
    config.replace("endpoints", "balance = \"round_robin\"\nendpoints") + STICKY
}

/// Opens a tunnel: its client end, and the head of the 101.
async fn tunnel(proxy: &Proxy, cookie: Option<&str>) -> (Wire, Head) {
    let field = cookie.map(|cookie| format!("Cookie: a=1; {cookie}; b=2\r\n"));
    let mut wire = proxy.connect().await;
    wire.send(handshake_with(&field.unwrap_or_default())).await;
    let head = wire.head().await;
    assert_eq!(head.status(), 101, "{head:?}");
    (wire, head)
}

/// The name and value of the cookie that is set.
fn pair(head: &Head) -> Option<&str> {
    head.value("set-cookie")?.split(';').next()
}

#[tokio::test]
async fn a_client_returns_to_its_endpoint() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let proxy = Proxy::start(&sticky(&[one.address, two.address])).await;
    let (_first, head) = tunnel(&proxy, None).await;
    let set = head.value("set-cookie").unwrap();
    let attributes = "; Path=/chat; Max-Age=3600; HttpOnly; SameSite=Lax";
    assert!(
        set.starts_with("node=") && set.ends_with(attributes),
        "{set}"
    );
    let cookie = pair(&head).unwrap();
    let mut held = Vec::new();
    for _ in 0..9 {
        let (wire, head) = tunnel(&proxy, Some(cookie)).await;
        assert_eq!(pair(&head), None, "the client has a good one");
        held.push(wire);
    }
    let mut open = [one.open(), two.open()];
    open.sort_unstable();
    assert_eq!(open, [0, 10]);
    // Another cookie that is not ASCII does not hide it.
    let beside = format!("name=J\u{f6}rg; {cookie}");
    let (_wire, head) = tunnel(&proxy, Some(&beside)).await;
    assert_eq!(pair(&head), None);
    // An invalid cookie is ignored and replaced.
    let forged = cookie.replace("node=", "node=A");
    let (_wire, head) = tunnel(&proxy, Some(&forged)).await;
    assert!(pair(&head).is_some());
    // A generated key outlives a reload.
    let config = sticky(&[one.address, two.address]);
    proxy.reload(&(config + "# the same\n")).await;
    let (_wire, head) = tunnel(&proxy, Some(cookie)).await;
    assert_eq!(pair(&head), None);
    // And an upgrade.
    proxy.signal(Signal::USR2);
    proxy.successor(1).await;
    let (_wire, head) = tunnel(&proxy, Some(cookie)).await;
    assert_eq!(pair(&head), None);
}

#[tokio::test]
async fn a_cookie_for_a_removed_or_drained_endpoint_is_ignored() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let config = sticky(&[one.address, two.address]);
    let proxy = Proxy::start(&config).await;
    let (_first, head) = tunnel(&proxy, None).await;
    let cookie = pair(&head).unwrap().to_owned();
    let (home, other) = if one.open() == 1 {
        (one, two)
    } else {
        (two, one)
    };
    let listed = format!("\"{}\"", home.address);
    let draining = format!("{{ address = \"{}\", drain = true }}", home.address);
    proxy.reload(&config.replace(&listed, &draining)).await;
    let (_second, head) = tunnel(&proxy, Some(&cookie)).await;
    assert_ne!(pair(&head).unwrap(), cookie);
    assert_eq!((home.open(), other.open()), (1, 1));
    // An endpoint with weight 0 still gets its own clients.
    let weightless = format!("{{ address = \"{}\", weight = 0 }}", home.address);
    proxy.reload(&config.replace(&listed, &weightless)).await;
    let (_third, head) = tunnel(&proxy, Some(&cookie)).await;
    assert_eq!(pair(&head), None);
    for _ in 0..4 {
        tunnel(&proxy, None).await;
    }
    assert_eq!(home.served(), 2);
    // When it dies, another endpoint takes over and sets its own cookie.
    proxy.reload(&config).await;
    drop(home);
    let (_fourth, head) = tunnel(&proxy, Some(&cookie)).await;
    assert_ne!(pair(&head).unwrap(), cookie);
}

#[tokio::test]
async fn a_cookie_may_be_for_a_whole_domain() {
    let echo = Echo::start("echo").await;
    let config = sticky(&[echo.address]) + "domain = \"Example.com\"\n";
    let proxy = Proxy::start(&config).await;
    let (_tunnel, head) = tunnel(&proxy, None).await;
    let set = head.value("set-cookie").unwrap();
    let attributes = "; Domain=example.com; Path=/chat; Max-Age=3600; HttpOnly; SameSite=Lax";
    assert!(set.ends_with(attributes), "{set}");
}

#[tokio::test]
async fn plain_responses_set_the_cookie_and_keep_those_of_the_endpoint() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&sticky(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut wire, _) = endpoint.request().await;
    wire.send("HTTP/1.1 200 OK\r\nSet-Cookie: own=1\r\nContent-Length: 0\r\n\r\n")
        .await;
    let head = client.head().await;
    let set = head.values("set-cookie");
    assert_eq!(set.len(), 2, "{head:?}");
    assert_eq!(set[0], "own=1");
    assert!(set[1].starts_with("node="));
}

#[tokio::test]
async fn nodes_with_the_same_key_share_cookies_and_https_makes_them_secure() {
    let (authority, folder) = Authority::with_certificate();
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let key = |folder: &std::path::Path| {
        crate::harness::certificates::write(&folder.join("sticky.key"), &"7".repeat(64));
    };
    key(folder.path());
    let config = sticky(&[one.address, two.address]) + "secret_file = \"sticky.key\"\n";
    let tls = "[listener.main.tls]\ncertificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let embedded = "same_site = \"none\"\npartitioned = true\n";
    let config = config + embedded;
    let secure = Proxy::start_in(folder, &(config.clone() + tls)).await;
    let mut client = secure
        .connect_tls(authority.client(), "chat.example.com")
        .await;
    client.send(handshake_with("")).await;
    let head = client.head().await;
    let set = head.value("set-cookie").unwrap();
    assert!(
        set.ends_with("; SameSite=None; Secure; Partitioned"),
        "{set}"
    );
    let other = tempfile::TempDir::new().unwrap();
    key(other.path());
    let other = Proxy::start_in(other, &config).await;
    for _ in 0..3 {
        let (_wire, again) = tunnel(&other, pair(&head)).await;
        assert_eq!(pair(&again), None);
    }
    assert_eq!([one.served(), two.served()].iter().max(), Some(&4));
}
