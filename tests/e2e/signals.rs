//! Signals: what each one does, and that none of those that operators send out of habit costs a tunnel.

use std::fs;

use crate::harness::endpoint::Echo;
use crate::harness::proxy::{Proxy, Signal, kill, simple};
use crate::harness::until;

/// The access log goes to a file, and a stop waits for tunnels for an hour.
async fn start(echo: &Echo) -> Proxy {
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\nshutdown.grace = \"1h\"\n\
        upgrade = { drain = \"off\", settle = \"200ms\" }\naccess_log.to = \"./access.log\"\n";
    Proxy::start(&(server.to_owned() + &simple(&[echo.address]))).await
}

/// Renames the access log, sends SIGUSR1, and waits until there is a new one.
async fn rotate(proxy: &Proxy, pid: u32) {
    let path = proxy.folder().join("access.log");
    fs::rename(&path, proxy.folder().join("access.log.1")).unwrap();
    kill(pid, Signal::USR1);
    until("the new file", || path.exists()).await;
}

#[tokio::test]
async fn usr1_reopens_the_access_log_and_nothing_else() {
    let echo = Echo::start("echo").await;
    let mut proxy = start(&echo).await;
    let mut tunnel = proxy.tunnel().await;
    rotate(&proxy, proxy.pid()).await;
    tunnel.echoes().await;
    // A process that drains for its successor, too.
    proxy.signal(Signal::USR2);
    proxy.successor(1).await;
    rotate(&proxy, proxy.pid()).await;
    tunnel.echoes().await;
    assert!(proxy.log().events("configuration reloaded").is_empty());
    // And one that stops.
    proxy.signal(Signal::TERM);
    proxy.logged_times("draining", 1).await;
    rotate(&proxy, proxy.pid()).await;
    tunnel.echoes().await;
    drop(tunnel);
    assert_eq!(proxy.exit().await, 0);
}

#[tokio::test]
async fn usr1_says_whether_there_is_a_log_file() {
    let echo = Echo::start("echo").await;
    let proxy = start(&echo).await;
    proxy.signal(Signal::USR1);
    proxy.logged("log files are opened again").await;
    let proxy = Proxy::start(&simple(&[echo.address])).await;
    proxy.signal(Signal::USR1);
    let ignored = "signal ignored: no log is written to a file";
    assert_eq!(proxy.logged(ignored).await["signal"], "SIGUSR1");
}

#[tokio::test]
async fn quit_stops_in_order_and_a_second_one_at_once() {
    let echo = Echo::start("echo").await;
    let mut proxy = start(&echo).await;
    let mut tunnel = proxy.tunnel().await;
    proxy.signal(Signal::QUIT);
    proxy.logged("draining").await;
    tunnel.echoes().await;
    drop(tunnel);
    assert_eq!(proxy.exit().await, 0);

    let mut proxy = start(&echo).await;
    let _tunnel = proxy.tunnel().await;
    proxy.signal(Signal::QUIT);
    proxy.logged("draining").await;
    proxy.signal(Signal::QUIT);
    assert_eq!(proxy.exit().await, 4);
}

/// Signals that end a process unless it handles them, and that are logged.
const NOTED: [(Signal, &str); 7] = [
    (Signal::ALARM, "SIGALRM"),
    (Signal::VTALARM, "SIGVTALRM"),
    (Signal::PROF, "SIGPROF"),
    (Signal::IO, "SIGIO"),
    (Signal::POWER, "SIGPWR"),
    (Signal::STKFLT, "SIGSTKFLT"),
    (Signal::XCPU, "SIGXCPU"),
];

/// Signals that change nothing, and are not logged.
const UNNOTED: [Signal; 6] = [
    Signal::WINCH,
    Signal::PIPE,
    Signal::XFSZ,
    Signal::CHILD,
    Signal::URG,
    Signal::CONT,
];

#[tokio::test]
async fn no_other_signal_ends_the_process_or_a_tunnel() {
    let echo = Echo::start("echo").await;
    let proxy = start(&echo).await;
    let mut tunnel = proxy.tunnel().await;
    let ignored = "signal ignored: it has no meaning here";
    let mut before = 0;
    let send_all = async |tunnel: &mut crate::harness::wire::Wire, before: usize| {
        for signal in UNNOTED {
            proxy.signal(signal);
            tunnel.echoes().await;
        }
        for (sent, (signal, name)) in NOTED.into_iter().enumerate() {
            proxy.signal(signal);
            let events = proxy.logged_times(ignored, before + sent + 1).await;
            assert_eq!(events[before + sent]["signal"], name);
            tunnel.echoes().await;
        }
    };
    send_all(&mut tunnel, before).await;
    before += NOTED.len();
    // It still accepts connections, and the older process of an upgrade is as robust.
    tunnel = proxy.tunnel().await;
    proxy.signal(Signal::USR2);
    proxy.successor(1).await;
    send_all(&mut tunnel, before).await;
    before += NOTED.len();
    // And a process that stops.
    proxy.signal(Signal::TERM);
    until("the stop", || !proxy.log().events("draining").is_empty()).await;
    send_all(&mut tunnel, before).await;
}
