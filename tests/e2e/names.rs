//! Endpoints that are listed by name: lookups that fail or hang, and names with several addresses.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tidegate::config;
use tidegate::snapshot::Snapshot;
use tidegate::upstream::check_steps::CheckError;
use tidegate::upstream::connect::{ConnectError, Connector, connect};
use tidegate::upstream::group::Upstream;
use tidegate::upstream::health_check::health_check;
use tokio::net::TcpListener;

use crate::harness::certificates::Authority;
use crate::harness::dns::NameServer;
use crate::harness::endpoint::{Echo, Unit};
use crate::harness::network;
use crate::harness::operator::Operator;
use crate::harness::proxy::{Proxy, Signal, kill, simple, verbose};
use crate::harness::scrape::{METRICS, Scrape};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{free_address, until, within};

/// One endpoint, `chat.test`, with these settings.
fn by_name(port: u16, settings: &str) -> String {
    let endpoints = format!("endpoints = [\"chat.test:{port}\"]\n{settings}\n");
    simple(&[]).replace("endpoints = []\n", &endpoints)
}

/// The upstream of a configuration.
fn upstream(config: &str) -> Arc<Upstream> {
    let loaded = match config::parse(config, Path::new("config.toml"), &|_| None) {
        Ok(loaded) => loaded,
        Err(report) => panic!("{}", report.render(false)),
    };
    let snapshot = Snapshot::new(&loaded.config, None).unwrap();
    Arc::clone(&snapshot.upstreams()[0])
}

/// Resolves every name to these addresses.
fn resolving_to(addresses: &[SocketAddr]) -> Connector {
    let addresses = addresses.to_vec();
    Connector::with_look_up(Box::new(move |_| Ok(addresses.clone())))
}

/// An address at which the kernel drops SYNs, because its backlog is full.
struct BlackHole {
    listener: Socket,
    address: SocketAddr,
    _first: Wire,
}

impl BlackHole {
    async fn at(host: [u8; 4], port: u16) -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener
            .bind(&SocketAddr::from((host, port)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        Self {
            listener,
            address,
            _first: Wire::connect(address).await,
        }
    }

    /// Accepts connections from now on.
    fn open(&self) {
        self.listener.listen(128).unwrap();
        self.listener.accept().unwrap();
    }
}

/// A port at which one address is a black hole, and another one accepts.
async fn hole_and_listener() -> (BlackHole, TcpListener) {
    let address = free_address();
    let listener = TcpListener::bind(address).await.unwrap();
    (
        BlackHole::at([127, 0, 0, 2], address.port()).await,
        listener,
    )
}

/// Connects to the only endpoint of the upstream; returns the address that it is connected to.
async fn reach(upstream: &Upstream, connector: &Connector) -> Result<SocketAddr, ConnectError> {
    let endpoint = &upstream.endpoints()[0];
    let limit = upstream.timeouts().connect;
    let reached = connect(upstream, endpoint, connector, &[], limit).await?;
    let addresses = ["127.0.0.1", "127.0.0.2"].map(|host| {
        let port = endpoint.label.rsplit(':').next().unwrap();
        format!("{host}:{port}").parse::<SocketAddr>().unwrap()
    });
    let used = |to: &&SocketAddr| connector.sources().used(**to, None) > 0;
    let reached_at: Vec<_> = addresses.iter().filter(used).collect();
    assert_eq!(reached_at.len(), 1, "one port");
    drop(reached);
    Ok(*reached_at[0])
}

#[tokio::test]
async fn an_address_that_is_a_black_hole_does_not_hide_the_next_one() {
    let (hole, listener) = hole_and_listener().await;
    let to = listener.local_addr().unwrap();
    let upstream = upstream(&by_name(to.port(), "timeouts.connect = \"2s\""));
    let connector = resolving_to(&[hole.address, to]);
    assert_eq!(reach(&upstream, &connector).await.unwrap(), to);
    // From now on, both accept: the one that worked goes first.
    hole.open();
    assert_eq!(reach(&upstream, &connector).await.unwrap(), to);
    // If it fails, the other one is next.
    drop(listener);
    assert_eq!(reach(&upstream, &connector).await.unwrap(), hole.address);
    let _again = TcpListener::bind(to).await.unwrap();
    assert_eq!(reach(&upstream, &connector).await.unwrap(), hole.address);
}

#[tokio::test]
async fn a_name_whose_addresses_are_all_black_holes_times_out() {
    let port = free_address().port();
    let hole = BlackHole::at([127, 0, 0, 2], port).await;
    let other = BlackHole::at([127, 0, 0, 1], port).await;
    let upstream = upstream(&by_name(port, "timeouts.connect = \"300ms\""));
    let connector = resolving_to(&[hole.address, other.address]);
    let error = reach(&upstream, &connector).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout(_)), "{error}");
    assert!(error.blames_endpoint());
}

#[tokio::test]
async fn health_checks_and_tls_reach_the_next_address_too() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let ca = folder.path().join("ca.pem");
    authority.write(&ca);
    let server = authority.server(folder.path(), &["chat.test"], false);
    let echo = Echo::at(free_address(), "echo", Unit::Bytes, Some(server)).await;
    let hole = BlackHole::at([127, 0, 0, 2], echo.address.port()).await;
    let settings = format!(
        // A check has less time than a connection.
        "timeouts.connect = \"1m\"\n\
         health = {{ websocket = {{ path = \"/\" }}, timeout = \"4s\" }}\n\
         tls = {{ ca = \"{}\" }}",
        ca.display()
    );
    let upstream = upstream(&by_name(echo.address.port(), &settings));
    let connector = resolving_to(&[hole.address, echo.address]);
    let check = upstream.settings.health.as_ref().unwrap();
    let endpoint = &upstream.endpoints()[0];
    let checked = health_check(check, &upstream, endpoint, &connector).await;
    checked.unwrap();
    assert_eq!(echo.served(), 1);
    hole.open();
    let reached = reach(&upstream, &connector).await.unwrap();
    assert_eq!(reached, echo.address);
}

/// An address that accepts connections but does not answer in TLS is tried last, too.
#[tokio::test]
async fn an_address_without_tls_does_not_hide_the_next_one_for_ever() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    let ca = folder.path().join("ca.pem");
    authority.write(&ca);
    let server = authority.server(folder.path(), &["chat.test"], false);
    let echo = Echo::at(free_address(), "echo", Unit::Bytes, Some(server)).await;
    let silent = SocketAddr::from(([127, 0, 0, 2], echo.address.port()));
    let _silent = TcpListener::bind(silent).await.unwrap();
    let settings = format!(
        "timeouts.connect = \"1s\"\ntls = {{ ca = \"{}\" }}",
        ca.display()
    );
    let upstream = upstream(&by_name(echo.address.port(), &settings));
    let connector = resolving_to(&[silent, echo.address]);
    let error = reach(&upstream, &connector).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout(_)), "{error}");
    let reached = reach(&upstream, &connector).await.unwrap();
    assert_eq!(reached, echo.address);
}

#[tokio::test]
async fn a_lookup_that_fails_or_hangs_is_not_a_failure_of_the_endpoint() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let (hang, hanging) = std::sync::mpsc::sync_channel::<()>(0);
    let hanging = std::sync::Mutex::new(hanging);
    let connector = Connector::with_look_up(Box::new(move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(std::io::Error::other("no name server"));
        }
        let _ = hanging.lock().unwrap().recv();
        Ok(Vec::new())
    }));
    let settings = "timeouts.connect = \"1ms\"\nhealth = { tcp = {}, timeout = \"1ms\" }";
    let upstream = upstream(&by_name(1, settings));
    let check = upstream.settings.health.as_ref().unwrap();
    let endpoint = &upstream.endpoints()[0];
    // The first lookup fails, and the second one hangs.
    while asked.load(Ordering::SeqCst) < 2 {
        let error = reach(&upstream, &connector).await.unwrap_err();
        assert!(matches!(error, ConnectError::Resolve(_)), "{error}");
        assert!(!error.blames_endpoint());
        let error = health_check(check, &upstream, endpoint, &connector)
            .await
            .unwrap_err();
        let CheckError::Connect(error) = &error else {
            panic!("{error}");
        };
        assert!(!error.blames_endpoint());
    }
    drop(hang);
}

/// An upstream with an endpoint whose name has no address, and one that works.
fn with_one_unresolved(echo: &Echo, settings: &str) -> String {
    let endpoints = format!(
        "endpoints = [\"chat.invalid:9\", \"{}\"]\nbalance = \"round_robin\"\n{settings}\n",
        echo.address
    );
    simple(&[]).replace("endpoints = []\n", &endpoints)
}

/// Nothing counts against the endpoint, but not every other client pays for it.
#[tokio::test]
async fn an_endpoint_whose_name_was_never_resolved_is_asked_last() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let ejecting = "ejection = { failures = 1, max_share = 1.0 }";
    let (proxy, operator) = Operator::start(&verbose(&with_one_unresolved(&echo, ejecting))).await;
    for _ in 0..20 {
        proxy.tunnel().await;
    }
    let failed = proxy.logged_by_now("cannot connect to endpoint").await;
    // One, and one more for each ten seconds that this took.
    assert!((1..5).contains(&failed.len()), "{failed:#?}");
    let event = proxy.logged("endpoint unreachable").await;
    assert_eq!(event["endpoint"], "chat.invalid:9");
    assert!(proxy.log().events("endpoint ejected").is_empty());
    let upstreams = operator.get("/v1/upstreams").await;
    let shown = &upstreams[0]["endpoints"][0]["connect_error"];
    let why = shown.as_str().unwrap();
    assert!(why.starts_with("cannot resolve the name: "), "{why}");
}

/// A check that is skipped says as much about the name as a session does, and says it once.
#[tokio::test]
async fn checks_of_a_name_without_an_address_are_one_warning_and_spare_the_clients() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let settings = "health = { tcp = {}, interval = \"50ms\", timeout = \"50ms\" }";
    let proxy = Proxy::start(&verbose(&with_one_unresolved(&echo, settings))).await;
    proxy.logged_times("health check skipped", 5).await;
    let warned = "health check skipped: the failure is not the endpoint's";
    let causes: Vec<Value> = proxy.log().events(warned);
    let mut whys: Vec<&str> = causes
        .iter()
        .map(|it| it["why"].as_str().unwrap())
        .collect();
    whys.sort_unstable();
    let all = whys.len();
    whys.dedup();
    assert!((1..3).contains(&all) && whys.len() == all, "{causes:#?}");
    for _ in 0..20 {
        proxy.tunnel().await;
    }
    let failed = proxy.logged_by_now("cannot connect to endpoint").await;
    assert!(failed.is_empty(), "{failed:#?}");
}

async fn status_of(proxy: &Proxy) -> (u16, Option<String>) {
    let mut wire = proxy.connect().await;
    wire.send(HANDSHAKE).await;
    let head = wire.head().await;
    let reason = head.value("tidegate-reason").map(str::to_owned);
    (head.status(), reason)
}

/// In this network and these mounts, the only name server is the one that the test starts.
const OWN_NAME_SERVER: &str = "ip link set lo up && mount -t tmpfs none /mnt && \
    printf 'nameserver 127.0.0.1\\noptions timeout:30 attempts:5\\n' >/mnt/resolv.conf && \
    mount --bind /mnt/resolv.conf /etc/resolv.conf";

#[test]
fn sessions_reloads_and_stops_go_on_without_a_name_server() {
    network::run_in_own(OWN_NAME_SERVER, "names::with_a_name_server_of_its_own");
}

#[tokio::test]
#[ignore = "runs in a network of its own"]
async fn with_a_name_server_of_its_own() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let server = NameServer::at(([127, 0, 0, 1], 53).into(), 1).await;
    server.addresses("chat.test", &["127.0.0.1"]);
    let ejecting = "ejection = { failures = 1, max_share = 1.0 }";
    let seen = METRICS.to_owned() + "bind = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"\n";
    let config = seen + &by_name(echo.address.port(), ejecting);
    let (mut proxy, operator) = Operator::start_whole(&config).await;
    assert_eq!(status_of(&proxy).await.0, 101);

    server.fall_silent();
    // A lookup hangs as soon as the addresses are to be looked up again; sessions go on.
    let before = server.asked();
    within("a lookup", async {
        while server.asked() == before {
            assert_eq!(status_of(&proxy).await.0, 101);
        }
    })
    .await;
    for _ in 0..50 {
        assert_eq!(status_of(&proxy).await.0, 101);
    }
    // One lookup sends one query per address family.
    let queries = server.asked() - before;
    assert!(queries <= 2, "{queries} queries");
    let scrape = Scrape::of(&proxy).await;
    let found = ["kind=\"name\"", "result=\"found\""];
    assert_eq!(scrape.sum("tidegate_lookups_total", &found), 1.0);

    // The next process has the addresses, too.
    proxy.signal(Signal::USR2);
    let successor = proxy.successor(1).await;
    proxy.exit().await;
    assert_eq!(status_of(&proxy).await.0, 101);

    let other = config.replace("chat.test", "other.test");
    proxy.rewrite(&(other + "timeouts.connect = \"300ms\"\n"));
    kill(successor, Signal::HUP);
    proxy.logged("configuration reloaded").await;
    let unresolved = (503, Some("name-unresolved".to_owned()));
    for _ in 0..8 {
        assert_eq!(status_of(&proxy).await, unresolved);
    }
    proxy.logged_times("rejected", 8).await;
    assert!(proxy.log().events("endpoint ejected").is_empty());
    let mut why = Value::Null;
    within("the cause in the status", async {
        while why.is_null() {
            assert_eq!(status_of(&proxy).await, unresolved);
            let mut upstreams = operator.get("/v1/upstreams").await;
            why = upstreams[0]["endpoints"][0]["why"].take();
        }
    })
    .await;
    let expected = "asked last: cannot resolve the name: no answer within ";
    assert!(why.as_str().unwrap().starts_with(expected), "{why}");

    // Both lookups still hang, and hold up no stop.
    kill(successor, Signal::TERM);
    let process = format!("/proc/{successor}");
    until("the process to stop", || !Path::new(&process).exists()).await;
}
