//! Operators looking while others work: many quiet tunnels, some busy ones, and all of the tunnels
//! listed and all of the metrics scraped over and over. What the busy ones notice of that.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::client::Client;
use super::peer::Running;
use super::scenario::{Results, open, paced_echoes, percentile, settle};

/// Tunnels that are only there.
const QUIET: usize = 5000;

/// Tunnels that echo, and how many messages a second all of them send.
const BUSY: usize = 200;
const PER_SECOND: usize = 4000;

/// Times that it is measured with and without, in turn, and for how long each.
const TURNS: usize = 3;
const SECONDS: usize = 5;

/// Measures it.
pub(crate) async fn measure(running: &Running, client: &Client, scale: usize) -> Results {
    let (quiet, seconds) = (QUIET / scale, (SECONDS / scale).max(1));
    let held = open(client, "/echo", quiet).await;
    settle().await;
    let looks = Rc::new(Looks::default());
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let busy = open(client, "/echo", BUSY).await;
        without.extend(paced_echoes(busy, PER_SECOND, seconds).await);
        let busy = open(client, "/echo", BUSY).await;
        let looking = tokio::task::spawn_local(look(
            running.admin(),
            running.metrics(),
            quiet,
            Rc::clone(&looks),
        ));
        with.extend(paced_echoes(busy, PER_SECOND, seconds).await);
        looking.abort();
    }
    drop(held);
    without.sort_unstable();
    with.sort_unstable();
    let each = |total: Duration, count: u32| total.as_secs_f64() * 1e3 / f64::from(count.max(1));
    vec![
        ("µs p50 without", percentile(&without, 0.5)),
        ("µs p50 with", percentile(&with, 0.5)),
        ("µs p99 without", percentile(&without, 0.99)),
        ("µs p99 with", percentile(&with, 0.99)),
        ("µs p99.9 without", percentile(&without, 0.999)),
        ("µs p99.9 with", percentile(&with, 0.999)),
        ("full listings", f64::from(looks.listings.get())),
        (
            "ms per listing",
            each(looks.listing.get(), looks.listings.get()),
        ),
        (
            "ms per scrape",
            each(looks.scrape.get(), looks.listings.get()),
        ),
    ]
}

/// What looking took.
#[derive(Default)]
struct Looks {
    listings: Cell<u32>,
    listing: Cell<Duration>,
    scrape: Cell<Duration>,
}

/// Four times a second, which no operator does: all tunnels, then all metrics.
async fn look(admin: String, metrics: String, least: usize, looks: Rc<Looks>) {
    loop {
        let began = Instant::now();
        let text = get(&admin, "/v1/tunnels?limit=10000&sort=age").await;
        looks.listing.set(looks.listing.get() + began.elapsed());
        let listing: Value = serde_json::from_slice(&text).unwrap();
        assert!(listing["tunnels"].as_array().unwrap().len() >= least);
        let began = Instant::now();
        let text = get(&metrics, "/metrics").await;
        looks.scrape.set(looks.scrape.get() + began.elapsed());
        assert!(text.starts_with(b"# "));
        looks.listings.set(looks.listings.get() + 1);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// The body of an answer.
async fn get(socket: &str, path: &str) -> Vec<u8> {
    let mut socket = UnixStream::connect(socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{path}");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    answer.split_off(end.unwrap() + 4)
}
