//! What pods go through while they have tunnels: they end, move to another EndpointSlice, and leave their addresses
//! to others, in both families; and what only looks like news of them.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use serde_json::json;

use crate::harness::endpoint::Echo;
use crate::harness::kube_api::KubeApi;
use crate::harness::network::{self, LINKS, Link};
use crate::harness::operator::Operator;
use crate::harness::proxy::Proxy;
use crate::harness::{not_run, until};
use crate::kubernetes::{
    DYING, FAILED, FAILING, READY, REMOVED, TERMINATING, WORKS_AGAIN, config, discovered,
    new_tunnels, pods, slice, works,
};

const CLOSES: &str = "on_removed = { action = \"close\" }\non_drain = { action = \"close\" }";

#[tokio::test]
async fn a_drain_goes_on_when_a_terminating_pod_serves_no_more() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    api.put("chat-a", slice(&[(&one, READY), (&two, FAILING)]));
    let slowly = "on_drain = { action = \"drain\", over = \"4s\" }";
    let (proxy, operator) = Operator::start(&config(&api, "", slowly)).await;
    let all = [&one, &two];
    let (got, _held) = new_tunnels(&proxy, 8, &all).await;
    assert_eq!(got, [8, 0]);
    api.put("chat-a", slice(&[(&one, TERMINATING), (&two, READY)]));
    discovered(&proxy, 2).await;
    until("the drain to begin", || one.open() < 8).await;
    // Its readiness probe fails while its tunnels are being closed.
    api.put("chat-a", slice(&[(&one, DYING), (&two, READY)]));
    assert_eq!(discovered(&proxy, 3).await["terminating"], 1);
    assert!(one.open() > 0);
    assert_eq!(new_tunnels(&proxy, 2, &all).await.0, [0, 2]);
    let shown = operator.get("/v1/upstreams").await;
    assert_eq!(shown[0]["endpoints"][0]["state"], "terminating", "{shown}");
    until("the drain to end", || one.open() == 0).await;
}

#[tokio::test]
async fn a_pod_that_moves_to_another_slice_keeps_its_tunnels() {
    let [one, two, three] = pods::<3>().await;
    let api = KubeApi::start().await;
    api.put("chat-a", slice(&[(&one, READY)]));
    let proxy = Proxy::start(&config(&api, "", CLOSES)).await;
    let all = [&one, &two, &three];
    let (_, mut held) = new_tunnels(&proxy, 1, &all).await;
    api.put("chat-a", slice(&[(&one, READY), (&two, READY)]));
    discovered(&proxy, 2).await;
    let (got, _others) = new_tunnels(&proxy, 2, &all).await;
    assert_eq!(got, [1, 1, 0]);
    // It has left one slice, and is not in the other yet.
    api.put("chat-a", slice(&[(&two, TERMINATING), (&three, READY)]));
    assert_eq!(discovered(&proxy, 3).await["endpoints"], 2);
    assert_eq!(new_tunnels(&proxy, 2, &all).await.0, [0, 0, 2]);
    // The look at the endpoints that closes this one's tunnels would have closed the other's, too.
    until("a look at the endpoints", || two.open() == 0).await;
    works(&mut held[0]).await;
    api.put("chat-b", slice(&[(&one, READY)]));
    discovered(&proxy, 4).await;
    works(&mut held[0]).await;
    assert_eq!(new_tunnels(&proxy, 2, &all).await.0, [1, 0, 1]);
    assert!(proxy.logged_by_now(REMOVED).await.is_empty());
    // Now it is gone for good.
    api.delete("chat-b");
    let event = proxy.logged(REMOVED).await;
    assert_eq!(
        (&event["removed"], &event["endpoints"]),
        (&json!(1), &json!(2))
    );
    until("its tunnels to be closed", || one.open() == 0).await;
}

#[tokio::test]
async fn pods_that_all_move_at_once_still_serve() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    api.put("chat-a", slice(&[(&one, READY), (&two, READY)]));
    let proxy = Proxy::start(&config(&api, "", CLOSES)).await;
    let all = [&one, &two];
    let (_, mut held) = new_tunnels(&proxy, 2, &all).await;
    api.delete("chat-a");
    discovered(&proxy, 2).await;
    assert_eq!(new_tunnels(&proxy, 2, &all).await.0, [1, 1]);
    api.put("chat-b", slice(&[(&one, READY), (&two, READY)]));
    discovered(&proxy, 3).await;
    for tunnel in &mut held {
        works(tunnel).await;
    }
}

#[tokio::test]
async fn a_drain_by_an_operator_ends_with_the_pod() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    let both = slice(&[(&one, READY), (&two, READY)]);
    api.put("chat-a", both.clone());
    let (proxy, operator) = Operator::start(&config(&api, "", "")).await;
    let all = [&one, &two];
    let pod = json!({ "endpoint": "chat-127.0.0.1" });
    let (status, _) = operator.post("/v1/endpoints/drain", &pod).await;
    assert_eq!(status, 200);
    assert_eq!(new_tunnels(&proxy, 2, &all).await.0, [0, 2]);
    api.put("chat-a", slice(&[(&two, READY)]));
    proxy.logged(REMOVED).await;
    // A later pod has its address.
    api.put("chat-a", both);
    discovered(&proxy, 3).await;
    assert_eq!(new_tunnels(&proxy, 2, &all).await.0, [1, 1]);
}

#[tokio::test]
async fn watches_that_bring_nothing_are_reported_and_lists_take_their_place() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    api.put("chat-a", slice(&[(&one, READY)]));
    api.set_mute(true);
    let started = std::time::Instant::now();
    let proxy = Proxy::start(&config(&api, "", "")).await;
    assert_eq!(proxy.logged(FAILED).await["kept"], 1);
    let all = [&one, &two];
    for (times, pod) in [(2, &two), (3, &one)] {
        api.put("chat-a", slice(&[(pod, READY)]));
        discovered(&proxy, times).await;
        let expected = if times == 2 { [0, 1] } else { [1, 0] };
        assert_eq!(new_tunnels(&proxy, 1, &all).await.0, expected);
    }
    assert!(api.lists() >= 3);
    let requests = api.requests();
    let is_short = |it: &String| it.contains("watch=true") && it.contains("timeoutSeconds=20");
    assert!(requests.iter().any(is_short), "{requests:?}");
    // A list is enough to know that a pod is gone.
    proxy.logged(REMOVED).await;
    // Each is further from the one before: after one at the start, pauses last for half of 2, 4, 8, 16 and 20 seconds
    // at least.
    let lists = api.lists();
    let longest = started.elapsed().as_secs() / 10;
    assert!(lists as u64 <= 6 + longest, "{lists} lists in {longest}0 s");
    let again = proxy.logged_by_now(WORKS_AGAIN).await;
    assert!(again.is_empty(), "no event has come: {again:?}");
    api.set_mute(false);
    until("a bookmark to arrive", || {
        api.bookmark();
        !proxy.log().events(WORKS_AGAIN).is_empty()
    })
    .await;
    api.put("chat-a", slice(&[(&two, READY)]));
    discovered(&proxy, 4).await;
}

#[test]
fn an_api_server_that_vanishes_without_a_packet_is_noticed() {
    network::run_in_own(LINKS, "pod_changes::an_api_server_behind_a_link_vanishes");
}

#[tokio::test]
#[ignore = "needs a network of its own: run by the test before"]
async fn an_api_server_behind_a_link_vanishes() {
    let link = Link::new();
    let api = KubeApi::on(link.beyond(|| TcpListener::bind((Link::FAR, 0)).unwrap()));
    let [one] = pods::<1>().await;
    api.put("chat-a", slice(&[(&one, READY)]));
    let proxy = Proxy::start(&config(&api, "", "")).await;
    let (_, mut held) = new_tunnels(&proxy, 1, &[&one]).await;
    api.streamed(1).await;
    link.take_down();
    // Long before the watch was to end.
    let interrupted = "watch of EndpointSlices interrupted; it is resumed";
    proxy.logged(interrupted).await;
    works(&mut held[0]).await;
    assert_eq!(new_tunnels(&proxy, 1, &[&one]).await.0, [1]);
}

#[tokio::test]
async fn pods_of_both_families_have_tunnels() {
    let [four] = pods::<1>().await;
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, four.address.port()));
    if let Err(why) = TcpListener::bind(address) {
        not_run("pods_of_both_families_have_tunnels", &why.to_string());
        return;
    }
    let six = Echo::bytes_at(address).await;
    let api = KubeApi::start().await;
    api.put("chat-4", slice(&[(&four, READY)]));
    api.put("chat-6", slice(&[(&six, READY)]));
    let (proxy, operator) = Operator::start(&config(&api, "", CLOSES)).await;
    let all = [&four, &six];
    let (got, mut held) = new_tunnels(&proxy, 4, &all).await;
    assert_eq!(got, [2, 2]);
    let shown = operator.get("/v1/upstreams").await;
    let shown = &shown[0]["endpoints"][1];
    assert_eq!(
        (&shown["endpoint"], &shown["name"]),
        (&json!(address.to_string()), &json!("chat---1"))
    );
    api.put("chat-6", slice(&[(&six, FAILING)]));
    discovered(&proxy, 2).await;
    assert_eq!(new_tunnels(&proxy, 2, &all).await.0, [2, 0]);
    for tunnel in &mut held {
        works(tunnel).await;
    }
    api.put("chat-6", slice(&[(&six, TERMINATING)]));
    discovered(&proxy, 3).await;
    until("its tunnels to be drained", || six.open() == 0).await;
    api.put("chat-6", slice(&[(&six, READY)]));
    discovered(&proxy, 4).await;
    let (got, _more) = new_tunnels(&proxy, 2, &all).await;
    assert_eq!(got, [1, 1]);
    api.delete("chat-6");
    until("its tunnels to be closed", || six.open() == 0).await;
    assert!(four.open() > 0);
}
