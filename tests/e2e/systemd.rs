//! Notifications to the service manager, and the sockets that it passes.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::Interest;
use tokio::net::{UnixDatagram, UnixStream};

use crate::harness::endpoint::Echo;
use crate::harness::frames::{close, close_payload, frame};
use crate::harness::operator::{ADMIN, Operator, write_token};
use crate::harness::proxy::{LAUNCHER, Proxy, Signal, is_over, kill, parent_of, simple};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{free_address, until, within};

/// A stand-in for the service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn bind(path: &Path) -> Self {
        Self(UnixDatagram::bind(path).unwrap())
    }

    /// The next notification that contains this text.
    async fn notified(&self, what: &str) -> String {
        let mut buffer = [0; 1024];
        within(what, async {
            loop {
                let length = self.0.recv(&mut buffer).await.unwrap();
                let text = str::from_utf8(&buffer[..length]).unwrap();
                if text.contains(what) {
                    return text.to_owned();
                }
            }
        })
        .await
    }

    /// The next socket for the descriptor store, with its name.
    async fn given(&self) -> (String, OwnedFd) {
        let mut notification = String::new();
        let received = within("a socket to keep", async {
            loop {
                let mut buffer = [0; 1024];
                let receive = || receive(&self.0, &mut buffer);
                let (length, socket) = self.0.async_io(Interest::READABLE, receive).await.unwrap();
                notification.clear();
                notification.push_str(str::from_utf8(&buffer[..length]).unwrap());
                if let Some(socket) = socket.filter(|_| notification.contains("FDSTORE=1")) {
                    break socket;
                }
            }
        });
        let socket = received.await;
        let name = notification
            .lines()
            .find_map(|line| line.strip_prefix("FDNAME="));
        (name.unwrap().to_owned(), socket)
    }
}

/// A datagram, and the descriptor passed with it.
fn receive(socket: &UnixDatagram, buffer: &mut [u8]) -> std::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(buffer)];
    let received = recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let socket = descriptors.next();
    drop(descriptors);
    Ok((received.bytes, socket))
}

/// Starts the program under this manager, after `change` has adjusted the command.
fn managed(config: &str, change: impl FnOnce(&mut Command)) -> (Manager, Proxy) {
    let folder = Arc::new(TempDir::new().unwrap());
    let path = folder.path().join("notify.sock");
    let manager = Manager::bind(&path);
    let proxy = Proxy::spawn(folder, config, |command| {
        command.env("NOTIFY_SOCKET", &path);
        change(command);
    });
    (manager, proxy)
}

#[tokio::test]
async fn the_service_manager_is_notified() {
    let echo = Echo::start("echo").await;
    let (manager, mut proxy) = managed(&simple(&[echo.address]), |_| {});
    let ready = manager.notified("READY=1").await;
    let status = "STATUS=0 tunnels, 1 of 1 endpoints up, configuration loaded 2";
    assert!(ready.contains(status), "{ready}");
    proxy.logged("ready").await;
    let _tunnel = proxy.tunnel().await;
    // Without a request, some time later.
    let status = manager.notified("STATUS=1 tunnels").await;
    assert!(!status.contains("READY=1"), "{status}");
    proxy.signal(Signal::HUP);
    let reloading = manager.notified("RELOADING=1").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.notified("READY=1").await;
    proxy.rewrite("nonsense");
    proxy.signal(Signal::HUP);
    manager.notified("RELOADING=1").await;
    let ready = manager.notified("READY=1").await;
    assert!(ready.contains("last reload failed: "), "{ready}");
    proxy.signal(Signal::TERM);
    manager.notified("STOPPING=1").await;
    manager.notified("STATUS=draining, 1 tunnels left").await;
    drop(_tunnel);
    assert_eq!(proxy.exit().await, 0);
}

/// After an upgrade the new process is the main process of the service. It notifies the manager once
/// that has learned its pid.
#[tokio::test]
async fn the_service_manager_learns_the_main_pid_after_an_upgrade() {
    let echo = Echo::start("echo").await;
    let config = "[server]\nworkers = 2\nlog.format = \"json\"\nupgrade = { drain = \"off\", settle = \"200ms\" }\n"
        .to_owned()
        + &simple(&[echo.address]).replace("127.0.0.1:0", &free_address().to_string());
    let (manager, mut proxy) = managed(&config, |command| {
        command.env("WATCHDOG_USEC", "400000");
        command.env_remove("WATCHDOG_PID");
    });
    manager.notified("READY=1").await;
    proxy.logged("ready").await;
    let tunnel = proxy.tunnel().await;
    proxy.signal(Signal::USR2);
    let notification = manager.notified("MAINPID=").await;
    let second = proxy.successor(1).await;
    assert_eq!(notification.trim(), format!("MAINPID={second}"));
    // The manager looks now whether that is its own child, which the launcher's is not.
    let parent = parent_of(second).unwrap();
    let line = std::fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).into_owned();
    assert!(parent != proxy.pid() && !line.contains(LAUNCHER), "{line}");
    // Without this, sockets that only the new process has would not be stored.
    manager.given().await;
    let ready = manager.notified("READY=1").await;
    assert!(ready.contains("STATUS=0 tunnels"), "{ready}");
    // The old process sends no notifications, not even when it stops. The new one feeds the watchdog.
    drop(tunnel);
    assert_eq!(proxy.exit().await, 0);
    for _ in 0..3 {
        let notification = manager.notified("").await;
        assert!(!notification.contains("STOPPING"), "{notification}");
    }
    manager.notified("WATCHDOG=1").await;
    kill(second, Signal::TERM);
    manager.notified("STOPPING=1").await;
}

/// For the manager, an upgrade that fails has never been.
#[tokio::test]
async fn the_main_process_stays_if_the_new_one_dies_within_the_settling_time() {
    let echo = Echo::start("echo").await;
    let config = "[server]\nworkers = 2\nlog.format = \"json\"\nupgrade.settle = \"30s\"\n"
        .to_owned()
        + &simple(&[echo.address]);
    let (manager, proxy) = managed(&config, |_| {});
    manager.notified("READY=1").await;
    proxy.signal(Signal::USR2);
    proxy.logged("the new process accepts connections").await;
    kill(proxy.settling()[0], Signal::KILL);
    let failed = "upgrade failed; this process stays in service";
    proxy.logged(failed).await;
    proxy.signal(Signal::HUP);
    loop {
        let notification = manager.notified("").await;
        assert!(!notification.contains("MAINPID"), "{notification}");
        if notification.contains("RELOADING=1") {
            break;
        }
    }
    manager.notified("READY=1").await;
}

/// systemd signals all processes, and those that are left once more when the main one has ended.
#[tokio::test]
async fn a_signal_repeated_after_the_end_of_the_main_process_cuts_no_tunnel() {
    let echo = Echo::start("echo").await;
    let config = "[server]\nworkers = 1\nlog.format = \"json\"\nshutdown.delay = \"10m\"\n\
                  upgrade = { drain = \"off\", settle = \"200ms\" }\n"
        .to_owned()
        + &simple(&[echo.address]);
    let (manager, mut proxy) = managed(&config, |_| {});
    manager.notified("READY=1").await;
    proxy.logged("ready").await;
    let mut tunnel = proxy.tunnel().await;
    proxy.signal(Signal::USR2);
    let second = proxy.successor(1).await;
    manager.notified("READY=1").await;
    proxy.signal(Signal::TERM);
    proxy.logged("draining").await;
    kill(second, Signal::KILL);
    until("its end", || is_over(second)).await;
    proxy.signal(Signal::TERM);
    proxy
        .logged("the service manager has repeated the signal to stop")
        .await;
    tunnel.echoes().await;
    // This one is an operator's.
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.exit().await, 4);
}

/// For systemd, which ignores `MAINPID=` during a stop, the old process is still the main one: after its end,
/// the new one would get a second signal to stop.
#[tokio::test]
async fn the_old_process_ends_last_if_a_stop_ends_an_upgrade() {
    let echo = Echo::start("echo").await;
    let address = free_address().to_string();
    let config = |delay: &str| {
        format!(
            "[server]\nworkers = 1\nlog.format = \"json\"\nshutdown.delay = \"{delay}\"\n\
             upgrade = {{ drain = \"off\", settle = \"30s\" }}\n"
        ) + &simple(&[echo.address]).replace("127.0.0.1:0", &address)
    };
    let (manager, mut proxy) = managed(&config("0s"), |_| {});
    manager.notified("READY=1").await;
    proxy.logged("ready").await;
    proxy.rewrite(&config("10m"));
    proxy.signal(Signal::USR2);
    proxy.logged("the new process accepts connections").await;
    let mut tunnel = proxy.tunnel().await;
    proxy.signal(Signal::TERM);
    proxy.logged("stopped").await;
    for _ in 0..200 {
        tunnel.echoes().await;
    }
    assert!(!is_over(proxy.pid()));
    kill(proxy.settling()[0], Signal::KILL);
    assert_eq!(proxy.exit().await, 0);
}

/// The manager starts the service again only when no process of it is left.
#[tokio::test]
async fn a_process_whose_successor_has_died_exits_so_that_the_service_restarts() {
    let echo = Echo::start("echo").await;
    let config = "[server]\nworkers = 1\nlog.format = \"json\"\n\
                  upgrade = { drain = \"off\", settle = \"200ms\", max_generations = 3 }\n"
        .to_owned()
        + &simple(&[echo.address]);
    let (manager, mut proxy) = managed(&config, |_| {});
    manager.notified("READY=1").await;
    proxy.logged("ready").await;
    let mut tunnels = vec![proxy.tunnel().await];
    proxy.signal(Signal::USR2);
    let second = proxy.successor(1).await;
    tunnels.push(proxy.tunnel().await);
    kill(second, Signal::USR2);
    kill(proxy.successor(2).await, Signal::KILL);
    let gone = "the new process is gone; no process accepts connections";
    proxy.logged_times(gone, 2).await;
    // A SIGTERM of the manager at this point makes no difference.
    proxy.signal(Signal::TERM);
    for mut tunnel in tunnels {
        assert_eq!(
            close_payload(&tunnel.rest().await.0),
            close(1012, "shutdown")
        );
    }
    assert_eq!(proxy.exit().await, 0);
    let stopped = proxy.logged_times("stopped", 2).await;
    let forced = |it: &serde_json::Value| it["forced"] == true;
    assert!(!stopped.iter().any(forced), "{stopped:?}");
}

/// The manager signals those that are left as soon as it knows of the end, which may be earlier than they do.
#[tokio::test]
async fn a_signal_of_the_manager_does_not_hide_that_the_successor_has_died() {
    let echo = Echo::start("echo").await;
    let config = "[server]\nworkers = 1\nlog.format = \"json\"\n\
                  shutdown.delay = \"10m\"\nupgrade = { drain = \"off\", settle = \"200ms\" }\n"
        .to_owned()
        + &simple(&[echo.address]);
    let (manager, mut proxy) = managed(&config, |_| {});
    manager.notified("READY=1").await;
    proxy.logged("ready").await;
    let mut tunnel = proxy.tunnel().await;
    proxy.signal(Signal::USR2);
    let second = proxy.successor(1).await;
    proxy.signal(Signal::STOP);
    kill(second, Signal::KILL);
    until("its end", || is_over(second)).await;
    proxy.signal(Signal::TERM);
    proxy.signal(Signal::CONT);
    proxy
        .logged("the new process is gone; no process accepts connections")
        .await;
    assert_eq!(
        close_payload(&tunnel.rest().await.0),
        close(1012, "shutdown")
    );
    assert_eq!(proxy.exit().await, 0);
}

/// Sockets that the new configuration does not have are closed in the process, removed from the
/// descriptor store, and deleted from disk.
#[tokio::test]
async fn addresses_that_an_upgrade_removes_are_closed() {
    let echo = Echo::start("echo").await;
    let folder = Arc::new(TempDir::new().unwrap());
    let (notify, unix) = (
        folder.path().join("notify.sock"),
        folder.path().join("in.sock"),
    );
    let manager = Manager::bind(&notify);
    let (stays, goes) = (free_address(), free_address());
    let config = |binds: &str| {
        "[server]\nworkers = 1\nlog.format = \"json\"\nupgrade = { drain = \"off\", settle = \"200ms\" }\n".to_owned()
            + &simple(&[echo.address]).replace("127.0.0.1:0", binds)
    };
    let all = format!("{stays}\", \"{goes}\", \"unix:{}", unix.display());
    let mut proxy = Proxy::spawn(Arc::clone(&folder), &config(&all), |command| {
        command.env("NOTIFY_SOCKET", &notify);
    });
    proxy.logged("ready").await;
    assert!(unix.exists());
    proxy.rewrite(&config(&stays.to_string()));
    proxy.signal(Signal::USR2);
    let name = format!("FDNAME=listener=127.0.0.1%3A{}", goes.port());
    let mut notification = manager.notified("FDSTOREREMOVE=1").await;
    while !notification.contains(&name) {
        notification = manager.notified("FDSTOREREMOVE=1").await;
    }
    proxy.successor(1).await;
    assert_eq!(proxy.exit().await, 0);
    assert!(!unix.exists());
    assert!(tokio::net::TcpStream::connect(goes).await.is_err());
    let mut client = Wire::connect(stays).await;
    client.send(HANDSHAKE).await;
    is_served(&mut client).await;
}

/// After a crash, the manager passes the stored sockets to the restarted service.
#[tokio::test]
async fn a_crash_loses_no_waiting_client() {
    let echo = Echo::start("echo").await;
    let folder = Arc::new(TempDir::new().unwrap());
    let path = folder.path().join("notify.sock");
    let manager = Manager::bind(&path);
    let (address, other) = (free_address(), free_address());
    let bind = format!("{address}\", \"{other}");
    let config = "[server]\nworkers = 1\nlog.format = \"json\"\n".to_owned()
        + &simple(&[echo.address]).replace("127.0.0.1:0", &bind);
    let mut proxy = Proxy::spawn(Arc::clone(&folder), &config, |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    let mut kept = [manager.given().await, manager.given().await];
    kept.sort_by_key(|(name, _)| !name.contains(&address.port().to_string()));
    let name = |it: std::net::SocketAddr| format!("listener=127.0.0.1%3A{}", it.port());
    assert_eq!([&kept[0].0, &kept[1].0], [&name(address), &name(other)]);
    proxy.logged("ready").await;
    proxy.signal(Signal::KILL);
    proxy.died().await;
    // No process is running, and no client is refused.
    let mut waiting = Vec::new();
    for number in 0..10 {
        let mut client = Wire::connect([address, other][number % 2]).await;
        client.send(HANDSHAKE).await;
        waiting.push(client);
    }
    let [(first, one), (second, two)] = kept;
    let names = format!("{first}:{second}");
    let mut proxy = activated_with(&folder, &config, [one, two], &names, |command| {
        command.env("NOTIFY_SOCKET", &path);
    });
    for client in &mut waiting {
        is_served(client).await;
    }
    // After a regular stop nothing stays stored, because clients would wait for nothing.
    proxy.logged("ready").await;
    proxy.signal(Signal::TERM);
    for _ in 0..2 {
        let notification = manager.notified("FDSTOREREMOVE=1").await;
        assert!(
            notification.contains("FDNAME=listener=127.0.0.1%3A"),
            "{notification}"
        );
    }
    drop(waiting);
    assert_eq!(proxy.exit().await, 0);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_watchdog_is_fed_if_there_is_one() {
    let echo = Echo::start("echo").await;
    for (limit, is_fed) in [(Some("400000"), true), (None, false)] {
        let (manager, proxy) = managed(&simple(&[echo.address]), |command| {
            command
                .env_remove("WATCHDOG_PID")
                .env_remove("WATCHDOG_USEC");
            if let Some(limit) = limit {
                command.env("WATCHDOG_USEC", limit);
            }
        });
        manager.notified("READY=1").await;
        proxy.logged("ready").await;
        if is_fed {
            for _ in 0..3 {
                manager.notified("WATCHDOG=1").await;
            }
            continue;
        }
        let _tunnel = proxy.tunnel().await;
        let mut notification = manager.notified("").await;
        while !notification.contains("STATUS=1 tunnels") {
            assert!(!notification.contains("WATCHDOG=1"), "{notification}");
            notification = manager.notified("").await;
        }
    }
}

/// Starts the program with these sockets passed under these names.
fn activated(folder: &Arc<TempDir>, config: &str, sockets: [OwnedFd; 2], names: &str) -> Proxy {
    activated_with(folder, config, sockets, names, |command| {
        command.env_remove("NOTIFY_SOCKET");
    })
}

/// The same, after `change` has adjusted the command.
fn activated_with(
    folder: &Arc<TempDir>,
    config: &str,
    sockets: [OwnedFd; 2],
    names: &str,
    change: impl FnOnce(&mut Command),
) -> Proxy {
    let [first, second] = sockets;
    Proxy::spawn(Arc::clone(folder), config, |command| {
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let program = command.get_program().to_owned();
        *command = Command::new("sh");
        command
            .args([
                "-c",
                "exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"",
            ])
            .arg(program)
            .args(arguments)
            .env("LISTEN_FDS", "2")
            .env("LISTEN_FDNAMES", names)
            .stdin(Stdio::from(first))
            .stdout(Stdio::from(second))
            .stderr(Stdio::piped());
        change(command);
    })
}

fn on_passed(endpoint: std::net::SocketAddr, name: &str) -> String {
    simple(&[endpoint]).replace("127.0.0.1:0", &format!("systemd:{name}"))
}

async fn is_served(client: &mut Wire) {
    assert_eq!(client.head().await.status(), 101);
    client.send(frame(0x81, Some([0; 4]), b"hello")).await;
    assert_eq!(client.exactly(7).await, b"\x81\x05hello");
}

/// One name for sockets of both families. Clients that connect while no process runs are served.
#[tokio::test]
async fn passed_sockets_lose_no_client() {
    let echo = Echo::start("echo").await;
    let folder = Arc::new(TempDir::new().unwrap());
    let sockets = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
    let addresses = sockets.each_ref().map(|it| it.local_addr().unwrap());
    let passed = || sockets.each_ref().map(|it| it.try_clone().unwrap().into());
    write_token(folder.path());
    let config = ADMIN.to_owned() + &on_passed(echo.address, "web");
    for _ in 0..2 {
        let mut waiting = Vec::new();
        for number in 0..20 {
            let mut client = Wire::connect(addresses[number % 2]).await;
            client.send(HANDSHAKE).await;
            waiting.push(client);
        }
        let mut proxy = activated(&folder, &config, passed(), "web:web");
        for client in &mut waiting {
            is_served(client).await;
        }
        let mut notification: Vec<_> = proxy.logged_times("listening", 2).await;
        notification.sort_by_key(|event| event["address"].to_string());
        let expected = addresses.map(|address| address.to_string());
        assert!(
            notification
                .iter()
                .all(|it| expected.iter().any(|one| it["address"] == **one))
        );
        // They would stay open, and clients would wait.
        let which = json!({ "listener": "main" });
        let operator = Operator::of(&proxy).await;
        let (status, answer) = operator.post("/v1/listeners/drain", &which).await;
        assert_eq!(status, 409, "{answer}");
        // They stay open across a reload, and across the removal and return of their listener.
        proxy.reload(&(config.clone() + "# the same\n")).await;
        assert!(proxy.logged_by_now("no longer listening").await.is_empty());
        let other = config.replace("systemd:web", "127.0.0.1:0");
        proxy.reload(&other).await;
        proxy.logged_times("no longer listening", 2).await;
        let mut late = Wire::connect(addresses[1]).await;
        late.send(HANDSHAKE).await;
        // A drain does not outlive a restart, because clients of the open socket would wait for nothing.
        assert_eq!(operator.post("/v1/listeners/drain", &which).await.0, 200);
        proxy.reload(&config).await;
        is_served(&mut late).await;
        drop((waiting, late));
        proxy.signal(Signal::TERM);
        assert_eq!(proxy.exit().await, 0);
    }
}

#[tokio::test]
async fn unix_sockets_are_passed_too_and_their_files_stay() {
    let echo = Echo::start("echo").await;
    let folder = Arc::new(TempDir::new().unwrap());
    let path = folder.path().join("in.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Wire::unix(UnixStream::connect(&path).await.unwrap());
    client.send(HANDSHAKE).await;
    let config = on_passed(echo.address, "inner");
    let mut proxy = activated(&folder, &config, [socket.into(), other.into()], "inner:web");
    is_served(&mut client).await;
    let unused = "inherited socket is not used by any listener; connections to it will hang";
    assert_eq!(proxy.logged(unused).await["name"], "web");
    let listening = proxy.logged("listening").await;
    assert_eq!(listening["address"], format!("unix:{}", path.display()));
    drop(client);
    // They are handed over to the successor.
    proxy.signal(Signal::USR2);
    proxy.successor(1).await;
    assert_eq!(proxy.exit().await, 0);
    let mut client = Wire::unix(UnixStream::connect(&path).await.unwrap());
    client.send(HANDSHAKE).await;
    is_served(&mut client).await;
    drop(client);
    kill(proxy.successors()[0], Signal::TERM);
    proxy.logged_times("stopped", 2).await;
    assert!(path.exists());
}

/// On a socket for both families, IPv4 clients have plain IPv4 addresses.
#[tokio::test]
async fn clients_of_a_socket_for_both_families_have_their_own_addresses() {
    let endpoint = crate::harness::endpoint::Endpoint::bind().await;
    let folder = Arc::new(TempDir::new().unwrap());
    let both = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    both.set_only_v6(false).unwrap();
    let any: std::net::SocketAddr = "[::]:0".parse().unwrap();
    both.bind(&any.into()).unwrap();
    both.listen(16).unwrap();
    let port = both.local_addr().unwrap().as_socket().unwrap().port();
    let spare = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = on_passed(endpoint.address, "web");
    let _proxy = activated(&folder, &config, [both.into(), spare.into()], "web:spare");
    let mut client = Wire::connect(([127, 0, 0, 1], port).into()).await;
    client.send(HANDSHAKE).await;
    let (_served, head) = endpoint.request().await;
    assert_eq!(head.value("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn a_socket_name_that_is_not_passed_is_a_clear_error() {
    let echo = Echo::start("echo").await;
    let folder = Arc::new(TempDir::new().unwrap());
    let config = on_passed(echo.address, "wbe");
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = [listener().into(), listener().into()];
    let mut proxy = activated(&folder, &config, sockets, "web:api");
    assert_eq!(proxy.exit().await, 3);
    let expected = ": listener `main`: cannot listen on `systemd:wbe`: \
                    no socket with that name was passed; available: `api`, `web`";
    until("the reason", || proxy.log().text().contains(expected)).await;
    let mut proxy = Proxy::spawn(Arc::clone(&folder), &config, |_| {});
    assert_eq!(proxy.exit().await, 3);
    let expected = "the service manager passed no sockets";
    until("the reason", || proxy.log().text().contains(expected)).await;
    // The syntax can be checked without the passed socket.
    let checked = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("check")
        .arg(folder.path().join("config.toml"))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
