//! Limits that routes share: per key, over routes, workers, reloads and upgrades.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::{close, frame};
use crate::harness::operator::{Operator, upgradable};
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::scrape::{self, Scrape};
use crate::harness::wire::{SWITCH, Wire, handshake_with};
use crate::harness::{until, within};

/// One route whose requests count for the limit `user`, by the cookie `sid`.
fn by_cookie(endpoints: &[std::net::SocketAddr], limit: &str) -> String {
    let limit = format!("[limit.user]\nkey = {{ cookie = \"sid\" }}\n{limit}\n");
    settings(endpoints, "", "limits.shared = [\"user\"]") + &limit
}

/// A handshake with this cookie on a connection of its own: the connection, the status and the reason.
async fn shake(proxy: &Proxy, user: &str) -> (Wire, u16, Option<String>) {
    let mut wire = proxy.connect().await;
    wire.send(handshake_with(&format!("Cookie: sid={user}\r\n")))
        .await;
    let head = wire.head().await;
    let reason = head.value("tidegate-reason").map(str::to_owned);
    wire.body(&head).await;
    (wire, head.status(), reason)
}

async fn opened(proxy: &Proxy, user: &str) -> Wire {
    let (wire, status, reason) = shake(proxy, user).await;
    assert_eq!((status, reason), (101, None), "{user}");
    wire
}

async fn refused(proxy: &Proxy, user: &str, reason: &str) {
    let (_, status, why) = shake(proxy, user).await;
    let expected = if reason == "limit-key-missing" {
        403
    } else {
        429
    };
    assert_eq!((status, why.as_deref()), (expected, Some(reason)), "{user}");
}

/// The status of a plain request with these fields.
async fn plain(wire: &mut Wire, path: &str, fields: &str) -> (u16, Option<String>) {
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
        .await;
    let (head, _) = wire.reply().await;
    (
        head.status(),
        head.value("tidegate-reason").map(str::to_owned),
    )
}

/// The length of the Close that a client gets whose tunnel is replaced.
const REPLACED_BYTES: usize = 2 + 2 + "replaced".len();

fn replaced() -> Vec<u8> {
    frame(0x88, None, &close(1008, "replaced").unwrap())
}

async fn limit(operator: &Operator) -> Value {
    operator.get("/v1/limits").await[0].clone()
}

#[tokio::test]
async fn a_key_has_a_maximum_of_tunnels_whichever_worker_it_reaches() {
    const CLIENTS: usize = 40;
    let echo = Echo::start("echo").await;
    let config = by_cookie(&[echo.address], "tunnels = 5");
    let config = format!("[server]\nworkers = 4\nlog.format = \"json\"\n{config}");
    let proxy = Proxy::start(&config).await;
    // All at once, on all workers; the connections of those who got in stay open.
    let shakes = (0..CLIENTS).map(|number| {
        let user = if number % 2 == 0 { "alice" } else { "bob" };
        shake(&proxy, user)
    });
    let clients = join_all(shakes).await;
    let admitted = |parity: usize| {
        let own = clients
            .iter()
            .enumerate()
            .filter(|(at, _)| at % 2 == parity);
        own.filter(|(_, (_, status, _))| *status == 101).count()
    };
    assert_eq!([admitted(0), admitted(1)], [5, 5]);
    assert_eq!(echo.open(), 10);
    for (_, status, reason) in &clients {
        let is_full = reason.as_deref() == Some("limit-full");
        assert!(*status == 101 || (*status == 429 && is_full), "{reason:?}");
    }
    // Each that ends makes room for exactly one.
    let mut clients = clients.into_iter();
    let first = clients.by_ref().find(|(_, status, _)| *status == 101);
    drop(first);
    proxy.logged("tunnel ended").await;
    let ended = proxy.log().events("tunnel ended").len();
    assert_eq!(ended, 1);
    let mut again = Vec::new();
    for user in ["alice", "bob"] {
        let (wire, status, _) = shake(&proxy, user).await;
        again.push((wire, status));
    }
    let statuses: Vec<u16> = again.iter().map(|(_, status)| *status).collect();
    assert_eq!(statuses.iter().filter(|it| **it == 101).count(), 1);
    let event = proxy.logged("rejected").await;
    assert_eq!(event["detail"], "limit user");
}

#[tokio::test]
async fn a_handshake_whose_endpoint_does_not_answer_gives_way_to_the_next_one() {
    let endpoint = Endpoint::bind().await;
    let limit = "tunnels = 1\nwhen_full = \"close_oldest\"";
    let config = by_cookie(&[endpoint.address], limit);
    let proxy = Proxy::start(&format!(
        "[server]\nworkers = 4\nlog.format = \"json\"\n{config}"
    ))
    .await;
    let ask = async || {
        let mut wire = proxy.connect().await;
        wire.send(handshake_with("Cookie: sid=alice\r\n")).await;
        (wire, endpoint.request().await.0)
    };
    // Nothing is answered for a while.
    let (mut first, mut hung) = ask().await;
    let (mut second, mut answers) = ask().await;
    let head = first.head().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (429, Some("limit-full"))
    );
    hung.until_gone().await;
    answers.send(SWITCH).await;
    assert_eq!(second.head().await.status(), 101);
    // An open tunnel gives way only to one that opens.
    let (mut third, mut declines) = ask().await;
    declines
        .send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(third.head().await.status(), 403);
    let hello = frame(0x82, Some([1, 2, 3, 4]), b"hello");
    second.send(&hello).await;
    assert_eq!(answers.exactly(11).await.len(), 11);
    let (mut fourth, mut answers) = ask().await;
    answers.send(SWITCH).await;
    assert_eq!(fourth.head().await.status(), 101);
    assert_eq!(second.rest().await.0, replaced());
}

#[tokio::test]
async fn routes_share_a_limit_and_a_handshake_that_fails_gives_its_place_back() {
    let (echo, sullen) = (Echo::start("echo").await, Endpoint::bind().await);
    let other = format!(
        "[[route]]\npath = \"/other\"\nupstream = \"other\"\nlimits.shared = [\"user\"]\n\
         [upstream.other]\nendpoints = [\"{}\"]\n",
        sullen.address
    );
    let config = by_cookie(&[echo.address], "tunnels = 1") + &other;
    let proxy = Proxy::start(&config).await;
    let at_other = handshake_with("Cookie: sid=alice\r\n").replace("/chat", "/other");
    let mut wire = proxy.connect().await;
    wire.send(&at_other).await;
    let mut served = sullen.accept().await;
    // A handshake in progress counts.
    refused(&proxy, "alice", "limit-full").await;
    served
        .send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(wire.head().await.status(), 401);
    let alice = opened(&proxy, "alice").await;
    let _bob = opened(&proxy, "bob").await;
    wire.send(&at_other).await;
    assert_eq!(wire.head().await.status(), 429);
    drop(alice);
    until("the tunnel to end", || echo.open() == 1).await;
    proxy.logged("tunnel ended").await;
    let _again = opened(&proxy, "alice").await;
}

#[tokio::test]
async fn handshakes_and_requests_of_a_key_keep_to_their_rates() {
    let echo = Echo::start("echo").await;
    let rates =
        "handshakes = { rate = \"1/h\", burst = 2 }\nrequests = { rate = \"1/h\", burst = 3 }";
    let more = "[[route]]\npath = \"/moved\"\nlimits.shared = [\"user\"]\n\
                redirect = { to = \"https://a/\" }\n\
                [[route]]\npath = \"/ready\"\nlimits.shared = [\"user\"]\nrespond = { status = 200 }\n";
    let config = by_cookie(&[echo.address], rates) + more;
    let proxy = Proxy::start(&config).await;
    let _open = [
        opened(&proxy, "alice").await,
        opened(&proxy, "alice").await,
        opened(&proxy, "bob").await,
    ];
    refused(&proxy, "alice", "limit-rate").await;
    let mut wire = proxy.connect().await;
    let alice = "Cookie: sid=alice\r\n";
    for (path, expected) in [("/moved", 308), ("/ready", 200), ("/moved", 308)] {
        assert_eq!(plain(&mut wire, path, alice).await, (expected, None));
    }
    for path in ["/moved", "/ready", "/chat"] {
        let limited = (429, Some("limit-rate".to_owned()));
        assert_eq!(plain(&mut wire, path, alice).await, limited, "{path}");
    }
    let other = plain(&mut wire, "/ready", "Cookie: sid=bob\r\n").await;
    assert_eq!(other, (200, None));
}

#[tokio::test]
async fn leaving_the_key_out_is_no_way_around() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&by_cookie(&[echo.address], "tunnels = 1")).await;
    let _named = opened(&proxy, "alice").await;
    // Without a cookie and with an empty one, all count for the address.
    let _nameless = proxy.tunnel().await;
    refused(&proxy, "", "limit-full").await;
    let mut wire = proxy.connect_from("127.0.0.2", "main").await;
    wire.send(handshake_with("")).await;
    assert_eq!(wire.head().await.status(), 101);
    // A cookie that looks like the hash of nothing, or like an address, is another key.
    let _other = opened(&proxy, "127.0.0.1").await;
    let strict = by_cookie(&[echo.address], "tunnels = 1\nmissing = \"refuse\"");
    let proxy = Proxy::start(&strict).await;
    refused(&proxy, "", "limit-key-missing").await;
    let mut wire = proxy.connect().await;
    let missing = (403, Some("limit-key-missing".to_owned()));
    assert_eq!(plain(&mut wire, "/chat", "").await, missing);
    let _named = opened(&proxy, "alice").await;
}

#[tokio::test]
async fn the_oldest_tunnel_makes_room_for_a_new_one_on_any_worker() {
    let echo = Echo::start("echo").await;
    let config = by_cookie(&[echo.address], "tunnels = 2\nwhen_full = \"close_oldest\"");
    let config = format!("[server]\nworkers = 4\nlog.format = \"json\"\n{config}");
    let (proxy, operator) = Operator::start_whole(&with_admin(&config)).await;
    let mut oldest = opened(&proxy, "alice").await;
    let mut others = vec![opened(&proxy, "bob").await, opened(&proxy, "alice").await];
    for _ in 0..6 {
        let newest = opened(&proxy, "alice").await;
        // The one that is closed gets a Close, and counts no more while it closes.
        assert_eq!(oldest.exactly(REPLACED_BYTES).await, replaced());
        oldest = others.pop().unwrap();
        others.push(newest);
    }
    let ended = proxy.logged_times("tunnel ended", 6).await;
    assert!(
        ended.iter().all(|it| it["reason"] == "replaced"),
        "{ended:?}"
    );
    for wire in others.iter_mut().chain([&mut oldest]) {
        wire.echoes().await;
    }
    let shown = limit(&operator).await;
    assert_eq!(
        (&shown["replaced"], &shown["tunnels"]),
        (&json!(6), &json!(3))
    );
    let printed = operator.run(&["status"]).await;
    let line = "\nlimit user: 2 of at most 262144 keys in use, 0 requests refused\n";
    assert!(printed.out.contains(line), "{}{}", printed.out, printed.err);
    let scrape = Scrape::of(&proxy).await;
    let replaced = scrape.sum("tidegate_limit_replaced_total", &["limit=\"user\""]);
    assert_eq!(replaced, 6.0);
}

/// With an admin interface.
fn with_admin(config: &str) -> String {
    config.replacen(
        "[listener.main]",
        "[admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"\nmetrics_bind = \"127.0.0.1:0\"\n[listener.main]",
        1,
    )
}

#[tokio::test]
async fn a_handshake_that_its_endpoint_refuses_closes_nothing() {
    let endpoint = Endpoint::bind().await;
    let limit = "tunnels = 1\nwhen_full = \"close_oldest\"";
    let proxy = Proxy::start(&by_cookie(&[endpoint.address], limit)).await;
    let alice = || handshake_with("Cookie: sid=alice\r\n");
    let mut first = proxy.connect().await;
    first.send(alice()).await;
    let mut served = endpoint.tunnel().await;
    assert_eq!(first.head().await.status(), 101);
    let mut second = proxy.connect().await;
    second.send(alice()).await;
    let mut refusing = endpoint.accept().await;
    refusing.head().await;
    refusing
        .send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(second.head().await.status(), 403);
    first.send("hello").await;
    assert_eq!(served.exactly(5).await, b"hello");
    assert!(proxy.logged_by_now("tunnel ended").await.is_empty());
}

#[tokio::test]
async fn counts_survive_a_reload_and_new_numbers_apply_at_once() {
    let echo = Echo::start("echo").await;
    let with = |limit: &str| by_cookie(&[echo.address], limit);
    let proxy = Proxy::start(&with("tunnels = 2")).await;
    let mut kept = vec![opened(&proxy, "alice").await, opened(&proxy, "alice").await];
    proxy.reload(&(with("tunnels = 2") + "# again\n")).await;
    refused(&proxy, "alice", "limit-full").await;
    proxy.reload(&with("tunnels = 3")).await;
    kept.push(opened(&proxy, "alice").await);
    proxy.reload(&with("tunnels = 1")).await;
    refused(&proxy, "alice", "limit-full").await;
    for wire in &mut kept {
        wire.echoes().await;
    }
    // Removed and added again: its tunnels still count.
    proxy.reload(&simple(&[echo.address])).await;
    proxy.reload(&with("tunnels = 3")).await;
    refused(&proxy, "alice", "limit-full").await;
    // Another key counts something else.
    let other = with("tunnels = 3").replace("cookie = \"sid\"", "cookie = \"other\"");
    proxy.reload(&other).await;
    kept.push(opened(&proxy, "alice").await);
}

#[tokio::test]
async fn keys_beyond_the_maximum_share_one_count() {
    let echo = Echo::start("echo").await;
    let config = by_cookie(&[echo.address], "tunnels = 2\nkeys = 3");
    let (proxy, operator) = Operator::start_whole(&with_admin(&config)).await;
    let mut kept = Vec::new();
    for user in ["one", "two", "three", "four", "five"] {
        kept.push(opened(&proxy, user).await);
    }
    refused(&proxy, "six", "limit-full").await;
    kept.push(opened(&proxy, "one").await);
    let shown = limit(&operator).await;
    assert_eq!(shown["keys"], 3);
    assert_eq!(shown["overflowed"], 3);
    let scrape = Scrape::of(&proxy).await;
    assert_eq!(scrape.sum("tidegate_limit_keys", &["limit=\"user\""]), 3.0);
    let full = ["limit=\"user\"", "kind=\"tunnels\""];
    assert_eq!(scrape.sum("tidegate_limit_rejections_total", &full), 1.0);
    assert_eq!(scrape.sum("tidegate_limit_overflowed_total", &[]), 3.0);
}

#[tokio::test]
async fn operators_see_the_keys_with_the_most_tunnels_and_no_credentials() {
    let echo = Echo::start("echo").await;
    let addresses = "[limit.client]\nkey = \"client_ip\"\ntunnels = 100\n";
    let config = by_cookie(&[echo.address], "tunnels = 10") + addresses;
    let config = config.replace("[\"user\"]", "[\"user\", \"client\"]");
    let (proxy, operator) = Operator::start_whole(&with_admin(&config)).await;
    let mut kept = Vec::new();
    for user in ["secret-one", "secret-two", "secret-one"] {
        kept.push(opened(&proxy, user).await);
    }
    let printed = operator.run(&["tunnels", "--by", "client"]).await;
    let lines: Vec<Vec<&str>> = printed
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines, [["TUNNELS", "KEY"], ["3", "127.0.0.1"]]);
    let printed = operator.run(&["tunnels", "--by", "user", "--json"]).await;
    let shown: Value = serde_json::from_str(&printed.out).unwrap();
    let tunnels: Vec<u64> = shown["top"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["tunnels"].as_u64().unwrap())
        .collect();
    assert_eq!(tunnels, [2, 1]);
    assert!(!printed.out.contains("secret"), "{}", printed.out);
    let all = operator.get("/v1/limits").await.to_string();
    assert!(!all.contains("secret"));
    let (_, metrics) = scrape::get(&proxy, "/metrics", "").await;
    assert!(metrics.contains("tidegate_limit_keys") && !metrics.contains("secret"));
    let request = json!({ "url": "ws://a/chat", "listener": "main" });
    let explained = operator.explain(request).await;
    let depends = "what its key (`client_ip`) has in use of limit `client`";
    let all = explained["depends_on"].as_array().unwrap();
    assert!(all.iter().any(|it| it == depends), "{all:?}");
    proxy.rewrite(&with_admin(&config).replace("tunnels = 100", "tunnels = 50"));
    let settings = &operator.plan().await["settings"];
    assert_eq!(settings[0]["name"], "limit.client", "{settings}");
    let unknown = operator.run(&["tunnels", "--by", "users"]).await;
    assert!(
        unknown.code != 0 && unknown.err.contains("known: user, client"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn tunnels_of_the_older_process_count_until_they_end() {
    let echo = Echo::start("echo").await;
    let rest = by_cookie(&[echo.address], "tunnels = 2");
    let server = "upgrade = { settle = \"200ms\", drain = \"off\" }";
    let (mut proxy, operator) = Operator::start_whole(&upgradable(server, &rest)).await;
    let mut old = vec![opened(&proxy, "alice").await, opened(&proxy, "alice").await];
    let (status, answer) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    proxy.successor(1).await;
    refused(&proxy, "alice", "limit-full").await;
    let _bob = opened(&proxy, "bob").await;
    // One ends in the older process.
    drop(old.pop());
    until_older(&operator, 1).await;
    let _new = opened(&proxy, "alice").await;
    refused(&proxy, "alice", "limit-full").await;
    drop(old);
    proxy.logged("older generation has exited").await;
    until_older(&operator, 0).await;
    let _newer = opened(&proxy, "alice").await;
    refused(&proxy, "alice", "limit-full").await;
    assert_eq!(proxy.exit().await, 0);
}

/// Waits until the keys of the limit have this many tunnels in older generations.
async fn until_older(operator: &Operator, tunnels: u64) {
    let counted = async {
        loop {
            let shown = limit(operator).await;
            let keys = shown["top"].as_array().unwrap();
            let older = keys.iter().map(|it| it["older_tunnels"].as_u64().unwrap());
            if older.sum::<u64>() == tunnels {
                return;
            }
        }
    };
    within("the count of the older process", counted).await;
}

#[tokio::test]
async fn the_oldest_tunnel_may_be_one_of_the_older_process() {
    let echo = Echo::start("echo").await;
    let rest = by_cookie(&[echo.address], "tunnels = 2\nwhen_full = \"close_oldest\"");
    let server = "upgrade = { settle = \"200ms\", drain = \"off\" }";
    let (proxy, operator) = Operator::start_whole(&upgradable(server, &rest)).await;
    let mut first = opened(&proxy, "alice").await;
    let mut second = opened(&proxy, "alice").await;
    let (status, answer) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    let mut third = opened(&proxy, "alice").await;
    assert_eq!(first.exactly(REPLACED_BYTES).await, replaced());
    second.echoes().await;
    third.echoes().await;
}
