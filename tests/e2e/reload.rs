//! Reloads at run time: nothing is lost and nothing is refused.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpStream;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::proxy::{Proxy, Signal, simple};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::talking_clients::TalkingClients;
use crate::harness::wire::{HANDSHAKE, SWITCH, Wire};
use crate::harness::{free_address, until};

const TUNNELS: usize = 500;

fn secured(endpoints: &[SocketAddr]) -> String {
    simple(endpoints)
        + "[listener.main.tls]\ncertificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n"
}

/// One reload: with changed endpoints, with a changed certificate, or with an invalid file.
async fn change(turn: usize, proxy: &Proxy, authority: &Authority, [a, b, c]: [SocketAddr; 3]) {
    match turn {
        2 | 6 => {
            let known = proxy.log().events("certificates reloaded").len();
            authority.issue(proxy.folder(), "chat", &["chat.example.com"]);
            proxy.logged_times("certificates reloaded", known + 1).await;
        }
        4 => {
            proxy.rewrite("[listener.main\nbind = 7\n");
            proxy.signal(Signal::HUP);
            proxy
                .logged("reload failed; the previous configuration stays in effect")
                .await;
        }
        _ => {
            let endpoints = [vec![a, b, c], vec![b, c], vec![c], vec![a, c]];
            proxy.reload(&secured(&endpoints[turn % 4])).await;
        }
    }
}

/// 500 tunnels with traffic and ten reloads of every kind, while new clients arrive: no tunnel is
/// dropped and no client is refused.
#[tokio::test]
async fn reloads_under_load_lose_and_refuse_nothing() {
    let (authority, folder) = Authority::with_certificate();
    let echoes = [
        Echo::start("a").await,
        Echo::start("b").await,
        Echo::start("c").await,
    ];
    let [a, b, c] = [0, 1, 2].map(|at: usize| echoes[at].address);
    let proxy = Proxy::start_in(folder, &secured(&[a, b])).await;
    let mut crowd = TalkingClients::new(authority.client());
    crowd.join(proxy.address(), TUNNELS);
    crowd.all_open().await;
    for turn in 0..10 {
        crowd.join(proxy.address(), 5);
        let before = crowd.messages();
        change(turn, &proxy, &authority, [a, b, c]).await;
        until("traffic to go on", || {
            crowd.messages() >= before + 2 * TUNNELS
        })
        .await;
    }
    // Waits for clients that still wait for their 101.
    crowd.all_open().await;
    assert!(
        proxy.logged_by_now("tunnel ended").await.is_empty(),
        "{}",
        proxy.log().text()
    );
    let all = crowd.leave().await;
    assert_eq!(proxy.logged_times("tunnel ended", all).await.len(), all);
    assert!(proxy.logged_by_now("rejected").await.is_empty());
    assert_eq!(echoes.iter().map(Echo::served).sum::<usize>(), all);
}

#[tokio::test]
async fn an_invalid_file_changes_nothing_and_reports_every_error() {
    let echo = Echo::start("echo").await;
    let config = simple(&[echo.address]);
    let proxy = Proxy::start(&config).await;
    let _held = proxy.tunnel().await;
    let broken = config
        .replace("upstream = \"main\"", "upstream = \"mian\"\nidle = 3")
        .replace("127.0.0.1:0", "localhost");
    proxy.rewrite(&broken);
    proxy.signal(Signal::HUP);
    let failures = proxy
        .logged_times(
            "reload failed; the previous configuration stays in effect",
            3,
        )
        .await;
    let errors: Vec<&str> = failures
        .iter()
        .map(|each| each["error"].as_str().unwrap())
        .collect();
    for expected in [
        "config.toml:6: `localhost` is not a valid listen address",
        "config.toml:9: there is no upstream `mian`",
        "config.toml:10: unknown key `idle`",
    ] {
        assert!(
            errors.iter().any(|error| error.contains(expected)),
            "{expected}: {errors:?}"
        );
    }
    proxy.tunnel().await;
    // The next valid file is applied.
    proxy.reload(&config).await;
    proxy.tunnel().await;
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_changes_nothing() {
    let echo = Echo::start("echo").await;
    let config = simple(&[echo.address]);
    let proxy = Proxy::start(&config).await;
    let more = format!("{config}[listener.second]\nbind = [\"{}\"]\n", echo.address);
    proxy.rewrite(&more);
    proxy.signal(Signal::HUP);
    let failure = proxy
        .logged("reload failed; the previous configuration stays in effect")
        .await;
    assert!(
        failure["error"]
            .as_str()
            .unwrap()
            .contains("listener `second`"),
        "{failure}"
    );
    proxy.tunnel().await;
}

#[tokio::test]
async fn listeners_come_and_go_and_their_tunnels_stay() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]);
    let both = format!("{config}[listener.second]\nbind = [\"127.0.0.1:0\"]\n");
    let proxy = Proxy::start(&config).await;
    let before = proxy.address();
    proxy.reload(&both).await;
    assert_eq!(proxy.address(), before, "an unchanged socket stays open");
    let second = proxy.address_of("second");
    let mut client = Wire::connect(second).await;
    client.send(HANDSHAKE).await;
    let mut served = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
    let mut plain = Wire::connect(second).await;
    plain.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut replying, _) = endpoint.request().await;
    let mut idle = Wire::connect(second).await;

    proxy.reload(&config).await;
    proxy.logged("no longer listening").await;
    assert!(TcpStream::connect(second).await.is_err());
    // A running request gets its response before its connection is closed; an idle one is closed at once.
    idle.closed().await;
    replying
        .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    let (head, body) = plain.reply().await;
    assert_eq!(
        (body.as_str(), head.value("connection")),
        ("ok", Some("close"))
    );
    plain.closed().await;
    // The tunnel stays.
    client.send("still").await;
    assert_eq!(served.exactly(5).await, b"still");
}

/// A handshake that waits for its 101 when its listener is removed is completed.
#[tokio::test]
async fn a_handshake_in_progress_is_finished() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]);
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (mut served, _) = endpoint.request().await;
    proxy
        .reload(&config.replace("listener.main", "listener.other"))
        .await;
    proxy.logged("no longer listening").await;
    served.send(SWITCH).await;
    let head = client.head().await;
    assert_eq!(
        (head.status(), head.value("connection")),
        (101, Some("Upgrade"))
    );
    served.send("x").await;
    assert_eq!(client.exactly(1).await, b"x");
}

#[tokio::test]
async fn counts_survive_a_reload() {
    let echoes = [Echo::start("old").await, Echo::start("new").await];
    let [old, new] = [0, 1].map(|at: usize| echoes[at].address);
    let proxy = Proxy::start(&simple(&[old])).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(proxy.tunnel().await);
    }
    // The ten tunnels still count, so the new endpoint gets ten before the old one gets another.
    proxy.reload(&simple(&[old, new])).await;
    for _ in 0..10 {
        held.push(proxy.tunnel().await);
    }
    assert_eq!(echoes.each_ref().map(Echo::served), [10, 10]);
    // Also across the removal and return of an endpoint.
    proxy.reload(&simple(&[new])).await;
    proxy.reload(&simple(&[old, new])).await;
    for _ in 0..4 {
        held.push(proxy.tunnel().await);
    }
    assert_eq!(echoes.each_ref().map(Echo::served), [12, 12]);
}

#[tokio::test]
async fn a_changed_configuration_file_is_applied_if_so_configured() {
    let echo = Echo::start("echo").await;
    let unmatched = simple(&[echo.address]).replace("[[route]]", "[[route]]\nhosts = [\"other\"]");
    let head = "[server]\nwatch = \"all\"\nlog.format = \"json\"\n";
    let proxy = Proxy::start(&format!("{head}{unmatched}")).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.reply().await.0.status(), 404);
    proxy.rewrite(&format!("{head}{}", simple(&[echo.address])));
    proxy.logged("configuration reloaded").await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.head().await.status(), 101);
}

/// A failure is tried again, because the configuration may name a file that comes later; but it is reported once,
/// until a file changes.
#[tokio::test]
async fn a_bad_configuration_file_is_reported_once() {
    const FAILED: &str = "reload failed; the previous configuration stays in effect";
    const AGAIN: &str = "reload failed again; no file has changed since";
    let echo = Echo::start("echo").await;
    let head = "[server]\nwatch = \"all\"\nlog = { format = \"json\", level = \"debug\" }\n";
    let good = format!("{head}{}", simple(&[echo.address]));
    let proxy = Proxy::start(&good).await;
    let missing = format!("{good}tls = {{ ca = \"ca.pem\" }}\n");
    proxy.rewrite(&missing);
    proxy.logged(FAILED).await;
    // Each writing is a reason to compare the files.
    for times in 1..=3 {
        proxy.rewrite(&missing);
        let again = proxy.logged_times(AGAIN, times).await;
        assert!(again.iter().all(|event| event["level"] == "DEBUG"));
    }
    assert_eq!(proxy.log().events(FAILED).len(), 1);
    // Another content, and the first one once more.
    proxy.rewrite(&format!("{good}unknown = 1\n"));
    let failed = proxy.logged_times(FAILED, 2).await;
    assert_ne!(failed[0]["error"], failed[1]["error"]);
    proxy.rewrite(&missing);
    proxy.logged_times(FAILED, 3).await;
    // The file comes, and nothing that is watched has changed.
    Authority::new().write(&proxy.folder().join("ca.pem"));
    proxy.rewrite(&missing);
    proxy.logged("configuration reloaded").await;
    assert_eq!(proxy.log().events(FAILED).len(), 3);
}

#[tokio::test]
async fn a_bad_edit_that_is_taken_back_is_forgotten() {
    const FAMILY: &str = "tidegate_last_reload_successful";
    let echo = Echo::start("echo").await;
    for (watch, changed) in [("all", "config.toml"), ("certificates", "chat.key")] {
        let (_, folder) = Authority::with_certificate();
        let head = format!("[server]\nwatch = \"{watch}\"\nlog.format = \"json\"\n{METRICS}");
        let proxy = Proxy::start_in(folder, &(head + &secured(&[echo.address]))).await;
        let file = proxy.folder().join(changed);
        let before = fs::read(&file).unwrap();
        fs::write(&file, "nonsense").unwrap();
        proxy
            .logged("reload failed; the previous configuration stays in effect")
            .await;
        Scrape::until(&proxy, FAMILY, &[], 0.0).await;
        fs::write(&file, before).unwrap();
        let scrape = Scrape::until(&proxy, FAMILY, &[], 1.0).await;
        // Nothing was reloaded.
        let applied = scrape.sum("tidegate_reloads_total", &["result=\"applied\""]);
        assert_eq!(applied, 0.0);
    }
}

/// Connects repeatedly until it has to stop: the number of connections.
async fn knock(port: u16, stop: Arc<AtomicBool>) -> usize {
    let mut knocked = 0;
    while !stop.load(Ordering::Relaxed) {
        let socket = TcpStream::connect(("127.0.0.1", port)).await;
        drop(socket.expect("no client is refused"));
        knocked += 1;
    }
    knocked
}

#[tokio::test]
async fn an_overlapping_address_is_taken_over() {
    let echo = Echo::start("echo").await;
    let port = free_address().port();
    let config = |address: &str| {
        simple(&[echo.address]).replace("127.0.0.1:0", &format!("{address}:{port}"))
    };
    let proxy = Proxy::start(&config("0.0.0.0")).await;
    let _held = Wire::connect(([127, 0, 0, 1], port).into()).await;
    for _ in 0..5 {
        let stop = Arc::<AtomicBool>::default();
        let knocking = tokio::spawn(knock(port, Arc::clone(&stop)));
        // The more specific address gets all connections from its first moment.
        proxy.reload(&config("127.0.0.1")).await;
        assert_eq!(proxy.address().to_string(), format!("127.0.0.1:{port}"));
        stop.store(true, Ordering::Relaxed);
        assert!(knocking.await.unwrap() > 0);
        proxy.tunnel().await;
        proxy.reload(&config("0.0.0.0")).await;
        assert_eq!(proxy.address().to_string(), format!("0.0.0.0:{port}"));
        let mut client = Wire::connect(([127, 0, 0, 1], port).into()).await;
        client.send(HANDSHAKE).await;
        assert_eq!(client.head().await.status(), 101);
    }
}

#[tokio::test]
async fn changes_that_need_a_restart_say_so() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&simple(&[echo.address])).await;
    proxy
        .reload(&format!(
            "[server]\nworkers = 3\nlog.format = \"json\"\n{}",
            simple(&[echo.address])
        ))
        .await;
    proxy
        .logged("`server.workers` has changed, but requires a restart to take effect")
        .await;
}
