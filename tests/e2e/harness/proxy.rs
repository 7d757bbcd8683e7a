//! The program under test: its configuration, its process and its log.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpSocket, UnixStream};
use tokio::sync::watch;

use super::endpoint::Endpoint;
use super::wire::{HANDSHAKE, Wire};
use super::{until, within};

/// The beginning of every configuration that has no `[server]` of its own.
const SERVER: &str = "[server]\nworkers = 2\nlog.format = \"json\"\nupgrade.settle = \"200ms\"\n";

/// An argument of the process between an old and a new one, until the upgrade is complete.
pub(crate) const LAUNCHER: &str = "--upgrade-launcher";

/// One listener without TLS, one route, one upstream.
pub(crate) fn simple(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|each| format!("\"{each}\"")).collect();
    format!(
        "[listener.main]\n\
         bind = [\"127.0.0.1:0\"]\n\
         [[route]]\n\
         name = \"main\"\n\
         upstream = \"main\"\n\
         [upstream.main]\n\
         endpoints = [{}]\n",
        endpoints.join(", ")
    )
}

/// A configuration whose log has what is reported once a minute each time, at the level DEBUG.
pub(crate) fn verbose(config: &str) -> String {
    format!("{SERVER}log.level = \"debug\"\n{config}")
}

/// Like [`simple`], with these lines for the listener and for the route.
pub(crate) fn settings(endpoints: &[SocketAddr], listener: &str, route: &str) -> String {
    simple(endpoints)
        .replace("[[route]]", &format!("{listener}\n[[route]]"))
        .replace("name = \"main\"\n", &format!("name = \"main\"\n{route}\n"))
}

/// A running `tidegate run`; killed when dropped.
pub(crate) struct Proxy {
    child: Child,
    folder: Arc<TempDir>,
    log: Log,
}

impl Proxy {
    /// Starts the program with this configuration, and waits until it is ready.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_in(TempDir::new().unwrap(), config).await
    }

    /// Starts it in a folder that already has other files.
    pub(crate) async fn start_in(folder: TempDir, config: &str) -> Self {
        let proxy = Self::spawn(Arc::new(folder), config, |_| {});
        proxy.logged("ready").await;
        proxy
    }

    /// Starts the program after `change` has adjusted the command, and does not wait.
    pub(crate) fn spawn(
        folder: Arc<TempDir>,
        config: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        write_config(folder.path(), config);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["run", "--config"])
            .arg(folder.path().join("config.toml"))
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let log = Log::follow(child.stderr.take().unwrap());
        Self { child, folder, log }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The address of the listener `main`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of("main")
    }

    /// The current address of a listener.
    pub(crate) fn address_of(&self, listener: &str) -> SocketAddr {
        let events = self.log.events("listening");
        let event = events
            .iter()
            .rfind(|event| event["listener"] == listener)
            .unwrap_or_else(|| panic!("no listener {listener} in:\n{}", self.log.text()));
        event["address"].as_str().unwrap().parse().unwrap()
    }

    /// A connection to the listener `main`.
    pub(crate) async fn connect(&self) -> Wire {
        Wire::connect(self.address()).await
    }

    /// A connection to a listener from this address of the machine.
    pub(crate) async fn connect_from(&self, source: &str, listener: &str) -> Wire {
        let socket = TcpSocket::new_v4().unwrap();
        let source = format!("{source}:0").parse().unwrap();
        socket.bind(source).unwrap();
        Wire::tcp(socket.connect(self.address_of(listener)).await.unwrap())
    }

    /// A connection over a unix socket in the folder.
    pub(crate) async fn connect_unix(&self, name: &str) -> Wire {
        let path = self.folder().join(name);
        Wire::unix(
            within("a connection", UnixStream::connect(path))
                .await
                .unwrap(),
        )
    }

    /// A TLS connection to the listener `main`.
    pub(crate) async fn connect_tls(&self, config: Arc<rustls::ClientConfig>, name: &str) -> Wire {
        self.connect_tls_at("main", config, name).await
    }

    /// A TLS connection to any listener.
    pub(crate) async fn connect_tls_at(
        &self,
        listener: &str,
        config: Arc<rustls::ClientConfig>,
        name: &str,
    ) -> Wire {
        Wire::connect_tls(self.address_of(listener), config, name).await
    }

    /// Opens a tunnel and reads the head of the 101.
    pub(crate) async fn tunnel(&self) -> Wire {
        let mut wire = self.connect().await;
        wire.send(HANDSHAKE).await;
        let head = wire.head().await;
        assert_eq!(head.status(), 101, "{head:?}");
        wire
    }

    /// Opens a tunnel to this endpoint and reads the head of the 101: its two ends.
    pub(crate) async fn tunnel_to(&self, endpoint: &Endpoint) -> (Wire, Wire) {
        let mut client = self.connect().await;
        client.send(HANDSHAKE).await;
        let served = endpoint.tunnel().await;
        assert_eq!(client.head().await.status(), 101);
        (client, served)
    }

    /// The first log event with this message.
    pub(crate) async fn logged(&self, message: &str) -> Value {
        self.logged_times(message, 1).await.swap_remove(0)
    }

    /// All log events with this message, as soon as there are `times` of them.
    pub(crate) async fn logged_times(&self, message: &str, times: usize) -> Vec<Value> {
        self.log.wait(message, times).await
    }

    /// All log events with this message until now. The log is written with a delay, but in order: a
    /// reload is triggered here, and once its event is there, so are all earlier ones.
    pub(crate) async fn logged_by_now(&self, message: &str) -> Vec<Value> {
        let before = self.log.events("configuration reloaded").len();
        self.signal(Signal::HUP);
        self.logged_times("configuration reloaded", before + 1)
            .await;
        self.log.events(message)
    }

    pub(crate) fn rewrite(&self, config: &str) {
        write_config(self.folder(), config);
    }

    /// Reloads with this configuration, and waits until it is in effect.
    pub(crate) async fn reload(&self, config: &str) {
        let before = self.log.events("configuration reloaded").len();
        self.rewrite(config);
        self.signal(Signal::HUP);
        self.logged_times("configuration reloaded", before + 1)
            .await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The resident memory of the process, in KiB.
    pub(crate) fn resident_kib(&self) -> usize {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    /// The pids of its successors, the latest last. They write to the same log.
    pub(crate) fn successors(&self) -> Vec<u32> {
        let events = self.log.events("handover complete");
        let pid = |event: &Value| event["pid"].as_u64()?.try_into().ok();
        events.iter().filter_map(pid).collect()
    }

    /// The pids of the new processes that have accepted connections, whether they took over or not.
    pub(crate) fn settling(&self) -> Vec<u32> {
        let events = self.log.events("the new process accepts connections");
        let pid = |event: &Value| event["pid"].as_u64()?.try_into().ok();
        events.iter().filter_map(pid).collect()
    }

    /// The pid of the process that serves.
    pub(crate) fn serving(&self) -> u32 {
        self.successors().last().copied().unwrap_or(self.pid())
    }

    /// Waits for the upgrade number `times`: the pid of the new process.
    pub(crate) async fn successor(&self, times: usize) -> u32 {
        self.logged_times("handover complete", times).await;
        self.logged_times("ready", times + 1).await;
        self.successors()[times - 1]
    }

    /// Waits until a signal has ended the process.
    pub(crate) async fn died(&mut self) {
        until("the process to die", || {
            self.child.try_wait().unwrap().is_some()
        })
        .await;
    }

    /// Waits until the process exits, and the log has all that it has said: its exit code.
    pub(crate) async fn exit(&mut self) -> i32 {
        let mut code = None;
        until("the process to exit", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        })
        .await;
        // A successor writes on to the same log.
        let mut count = self.log.count.clone();
        let is_alone = || self.successors().is_empty() && self.settling().is_empty();
        within("the end of the log", async {
            while is_alone() && count.changed().await.is_ok() {}
        })
        .await;
        code.unwrap()
            .code()
            .expect("an exit, not a death by signal")
    }
}

/// Sends a signal to a process.
pub(crate) fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Whether a process has ended, with all its threads: only then its sockets are closed.
pub(crate) fn is_over(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return true;
    };
    // Nobody may have waited for it.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    status.contains("\nState:\tZ") && threads.is_ok_and(|threads| threads.count() == 1)
}

/// The pid of a process's parent.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for pid in self.settling() {
            let pid = Pid::from_raw(pid.try_into().unwrap_or_default());
            // It may have exited already.
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_config(folder: &Path, config: &str) {
    let path: PathBuf = folder.join("config.toml");
    let text = if config.contains("[server") {
        config.to_owned()
    } else {
        format!("{SERVER}{config}")
    };
    let text = without_default_admin(text);
    // By a rename, as editors do, so that a reload never reads half of it.
    let aside = folder.join("config.toml.new");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, path).unwrap();
}

/// The default admin socket is the machine's: tests that run side by side do without it. Lines keep their
/// numbers where a test may look at them.
fn without_default_admin(text: String) -> String {
    let Ok(config) = text.parse::<toml::Table>() else {
        return text;
    };
    match config.get("admin") {
        None => text + "\n[admin]\nbind = \"off\"\n",
        Some(admin) if admin.get("bind").is_none() => {
            text.replacen("[admin]\n", "[admin]\nbind = \"off\"\n", 1)
        }
        Some(_) => text,
    }
}

/// The log of the program so far.
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Log {
    fn follow(stderr: impl std::io::Read + Send + 'static) -> Self {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let (sender, count) = watch::channel(0);
        let kept = Arc::clone(&lines);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                let mut kept = kept.lock().unwrap();
                kept.push(line);
                sender.send_replace(kept.len());
            }
        });
        Self { lines, count }
    }

    /// The whole log as text.
    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// The events with this message.
    pub(crate) fn events(&self, message: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["message"] == message)
            .collect()
    }

    /// The events with this message, as soon as there are `times` of them.
    pub(crate) async fn wait(&self, message: &str, times: usize) -> Vec<Value> {
        let mut count = self.count.clone();
        loop {
            count.borrow_and_update();
            let events = self.events(message);
            if events.len() >= times {
                return events;
            }
            let waited = tokio::time::timeout(super::WAIT_TIMEOUT, count.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                panic!(
                    "no `{message}` ({} of {times}) in:\n{}",
                    events.len(),
                    self.text()
                );
            }
        }
    }
}
