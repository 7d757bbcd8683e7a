//! A tunnel keeps its two sockets, its lease and its limits alive, but neither the configuration under
//! which it was opened nor the HTTP connection that it came from.
//!
//! This end-to-end test runs the library in its own process, because it has to see what is freed.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tidegate::config;
use tidegate::config::model::{Config, ListenerLimits, ListenerTimeouts, Trust};
use tidegate::drain::Drain;
use tidegate::front;
use tidegate::net::admission::{Admission, WorkerLoad};
use tidegate::net::listener::{Listener, ListenerSettings};
use tidegate::net::stream::{Peer, Socket, Stream};
use tidegate::protocol::client_protocol::ClientProtocol;
use tidegate::session::{ClientSide, Connection, ConnectionGuards, Shared, Worker};
use tidegate::snapshot::Snapshot;
use tidegate::upstream::connect::Connector;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};

use crate::harness::endpoint::{Echo, Unit};
use crate::harness::proxy::simple;
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{until, within};

fn parsed(text: &str) -> Config {
    match config::parse(text, Path::new("config.toml"), &|_| None) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{}", report.render(false)),
    }
}

fn settings(timeouts: ListenerTimeouts) -> ListenerSettings {
    ListenerSettings {
        revoked: Arc::default(),
        handshakes_at_once: 1,
        trust: Trust::default(),
        redirect_to_https: false,
        limits: ListenerLimits::default(),
        certificate_header: None,
        tls: None,
        http2: None,
        keepalive: None,
        timeouts,
    }
}

#[test]
fn a_tunnel_outlives_the_configuration_and_the_http_connection() {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default());
    runtime.unwrap().block_on(async {
        let echo = Echo::with("echo", Unit::Bytes, None).await;
        let config = parsed(&simple(&[echo.address]));
        let shared = Arc::new(Shared::new(
            Snapshot::new(&config, None).unwrap(),
            Connector::default(),
        ));
        let snapshot = Arc::downgrade(&shared.snapshot.load_full());
        let worker = Rc::new(Worker::new(Arc::clone(&shared), Arc::default()));
        let listener = Arc::new(Listener {
            name: "main".into(),
            drain: Drain::new(),
            gate: Arc::default(),
            failures: Default::default(),
            settings: ArcSwap::from_pointee(settings(config.listeners[0].timeouts)),
        });
        let (mut client, accepted, peer) = accepted().await;
        let connection = Rc::new(Connection {
            protocol: ClientProtocol::Http1,
            worker: Rc::clone(&worker),
            listener: Arc::clone(&listener),
            counts: worker.recorder.counters.listener(&listener.name),
            timeouts: config.listeners[0].timeouts,
            peer: Peer::Ip(peer),
            local: None,
            is_anonymous: false,
            tls: None,
            limits: ListenerLimits::default(),
            secure: false,
            reserved: Rc::new(worker.pool.reserved()),
            interim: Rc::default(),
        });
        let http = Rc::downgrade(&connection);
        let admission = Arc::<Admission>::default();
        admission.set_limit(10);
        let load = Arc::new(WorkerLoad::new(Arc::clone(&admission)));
        let permit = load.admit().unwrap();
        let side = ClientSide::Connection(connection.counts.open_connection());
        let stream = Stream::Plain(Socket::Tcp(accepted));
        worker.tasks.spawn(front::http::serve(
            connection,
            stream,
            ConnectionGuards { permit, side },
            tokio::time::Instant::now(),
        ));

        client.send(HANDSHAKE).await;
        assert_eq!(client.head().await.status(), 101);
        // The connection of hyper is gone with everything that it held. The task of the tunnel is left.
        until("the HTTP connection to go", || http.strong_count() == 0).await;
        assert_eq!((worker.tasks.running(), worker.tunnels.len()), (1, 1));

        let other = parsed(&simple(&[([127, 0, 0, 1], 1).into()]));
        let next = Snapshot::new(&other, Some(&shared.snapshot.load())).unwrap();
        shared.snapshot.store(Arc::new(next));
        assert_eq!(
            snapshot.strong_count(),
            0,
            "the tunnel holds the old configuration"
        );
        drop(listener);

        client.send("still here").await;
        assert_eq!(client.exactly(10).await, b"still here");
        assert_eq!(admission.open(), 1);
        client.finish().await;
        client.closed().await;
        within("the tunnel's task to end", worker.tasks.all_done()).await;
        assert_eq!((admission.open(), worker.tunnels.len()), (0, 0));
    });
}

/// The two ends of a connection.
async fn accepted() -> (Wire, TcpStream, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Wire::connect(listener.local_addr().unwrap()).await;
    let (socket, peer) = listener.accept().await.unwrap();
    (client, socket, peer)
}
