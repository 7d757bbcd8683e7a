//! Upgrades and reloads under load, one of each invalid.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::endpoint::Echo;
use crate::harness::proxy::{Proxy, Signal, kill, settings};
use crate::harness::{until, within};

const TUNNELS: usize = 500;

/// The pause between two messages of a tunnel.
const PAUSE: Duration = Duration::from_millis(100);

/// The interval of new clients.
const NEXT_COMES: Duration = Duration::from_millis(5);

/// The source address of clients. Its ports are not those of other tests.
const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 77, 1)), 0);

/// Generous timeouts, because clients, endpoints and the test share a thread on a busy machine.
const LISTENER: &str = "timeouts = { request_header = \"1m\" }";
const UPSTREAM: &str = "source = [\"127.0.77.2\"]\n\
                        timeouts = { connect = \"1m\", handshake = \"1m\" }\n";

/// The maximum number of simultaneous short visits.
const VISITS_AT_ONCE: usize = 50;

/// What clients share.
#[derive(Default)]
struct Crowd {
    stop: AtomicBool,
    messages: AtomicUsize,
    handshakes: AtomicUsize,
    /// Tunnels that a drain has closed and that were opened again.
    moved: AtomicUsize,
}

async fn open(address: SocketAddr, crowd: &Crowd) -> WebSocketStream<TcpStream> {
    let began = Instant::now();
    let opened = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(FROM).unwrap();
        let socket = socket.connect(address).await;
        let socket = socket.expect("no client is refused");
        let own = socket.local_addr().unwrap();
        match client_async("ws://chat.example.com/chat", socket).await {
            Ok((opened, _)) => opened,
            Err(error) => panic!(
                "{own}: a handshake fails after {:?}: {error}",
                began.elapsed()
            ),
        }
    };
    let opened = within("a handshake", opened).await;
    crowd.handshakes.fetch_add(1, Ordering::Relaxed);
    opened
}

/// A client that sends messages and checks their echoes until it has to stop, and reconnects after a
/// Close.
async fn talk(address: SocketAddr, crowd: Arc<Crowd>) {
    let mut socket = open(address, &crowd).await;
    let mut number = 0_u32;
    while !crowd.stop.load(Ordering::Relaxed) {
        number += 1;
        let message = Message::text(format!("message {number}"));
        // A message that crosses a Close may be lost; it is sent again.
        let _ = socket.send(message.clone()).await;
        match within("an answer", socket.next()).await {
            Some(Ok(Message::Close(said))) => {
                let said = said.expect("a code and a reason");
                assert_eq!(
                    (u16::from(said.code), said.reason.as_str()),
                    (1012, "shutdown")
                );
                // The reply to the Close is sent by the next poll.
                while let Some(Ok(_)) = socket.next().await {}
                crowd.moved.fetch_add(1, Ordering::Relaxed);
                socket = open(address, &crowd).await;
            }
            Some(Ok(echo)) => {
                assert_eq!(echo, message);
                crowd.messages.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
            broken => panic!("a tunnel breaks: {broken:?}"),
        }
    }
    let _ = socket.close(None).await;
    while let Some(Ok(_)) = socket.next().await {}
}

/// Short visits all the time: new clients that open a tunnel and close it.
async fn come_and_go(address: SocketAddr, crowd: Arc<Crowd>) {
    let mut visits = JoinSet::new();
    let mut next = tokio::time::interval(NEXT_COMES);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !crowd.stop.load(Ordering::Relaxed) {
        next.tick().await;
        // Fewer on a slow machine, so that no client is late by itself.
        if visits.len() >= VISITS_AT_ONCE {
            visits.join_next().await.unwrap().unwrap();
        }
        let crowd = Arc::clone(&crowd);
        visits.spawn(async move {
            let mut socket = open(address, &crowd).await;
            let _ = socket.close(None).await;
            while let Some(Ok(_)) = socket.next().await {}
        });
        while let Some(visit) = visits.try_join_next() {
            visit.unwrap();
        }
    }
    while let Some(visit) = visits.join_next().await {
        visit.unwrap();
    }
}

fn config(echoes: &[Echo; 3], turn: usize) -> String {
    let [a, b, c] = [0, 1, 2].map(|at: usize| echoes[at].address);
    let endpoints = [vec![a, b, c], vec![b, c], vec![c], vec![a, c]];
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\nupgrade = { drain = \"5s\", settle = \"200ms\" }\n";
    let config = settings(&endpoints[turn % 4], LISTENER, "");
    [server, &config, UPSTREAM].concat()
}

async fn reload(proxy: &Proxy, echoes: &[Echo; 3], turn: usize) {
    let events = if turn == 4 {
        "reload failed; the previous configuration stays in effect"
    } else {
        "configuration reloaded"
    };
    let before = proxy.log().events(events).len();
    match turn {
        4 => proxy.rewrite("[listener.main\nbind = 7\n"),
        _ => proxy.rewrite(&config(echoes, turn)),
    }
    kill(proxy.serving(), Signal::HUP);
    proxy.logged_times(events, before + 1).await;
}

/// The third upgrade has an invalid file, and changes nothing.
async fn upgrade(proxy: &Proxy, echoes: &[Echo; 3], turn: usize) {
    let done = proxy.successors().len();
    if turn == 2 {
        proxy.rewrite("nonsense\n");
        kill(proxy.serving(), Signal::USR2);
        proxy
            .logged("upgrade failed; this process stays in service")
            .await;
        return;
    }
    proxy.rewrite(&config(echoes, turn));
    kill(proxy.serving(), Signal::USR2);
    proxy.successor(done + 1).await;
    proxy
        .logged_times("older generation has exited", done + 1)
        .await;
}

#[tokio::test]
async fn three_upgrades_and_ten_reloads_lose_no_client() {
    let echoes = [
        Echo::start("a").await,
        Echo::start("b").await,
        Echo::start("c").await,
    ];
    let proxy = Proxy::start(&config(&echoes, 0)).await;
    let address = proxy.address();
    let crowd = Arc::<Crowd>::default();
    let mut clients = JoinSet::new();
    for _ in 0..TUNNELS {
        clients.spawn(talk(address, Arc::clone(&crowd)));
    }
    until("all tunnels to open", || {
        crowd.handshakes.load(Ordering::Relaxed) == TUNNELS
    })
    .await;
    clients.spawn(come_and_go(address, Arc::clone(&crowd)));
    for turn in 0..10 {
        reload(&proxy, &echoes, turn).await;
        if turn % 3 == 0 {
            upgrade(&proxy, &echoes, turn / 3).await;
        }
        let before = crowd.messages.load(Ordering::Relaxed);
        until("traffic to go on", || {
            crowd.messages.load(Ordering::Relaxed) >= before + TUNNELS
        })
        .await;
    }
    crowd.stop.store(true, Ordering::Relaxed);
    while let Some(client) = within("clients to close", clients.join_next()).await {
        client.unwrap();
    }
    // Three processes have handed over, and each has closed its tunnels.
    assert_eq!(proxy.successors().len(), 3);
    assert!(crowd.moved.load(Ordering::Relaxed) >= TUNNELS);
    let handshakes = crowd.handshakes.load(Ordering::Relaxed);
    let ended = proxy.logged_times("tunnel ended", handshakes).await;
    assert_eq!(ended.len(), handshakes);
    let reason = |event: &Value| event["reason"].as_str().unwrap().to_owned();
    for reason in ended.iter().map(reason) {
        assert!(["client-close", "shutdown"].contains(&&*reason), "{reason}");
    }
    assert!(proxy.log().events("rejected").is_empty());
}
