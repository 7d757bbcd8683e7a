//! How much do operators delay messages? While the latency of busy tunnels is measured, all tunnels are listed and all
//! metrics are scraped over and over; or the page, the terminal view and a scraper watch.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::rig::client::Client;
use super::rig::{runtime, unix};
use super::scenario::{Results, open, paced_echoes, percentile, settle};
use super::target::Target;
use super::viewers::Viewers;

/// What operators do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looking {
    /// Full listings and scrapes four times a second, far more than any operator does.
    Listings,
    /// `tidegate dashboard` with a browser, `tidegate top`, and a scrape every second.
    Views,
}

/// The number of idle tunnels.
const QUIET: usize = 5000;

/// The number of busy tunnels, and their messages per second in total.
const BUSY: usize = 200;
const PER_SECOND: usize = 4000;

/// The number of measurements with and without operators, in turn, and the duration of each.
const TURNS: usize = 3;
const SECONDS: usize = 5;

/// Runs the measurement.
pub(crate) async fn measure(
    target: &Target,
    client: &Client,
    looking: Looking,
    scale: usize,
) -> Results {
    let (quiet, seconds) = (QUIET / scale, (SECONDS / scale).max(1));
    let held = open(client, "/echo", quiet).await;
    settle().await;
    let mut looks = Looks::default();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let busy = open(client, "/echo", BUSY).await;
        without.extend(paced_echoes(busy, PER_SECOND, seconds).await);
        let busy = open(client, "/echo", BUSY).await;
        let over = Arc::<AtomicBool>::default();
        let (admin, metrics, until) = (target.admin(), target.metrics(), Arc::clone(&over));
        let looking = std::thread::spawn(move || {
            runtime().block_on(async {
                match looking {
                    Looking::Listings => list(&admin, &metrics, quiet, &until).await,
                    Looking::Views => watch(&admin, &metrics, &until).await,
                }
            })
        });
        with.extend(paced_echoes(busy, PER_SECOND, seconds).await);
        over.store(true, Ordering::Relaxed);
        let looked = looking.join().unwrap();
        looks.scrapes += looked.scrapes;
        looks.listings += looked.listings;
        looks.listing += looked.listing;
        looks.scrape += looked.scrape;
    }
    drop(held);
    without.sort_unstable();
    with.sort_unstable();
    let each = |total: Duration, count: u32| total.as_secs_f64() * 1e3 / f64::from(count.max(1));
    let mut results = vec![
        ("µs p50 without", percentile(&without, 0.5)),
        ("µs p50 with", percentile(&with, 0.5)),
        ("µs p99 without", percentile(&without, 0.99)),
        ("µs p99 with", percentile(&with, 0.99)),
        ("µs p99.9 without", percentile(&without, 0.999)),
        ("µs p99.9 with", percentile(&with, 0.999)),
        ("ms per scrape", each(looks.scrape, looks.scrapes)),
    ];
    if looking == Looking::Listings {
        results.push(("full listings", f64::from(looks.listings)));
        results.push(("ms per listing", each(looks.listing, looks.listings)));
    }
    results
}

/// The time that listings and scrapes took.
#[derive(Default)]
struct Looks {
    listings: u32,
    listing: Duration,
    scrapes: u32,
    scrape: Duration,
}

impl Looks {
    async fn scrape(&mut self, metrics: &Path) {
        let began = Instant::now();
        let text = unix::get(metrics, "/metrics").await.unwrap();
        self.scrape += began.elapsed();
        self.scrapes += 1;
        assert!(text.contains("\ntidegate_tunnels_open{"));
    }
}

/// Keeps the views open. Runs on a thread of its own, like the listings.
async fn watch(admin: &Path, metrics: &Path, over: &AtomicBool) -> Looks {
    let viewers = Viewers::start(admin);
    let mut looks = Looks::default();
    while !over.load(Ordering::Relaxed) {
        looks.scrape(metrics).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    viewers.assert_alive();
    looks
}

/// Lists all tunnels and scrapes all metrics. Runs on a thread of its own, so that the busy clients wait for the proxy
/// only.
async fn list(admin: &Path, metrics: &Path, least: usize, over: &AtomicBool) -> Looks {
    let mut looks = Looks::default();
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let listing = unix::get(admin, "/v1/tunnels?limit=10000&sort=age").await;
        let listing = listing.unwrap();
        looks.listing += began.elapsed();
        assert!(listing.matches("\"age_seconds\":").count() >= least);
        looks.scrape(metrics).await;
        looks.listings += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    looks
}
