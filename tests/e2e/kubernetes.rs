//! Endpoints from Kubernetes, with real tunnels through every change of an EndpointSlice, and with an API server
//! that fails in every way.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::endpoint::Echo;
use crate::harness::kube_api::{KubeApi, WatchEnd};
use crate::harness::operator::Operator;
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::scrape::{METRICS, Scrape, get};
use crate::harness::wire::{HANDSHAKE, Wire, handshake_with};
use crate::harness::{free_address, until};

pub(crate) const DISCOVERED: &str = "endpoints discovered";
pub(crate) const FAILED: &str = "endpoint discovery failed; the last known endpoints stay in use";
pub(crate) const REMOVED: &str = "endpoints removed: no EndpointSlice has them any more";
pub(crate) const WORKS_AGAIN: &str = "endpoint discovery works again";

/// A configuration whose endpoints are those of the Service, with these lines for the upstream.
pub(crate) fn config(api: &KubeApi, more: &str, lines: &str) -> String {
    let service = api.service(more);
    let lines = format!("balance = \"round_robin\"\nkubernetes = {service}\n{lines}\n");
    simple(&[]).replace("endpoints = []\n", &lines)
}

/// Echo endpoints at several addresses with the same port, as pods have it.
pub(crate) async fn pods<const COUNT: usize>() -> [Echo; COUNT] {
    let port = free_address().port();
    let mut pods = Vec::new();
    for number in 1..=COUNT {
        let address = SocketAddr::from(([127, 0, 0, u8::try_from(number).unwrap()], port));
        pods.push(Echo::bytes_at(address).await);
    }
    pods.try_into()
        .unwrap_or_else(|_| panic!("as many as asked for"))
}

pub(crate) const READY: [bool; 3] = [true, true, false];
pub(crate) const TERMINATING: [bool; 3] = [false, true, true];
pub(crate) const DYING: [bool; 3] = [false, false, true];
pub(crate) const FAILING: [bool; 3] = [false, false, false];

/// A slice with pods whose conditions are `ready`, `serving` and `terminating`.
pub(crate) fn slice(pods: &[(&Echo, [bool; 3])]) -> Value {
    let endpoint = |(pod, [ready, serving, terminating]): &(&Echo, [bool; 3])| {
        json!({
            "addresses": [pod.address.ip().to_string()],
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
            "targetRef": { "kind": "Pod", "name": format!("chat-{}", pod.address.ip()).replace(':', "-") },
        })
    };
    let first = pods.first().map(|(pod, _)| pod.address);
    let family = if first.is_some_and(|it| it.is_ipv6()) {
        "IPv6"
    } else {
        "IPv4"
    };
    let port = first.map(|it| it.port());
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": family,
        "ports": port.map(|port| json!([{ "name": "ws", "port": port, "protocol": "TCP" }])),
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

pub(crate) async fn works(tunnel: &mut Wire) {
    tunnel.send("hello").await;
    assert_eq!(tunnel.exactly(5).await, b"hello");
}

/// Opens tunnels, and counts how many each of the pods got.
pub(crate) async fn new_tunnels<const COUNT: usize>(
    proxy: &Proxy,
    count: usize,
    pods: &[&Echo; COUNT],
) -> ([usize; COUNT], Vec<Wire>) {
    let before = pods.map(Echo::served);
    let mut tunnels = Vec::new();
    for _ in 0..count {
        let mut tunnel = proxy.tunnel().await;
        works(&mut tunnel).await;
        tunnels.push(tunnel);
    }
    let mut gained = pods.map(Echo::served);
    for (now, before) in gained.iter_mut().zip(before) {
        *now -= before;
    }
    (gained, tunnels)
}

async fn status(proxy: &Proxy) -> u16 {
    let mut wire = proxy.connect().await;
    wire.send(HANDSHAKE).await;
    wire.head().await.status()
}

pub(crate) async fn discovered(proxy: &Proxy, times: usize) -> Value {
    proxy
        .logged_times(DISCOVERED, times)
        .await
        .swap_remove(times - 1)
}

#[tokio::test]
async fn a_pod_that_is_not_ready_keeps_its_tunnels_and_one_that_is_gone_loses_them() {
    let [one, two, three] = pods::<3>().await;
    let api = KubeApi::start().await;
    api.put("chat-a", slice(&[(&one, READY)]));
    let closes = "on_removed = { action = \"close\" }\non_down = { action = \"close\" }\n\
        on_drain = { action = \"close\" }";
    let proxy = Proxy::start(&config(&api, "", closes)).await;
    let all = [&one, &two, &three];
    let (got, mut first) = new_tunnels(&proxy, 2, &all).await;
    assert_eq!(got, [2, 0, 0]);

    // Another slice, with a pod that is not ready yet.
    api.put("chat-b", slice(&[(&two, FAILING), (&three, READY)]));
    let event = discovered(&proxy, 2).await;
    assert_eq!(
        (&event["endpoints"], &event["not_ready"]),
        (&json!(3), &json!(1))
    );
    let (got, _held) = new_tunnels(&proxy, 4, &all).await;
    assert_eq!(got, [2, 0, 2]);
    api.put("chat-b", slice(&[(&two, READY), (&three, READY)]));
    discovered(&proxy, 3).await;
    assert_eq!(new_tunnels(&proxy, 3, &all).await.0, [1, 1, 1]);

    // A readiness probe fails: tunnels stay.
    api.put("chat-a", slice(&[(&one, FAILING)]));
    discovered(&proxy, 4).await;
    assert_eq!(new_tunnels(&proxy, 4, &all).await.0, [0, 2, 2]);
    for tunnel in &mut first {
        works(tunnel).await;
    }
    api.put("chat-a", slice(&[(&one, READY)]));
    discovered(&proxy, 5).await;
    assert_eq!(new_tunnels(&proxy, 3, &all).await.0, [1, 1, 1]);
    // The pod is terminated, and serves no more from the beginning: its tunnels would end with it.
    api.put("chat-a", slice(&[(&one, DYING)]));
    discovered(&proxy, 6).await;
    assert_eq!(new_tunnels(&proxy, 4, &all).await.0, [0, 2, 2]);
    until("the tunnels of the pod to be drained", || one.open() == 0).await;
    api.put("chat-a", slice(&[(&one, READY)]));
    discovered(&proxy, 7).await;
    let (got, _more) = new_tunnels(&proxy, 3, &all).await;
    assert_eq!(got, [1, 1, 1]);
    api.delete("chat-a");
    assert_eq!(discovered(&proxy, 8).await["endpoints"], 2);
    until("the tunnels of the pod to end", || one.open() == 0).await;
    assert!(three.open() > 0);

    // An empty list is an answer.
    api.delete("chat-b");
    let event = discovered(&proxy, 9).await;
    assert_eq!(event["endpoints"], 0);
    until("all tunnels to end", || two.open() + three.open() == 0).await;
    assert_eq!(status(&proxy).await, 503);
}

#[tokio::test]
async fn an_address_in_two_slices_counts_once_and_as_the_better_one() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    api.set_page(1);
    api.put("chat-a", slice(&[(&one, FAILING), (&two, READY)]));
    api.put("chat-b", slice(&[(&one, READY)]));
    let mut names = slice(&[(&one, READY)]);
    names["addressType"] = json!("FQDN");
    api.put("chat-c", names);
    let mut other = slice(&[(&two, READY)]);
    other["ports"][0]["name"] = json!("metrics");
    api.put("chat-d", other);
    let proxy = Proxy::start(&config(&api, "", "")).await;
    assert_eq!(discovered(&proxy, 1).await["endpoints"], 2);
    assert_eq!(new_tunnels(&proxy, 4, &[&one, &two]).await.0, [2, 2]);
    assert_eq!(api.lists(), 4, "one for each page");
    let ignored = "EndpointSlices with names instead of IP addresses are ignored";
    assert_eq!(proxy.logged_by_now(ignored).await.len(), 1);

    api.delete("chat-a");
    api.delete("chat-b");
    let empty = discovered(&proxy, 3).await;
    assert_eq!(empty["endpoints"], 0);
    let why = "no EndpointSlice has the TCP port that `port` names; they have";
    until("the missing port to be reported", || {
        proxy.log().text().contains(why)
    })
    .await;
}

/// Opens a tunnel with this cookie: it, and the cookie that was set.
async fn sticky_tunnel(proxy: &Proxy, cookie: &str) -> (Wire, Option<String>) {
    let mut wire = proxy.connect().await;
    wire.send(handshake_with(&format!("Cookie: {cookie}\r\n")))
        .await;
    let head = wire.head().await;
    assert_eq!(head.status(), 101, "{head:?}");
    let set = head.value("set-cookie");
    let pair = set.and_then(|it| it.split(';').next());
    (wire, pair.map(str::to_owned))
}

#[tokio::test]
async fn a_terminating_pod_is_drained_and_sticky_clients_may_return() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    api.put("chat-a", slice(&[(&one, READY)]));
    let sticky = "sticky = { cookie = \"node\" }";
    let text = config(&api, "", sticky);
    let (proxy, operator) = Operator::start(&text).await;
    let (_first, cookie) = sticky_tunnel(&proxy, "a=b").await;
    let cookie = cookie.unwrap();
    api.put("chat-a", slice(&[(&one, TERMINATING), (&two, READY)]));
    assert_eq!(discovered(&proxy, 2).await["terminating"], 1);
    let all = [&one, &two];
    assert_eq!(new_tunnels(&proxy, 3, &all).await.0, [0, 3]);
    let (_back, set) = sticky_tunnel(&proxy, &cookie).await;
    assert_eq!((one.served(), set), (2, None));
    let shown = operator.get("/v1/upstreams").await;
    let endpoints = &shown[0]["endpoints"];
    assert_eq!(endpoints[0]["state"], "terminating", "{shown}");
    assert_eq!(endpoints[0]["name"], "chat-127.0.0.1");

    // Nothing is ready: a pod that still serves is better than nothing.
    api.put("chat-a", slice(&[(&one, TERMINATING), (&two, DYING)]));
    discovered(&proxy, 3).await;
    assert_eq!(new_tunnels(&proxy, 2, &all).await.0, [2, 0]);
    // Not serving: a cookie does not lead there.
    api.put("chat-a", slice(&[(&one, DYING), (&two, READY)]));
    discovered(&proxy, 4).await;
    let (_moved, set) = sticky_tunnel(&proxy, &cookie).await;
    assert!(set.is_some());
    api.put("chat-a", slice(&[(&one, DYING), (&two, DYING)]));
    discovered(&proxy, 5).await;
    assert_eq!(status(&proxy).await, 503);

    // A drain of its tunnels, as configured.
    api.put("chat-a", slice(&[(&one, TERMINATING), (&two, READY)]));
    discovered(&proxy, 6).await;
    let text = config(
        &api,
        "",
        &format!("{sticky}\non_drain = {{ action = \"close\" }}"),
    );
    proxy
        .reload(&(crate::harness::operator::ADMIN.to_owned() + &text))
        .await;
    until("its tunnels to be closed", || one.open() == 0).await;
    assert!(two.open() > 0);
    assert_eq!(api.lists(), 1, "the watch continues across reloads");
}

#[tokio::test]
async fn a_watch_is_resumed_or_begun_again_whatever_ends_it() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    api.put("chat-a", slice(&[(&one, READY)]));
    let proxy = Proxy::start(&config(&api, "", "")).await;
    let all = [&one, &two];
    api.streamed(1).await;
    // A clean end: the watch goes on from the bookmark.
    api.bookmark();
    api.end_watches(WatchEnd::Clean);
    api.streamed(2).await;
    let resumed = api.requests().pop().unwrap();
    assert!(resumed.contains("&resourceVersion=11&"), "{resumed}");
    // What changes meanwhile arrives with the next one, whole, although the event was cut.
    for (times, end) in [(2, WatchEnd::InObject), (3, WatchEnd::Clean)] {
        api.streamed(times).await;
        api.end_watches(end);
        let pod = if times == 2 { &two } else { &one };
        api.put("chat-a", slice(&[(pod, READY)]));
        discovered(&proxy, times).await;
        let expected = if times == 2 { [0, 2] } else { [2, 0] };
        assert_eq!(new_tunnels(&proxy, 2, &all).await.0, expected);
    }
    api.streamed(4).await;
    assert_eq!(api.lists(), 1);
    // The state has expired: as the status of a request, and as an event. Or an event cannot be read.
    api.compact();
    api.end_watches(WatchEnd::Clean);
    api.streamed(5).await;
    assert_eq!(api.lists(), 2);
    for (times, end) in [(4, WatchEnd::Expired), (5, WatchEnd::Nonsense)] {
        api.end_watches(end);
        api.streamed(times + 2).await;
        assert_eq!(api.lists(), times - 1);
        let pod = if times == 4 { &two } else { &one };
        api.put("chat-a", slice(&[(pod, READY)]));
        discovered(&proxy, times).await;
    }
    assert_eq!(new_tunnels(&proxy, 2, &all).await.0, [2, 0]);
    assert_eq!(proxy.logged_by_now(FAILED).await, Vec::<Value>::new());
}

#[tokio::test]
async fn tokens_and_authorities_rotate_and_a_missing_permission_is_reported() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    let (ca, token) = (api.file("ca.crt"), api.file("token"));
    api.use_tls(&ca);
    std::fs::write(&token, "first\n").unwrap();
    api.accept_token("first");
    api.put("chat-a", slice(&[(&one, READY)]));
    let files = format!(
        ", ca = \"{}\", token_file = \"{}\"",
        ca.display(),
        token.display()
    );
    let text = METRICS.to_owned() + &config(&api, &files, "");
    let proxy = Proxy::start(&text).await;
    let all = [&one, &two];
    assert_eq!(new_tunnels(&proxy, 1, &all).await.0, [1, 0]);
    // The old token is refused before a minute has passed.
    api.streamed(1).await;
    std::fs::write(&token, "second\n").unwrap();
    api.accept_token("second");
    api.end_watches(WatchEnd::Clean);
    api.put("chat-a", slice(&[(&two, READY)]));
    discovered(&proxy, 2).await;
    assert_eq!(new_tunnels(&proxy, 1, &all).await.0, [0, 1]);
    assert_eq!(proxy.log().events(FAILED).len(), 0);

    api.streamed(2).await;
    proxy.logged(REMOVED).await;
    api.refuse(Some(403));
    api.end_watches(WatchEnd::Clean);
    let event = proxy.logged(FAILED).await;
    let error = event["error"].as_str().unwrap();
    let expected = "the service account may not list and watch endpointslices (403): \
        endpointslices is forbidden: User cannot list";
    assert_eq!((error, &event["kept"]), (expected, &json!(1)));
    assert_eq!(
        new_tunnels(&proxy, 1, &all).await.0,
        [0, 1],
        "the set stays"
    );
    let scrape = Scrape::of(&proxy).await;
    let labels = &["upstream=\"main\""];
    assert!(scrape.sum("tidegate_discovery_failures_total", labels) >= 1.0);
    let success = "tidegate_discovery_last_success_timestamp_seconds";
    assert!(scrape.sum(success, labels) > 1.7e9);
    api.refuse(None);
    api.put("chat-a", slice(&[(&one, READY)]));
    discovered(&proxy, 3).await;
    // Lists may have taken the place of watches: then it takes something from one.
    until("a bookmark to arrive", || {
        api.bookmark();
        !proxy.log().events(WORKS_AGAIN).is_empty()
    })
    .await;

    // Another authority: the file is read again after a connection has failed.
    api.streamed(3).await;
    api.use_tls(&ca);
    api.end_watches(WatchEnd::Clean);
    api.put("chat-a", slice(&[(&two, READY)]));
    discovered(&proxy, 4).await;
    assert_eq!(new_tunnels(&proxy, 1, &all).await.0, [0, 1]);
}

#[tokio::test]
async fn without_the_api_server_the_saved_endpoints_serve_or_nothing_is_ready() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    let folder = Arc::new(TempDir::new().unwrap());
    let state = folder.path().join("state");
    let with_state = format!(", state = \"{}\"", state.display());
    let text = METRICS.to_owned() + &config(&api, &with_state, "");
    let readiness = async |proxy: &Proxy| get(proxy, "/readyz", "").await.0.status();

    // Away from the start, and nothing was ever saved.
    api.set_away(true);
    let proxy = Proxy::spawn(Arc::clone(&folder), &text, |_| {});
    proxy.logged("ready").await;
    let event = proxy.logged(FAILED).await;
    assert_eq!(event["kept"], 0);
    assert_eq!((status(&proxy).await, readiness(&proxy).await), (503, 503));
    api.put("chat-a", slice(&[(&one, READY)]));
    api.set_away(false);
    discovered(&proxy, 1).await;
    assert_eq!((status(&proxy).await, readiness(&proxy).await), (101, 200));
    let saved = state.join("endpoints-main.json");
    until("the endpoints to be saved", || has_saved(&saved, &one)).await;
    // Away while it runs: nothing changes.
    api.set_away(true);
    proxy.logged(WORKS_AGAIN).await;
    assert_eq!(new_tunnels(&proxy, 2, &[&one, &two]).await.0, [2, 0]);
    assert_eq!(readiness(&proxy).await, 200);
    // Nor does a reload that asks for the Service in another way, and for another one, which is unknown.
    let elsewhere = format!(
        ", state = \"{}\"",
        folder.path().join("elsewhere").display()
    );
    let other = api.service("").replacen("\"chat\"", "\"other\"", 1);
    let other = format!("[upstream.other]\nkubernetes = {other}\n");
    proxy
        .reload(&(METRICS.to_owned() + &config(&api, &elsewhere, "") + &other))
        .await;
    assert_eq!(new_tunnels(&proxy, 2, &[&one, &two]).await.0, [2, 0]);
    assert_eq!(readiness(&proxy).await, 200);
    drop(proxy);

    let proxy = Proxy::spawn(Arc::clone(&folder), &text, |_| {});
    proxy.logged("ready").await;
    proxy
        .logged("the API server does not respond; the endpoints that were saved before are in use")
        .await;
    assert_eq!(new_tunnels(&proxy, 2, &[&one, &two]).await.0, [2, 0]);
    assert_eq!(readiness(&proxy).await, 200);
    api.put("chat-a", slice(&[(&two, READY)]));
    api.set_away(false);
    discovered(&proxy, 1).await;
    assert_eq!(new_tunnels(&proxy, 2, &[&one, &two]).await.0, [0, 2]);
    until("the new endpoints to be saved", || has_saved(&saved, &two)).await;
}

#[tokio::test]
async fn endpoints_are_saved_although_no_watch_is_ever_opened() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    api.refuse_watches();
    let state = TempDir::new().unwrap();
    let with_state = format!(", state = \"{}\"", state.path().display());
    api.put("chat-a", slice(&[(&one, READY)]));
    let proxy = Proxy::start(&config(&api, &with_state, "")).await;
    assert_eq!(proxy.logged(FAILED).await["kept"], 1);
    let saved = state.path().join("endpoints-main.json");
    until("the endpoints to be saved", || has_saved(&saved, &one)).await;
    api.put("chat-a", slice(&[(&two, READY)]));
    until("the new endpoint to be saved", || has_saved(&saved, &two)).await;
}

fn has_saved(file: &Path, pod: &Echo) -> bool {
    let saved = std::fs::read_to_string(file).unwrap_or_default();
    saved.contains(&pod.address.to_string())
}

#[tokio::test]
async fn a_new_process_begins_with_the_endpoints_of_the_old_one() {
    let [one, two] = pods::<2>().await;
    let api = KubeApi::start().await;
    api.put("chat-a", slice(&[(&one, READY), (&two, TERMINATING)]));
    let proxy = Proxy::start(&config(&api, "", "")).await;
    let (_, mut held) = new_tunnels(&proxy, 1, &[&one, &two]).await;
    api.set_away(true);
    proxy.signal(Signal::USR2);
    proxy.successor(1).await;
    assert_eq!(new_tunnels(&proxy, 2, &[&one, &two]).await.0, [2, 0]);
    works(&mut held[0]).await;
    // The new process, and the old one if it has tried more than once.
    let failures = proxy.logged_times(FAILED, 1).await;
    assert!(failures.iter().all(|it| it["kept"] == 2), "{failures:?}");
    api.put("chat-a", slice(&[(&two, READY)]));
    api.set_away(false);
    // The old process may see it, too.
    until("the new endpoints", || {
        proxy.log().events(DISCOVERED).len() >= 2
    })
    .await;
    crate::harness::within("new tunnels to go there", async {
        while new_tunnels(&proxy, 1, &[&one, &two]).await.0 != [0, 1] {}
    })
    .await;
}
