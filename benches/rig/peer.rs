//! The proxies under comparison, and their processes.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Peer {
    Tidegate,
    /// Another build of tidegate, at the path in `TIDEGATE_BASELINE`: what a change is compared with.
    Baseline,
    Haproxy,
    Nginx,
    /// From crates.io: `cargo install sozu`.
    Sozu,
    /// Copies bytes between two sockets and knows nothing of HTTP: what no proxy can undercut.
    Relay,
}

impl Peer {
    /// What a run without `--peers` compares: those that Debian has packages of, and the relay.
    pub(crate) const ALL: [Self; 4] = [Self::Tidegate, Self::Haproxy, Self::Nginx, Self::Relay];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Baseline => "baseline",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Sozu => "sozu",
            Self::Relay => "bare relay",
        }
    }

    /// The binary, if this is a build of tidegate.
    fn tidegate(self) -> Option<PathBuf> {
        match self {
            Self::Tidegate => Some(env!("CARGO_BIN_EXE_tidegate").into()),
            Self::Baseline => std::env::var_os("TIDEGATE_BASELINE").map(PathBuf::from),
            Self::Haproxy | Self::Nginx | Self::Sozu | Self::Relay => None,
        }
    }

    /// The version that the program reports; `None` if it is not installed.
    pub(crate) fn version(self) -> Option<String> {
        let output = match self {
            Self::Tidegate | Self::Baseline => {
                Command::new(self.tidegate()?).arg("--version").output()
            }
            Self::Haproxy => Command::new("haproxy").arg("-v").output(),
            Self::Nginx => Command::new("nginx").arg("-v").output(),
            Self::Sozu => Command::new("sozu").arg("--version").output(),
            Self::Relay => return Some("in this benchmark".to_owned()),
        };
        let output = output.ok()?;
        let text = [output.stdout, output.stderr].concat();
        let line = String::from_utf8_lossy(&text).lines().next()?.to_owned();
        line.split_whitespace()
            .flat_map(|word| word.split('/'))
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
            .map(ToOwned::to_owned)
    }

    /// Those of `peers` that are not installed.
    pub(crate) fn missing(peers: &[Self]) -> Vec<Self> {
        let mut missing = peers.to_vec();
        missing.retain(|peer| peer.version().is_none());
        missing
    }

    /// Writes a configuration into `folder`, and returns the command that serves it. The relay has no
    /// file: its configuration is its two addresses.
    pub(crate) fn command(self, folder: &Path, config: &str) -> Command {
        let file = folder.join(match self {
            Self::Tidegate | Self::Baseline | Self::Sozu => "config.toml",
            _ => "config",
        });
        fs::write(&file, config).unwrap();
        let mut command = match self {
            Self::Tidegate | Self::Baseline => Command::new(self.tidegate().unwrap()),
            Self::Haproxy => Command::new("haproxy"),
            Self::Nginx => Command::new("nginx"),
            Self::Sozu => Command::new("sozu"),
            Self::Relay => Command::new(std::env::current_exe().unwrap()),
        };
        match self {
            Self::Tidegate | Self::Baseline => command.args(["run", "--config"]).arg(file),
            Self::Haproxy => command.args(["-db", "-f"]).arg(file),
            Self::Nginx => command.arg("-p").arg(folder).arg("-c").arg(file),
            Self::Sozu => command.arg("start").arg("--config").arg(file),
            Self::Relay => command.arg("--relay").args(config.split(' ')),
        };
        let log = fs::File::create(log_folder(folder).join("stderr")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }
}

/// The folder for logs and sockets of a proxy. It is apart from the certificates, because tidegate
/// watches the folder that those are in.
pub(crate) fn log_folder(folder: &Path) -> PathBuf {
    let path = folder.join("log");
    fs::create_dir_all(&path).unwrap();
    path
}

/// The process of a proxy; it is stopped when this is dropped.
pub(crate) struct Running {
    child: Child,
    folder: TempDir,
}

impl Running {
    /// Starts a proxy with this configuration, and waits until it listens at `address`.
    pub(crate) fn start(peer: Peer, folder: TempDir, config: &str, address: SocketAddr) -> Self {
        let child = peer.command(folder.path(), config).spawn().unwrap();
        let running = Self { child, folder };
        for _ in 0..500 {
            if TcpStream::connect(address).is_ok() {
                return running;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = fs::read_to_string(log_folder(running.folder()).join("stderr"));
        panic!("{} does not listen: {log:?}", peer.name());
    }

    /// The folder of its configuration.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not SIGKILL at first: that would leave the workers of nginx behind.
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        let _ = kill_process(pid, Signal::TERM);
        for _ in 0..100 {
            if self.child.try_wait().unwrap().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
