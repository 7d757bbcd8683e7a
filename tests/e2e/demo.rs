//! `tidegate demo`, without a browser: its controls, and its end.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tokio::net::UnixStream;

use crate::harness::frames::{close, close_payload, frame};
use crate::harness::wire::{Head, Wire, handshake_with};
use crate::harness::{until, within};

/// Simulated clients of a demo.
const CLIENTS: usize = 24;

/// A running demo; killed when dropped.
struct RunningDemo {
    child: Child,
    /// Where it creates its folder.
    temporary: TempDir,
    folder: PathBuf,
    port: u16,
    /// What the terminal shows, but for the welcome.
    log: NamedTempFile,
}

impl RunningDemo {
    /// Starts a demo, and waits until all simulated clients are connected.
    async fn start() -> Self {
        let temporary = TempDir::new().unwrap();
        let log = NamedTempFile::new().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["demo", "--port", "0"])
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reading = tokio::task::spawn_blocking(|| {
            let mut lines = lines.map(Result::unwrap);
            let page = lines.find(|line| line.contains("https://localhost:"));
            page.expect("a welcome")
        });
        let page = within("the welcome", reading).await.unwrap();
        let port = page.trim_end_matches('/').rsplit(':').next().unwrap();
        let mut entries = temporary.path().read_dir().unwrap();
        let folder = entries.next().unwrap().unwrap().path();
        let demo = Self {
            child,
            folder,
            port: port.parse().unwrap(),
            temporary,
            log,
        };
        demo.shows("all clients", |it| tunnels(it, None) == CLIENTS)
            .await;
        demo
    }

    /// A connection to the listener of the simulated clients.
    async fn connect(&self) -> Wire {
        let path = self.folder.join("clients.sock");
        Wire::unix(
            within("a connection", UnixStream::connect(path))
                .await
                .unwrap(),
        )
    }

    async fn ask(&self, method: &str, path: &str) -> (Head, String) {
        let mut wire = self.connect().await;
        wire.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Tidegate-Demo: 1\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
        wire.reply().await
    }

    /// Uses a control, which has to succeed.
    async fn steer(&self, control: &str) {
        let (head, body) = self.ask("POST", &format!("/control/{control}")).await;
        assert_eq!(head.status(), 200, "{control}: {body}");
    }

    /// Waits until the page would show this; returns what it shows.
    async fn shows(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        within(what, async {
            loop {
                let (head, body) = self.ask("GET", "/control/overview").await;
                let overview: Value = serde_json::from_str(&body).unwrap();
                // Not while a process takes over from another.
                if head.status() == 200 && condition(&overview) {
                    return overview;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// A tunnel to the echo, whose first message has been read; returns its backend, too.
    async fn tunnel(&self) -> (Wire, u64) {
        let mut wire = self.connect().await;
        wire.send(handshake("localhost", "")).await;
        assert_eq!(wire.head().await.status(), 101);
        let hello = wire.exactly(2 + r#"{"backend":1}"#.len()).await;
        let hello: Value = serde_json::from_slice(&hello[2..]).unwrap();
        (wire, hello["backend"].as_u64().unwrap())
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// Waits until no process listens, and no file is left.
    async fn is_gone(&self) {
        until("the end", || {
            let listens = std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            let mut files = self.temporary.path().read_dir().unwrap();
            !listens && files.next().is_none()
        })
        .await;
    }
}

impl Drop for RunningDemo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A handshake for the echo, with these additional header fields.
fn handshake(host: &str, fields: &str) -> String {
    handshake_with(fields)
        .replace("/chat", "/echo/test")
        .replace("chat.example.com", host)
}

/// The number of tunnels, of all backends or of one.
fn tunnels(overview: &Value, backend: Option<u64>) -> usize {
    let tunnels = overview["tunnels"].as_array();
    let tunnels = tunnels.into_iter().flatten();
    let of = |it: &&Value| backend.is_none_or(|backend| it["backend"] == backend);
    tunnels.filter(of).count()
}

/// The number of simulated clients whose tunnels to this backend were closed in this way.
fn closes(overview: &Value, backend: u64, code: u16, reason: &str) -> usize {
    let closes = overview["closes"].as_array().unwrap().iter();
    let is_such =
        |it: &&Value| it["backend"] == backend && it["code"] == code && it["reason"] == reason;
    closes.filter(is_such).count()
}

fn states(overview: &Value) -> Vec<&str> {
    let backends = overview["backends"].as_array().unwrap().iter();
    backends.map(|it| it["state"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_page_works_without_any_backend() {
    let demo = RunningDemo::start().await;
    for backend in 1..=3 {
        demo.steer(&format!("backends/{backend}/stop")).await;
    }
    let shown = demo
        .shows("backends that are down", |it| states(it) == ["down"; 3])
        .await;
    assert_eq!(tunnels(&shown, None), 0);
    assert!(closes(&shown, 1, 1006, "") > 0);
    until("the log", || {
        demo.logged().matches("endpoint down").count() == 3
    })
    .await;
    // Neither the start nor clients that try again and again.
    for quiet in [" ready ", "session="] {
        assert!(!demo.logged().contains(quiet), "{}", demo.logged());
    }
    let (head, page) = demo.ask("GET", "/").await;
    assert_eq!(head.status(), 200);
    assert!(page.contains("<title>tidegate demo</title>"));
    let policy = head.value("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    for backend in 1..=3 {
        demo.steer(&format!("backends/{backend}/start")).await;
    }
    let all_are_back = |it: &Value| states(it) == ["up"; 3] && tunnels(it, None) == CLIENTS;
    demo.shows("all clients again", all_are_back).await;
}

#[tokio::test]
async fn a_drain_closes_with_its_reason_and_clients_come_back_by_rebalancing() {
    let demo = RunningDemo::start().await;
    let (mut wire, home) = demo.tunnel().await;
    demo.steer(&format!("backends/{home}/drain")).await;
    assert_eq!(close_payload(&wire.rest().await.0), close(1012, "drain"));
    let is_drained = |it: &Value| tunnels(it, Some(home)) == 0 && tunnels(it, None) == CLIENTS;
    let shown = demo.shows("a drained backend", is_drained).await;
    assert_eq!(closes(&shown, home, 1012, "drain"), CLIENTS / 3);
    assert_eq!(shown["backends"][home as usize - 1]["state"], "drained");
    demo.steer(&format!("backends/{home}/undrain")).await;
    let is_shared = |it: &Value| tunnels(it, Some(home)) >= CLIENTS / 6;
    let shown = demo.shows("a rebalanced fleet", is_shared).await;
    let moved: usize = (1..=3)
        .map(|it| closes(&shown, it, 1012, "rebalance"))
        .sum();
    assert!(moved >= CLIENTS / 6, "{moved}");
}

#[tokio::test]
async fn a_reload_keeps_tunnels_and_an_upgrade_hands_them_over() {
    let demo = RunningDemo::start().await;
    let (mut wire, _) = demo.tunnel().await;
    demo.steer("reload").await;
    let (head, _) = demo.ask("GET", "/").await;
    assert_eq!(head.value("x-demo-configuration"), Some("2"));
    let shown = demo
        .shows("the new policy", |it| it["balance"] == "power_of_two")
        .await;
    assert!(shown["closes"].as_array().unwrap().is_empty(), "{shown}");
    wire.echoes().await;
    let first = shown["generations"][0]["pid"].clone();
    demo.steer("upgrade").await;
    assert_eq!(close_payload(&wire.rest().await.0), close(1012, "shutdown"));
    let shown = demo
        .shows("the new process alone", |it| {
            let generations = it["generations"].as_array().unwrap();
            generations.len() == 1 && generations[0]["tunnels"] == CLIENTS
        })
        .await;
    let now = &shown["generations"][0];
    assert_eq!(now["generation"], 2);
    assert_ne!(now["pid"], first);
    assert_eq!(shown["balance"], "power_of_two");
}

#[tokio::test]
async fn a_signal_ends_every_process_and_removes_every_file() {
    let mut demo = RunningDemo::start().await;
    demo.steer("upgrade").await;
    demo.send(Signal::TERM);
    let status = demo.child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    demo.is_gone().await;
}

#[tokio::test]
async fn a_demo_that_is_killed_leaves_nothing_behind() {
    let mut demo = RunningDemo::start().await;
    // So that the first process has a successor, which is not its supervisor's child.
    demo.steer("upgrade").await;
    demo.send(Signal::KILL);
    demo.child.wait().unwrap();
    demo.is_gone().await;
}

#[tokio::test]
async fn other_sites_control_nothing() {
    let demo = RunningDemo::start().await;
    for path in ["/control/backends/1/stop", "/control/upgrade"] {
        let mut wire = demo.connect().await;
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        wire.send(request).await;
        assert_eq!(wire.reply().await.0.status(), 403, "{path}");
    }
    // A page of another site, and a name of another site that leads to this machine.
    let origin = |origin: &str| format!("Origin: https://{origin}:{}\r\n", demo.port);
    for (host, fields, status) in [
        ("localhost", origin("localhost"), 101),
        ("127.0.0.1:8443", origin("127.0.0.1"), 101),
        (
            "localhost",
            "Origin: https://localhost:1\r\n".to_owned(),
            403,
        ),
        ("localhost", origin("example.com"), 403),
        ("example.com", origin("example.com"), 404),
        ("example.com", String::new(), 404),
    ] {
        let mut wire = demo.connect().await;
        wire.send(handshake(host, &fields)).await;
        assert_eq!(wire.head().await.status(), status, "{host} {fields}");
    }
    for (host, fields, status) in [
        ("localhost", String::new(), 200),
        ("localhost", origin("example.com"), 403),
        ("example.com", String::new(), 404),
    ] {
        let mut wire = demo.connect().await;
        let own = "X-Tidegate-Demo: 1\r\n";
        wire.send(format!(
            "GET /control/overview HTTP/1.1\r\nHost: {host}\r\n{own}{fields}\r\n"
        ))
        .await;
        assert_eq!(wire.reply().await.0.status(), status, "{host} {fields}");
    }
    let mode = demo.folder.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let (mut wire, _) = demo.tunnel().await;
    wire.send(frame(0x81, Some([1, 2, 3, 4]), b"still")).await;
    assert_eq!(wire.exactly(7).await, b"\x81\x05still");
}
