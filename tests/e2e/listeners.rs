//! Listeners: Unix sockets, IPv6, addresses in use, and a limit on open files.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::Arc;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::frame;
use crate::harness::operator::Operator;
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{free_address, until};

fn on_unix(folder: &TempDir, endpoint: SocketAddr) -> String {
    let path = folder.path().join("in.sock");
    simple(&[endpoint]).replace(
        "bind = [\"127.0.0.1:0\"]",
        &format!(
            "bind = [{{ address = \"unix:{}\", mode = \"0600\" }}]",
            path.display()
        ),
    )
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_and_goes_with_the_process() {
    let endpoint = Endpoint::bind().await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("in.sock");
    // Left behind by a process that has exited.
    drop(UnixListener::bind(&path).unwrap());
    let config = on_unix(&folder, endpoint.address);
    let mut proxy = Proxy::start_in(folder, &config).await;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = proxy.connect_unix("in.sock").await;
    client.send(HANDSHAKE).await;
    let (mut served, head) = endpoint.request().await;
    assert_eq!(head.value("x-forwarded-for"), None);
    assert_eq!(
        head.value("forwarded"),
        Some("for=unknown;host=\"chat.example.com\";proto=http")
    );
    served.send(crate::harness::wire::SWITCH).await;
    assert_eq!(client.head().await.status(), 101);
    drop(client);
    proxy.signal(crate::harness::proxy::Signal::TERM);
    assert_eq!(proxy.exit().await, 0);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_unix_socket_in_use_and_a_regular_file_are_left_alone() {
    let endpoint = Endpoint::bind().await;
    let folder = Arc::new(TempDir::new().unwrap());
    let path = folder.path().join("in.sock");
    let config = on_unix(&folder, endpoint.address);
    let living = UnixListener::bind(&path).unwrap();
    let mut proxy = Proxy::spawn(Arc::clone(&folder), &config, |_| {});
    assert_eq!(proxy.exit().await, 3);
    let text = || async {
        until("the reason", || {
            proxy.log().text().contains("cannot listen")
        })
        .await;
        proxy.log().text()
    };
    assert!(
        text()
            .await
            .contains("listener `main`: cannot listen on `unix:")
    );
    drop(living);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let mut proxy = Proxy::spawn(folder, &config, |_| {});
    assert_eq!(proxy.exit().await, 3);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn ipv6_clients_are_served_and_logged() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]).replace("127.0.0.1:0", "[::1]:0");
    let proxy = Proxy::start(&config).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (_served, head) = endpoint.request().await;
    assert_eq!(head.value("x-forwarded-for"), Some("::1"));
    assert_eq!(
        head.value("forwarded"),
        Some("for=\"[::1]\";host=\"chat.example.com\";proto=http")
    );
}

#[tokio::test]
async fn an_address_in_use_is_a_clear_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Workers share their addresses with each other, but not with another process.
    let echo = Echo::start("echo").await;
    let other = Proxy::start(&simple(&[echo.address])).await;
    let here = std::process::id();
    for (address, holder) in [
        (taken.local_addr().unwrap(), here),
        (other.address(), other.pid()),
    ] {
        let config = simple(&[echo.address]).replace("127.0.0.1:0", &address.to_string());
        let mut proxy = Proxy::spawn(Arc::new(TempDir::new().unwrap()), &config, |_| {});
        assert_eq!(proxy.exit().await, 3);
        let file = std::fs::read_to_string(proxy.folder().join("config.toml")).unwrap();
        let line = 1 + file
            .lines()
            .position(|line| line.starts_with("bind"))
            .unwrap();
        let expected = format!(
            "config.toml:{line}: listener `main`: cannot listen on `{address}`: the address is in use by `"
        );
        let holder = format!("` (process {holder})");
        let explains = |line: &str| line.contains(&expected) && line.contains(&holder);
        until("the reason", || proxy.log().text().lines().any(explains)).await;
    }
}

/// The program, with a limit on open files.
fn with_descriptors(limit: u32, config: &str) -> Proxy {
    Proxy::spawn(Arc::new(TempDir::new().unwrap()), config, |command| {
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let program = command.get_program().to_owned();
        *command = std::process::Command::new("sh");
        command
            .args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
    })
}

/// Connections beyond the limit wait in the backlog, and are accepted when others end.
#[tokio::test]
async fn more_clients_than_descriptors_wait_and_nothing_breaks() {
    let echo = Echo::start("echo").await;
    let config = simple(&[echo.address]);
    let proxy = with_descriptors(64, &config);
    let room = proxy.logged("ready").await["max_connections"]
        .as_u64()
        .unwrap();
    assert!((5..28).contains(&room), "{room}");
    let room = usize::try_from(room).unwrap();
    let mut held = Vec::new();
    for _ in 0..room {
        held.push(proxy.tunnel().await);
    }
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let mut client = Wire::connect(proxy.address()).await;
        client.send(HANDSHAKE).await;
        waiting.push(client);
    }
    proxy
        .logged("connection limit reached (file descriptors); new connections wait in the backlog")
        .await;
    waiting[0].stays_quiet().await;
    // Open tunnels still work.
    assert_eq!(echo.open(), room);
    for tunnel in &mut held {
        tunnel.send(frame(0x81, Some([0; 4]), b"hello")).await;
        assert_eq!(tunnel.exactly(7).await, b"\x81\x05hello");
    }
    // A reload needs descriptors, and some are kept for it.
    proxy.reload(&(config + "# the same\n")).await;
    held.clear();
    // Waiting connections are accepted as others end, in any order.
    let others = waiting.into_iter().map(async |mut client: Wire| {
        assert_eq!(client.head().await.status(), 101);
    });
    futures_util::future::join_all(others).await;
    assert!(proxy.logged_by_now("rejected").await.is_empty());
}

/// Idle connections to endpoints are closed rather than refusing a client for lack of descriptors.
#[tokio::test]
async fn idle_connections_give_way_when_descriptors_run_out() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = Wire::tcp(socket);
                while wire.has_more().await {
                    wire.head().await;
                    wire.send(ok).await;
                }
            });
        }
    });
    let endpoints: Vec<_> = (1..=100)
        .map(|number| format!("127.0.0.{number}:{port}").parse().unwrap())
        .collect();
    let config = simple(&endpoints) + "balance = \"round_robin\"\n";
    let proxy = with_descriptors(64, &config);
    proxy.logged("ready").await;
    let mut client = proxy.connect().await;
    for _ in 0..100 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.reply().await.1, "ok");
    }
}

/// What became of connections.
#[derive(Default)]
struct Visits {
    served: Cell<usize>,
    refused: Cell<usize>,
    reset: Cell<usize>,
}

fn count(visits: &Cell<usize>) {
    visits.set(visits.get() + 1);
}

/// Opens a tunnel.
async fn visit(address: SocketAddr, visits: &Visits) {
    let mut socket = match TcpStream::connect(address).await {
        Ok(socket) => socket,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            count(&visits.refused);
            return tokio::task::yield_now().await;
        }
        Err(_) => return count(&visits.reset),
    };
    let mut beginning = [0; 12];
    let answered = async {
        socket.write_all(HANDSHAKE.as_bytes()).await?;
        socket.read_exact(&mut beginning).await
    };
    match answered.await {
        Ok(_) => {
            assert_eq!(&beginning, b"HTTP/1.1 101");
            count(&visits.served);
        }
        Err(_) => count(&visits.reset),
    }
}

/// What the kernel has accepted, or is about to accept, when a listener is closed.
#[tokio::test]
async fn no_client_is_reset_when_a_listener_closes() {
    let echo = Echo::start("echo").await;
    let address = free_address();
    let config = simple(&[echo.address]).replace("127.0.0.1:0", &address.to_string());
    let (_proxy, operator) = Operator::start(&config).await;
    let visits = Rc::new(Visits::default());
    let clients = LocalSet::new();
    for _ in 0..64 {
        let visits = Rc::clone(&visits);
        clients.spawn_local(async move {
            loop {
                visit(address, &visits).await;
            }
        });
    }
    let rounds = async {
        let which = json!({ "listener": "main" });
        for round in 1..=10 {
            until("clients to be served", || {
                visits.served.get() >= round * 100
            })
            .await;
            assert_eq!(operator.post("/v1/listeners/drain", &which).await.0, 200);
            assert_eq!(operator.post("/v1/listeners/undrain", &which).await.0, 200);
        }
    };
    clients.run_until(rounds).await;
    let [served, refused, reset] = [&visits.served, &visits.refused, &visits.reset].map(Cell::get);
    assert_eq!(
        reset, 0,
        "of {served} that were served; {refused} were refused"
    );
}
