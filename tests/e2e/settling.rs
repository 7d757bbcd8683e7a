//! The settling time of an upgrade: until it is over, the old process can go back into service.

use serde_json::json;
use tempfile::TempDir;

use crate::harness::endpoint::Echo;
use crate::harness::frames::{close, close_payload};
use crate::harness::operator::{Operator, upgradable, write_token};
use crate::harness::proxy::{LAUNCHER, Proxy, Signal, is_over, kill, parent_of, simple};
use crate::harness::wire::Wire;
use crate::harness::{free_address, until, within};

/// Longer than any test.
const SETTLE: &str = "30s";

fn with(rest: &str) -> String {
    let upgrade = format!("upgrade = {{ drain = \"off\", settle = \"{SETTLE}\" }}");
    upgradable(&format!("shutdown.grace = \"1s\"\n{upgrade}"), rest)
}

/// Starts an upgrade: the pid of the new process, which accepts connections.
async fn settling(proxy: &Proxy) -> u32 {
    let times = proxy.settling().len() + 1;
    proxy.signal(Signal::USR2);
    let message = "the new process accepts connections";
    proxy.logged_times(message, times).await;
    proxy.settling()[times - 1]
}

async fn is_gone(pid: u32) {
    until("the process to be gone", || is_over(pid)).await;
}

#[tokio::test]
async fn the_old_process_accepts_again_if_the_new_one_dies() {
    let echo = Echo::start("echo").await;
    let (mut proxy, operator) = Operator::start_whole(&with(&simple(&[echo.address]))).await;
    let mut old = proxy.tunnel().await;
    let second = settling(&proxy).await;
    let mut lost = proxy.tunnel().await;
    // Operators still reach the old process, which has not accepted this tunnel.
    let status = operator.get("/v1/status").await;
    assert_eq!(
        (&status["generation"], &status["tunnels"]),
        (&json!(1), &json!(1))
    );
    kill(second, Signal::KILL);
    let failed = "upgrade failed; this process stays in service";
    let error = proxy.logged(failed).await["error"].to_string();
    assert!(
        error.contains("within the settling time: signal: 9"),
        "{error}"
    );
    lost.closed().await;
    for _ in 0..10 {
        proxy.tunnel().await.echoes().await;
    }
    old.echoes().await;
    assert!(proxy.log().events("handover complete").is_empty());
    // And it can be changed and upgraded as before.
    assert_eq!(operator.post("/v1/reload", &json!({})).await.0, 200);
    let third = settling(&proxy).await;
    kill(third, Signal::HUP);
    proxy.successor(1).await;
    proxy.tunnel().await.echoes().await;
    drop(old);
    assert_eq!(proxy.exit().await, 0);
}

/// The launcher has ended with the old process, and the new one is nobody's child but the system's.
#[tokio::test]
async fn the_new_process_goes_on_if_the_old_one_dies() {
    let echo = Echo::start("echo").await;
    let (mut proxy, _operator) = Operator::start_whole(&with(&simple(&[echo.address]))).await;
    let second = settling(&proxy).await;
    let launcher = parent_of(second).unwrap();
    let line = std::fs::read_to_string(format!("/proc/{launcher}/cmdline")).unwrap();
    assert!(line.contains(LAUNCHER), "{line}");
    proxy.signal(Signal::KILL);
    proxy.died().await;
    is_gone(launcher).await;
    proxy
        .logged("no confirmation from the previous process that it stopped accepting")
        .await;
    for _ in 0..5 {
        proxy.tunnel().await.echoes().await;
    }
    kill(second, Signal::TERM);
    is_gone(second).await;
}

/// Its file belongs to the old process until that leaves, whatever the new one does.
#[tokio::test]
async fn a_unix_socket_survives_the_death_of_the_new_process() {
    let echo = Echo::start("echo").await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("in.sock");
    let bind = format!("unix:{}", path.display());
    write_token(folder.path());
    let config = with(&simple(&[echo.address]).replace("127.0.0.1:0", &bind));
    let proxy = Proxy::start_in(folder, &config).await;
    let second = settling(&proxy).await;
    kill(second, Signal::KILL);
    proxy
        .logged("upgrade failed; this process stays in service")
        .await;
    assert!(path.exists());
    let mut client = proxy.connect_unix("in.sock").await;
    client.send(crate::harness::wire::HANDSHAKE).await;
    assert_eq!(client.head().await.status(), 101);
    client.echoes().await;
}

/// What the new process changes, the old one would not know.
#[tokio::test]
async fn a_reload_of_the_new_process_ends_the_settling_time() {
    let echo = Echo::start("echo").await;
    let (mut proxy, operator) = Operator::start_whole(&with(&simple(&[echo.address]))).await;
    let second = settling(&proxy).await;
    kill(second, Signal::HUP);
    assert_eq!(proxy.successor(1).await, second);
    proxy.logged("configuration reloaded").await;
    assert_eq!(proxy.exit().await, 0);
    assert_eq!(operator.get("/v1/status").await["pid"], second);
    proxy.tunnel().await.echoes().await;
}

/// The service manager knows the old process only.
#[tokio::test]
async fn a_reload_that_the_old_process_is_asked_for_reaches_the_new_one() {
    let echo = Echo::start("echo").await;
    let (mut proxy, operator) = Operator::start_whole(&with(&simple(&[echo.address]))).await;
    let second = settling(&proxy).await;
    // Orders are refused instead: their operators can repeat them.
    let (status, answer) = operator.post("/v1/reload", &json!({})).await;
    assert_eq!(status, 503, "{answer}");
    let (status, answer) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 503, "{answer}");
    operator.plan().await;
    proxy.signal(Signal::HUP);
    assert_eq!(proxy.successor(1).await, second);
    proxy.logged("configuration reloaded").await;
    assert_eq!(proxy.exit().await, 0);
    assert_eq!(operator.post("/v1/reload", &json!({})).await.0, 200);
}

/// Its socket is to be closed, which cannot be undone.
#[tokio::test]
async fn a_removed_listener_ends_the_settling_time() {
    let echo = Echo::start("echo").await;
    let (stays, goes) = (free_address(), free_address());
    let binds = |binds: &str| with(&simple(&[echo.address]).replace("127.0.0.1:0", binds));
    let (mut proxy, _operator) =
        Operator::start_whole(&binds(&format!("{stays}\", \"{goes}"))).await;
    proxy.rewrite(&binds(&stays.to_string()));
    let second = settling(&proxy).await;
    assert_eq!(proxy.successor(1).await, second);
    assert_eq!(proxy.exit().await, 0);
    assert!(tokio::net::TcpStream::connect(goes).await.is_err());
    Wire::connect(stays).await;
}

#[tokio::test]
async fn a_stop_within_the_settling_time_reaches_both_processes() {
    let echo = Echo::start("echo").await;
    let (mut proxy, operator) = Operator::start_whole(&with(&simple(&[echo.address]))).await;
    for asks_both in [false, true] {
        let mut old = proxy.tunnel().await;
        let second = settling(&proxy).await;
        let mut new = proxy.tunnel().await;
        proxy.signal(Signal::TERM);
        if asks_both {
            // As systemd does: not a second signal, which would cut the tunnels.
            kill(second, Signal::TERM);
        }
        for tunnel in [&mut old, &mut new] {
            let bytes = tunnel.exactly(2 + 2 + 8).await;
            assert_eq!(close_payload(&bytes), close(1012, "shutdown"));
        }
        drop((old, new));
        assert_eq!(proxy.exit().await, 0);
        for stopped in proxy.logged_times("stopped", 2).await {
            assert_eq!(stopped["forced"], false);
        }
        is_gone(second).await;
        proxy = Operator::start_whole(&with(&simple(&[echo.address])))
            .await
            .0;
    }
    drop(operator);
}

/// The new process is told to stop, and not the old one.
#[tokio::test]
async fn a_stop_of_the_new_process_is_a_stop_and_no_failure() {
    let echo = Echo::start("echo").await;
    let (mut proxy, _operator) = Operator::start_whole(&with(&simple(&[echo.address]))).await;
    let mut old = proxy.tunnel().await;
    let second = settling(&proxy).await;
    kill(second, Signal::TERM);
    proxy.logged("handover complete").await;
    is_gone(second).await;
    assert!(
        tokio::net::TcpStream::connect(proxy.address())
            .await
            .is_err()
    );
    // The old process goes on to drain.
    old.echoes().await;
    drop(old);
    assert_eq!(proxy.exit().await, 0);
}

/// The new process is not there yet for anybody.
#[tokio::test]
async fn a_stop_while_the_new_process_starts_ends_that() {
    let echo = Echo::start("echo").await;
    let config = with(&simple(&[echo.address]));
    let (mut proxy, operator) = Operator::start_whole(&config).await;
    let mut tunnel = proxy.tunnel().await;
    // The new process waits for this lookup for a while.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = silent.local_addr().unwrap();
    proxy.rewrite(&format!(
        "{config}[upstream.named]\ndns = {{ name = \"chat.test\", port = 1, server = \"{server}\" }}\n"
    ));
    proxy.signal(Signal::USR2);
    within("a query", silent.recv_from(&mut [0; 512]))
        .await
        .unwrap();
    // Meanwhile everything else goes on.
    assert_eq!(operator.get("/v1/status").await["generation"], 1);
    proxy.signal(Signal::TERM);
    let bytes = tunnel.exactly(2 + 2 + 8).await;
    assert_eq!(close_payload(&bytes), close(1012, "shutdown"));
    drop(tunnel);
    assert_eq!(proxy.exit().await, 0);
    assert!(proxy.log().events("handover complete").is_empty());
    let message = "the new process accepts connections";
    assert!(proxy.log().events(message).is_empty());
    let abandoned = "upgrade abandoned: this process is asked to stop";
    proxy.logged(abandoned).await;
}
