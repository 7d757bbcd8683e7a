//! Rebalancing: after a scale-out, the excess tunnels of old endpoints move to new ones, and no others.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::endpoint::Echo;
use crate::harness::frames::{frame, frames};
use crate::harness::operator::{ADMIN_AND_METRICS, Operator, write_token};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::scrape::Scrape;
use crate::harness::wire::Wire;
use crate::harness::{quiet_for, until};

/// Longer than two evaluations of the balance.
const TWO_LOOKS: u64 = 4500;

fn config(endpoints: &[&Echo], rebalance: &str) -> String {
    let addresses: Vec<_> = endpoints.iter().map(|echo| echo.address).collect();
    format!(
        "{ADMIN_AND_METRICS}{}rebalance = {{ {rebalance} }}\n",
        simple(&addresses)
    )
}

/// A proxy, and tunnels that all go to the first endpoint.
async fn start(first: &Echo, rebalance: &str, count: usize) -> (Proxy, Operator, Vec<Wire>) {
    let folder = tempfile::TempDir::new().unwrap();
    write_token(folder.path());
    let proxy = Proxy::start_in(folder, &config(&[first], rebalance)).await;
    let operator = Operator::of(&proxy).await;
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(proxy.tunnel().await);
    }
    proxy.logged_times("tunnel opened", count).await;
    (proxy, operator, held)
}

/// The session ids of these events.
fn sessions(events: &[Value]) -> Vec<&Value> {
    events.iter().map(|event| &event["session"]).collect()
}

/// Answers a Close as a client does. Returns its payload.
async fn goodbye(client: &mut Wire) -> Vec<u8> {
    let bytes = client.exactly(2 + 2 + "rebalance".len()).await;
    let (_, payload) = frames(&bytes).remove(0);
    client.send(frame(0x88, Some([0; 4]), &payload[..2])).await;
    client.closed().await;
    payload
}

async fn excess(operator: &Operator) -> Value {
    operator.get("/v1/upstreams").await[0]["rebalance"]["excess"].clone()
}

#[tokio::test]
async fn a_dry_run_reports_the_excess_and_moves_nothing() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    // A dry run is the default.
    let (proxy, operator, held) = start(&one, "min_age = \"0s\"", 20).await;
    assert_eq!(excess(&operator).await, 0);
    proxy
        .reload(&config(&[&one, &other], "min_age = \"0s\""))
        .await;
    let event = proxy
        .logged("endpoints have more tunnels than their share")
        .await;
    assert_eq!(
        (&event["upstream"], &event["excess"], &event["dry_run"]),
        (&json!("main"), &json!(8), &json!(true))
    );
    quiet_for(TWO_LOOKS, proxy.logged("tunnel ended")).await;
    assert_eq!(
        proxy
            .log()
            .events("endpoints have more tunnels than their share")
            .len(),
        1
    );
    assert_eq!((one.open(), other.open()), (20, 0));
    let shown = operator.get("/v1/upstreams").await[0]["rebalance"].clone();
    let expected = json!({ "dry_run": true, "excess": 8, "waits_for_slow_start": false });
    assert_eq!(shown, expected);
    let printed = operator.run(&["status"]).await.out;
    let line = "rebalance of main: 8 tunnels would be moved (dry run)";
    assert!(printed.contains(line), "{printed}");
    let scrape = Scrape::of(&proxy).await;
    let upstream = ["upstream=\"main\""];
    assert_eq!(scrape.sum("tidegate_rebalance_excess", &upstream), 8.0);
    // Tunnels that end are no excess any more.
    drop(held);
    proxy.logged("upstream is balanced again").await;
}

#[tokio::test]
async fn the_excess_moves_and_then_nothing_more() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let on = "mode = \"on\", rate = \"1000/s\", min_age = \"0s\"";
    let (proxy, operator, mut held) = start(&one, on, 20).await;
    let opened = proxy.log().events("tunnel opened");
    proxy.reload(&config(&[&one, &other], on)).await;
    // The oldest tunnels, as many as the excess.
    let rest = held.split_off(8);
    let said = join_all(held.iter_mut().map(goodbye)).await;
    let expected = [&1012_u16.to_be_bytes()[..], b"rebalance"].concat();
    assert!(said.iter().all(|it| *it == expected), "{said:?}");
    let ended = proxy.logged_times("tunnel ended", 8).await;
    assert!(ended.iter().all(|event| event["reason"] == "rebalance"));
    let (ended, opened) = (sessions(&ended), sessions(&opened));
    assert!(opened[..8].iter().all(|session| ended.contains(session)));
    // Some clients reconnect after the next evaluation: moved tunnels count until then.
    quiet_for(TWO_LOOKS, proxy.logged_times("tunnel ended", 9)).await;
    assert_eq!((one.open(), other.open()), (12, 0));
    for client in &mut held {
        *client = proxy.tunnel().await;
    }
    assert_eq!((one.open(), other.open()), (12, 8));
    assert_eq!(excess(&operator).await, 0);
    quiet_for(TWO_LOOKS, proxy.logged_times("tunnel ended", 9)).await;
    drop(rest);
}

#[tokio::test]
async fn no_tunnel_is_moved_too_early() {
    tokio::join!(
        young_ones_stay(),
        slow_starts_come_first(),
        drained_ones_stay()
    );
}

async fn young_ones_stay() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let on = "mode = \"on\", rate = \"1000/s\", min_age = \"1h\"";
    let (proxy, operator, held) = start(&one, on, 20).await;
    proxy.reload(&config(&[&one, &other], on)).await;
    proxy
        .logged("endpoints have more tunnels than their share")
        .await;
    quiet_for(TWO_LOOKS, proxy.logged("tunnel ended")).await;
    assert_eq!(excess(&operator).await, 8);
    drop(held);
}

#[tokio::test]
async fn the_rate_is_kept_and_a_reload_ends_the_rebalance() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    // The first tunnel is moved at once, the next an hour later.
    let slow = "mode = \"on\", rate = \"1/h\", min_age = \"0s\"";
    let (proxy, operator, held) = start(&one, slow, 20).await;
    proxy.reload(&config(&[&one, &other], slow)).await;
    proxy.logged("tunnel ended").await;
    quiet_for(TWO_LOOKS, proxy.logged_times("tunnel ended", 2)).await;
    assert_eq!(excess(&operator).await, 7);
    let without = config(&[&one, &other], "").replace("rebalance = {  }\n", "");
    proxy.reload(&without).await;
    assert_eq!(excess(&operator).await, Value::Null);
    drop(held);
}

/// A client that reconnects would not get to an endpoint in its slow start.
async fn slow_starts_come_first() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let on = "mode = \"on\", rate = \"1000/s\", min_age = \"0s\"";
    let (proxy, operator, held) = start(&one, on, 20).await;
    let cold = config(&[&one, &other], on) + "slow_start = \"1h\"\n";
    proxy.reload(&cold).await;
    proxy
        .logged("endpoints have more tunnels than their share")
        .await;
    quiet_for(TWO_LOOKS, proxy.logged("tunnel ended")).await;
    let shown = operator.get("/v1/upstreams").await[0]["rebalance"].clone();
    assert_eq!(
        (&shown["excess"], &shown["waits_for_slow_start"]),
        (&json!(8), &json!(true))
    );
    proxy.reload(&config(&[&one, &other], on)).await;
    proxy.logged_times("tunnel ended", 8).await;
    drop(held);
}

/// Tunnels of a drained endpoint are up to the drain.
async fn drained_ones_stay() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let on = "mode = \"on\", rate = \"1000/s\", min_age = \"0s\"";
    let (proxy, operator, held) = start(&one, on, 20).await;
    let which = json!({ "endpoint": one.address.to_string() });
    assert_eq!(operator.post("/v1/endpoints/drain", &which).await.0, 200);
    proxy.reload(&config(&[&one, &other], on)).await;
    quiet_for(TWO_LOOKS, proxy.logged("tunnel ended")).await;
    assert_eq!(excess(&operator).await, 0);
    assert_eq!(operator.post("/v1/endpoints/undrain", &which).await.0, 200);
    proxy.logged_times("tunnel ended", 8).await;
    until("all to have moved", || one.open() <= 12).await;
    // These clients do not answer, and their tunnels count for a while as if they stayed.
    quiet_for(TWO_LOOKS, proxy.logged_times("tunnel ended", 9)).await;
    assert_eq!(one.open(), 12);
    drop(held);
}
