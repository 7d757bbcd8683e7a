//! What the tests share: the program under test, endpoints behind it, clients before it.
//!
//! Ports are always 0 and addresses are read from the program's log. Tests wait for what happens;
//! only [`quiet_for`] lets time pass, to show that nothing does.

pub(crate) mod certificates;
pub(crate) mod dns;
pub(crate) mod endpoint;
pub(crate) mod fickle;
pub(crate) mod frames;
pub(crate) mod network;
pub(crate) mod operator;
pub(crate) mod proxy;
pub(crate) mod scrape;
pub(crate) mod wire;

use std::time::Duration;

/// How long anything may take before the test has failed. Never what a test measures.
const PATIENCE: Duration = Duration::from_secs(60);

/// An address that nobody has, and that the system gives to nobody who does not ask for it.
pub(crate) fn free_address() -> std::net::SocketAddr {
    // Below those that connections get (ip_local_port_range), of which other tests make many.
    let mut ports = 12_000..32_000;
    let skip = usize::try_from(std::process::id() % 500).unwrap() * 40;
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(7, std::sync::atomic::Ordering::Relaxed);
    let free = |port| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let socket = std::net::TcpListener::bind(address).ok()?;
        socket.local_addr().ok()
    };
    ports.nth((skip + number) % 19_000);
    ports.find_map(free).unwrap()
}

/// Fails the test if `what` has not happened after a long time.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Asserts that `future` does not end for a while.
pub(crate) async fn quiet_for(milliseconds: u64, future: impl Future<Output: std::fmt::Debug>) {
    if let Ok(value) = tokio::time::timeout(Duration::from_millis(milliseconds), future).await {
        panic!("expected quiet, got {value:?}");
    }
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
