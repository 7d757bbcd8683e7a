//! The parts that tests are made of: the program under test, its endpoints and its clients.
//!
//! Every port is 0, and the real addresses are read from the log of the program. Tests wait for
//! events; only [`quiet_for`] lets time pass, to show that nothing happens.

pub(crate) mod acme_ca;
pub(crate) mod acme_node;
pub(crate) mod acme_settings;
pub(crate) mod acme_validation;
pub(crate) mod certificates;
pub(crate) mod collector;
pub(crate) mod dashboard;
pub(crate) mod talking_clients;
pub(crate) mod dns;
pub(crate) mod endpoint;
pub(crate) mod etcd;
pub(crate) mod faulty;
pub(crate) mod frames;
pub(crate) mod guarded;
pub(crate) mod h2_client;
pub(crate) mod h2_frames;
pub(crate) mod h2_stream;
pub(crate) mod issuer;
pub(crate) mod kube_api;
pub(crate) mod network;
pub(crate) mod operator;
pub(crate) mod proxy;
pub(crate) mod scrape;
pub(crate) mod wire;

use std::io::Write as _;
use std::time::Duration;

/// The time after which a wait fails the test. No test measures it.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// An address whose port is not in use at any address, and that the kernel does not assign to another
/// socket by itself.
pub(crate) fn free_address() -> std::net::SocketAddr {
    // Below the ports of outgoing connections (ip_local_port_range), of which other tests open many.
    let mut ports = 12_000..32_000;
    let skip = usize::try_from(std::process::id() % 500).unwrap() * 40;
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(7, std::sync::atomic::Ordering::Relaxed);
    let free = |port| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)).ok()?;
        Some(address)
    };
    ports.nth((skip + number) % 19_000);
    ports.find_map(free).unwrap()
}

/// Says that a test did not run because it cannot here.
pub(crate) fn not_run(test: &str, why: &str) {
    // Not eprintln!: the output of a test that passes is captured and not shown.
    let _ = writeln!(std::io::stderr(), "{test} NOT RUN: {}", why.trim());
}

/// Waits for `future`, and fails the test after a minute: `what` has not happened.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_TIMEOUT, future).await {
        Ok(value) => value,
        Err(_) => panic!("timed out waiting for {what}"),
    }
}

/// Asserts that `future` does not complete within this time.
pub(crate) async fn quiet_for(milliseconds: u64, future: impl Future<Output: std::fmt::Debug>) {
    if let Ok(value) = tokio::time::timeout(Duration::from_millis(milliseconds), future).await {
        panic!("expected quiet, got {value:?}");
    }
}

/// Looks again and again, at this pace, until something is found.
pub(crate) async fn found<T>(
    what: &str,
    milliseconds: u64,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    within(what, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
    })
    .await
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
