//! What strangers and dead endpoints do again and again is a few lines in the log, not one each time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Unit};
use crate::harness::faulty::{FaultyEndpoint, Reaction};
use crate::harness::free_address;
use crate::harness::proxy::{Proxy, settings, simple, verbose};
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};

/// Requests of each kind.
const REQUESTS: usize = 200;

/// Lines with one message, at most: a few causes at two endpoints, and once more if a minute has passed.
const FEW: usize = 6;

const PLAIN: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends these requests, twenty at a time: how often each status and reason was the response.
async fn flood(
    proxy: &Proxy,
    request: &str,
    requests: usize,
) -> BTreeMap<(u16, Option<String>), usize> {
    let address = proxy.address();
    let visit = || async move {
        let mut client = Wire::connect(address).await;
        client.send(request).await;
        let head = client.head().await;
        let reason = head.value("tidegate-reason").map(str::to_owned);
        (head.status(), reason)
    };
    let mut results = BTreeMap::new();
    for _ in 0..requests / 20 {
        for result in join_all((0..20).map(|_| visit())).await {
            *results.entry(result).or_default() += 1;
        }
    }
    results
}

/// Warnings and errors so far, by message. Rejected requests are lines of the access log.
async fn warnings(proxy: &Proxy) -> BTreeMap<String, usize> {
    proxy.logged_by_now("ready").await;
    let mut found = BTreeMap::new();
    for line in proxy.log().text().lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let is_warning = ["WARN", "ERROR"].contains(&event["level"].as_str().unwrap());
        if is_warning && event["message"] != "rejected" {
            *found
                .entry(event["message"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
    }
    found
}

/// Floods a proxy: every response is this one, and the log has a few lines about it, one of them this.
async fn expect_few(proxy: &Proxy, expected: (u16, Option<&str>), line: Option<&str>) {
    // A wrong answer is the right one for the usual key.
    let handshake = HANDSHAKE.replace("dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAA==");
    assert_ne!(handshake, HANDSHAKE);
    for request in [&handshake, PLAIN] {
        let results = flood(proxy, request, REQUESTS).await;
        let response = (expected.0, expected.1.map(str::to_owned));
        // A plain request is not a bad handshake.
        if request == handshake {
            assert_eq!(results, BTreeMap::from([(response, REQUESTS)]), "{line:?}");
        }
    }
    let warnings = warnings(proxy).await;
    assert!(
        warnings.values().all(|count| *count <= FEW),
        "{expected:?}: {warnings:#?}"
    );
    assert!(
        line.is_none_or(|line| warnings.contains_key(line)),
        "{expected:?}: {warnings:#?}"
    );
}

fn two(addresses: [SocketAddr; 2], more: &str) -> String {
    verbose(&(simple(&addresses) + "balance = \"round_robin\"\n" + more))
}

#[tokio::test]
async fn endpoints_that_are_down_are_a_few_lines() {
    let down = [free_address(), free_address()];
    for more in [
        "",
        "ejection = {}\n",
        "health = { tcp = {}, interval = \"50ms\", timeout = \"30s\" }\n",
    ] {
        let proxy = Proxy::start(&two(down, more)).await;
        let mut results = flood(&proxy, HANDSHAKE, REQUESTS).await;
        results.retain(|(status, _), _| *status != 503);
        assert!(results.is_empty(), "{results:?}");
        let warnings = warnings(&proxy).await;
        assert!(
            warnings.values().all(|count| *count <= FEW),
            "{warnings:#?}"
        );
    }
}

#[tokio::test]
async fn each_failure_of_an_endpoint_is_a_few_lines() {
    let connect = "cannot connect to endpoint";
    let down = [free_address(), free_address()];
    let proxy = Proxy::start(&two(down, "")).await;
    expect_few(&proxy, (503, Some("connect-failed")), Some(connect)).await;
    // All of them, at another level.
    let all = proxy.log().events(connect);
    assert!(all.len() >= 4 * REQUESTS - FEW, "{}", all.len());
    assert!(all.iter().any(|event| event["level"] == "DEBUG"));
    for (reaction, expected) in [
        (Reaction::WrongAccept, (502, Some("bad-switch"))),
        (Reaction::Hang, (504, Some("handshake-timeout"))),
        (Reaction::Answer(503), (503, None)),
    ] {
        let endpoints = [
            FaultyEndpoint::start(Reaction::Hang, reaction).await,
            FaultyEndpoint::start(Reaction::Hang, reaction).await,
        ];
        let addresses = endpoints.each_ref().map(|each| each.address);
        let more = "retry_on = [\"503\", \"timeout\", \"closed\"]\n\
                    timeouts = { handshake = \"100ms\", response = \"100ms\" }\n";
        let proxy = Proxy::start(&two(addresses, more)).await;
        let line = (reaction != Reaction::WrongAccept).then_some("retrying on another endpoint");
        expect_few(&proxy, expected, line).await;
    }
}

/// An endpoint that closes every connection without a response.
async fn mute() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            Wire::tcp(socket).head().await;
        }
    });
    (address, serving)
}

#[tokio::test]
async fn endpoints_that_close_without_a_response_are_a_few_lines() {
    let ((one, _one), (two_, _two)) = (mute().await, mute().await);
    for ejection in ["", "ejection = {}\n"] {
        let proxy = Proxy::start(&two([one, two_], ejection)).await;
        if ejection.is_empty() {
            let line = "retrying on another endpoint";
            expect_few(&proxy, (502, Some("bad-answer")), Some(line)).await;
            let refused = "not retrying: a fifth of the requests are retries already";
            let refused = proxy.log().events(refused);
            assert!(refused.len() > FEW, "{}", refused.len());
        } else {
            flood(&proxy, HANDSHAKE, REQUESTS).await;
            let warnings = warnings(&proxy).await;
            assert!(
                warnings.values().all(|count| *count <= FEW),
                "{warnings:#?}"
            );
        }
    }
}

#[tokio::test]
async fn a_name_without_an_address_is_a_few_lines() {
    let config = simple(&[]).replace(
        "endpoints = []",
        "endpoints = [\"chat.invalid:9\", \"talk.invalid:9\"]",
    );
    let proxy = Proxy::start(&verbose(&config)).await;
    expect_few(
        &proxy,
        (503, Some("name-unresolved")),
        Some("cannot connect to endpoint"),
    )
    .await;
}

#[tokio::test]
async fn an_endpoint_with_a_wrong_certificate_is_a_few_lines() {
    let folder = TempDir::new().unwrap();
    Authority::new().write(&folder.path().join("other.pem"));
    let server = Authority::new().server(folder.path(), &["127.0.0.1"], false);
    let echo = Echo::with("echo", Unit::Messages, Some(server)).await;
    let config = verbose(&(simple(&[echo.address]) + "tls = { ca = \"other.pem\" }\n"));
    let proxy = Proxy::start_in(folder, &config).await;
    expect_few(
        &proxy,
        (503, Some("connect-failed")),
        Some("cannot connect to endpoint"),
    )
    .await;
}

#[tokio::test]
async fn excused_handshakes_are_a_few_lines() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let mut wire = Wire::tcp(socket);
            wire.head().await;
            wire.send(SWITCH.replace("HTTP/1.1", "HTTP/1.0")).await;
            open.push(wire);
        }
    });
    let config = settings(&[address], "", "handshake = \"lenient\"");
    let proxy = Proxy::start(&verbose(&config)).await;
    let results = flood(&proxy, HANDSHAKE, REQUESTS).await;
    assert_eq!(results, BTreeMap::from([((101, None), REQUESTS)]));
    let warnings = warnings(&proxy).await;
    assert!(
        warnings["lenient handshake accepted"] <= FEW,
        "{warnings:#?}"
    );
    serving.abort();
}

/// What an endpoint does by turns is no news each time.
#[tokio::test]
async fn an_endpoint_that_comes_and_goes_is_a_few_lines() {
    let address = free_address();
    let proxy = Proxy::start(&verbose(&simple(&[address]))).await;
    let visit = async || {
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        client.head().await.status()
    };
    for _ in 0..20 {
        assert_eq!(visit().await, 503);
        let there = FaultyEndpoint::at(address, Reaction::Answer(204)).await;
        assert_eq!(visit().await, 204);
        drop(there);
        // Its socket is closed once its task has ended.
        while TcpStream::connect(address).await.is_ok() {}
    }
    let warnings = warnings(&proxy).await;
    assert!(warnings["endpoint unreachable"] <= FEW, "{warnings:#?}");
    assert!(
        warnings.values().all(|count| *count <= FEW),
        "{warnings:#?}"
    );
    let again = proxy.log().events("endpoint reachable again");
    assert!((1..=FEW).contains(&again.len()), "{again:#?}");
}
