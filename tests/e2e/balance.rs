//! Balancing: the shares of endpoints across workers, and endpoints that are down.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::faulty::{FaultyEndpoint, Reaction};
use crate::harness::free_address;
use crate::harness::proxy::{Proxy, simple, verbose};
use crate::harness::until;
use crate::harness::wire::{HANDSHAKE, Wire};

fn with_workers(workers: usize, config: &str) -> String {
    format!("[server]\nworkers = {workers}\nlog.format = \"json\"\n{config}")
}

/// Three echoes with the weights 1, 1 and 2.
async fn weighted(balance: &str) -> ([Echo; 3], Proxy) {
    let echoes = [
        Echo::start("a").await,
        Echo::start("b").await,
        Echo::start("c").await,
    ];
    let [a, b, c] = [0, 1, 2].map(|at: usize| echoes[at].address);
    let config = simple(&[]).replace(
        "endpoints = []",
        &format!(
            "balance = \"{balance}\"\n\
             endpoints = [\"{a}\", \"{b}\", {{ address = \"{c}\", weight = 2 }}]"
        ),
    );
    let proxy = Proxy::start(&with_workers(4, &config)).await;
    (echoes, proxy)
}

async fn tunnels(proxy: &Proxy, count: usize) -> Vec<Wire> {
    // Read once, because it is looked up in the log, which grows with every tunnel.
    let address = proxy.address();
    let mut tunnels = Vec::new();
    for _ in 0..count {
        let mut wire = Wire::connect(address).await;
        wire.send(HANDSHAKE).await;
        assert_eq!(wire.head().await.status(), 101);
        tunnels.push(wire);
    }
    tunnels
}

#[tokio::test]
async fn round_robin_is_exact_over_all_workers() {
    let (echoes, proxy) = weighted("round_robin").await;
    let _tunnels = tunnels(&proxy, 200).await;
    assert_eq!(echoes.each_ref().map(Echo::served), [50, 50, 100]);
}

#[tokio::test]
async fn open_tunnels_are_balanced_rather_than_past_ones() {
    let (echoes, proxy) = weighted("least_connections").await;
    let mut held = tunnels(&proxy, 200).await;
    assert_eq!(echoes.each_ref().map(Echo::served), [50, 50, 100]);
    // New tunnels go where others have ended: the balance is that of the open ones.
    held.truncate(40);
    until("tunnels to end", || {
        echoes.iter().map(Echo::open).sum::<usize>() == 40
    })
    .await;
    proxy.logged_times("tunnel ended", 160).await;
    held.extend(tunnels(&proxy, 160).await);
    let open = echoes.each_ref().map(Echo::open);
    let fair = open
        .iter()
        .zip([50, 50, 100])
        .all(|(open, share)| open.abs_diff(share) <= 2);
    assert!(fair, "{open:?}");
}

#[tokio::test]
async fn many_simultaneous_handshakes_are_balanced() {
    let (echoes, proxy) = weighted("least_connections").await;
    let address = proxy.address();
    let clients: Vec<_> = (0..200)
        .map(|_| {
            tokio::spawn(async move {
                let mut wire = Wire::connect(address).await;
                wire.send(HANDSHAKE).await;
                assert_eq!(wire.head().await.status(), 101);
                wire
            })
        })
        .collect();
    let mut held = Vec::new();
    for client in clients {
        held.push(client.await.unwrap());
    }
    let served = echoes.each_ref().map(Echo::served);
    let fair = served
        .iter()
        .zip([50, 50, 100])
        .all(|(served, share)| served.abs_diff(share) <= 2);
    assert!(fair, "{served:?}");
}

/// Exact for deterministic policies, and within five standard deviations for random ones.
#[tokio::test]
async fn shares_follow_the_weights_across_a_reload_and_a_kill() {
    for (policy, most_off) in [
        ("round_robin", 2),
        ("least_connections", 2),
        ("power_of_two", 20),
        ("random", 50),
    ] {
        let ([a, b, c], proxy) = weighted(policy).await;
        let mut held = tunnels(&proxy, 200).await;
        let config = std::fs::read_to_string(proxy.folder().join("config.toml")).unwrap();
        proxy.reload(&(config + "# the same\n")).await;
        held.extend(tunnels(&proxy, 200).await);
        let served = [a.served(), b.served(), c.served()];
        let fair = served
            .iter()
            .zip([100, 100, 200])
            .all(|(served, share)| served.abs_diff(share) <= most_off);
        assert!(fair, "{policy}: {served:?}");
        // Its share goes to the other two, in equal parts.
        drop(c);
        held.extend(tunnels(&proxy, 100).await);
        let more = [a.served() - served[0], b.served() - served[1]];
        assert_eq!(more.iter().sum::<usize>(), 100, "{policy}");
        assert!(
            more[0].abs_diff(more[1]) <= 2 * most_off,
            "{policy}: {more:?}"
        );
    }
}

/// A reload keeps the count of each endpoint, even if they are unbalanced at that moment.
#[tokio::test]
async fn a_skew_survives_a_reload_and_is_corrected() {
    let echoes = [Echo::start("a").await, Echo::start("b").await];
    let [a, b] = echoes.each_ref().map(|echo| echo.address);
    let proxy = Proxy::start(&with_workers(4, &simple(&[a]))).await;
    let mut held = tunnels(&proxy, 30).await;
    proxy.reload(&with_workers(4, &simple(&[a, b]))).await;
    held.extend(tunnels(&proxy, 30).await);
    assert_eq!(echoes.each_ref().map(Echo::open), [30, 30]);
    // After a kill, the endpoint comes back without a count of its old tunnels.
    let [a, dying] = echoes;
    drop(dying);
    proxy.logged_times("tunnel ended", 30).await;
    held.extend(tunnels(&proxy, 10).await);
    assert_eq!(a.open(), 40);
}

/// With a slow start, a new endpoint gets its share gradually and not all at once.
#[tokio::test]
async fn a_new_endpoint_is_not_flooded() {
    let echoes = [
        Echo::start("a").await,
        Echo::start("b").await,
        Echo::start("c").await,
    ];
    let [a, b, c] = echoes.each_ref().map(|echo| echo.address);
    let slow = |endpoints: &[SocketAddr]| {
        with_workers(
            4,
            &simple(endpoints).replace("endpoints", "slow_start = \"1h\"\nendpoints"),
        )
    };
    let proxy = Proxy::start(&slow(&[a, b])).await;
    let mut held = tunnels(&proxy, 100).await;
    assert_eq!(
        echoes.each_ref().map(Echo::open),
        [50, 50, 0],
        "none at the start"
    );
    proxy.reload(&slow(&[a, b, c])).await;
    held.extend(tunnels(&proxy, 100).await);
    // A tenth of twice its share: seven of a hundred on average.
    let new = echoes[2].open();
    assert!((1..=25).contains(&new), "{new}");
    // Without a slow start it gets all tunnels until it has as many as the others.
    proxy.reload(&with_workers(4, &simple(&[a, b, c]))).await;
    let before = echoes[2].open();
    held.extend(tunnels(&proxy, 20).await);
    assert_eq!(echoes[2].open(), before + 20);
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_is_skipped() {
    let serving = FaultyEndpoint::start(Reaction::Hang, Reaction::Answer(204)).await;
    for request in [HANDSHAKE, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let config = simple(&[free_address(), serving.address])
            .replace("endpoints", "balance = \"round_robin\"\nendpoints");
        let proxy = Proxy::start(&config).await;
        for _ in 0..10 {
            let mut client = proxy.connect().await;
            client.send(request).await;
            assert_eq!(client.head().await.status(), 204);
        }
        proxy.logged("cannot connect to endpoint").await;
        assert!(proxy.logged_by_now("rejected").await.is_empty());
    }
}

#[tokio::test]
async fn an_endpoint_that_dies_loses_its_tunnels_and_no_other() {
    let echoes = [Echo::start("a").await, Echo::start("b").await];
    let config = simple(&[echoes[0].address, echoes[1].address]).replace(
        "[upstream.main]",
        "timeouts.half_closed = \"1s\"\n[upstream.main]",
    );
    let proxy = Proxy::start(&config).await;
    let mut held = tunnels(&proxy, 20).await;
    let [dying, staying] = echoes;
    let dying_address = dying.address;
    drop(dying);
    let ended = proxy.logged_times("tunnel ended", 10).await;
    for event in ended {
        assert_eq!(event["endpoint"], dying_address.to_string());
    }
    held.extend(tunnels(&proxy, 10).await);
    assert_eq!(staying.open(), 20);
    assert_eq!(proxy.logged_by_now("tunnel ended").await.len(), 10);
}

#[tokio::test]
async fn when_no_endpoint_connects_the_client_gets_503_with_retry_after() {
    let proxy = Proxy::start(&verbose(&simple(&[free_address(), free_address()]))).await;
    for request in [HANDSHAKE, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        let (head, body) = client.reply().await;
        assert_eq!(head.status(), 503);
        assert!((1..=5).contains(&head.retry_after()));
        assert_eq!(head.value("tidegate-reason"), Some("connect-failed"));
        assert_eq!(
            body,
            "No backend could be reached. Please try again soon.\n"
        );
        // The connection stays.
        client.send(request).await;
        assert_eq!(client.reply().await.0.status(), 503);
    }
    // Two endpoints, two tries, four requests.
    assert_eq!(
        proxy
            .logged_by_now("cannot connect to endpoint")
            .await
            .len(),
        8
    );
}

#[tokio::test]
async fn the_number_of_tries_is_the_configured_one() {
    let echo = Echo::start("third").await;
    let endpoints = [free_address(), free_address(), echo.address];
    let config =
        verbose(&simple(&endpoints)).replace("endpoints", "balance = \"round_robin\"\nendpoints");
    let proxy = Proxy::start(&(config.clone() + "tries = 3\n")).await;
    for _ in 0..6 {
        proxy.tunnel().await;
    }
    let tries = proxy
        .logged_by_now("cannot connect to endpoint")
        .await
        .len();
    proxy
        .reload(&(config.replace(&format!(", \"{}\"", echo.address), "") + "tries = 1\n"))
        .await;
    for number in 1..=3 {
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        assert_eq!(client.head().await.status(), 503);
        let failed = proxy.logged_by_now("cannot connect to endpoint").await;
        assert_eq!(failed.len(), tries + number);
    }
}

#[tokio::test]
async fn a_connect_timeout_is_504() {
    // A full backlog: the kernel drops further SYNs.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = Wire::connect(address).await;
    let config = simple(&[address]) + "timeouts.connect = \"300ms\"\n";
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (head, _) = client.reply().await;
    assert_eq!(
        (head.status(), head.value("tidegate-reason")),
        (504, Some("connect-timeout"))
    );
}

/// A handshake that waits for its 101 counts as load.
#[tokio::test]
async fn pending_handshakes_count() {
    let endpoints = [Endpoint::bind().await, Endpoint::bind().await];
    let proxy = Proxy::start(&simple(&[endpoints[0].address, endpoints[1].address])).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = proxy.connect().await;
        client.send(HANDSHAKE).await;
        clients.push(client);
    }
    let mut served = Vec::new();
    for endpoint in &endpoints {
        for _ in 0..4 {
            served.push(endpoint.request().await);
        }
    }
}

#[tokio::test]
async fn names_are_resolved_and_unix_sockets_connected() {
    let echo = Echo::start("by name").await;
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("endpoint.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let config = simple(&[]).replace(
        "endpoints = []",
        &format!(
            "endpoints = [\"localhost:{}\", \"unix:{}\"]\nbalance = \"round_robin\"",
            echo.address.port(),
            path.display()
        ),
    );
    let proxy = Proxy::start(&config).await;
    let by_path = tokio::spawn(async move {
        let mut served = Wire::unix(listener.accept().await.unwrap().0);
        served.head().await;
        served.send(crate::harness::wire::SWITCH).await;
        served
    });
    // The turn may begin with either of them.
    let _tunnels = [proxy.tunnel().await, proxy.tunnel().await];
    assert_eq!(echo.served(), 1);
    by_path.await.unwrap();
}
