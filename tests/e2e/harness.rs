//! What the tests share: the program under test, endpoints behind it, clients before it.
//!
//! Ports are always 0 and addresses are read from the program's log. Tests wait for what happens;
//! only [`quiet_for`] lets time pass, to show that nothing does.

pub(crate) mod certificates;
pub(crate) mod dns;
pub(crate) mod endpoint;
pub(crate) mod fickle;
pub(crate) mod frames;
pub(crate) mod operator;
pub(crate) mod proxy;
pub(crate) mod scrape;
pub(crate) mod wire;

use std::time::Duration;

/// How long anything may take before the test has failed. Never what a test measures.
const PATIENCE: Duration = Duration::from_secs(60);

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
