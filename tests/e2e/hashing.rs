//! Hash balancing: the same endpoint for the same key, on every proxy and across changes.

use std::net::SocketAddr;

use crate::harness::endpoint::Echo;
use crate::harness::frames::frame;
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::{HANDSHAKE, handshake_with};

const KEYS: usize = 60;

fn hashed(endpoints: &[SocketAddr], by: &str) -> String {
    let balance = format!("balance = {{ hash = {by}, load_factor = 100 }}\nendpoints");
    format!(
        "[server]\nworkers = 4\nlog.format = \"json\"\n{}",
        simple(endpoints).replace("endpoints", &balance)
    )
}

async fn echoes() -> [Echo; 3] {
    [
        Echo::start("a").await,
        Echo::start("b").await,
        Echo::start("c").await,
    ]
}

/// The name of the endpoint that gets a handshake.
async fn reached(proxy: &Proxy, handshake: &str) -> String {
    let mut wire = proxy.connect().await;
    wire.send(handshake).await;
    let head = wire.head().await;
    assert_eq!(head.status(), 101, "{head:?}");
    wire.send(frame(0x81, Some([0; 4]), b"name")).await;
    let answer = wire.exactly(3).await;
    String::from_utf8(answer[2..].to_vec()).unwrap()
}

/// The endpoint of each key.
async fn all_reached(proxy: &Proxy) -> Vec<String> {
    let mut names = Vec::new();
    for key in 0..KEYS {
        let handshake = handshake_with(&format!("X-User: user-{key}\r\n"));
        names.push(reached(proxy, &handshake).await);
    }
    names
}

#[tokio::test]
async fn hashing_agrees_across_proxies_and_a_change_moves_few_keys() {
    let echoes = echoes().await;
    let [a, b, c] = echoes.each_ref().map(|echo| echo.address);
    let by = "{ header = \"x-user\" }";
    let proxy = Proxy::start(&hashed(&[a, b, c], by)).await;
    let before = all_reached(&proxy).await;
    assert_eq!(all_reached(&proxy).await, before);
    // Another process, with a different order of endpoints.
    let other = Proxy::start(&hashed(&[c, a, b], by)).await;
    assert_eq!(all_reached(&other).await, before);
    // One endpoint less: its keys move, and the others stay.
    proxy.reload(&hashed(&[a, b], by)).await;
    let without = all_reached(&proxy).await;
    for (before, after) in before.iter().zip(&without) {
        assert!(before == after || before == "c", "{before} to {after}");
        assert_ne!(after, "c");
    }
    // It comes back and gets its keys again. Then it dies, and the same keys move.
    proxy.reload(&hashed(&[a, b, c], by)).await;
    assert_eq!(all_reached(&proxy).await, before);
    let [_a, _b, dying] = echoes;
    drop(dying);
    assert_eq!(all_reached(&proxy).await, without);
}

#[tokio::test]
async fn hashing_keeps_the_load_bounded() {
    let echoes = echoes().await;
    let [a, b, c] = echoes.each_ref().map(|echo| echo.address);
    let config = hashed(&[a, b, c], "{ header = \"x-user\" }").replace("100", "1.25");
    let proxy = Proxy::start(&config).await;
    let mut held = Vec::new();
    // All clients have the same key.
    for _ in 0..30 {
        let mut wire = proxy.connect().await;
        wire.send(handshake_with("X-User: one\r\n")).await;
        assert_eq!(wire.head().await.status(), 101);
        held.push(wire);
    }
    let most = echoes.iter().map(Echo::open).max().unwrap();
    // 1.25 times a third of thirty, rounded up.
    assert!((10..=13).contains(&most), "{most}");
}

/// How many of nine tunnels with these handshakes each endpoint gets, the fewest first.
async fn shares(by: &str, handshake: impl Fn(usize) -> String) -> [usize; 3] {
    let echoes = echoes().await;
    let [a, b, c] = echoes.each_ref().map(|echo| echo.address);
    let proxy = Proxy::start(&hashed(&[a, b, c], by)).await;
    let mut held = Vec::new();
    for number in 0..9 {
        let mut wire = proxy.connect().await;
        wire.send(handshake(number)).await;
        assert_eq!(wire.head().await.status(), 101);
        held.push(wire);
    }
    let mut open = echoes.each_ref().map(Echo::open);
    open.sort_unstable();
    open
}

#[tokio::test]
async fn an_empty_key_is_no_key() {
    let field = |field: &str| handshake_with(&format!("{field}\r\n"));
    let path = |path: &str| HANDSHAKE.replace("/chat", path);
    for (by, handshake) in [
        ("{ header = \"x-room\" }", field("X-Room: ")),
        ("{ cookie = \"room\" }", field("Cookie: a=1; room=; b=2")),
        ("{ query = \"room\" }", path("/chat?room=&a=1")),
        ("{ query = \"room\" }", path("/chat?room")),
    ] {
        assert_eq!(shares(by, |_| handshake.clone()).await, [3, 3, 3], "{by}");
    }
}

#[tokio::test]
async fn a_cookie_that_is_not_ascii_hides_no_key() {
    let cookies = |number| handshake_with(&format!("Cookie: name=J\u{f6}rg{number}; sid=7\r\n"));
    assert_eq!(shares("{ cookie = \"sid\" }", cookies).await, [0, 0, 9]);
}

#[tokio::test]
async fn hash_keys_come_from_the_configured_source() {
    let echoes = echoes().await;
    let [a, b, c] = echoes.each_ref().map(|echo| echo.address);
    let path = |path: &str| HANDSHAKE.replace("/chat", path);
    for (by, same, others) in [
        (
            "{ cookie = \"sid\" }",
            [
                handshake_with("Cookie: x=1; sid=7\r\n"),
                handshake_with("Cookie: sid=7; x=2\r\n"),
            ],
            (0..30)
                .map(|key| handshake_with(&format!("Cookie: sid={key}\r\n")))
                .collect::<Vec<_>>(),
        ),
        (
            "{ query = \"room\" }",
            [path("/chat?a=1&room=x%20y"), path("/chat?room=x+y")],
            (0..30).map(|key| path(&format!("/?room={key}"))).collect(),
        ),
        (
            "\"path\"",
            [path("/one?a"), path("/one?b")],
            (0..30).map(|key| path(&format!("/{key}"))).collect(),
        ),
        (
            "\"client_ip\"",
            [path("/one"), path("/two")],
            (0..30)
                .map(|key| handshake_with(&format!("X-Forwarded-For: 192.0.2.{key}\r\n")))
                .collect(),
        ),
    ] {
        let config = hashed(&[a, b, c], by);
        let trusting = "trusted_proxies = [\"127.0.0.1\"]\n[[route]]";
        let proxy = Proxy::start(&config.replace("[[route]]", trusting)).await;
        let [one, two] = &same;
        assert_eq!(
            reached(&proxy, one).await,
            reached(&proxy, two).await,
            "{by}"
        );
        let mut names = Vec::new();
        for other in &others {
            names.push(reached(&proxy, other).await);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["a", "b", "c"], "{by}: keys spread");
    }
}
