//! The proxy under test and its generations: start, reload, upgrade and inspection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

use super::process::{End, Holds, Process};
use super::rig::peer::Peer;
use super::rig::{free_addresses, unix, write_certificate};

/// The time that a stopping process, and so a draining generation, gives its tunnels.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// The time after which an operation of an operator counts as failed.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Invalid configurations, which must not be applied.
const BROKEN: [&str; 3] = [
    "[server]\nworkers = 2\n[listener.plain]\nbynd = [\"127.0.0.1:0\"]\n",
    "[server\nworkers =",
    "[listener.plain]\nbind = [\"127.0.0.1:0\"]\n[listener.plain.tls]\n\
     certificates = [{ cert = \"missing.pem\", key = \"missing.key\" }]\n",
];

/// All generations of the proxy. Those that still run are killed when this is dropped.
pub(crate) struct Proxy {
    folder: TempDir,
    pub(crate) plain: SocketAddr,
    pub(crate) secure: SocketAddr,
    now_and_then: SocketAddr,
    endpoints: Vec<SocketAddr>,
    serving: Cell<Process>,
    /// Generations that have handed over and still drain, and since when.
    leaving: RefCell<Vec<(Process, Instant)>>,
    /// Every generation so far.
    all: RefCell<Vec<Process>>,
}

/// A sample of the process that serves: what it reports, and what the kernel shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) pid: u32,
    pub(crate) tunnels: u64,
    pub(crate) connections: u64,
    pub(crate) tasks: u64,
    pub(crate) holds: Holds,
}

impl Look {
    /// The smaller of each value.
    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            pid: self.pid,
            tunnels: self.tunnels.min(other.tunnels),
            connections: self.connections.min(other.connections),
            tasks: self.tasks.min(other.tasks),
            holds: Holds {
                descriptors: self.holds.descriptors.min(other.holds.descriptors),
                threads: self.holds.threads.min(other.holds.threads),
                resident_kib: self.holds.resident_kib.min(other.holds.resident_kib),
            },
        }
    }
}

impl Proxy {
    pub(crate) async fn start(endpoints: Vec<SocketAddr>) -> Self {
        let folder = TempDir::new().unwrap();
        let [plain, secure, now_and_then] = free_addresses();
        write_certificate(folder.path());
        let addresses = Addresses {
            plain,
            secure,
            now_and_then,
        };
        let config = config(folder.path(), addresses, &endpoints, 0);
        let mut command = Peer::Tidegate.command(folder.path(), &config);
        #[expect(clippy::zombie_processes, reason = "`Process::end` waits for it")]
        let child = command.spawn().unwrap();
        let first = Process::of(child.id()).unwrap();
        let proxy = Self {
            folder,
            plain,
            secure,
            now_and_then,
            endpoints,
            serving: Cell::new(first),
            leaving: RefCell::default(),
            all: RefCell::new(vec![first]),
        };
        let deadline = Instant::now() + TIMEOUT;
        while proxy.status().await.is_none() {
            assert!(Instant::now() < deadline, "{}", proxy.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        proxy
    }

    /// Loads configuration number `turn`. The error is the output of the command.
    pub(crate) async fn reload(&self, turn: usize) -> Result<(), String> {
        let addresses = Addresses {
            plain: self.plain,
            secure: self.secure,
            now_and_then: self.now_and_then,
        };
        if turn % 3 == 2 {
            write_certificate(self.folder.path());
        }
        self.take(&config(
            self.folder.path(),
            addresses,
            &self.endpoints,
            turn,
        ))
        .await
    }

    /// Tries to load an invalid configuration: an error if it is applied.
    pub(crate) async fn reload_broken(&self, turn: usize) -> Result<(), String> {
        let file = self.folder.path().join("config.toml");
        let before = fs::read_to_string(&file).unwrap();
        let taken = self.take(BROKEN[turn % BROKEN.len()]).await;
        fs::write(&file, before).unwrap();
        match taken {
            Ok(()) => Err("an invalid configuration was applied".to_owned()),
            Err(_) => Ok(()),
        }
    }

    async fn take(&self, config: &str) -> Result<(), String> {
        let aside = self.folder.path().join("log/config.toml.new");
        fs::write(&aside, config).unwrap();
        fs::rename(aside, self.folder.path().join("config.toml")).unwrap();
        self.verb(&["reload", "--force"]).await
    }

    /// Upgrades: an error if no new process takes over.
    pub(crate) async fn upgrade(&self) -> Result<(), String> {
        let old = self.serving.get();
        self.verb(&["upgrade"]).await?;
        let deadline = Instant::now() + TIMEOUT;
        let new = loop {
            let status = self.status().await;
            let pid = status.and_then(|it| it["pid"].as_u64());
            let new = pid.and_then(|pid| Process::of(pid.try_into().ok()?));
            match new.filter(|new| *new != old) {
                Some(new) => break new,
                None if Instant::now() > deadline => return Err("no process took over".to_owned()),
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        self.serving.set(new);
        self.all.borrow_mut().push(new);
        self.leaving.borrow_mut().push((old, Instant::now()));
        Ok(())
    }

    /// Tries to upgrade to a program that is not tidegate, or with an invalid configuration: an error if
    /// the process that serves does not continue to do so.
    pub(crate) async fn upgrade_broken(&self, turn: usize) -> Result<(), String> {
        let file = self.folder.path().join("config.toml");
        let before = fs::read_to_string(&file).unwrap();
        let taken = if turn.is_multiple_of(2) {
            self.verb(&["upgrade", "/bin/false"]).await
        } else {
            fs::write(&file, BROKEN[turn % BROKEN.len()]).unwrap();
            self.verb(&["upgrade"]).await
        };
        fs::write(&file, before).unwrap();
        if taken.is_ok() {
            return Err("an invalid upgrade succeeded".to_owned());
        }
        let status = self.status().await.ok_or("no status after it")?;
        match status["pid"].as_u64() == Some(self.serving.get().pid.into()) {
            true => Ok(()),
            false => Err("another process serves after it".to_owned()),
        }
    }

    /// The faults of draining generations since the last call.
    pub(crate) fn check_draining(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        self.leaving.borrow_mut().retain(|(old, since)| {
            let (pid, took) = (old.pid, since.elapsed());
            match old.end() {
                End::Not if took < GRACE + TIMEOUT => return true,
                End::Not => {
                    wrong.push(format!("{pid} has not left {took:.0?} after its successor"))
                }
                End::Code(Some(0)) | End::Unknown => {}
                End::Code(code) => wrong.push(format!("{pid} left with {code:?}")),
            }
            false
        });
        let serving = self.serving.get();
        if self.leaving.borrow().iter().all(|(old, _)| *old != serving) {
            // This also collects its exit status, so it is asked only of the process that has to be alive.
            match serving.end() {
                End::Not => {}
                end => wrong.push(format!("{} serves and is gone: {end:?}", serving.pid)),
            }
        }
        wrong
    }

    pub(crate) fn none_drains(&self) -> bool {
        self.leaving.borrow().is_empty()
    }

    /// Stops the process that serves: the fault, if there was one.
    pub(crate) async fn stop(&self) -> Option<String> {
        let serving = self.serving.get();
        serving.signal(Signal::TERM);
        let deadline = Instant::now() + GRACE + TIMEOUT;
        loop {
            match serving.end() {
                End::Not if Instant::now() > deadline => {
                    return Some(format!("{} does not stop", serving.pid));
                }
                End::Not => tokio::time::sleep(Duration::from_millis(50)).await,
                End::Code(Some(0)) | End::Unknown => return None,
                End::Code(code) => return Some(format!("{} stopped with {code:?}", serving.pid)),
            }
        }
    }

    /// A sample of the process that serves; `None` while another one takes over.
    pub(crate) async fn look(&self) -> Option<Look> {
        let (status, metrics) = (self.status().await?, self.metrics().await?);
        let process = self.serving.get();
        (status["pid"].as_u64() == Some(process.pid.into())).then_some(())?;
        let tasks = metrics
            .lines()
            .find_map(|line| line.strip_prefix("tidegate_tasks "))?;
        Some(Look {
            pid: process.pid,
            tunnels: status["tunnels"].as_u64()?,
            connections: status["connections"].as_u64()?,
            tasks: tasks.parse().ok()?,
            holds: process.holds()?,
        })
    }

    async fn status(&self) -> Option<Value> {
        let body = self.get("log/admin.sock", "/v1/status").await?;
        serde_json::from_str(&body).ok()
    }

    async fn metrics(&self) -> Option<String> {
        self.get("log/metrics.sock", "/metrics").await
    }

    async fn get(&self, socket: &str, path: &str) -> Option<String> {
        let socket = self.folder.path().join(socket);
        let asked = unix::get(&socket, path);
        tokio::time::timeout(TIMEOUT, asked).await.ok()?.ok()
    }

    async fn verb(&self, words: &[&str]) -> Result<(), String> {
        let admin = format!(
            "unix:{}",
            self.folder.path().join("log/admin.sock").display()
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(words).arg("--admin").arg(admin);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(TIMEOUT, command.output()).await {
            Ok(output) => output.unwrap(),
            Err(_) => return Err(format!("{words:?} timed out")),
        };
        match output.status.success() {
            true => Ok(()),
            false => Err(format!(
                "{words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }

    /// The ends of tunnels and the warnings in its logs, as Markdown.
    pub(crate) fn log_summary(&self) -> String {
        let mut text = "| in its logs | times |\n|---|---|\n".to_owned();
        for (file, level) in [("log/access", false), ("log/stderr", true)] {
            for (what, times) in self.messages(file, level) {
                let _ = writeln!(text, "| {what} | {times} |");
            }
        }
        text
    }

    /// Counts of log messages: warnings and errors if `by_level`, else ends of tunnels and rejections.
    fn messages(&self, file: &str, by_level: bool) -> BTreeMap<String, u64> {
        let mut messages = BTreeMap::new();
        let folder = format!("{}/", self.folder.path().display());
        let file = fs::File::open(self.folder.path().join(file)).unwrap();
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                // Lines that are not events come from a panic, or from a program outside.
                *messages.entry(format!("`{line}`")).or_default() += 1;
                continue;
            };
            let word = |name: &str| event[name].as_str().unwrap_or_default();
            let what = match (by_level, word("level"), word("message")) {
                (true, "ERROR", message) => format!("ERROR {message}: {}", word("error")),
                (true, "WARN", message) => format!("WARN {message}"),
                (false, _, message @ ("tunnel ended" | "rejected")) => {
                    format!("{message}: `{}`", word("reason"))
                }
                _ => continue,
            };
            let what = what.replace(&folder, "");
            *messages.entry(what).or_default() += 1;
        }
        messages
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log/stderr")).unwrap_or_default()
    }

    /// Whether its log mentions a panic.
    pub(crate) fn has_panicked(&self) -> bool {
        self.log().contains("panicked")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for process in self.all.take() {
            process.signal(Signal::KILL);
        }
    }
}

#[derive(Clone, Copy)]
struct Addresses {
    plain: SocketAddr,
    secure: SocketAddr,
    now_and_then: SocketAddr,
}

/// Configuration number `turn`. Number 0 is that of the samples. The others have one more listener,
/// other weights and limits, and changing routes and upstreams.
fn config(folder: &Path, at: Addresses, endpoints: &[SocketAddr], turn: usize) -> String {
    let Addresses {
        plain,
        secure,
        now_and_then,
    } = at;
    let (folder, grace) = (folder.display(), GRACE.as_secs());
    let weighed = endpoints.iter().enumerate().map(|(number, address)| {
        let weight = 1 + usize::from(turn > 0 && turn % endpoints.len() == number);
        format!("{{ address = \"{address}\", weight = {weight} }}")
    });
    let weighed = weighed.collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "[server]\nworkers = 2\nlog = {{ format = \"json\" }}\n\
         shutdown = {{ grace = \"{grace}s\" }}\nupgrade = {{ drain = \"{grace}s\" }}\n\
         access_log = {{ to = \"{folder}/log/access\", format = \"json\" }}\n\
         [admin]\nbind = \"unix:{folder}/log/admin.sock\"\n\
         metrics_bind = \"unix:{folder}/log/metrics.sock\"\n\
         [listener.plain]\nbind = [\"{plain}\"]\n\
         timeouts = {{ request_header = \"2s\", keep_alive = \"5s\" }}\n\
         [listener.secure]\nbind = [\"{secure}\"]\n\
         timeouts = {{ tls_handshake = \"2s\", request_header = \"2s\", keep_alive = \"5s\" }}\n\
         [listener.secure.tls]\ncertificates = [{{ cert = \"cert.pem\", key = \"key.pem\" }}]\n\
         [upstream.fleet]\nendpoints = [{weighed}]\nretry_on = [\"timeout\"]\n\
         timeouts = {{ connect = \"1s\", handshake = \"2s\" }}\n\
         health = {{ websocket = {{}}, interval = \"1s\", timeout = \"1s\", fall = 2 }}\n\
         on_down = {{ action = \"close\" }}\non_removed = {{ action = \"drain\" }}\n\
         [upstream.fleet.ejection]\n"
    );
    for number in 0..turn % 3 {
        let _ = write!(
            text,
            "[[route]]\nhosts = [\"tenant-{turn}-{number}.example.com\"]\n\
             upstream = \"tenant-{turn}-{number}\"\n\
             [upstream.tenant-{turn}-{number}]\nendpoints = [\"{}\"]\n\
             health = {{ tcp = {{}}, interval = \"1s\" }}\n",
            endpoints[number % endpoints.len()]
        );
    }
    let quiet = ["6s", "5s"][turn % 2];
    let _ = write!(
        text,
        "[[route]]\nupstream = \"fleet\"\n\
         timeouts = {{ ping = \"{quiet}\", pong = \"8s\" }}\n"
    );
    if turn % 2 == 1 {
        let _ = write!(
            text,
            "limits = {{ message_bytes = \"8MiB\" }}\n\
             [listener.now-and-then]\nbind = [\"{now_and_then}\"]\n"
        );
    }
    text
}
