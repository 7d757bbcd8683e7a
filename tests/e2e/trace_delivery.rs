//! How spans reach a collector that asks for patience, for less at a time, for a key, or that does not respond.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::certificates::Authority;
use crate::harness::collector::{Answer, Collector};
use crate::harness::endpoint::Echo;
use crate::harness::proxy::{Proxy, Signal, simple, verbose};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::until;

/// Everything is sampled, and sent to this collector.
async fn sampling(collector: &Collector, keys: &str) -> (Echo, String) {
    let echo = Echo::start("echo").await;
    let config = collector.settings(&format!("ratio = 1\n{keys}")) + &simple(&[echo.address]);
    (echo, config)
}

#[tokio::test]
async fn a_collector_says_when_it_is_asked_again() {
    let collector = Collector::start().await;
    let (_echo, config) = sampling(&collector, "").await;
    let proxy = Proxy::start(&config).await;
    collector.answer_with(Answer {
        fields: "Retry-After: 3\r\n",
        ..Answer::status(429)
    });
    drop(proxy.tunnel().await);
    until("a request", || collector.requests() > 0).await;
    collector.answer(200);
    collector.have(2).await;
    let times = collector.times();
    let pause = times[1] - times[0];
    assert!(pause >= Duration::from_millis(2900), "{pause:?}");
}

#[tokio::test]
async fn requests_that_are_too_large_are_halved() {
    let collector = Collector::start().await;
    let (_echo, config) = sampling(&collector, "").await;
    let proxy = Proxy::start(&(METRICS.to_owned() + &config)).await;
    collector.answer_with(Answer {
        most: 1,
        ..Answer::status(200)
    });
    for _ in 0..3 {
        drop(proxy.tunnel().await);
    }
    collector.have(6).await;
    // Some were together.
    assert!(collector.requests() > 6);
    let exported = ["result=\"exported\""];
    let scrape = Scrape::until(&proxy, "tidegate_spans_total", &exported, 6.0).await;
    for result in ["result=\"rejected\"", "result=\"dropped\""] {
        assert_eq!(scrape.sum("tidegate_spans_total", &[result]), 0.0);
    }
}

#[tokio::test]
async fn the_authorities_of_the_system_are_read_once_until_the_collector_is_not_trusted() {
    let folder = TempDir::new().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let server = authority.server(folder.path(), &["127.0.0.1"], false);
    let collector = Collector::secured(server).await;
    let echo = Echo::start("echo").await;
    let config = collector.secured_settings("ratio = 1") + &simple(&[echo.address]);
    let bundle = folder.path().join("bundle.pem");
    other.write(&bundle);
    let (folder, shown) = (Arc::new(folder), bundle.clone());
    let proxy = Proxy::spawn(folder, &config, |command| {
        command
            .env("SSL_CERT_FILE", shown)
            .env_remove("SSL_CERT_DIR");
    });
    proxy.logged("ready").await;
    drop(proxy.tunnel().await);
    proxy
        .logged("request to a service failed; each cause is logged at most once a minute")
        .await;
    authority.write(&bundle);
    collector.have(2).await;
    // With the client that it has, it still trusts the collector.
    other.write(&bundle);
    drop(proxy.tunnel().await);
    collector.have(4).await;
    assert_eq!(collector.requests(), 2);
}

#[tokio::test]
async fn a_collector_gets_the_keys_that_it_requires_and_no_log_does() {
    let collector = Collector::start().await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("collector.headers");
    fs::write(
        &file,
        "# of the account\nAuthorization: Basic s3cret-in-file\n",
    )
    .unwrap();
    let keys = "headers = { X-Api-Key = \"s3cret-inline\" }\nheaders_file = \"collector.headers\"";
    let (_echo, config) = sampling(&collector, keys).await;
    let proxy = Proxy::start_in(folder, &verbose(&config)).await;
    drop(proxy.tunnel().await);
    collector.have(2).await;
    for (name, value) in [
        ("x-api-key", "s3cret-inline"),
        ("authorization", "Basic s3cret-in-file"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(collector.header(name).as_deref(), Some(value));
    }
    // What is wrong with the file is not shown either.
    fs::write(&file, "Basic s3cret-in-file").unwrap();
    proxy.signal(Signal::HUP);
    proxy
        .logged("reload failed; the previous configuration stays in effect")
        .await;
    let log = proxy.log().text();
    assert!(!log.contains("s3cret"), "{log}");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_silent_collector_when_it_is_repeated() {
    let collector = Collector::start().await;
    let (_echo, config) = sampling(&collector, "").await;
    let mut proxy = Proxy::start(&config).await;
    collector.answer(0);
    drop(proxy.tunnel().await);
    until("a request", || collector.requests() > 0).await;
    proxy.signal(Signal::TERM);
    // The sums do not wait either.
    proxy.logged("stopped").await;
    proxy.signal(Signal::TERM);
    proxy
        .logged("asked to stop at once; the last spans are not sent")
        .await;
    assert_eq!(proxy.exit().await, 0);
}

#[tokio::test]
async fn a_collector_that_has_failed_gets_no_last_request() {
    let collector = Collector::start().await;
    let (_echo, config) = sampling(&collector, "").await;
    let mut proxy = Proxy::start(&config).await;
    collector.answer_with(Answer {
        fields: "Retry-After: 600\r\n",
        ..Answer::status(503)
    });
    drop(proxy.tunnel().await);
    proxy
        .logged("request to a service failed; each cause is logged at most once a minute")
        .await;
    drop(proxy.tunnel().await);
    proxy.logged_times("tunnel ended", 2).await;
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit().await, 0);
    assert_eq!(collector.requests(), 1);
}
