//! The proxy that is measured: configured for one endpoint, with and without TLS.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::rig::peer::{Peer, Running, log_folder};
use super::rig::{free_addresses, write_certificate};

/// Threads of every proxy.
const THREADS: usize = 2;

/// What differs between the configurations of one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tuning {
    Standard,
    /// Large buffers, where that is a setting.
    Bulk,
    /// HTTP/2 towards clients.
    Http2,
}

/// Whether the proxies write access logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AccessLogs {
    /// To a file, or to standard output that is one: as in production.
    On,
    Off,
}

impl fmt::Display for AccessLogs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// A proxy that runs.
pub(crate) struct Target {
    running: Running,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
}

impl Target {
    pub(crate) fn start(
        peer: Peer,
        backend: SocketAddr,
        tuning: Tuning,
        access_logs: AccessLogs,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        write_certificate(folder.path());
        let [plain, tls] = free_addresses();
        let setup = Setup {
            shown: folder.path().display().to_string(),
            plain,
            tls,
            backend,
            tuning,
            access_logs,
        };
        let config = config(peer, &setup);
        Self {
            running: Running::start(peer, folder, &config, plain),
            plain,
            tls,
        }
    }

    /// The folder of its configuration.
    pub(crate) fn folder(&self) -> &Path {
        self.running.folder()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> PathBuf {
        log_folder(self.folder()).join("stderr")
    }

    /// The socket of tidegate's admin interface.
    pub(crate) fn admin(&self) -> PathBuf {
        log_folder(self.folder()).join("admin.sock")
    }

    /// The socket of its metrics.
    pub(crate) fn metrics(&self) -> PathBuf {
        log_folder(self.folder()).join("metrics.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Reloads with `further` behind the configuration that it was started with, and waits until that is in effect.
    pub(crate) async fn reload_with(&self, further: &str) {
        let file = self.folder().join("config.toml");
        let base = fs::read_to_string(self.folder().join("base.toml")).unwrap_or_else(|_| {
            let base = fs::read_to_string(&file).unwrap();
            fs::write(self.folder().join("base.toml"), &base).unwrap();
            base
        });
        fs::write(&file, base + further).unwrap();
        let log = self.log();
        let reloads = || {
            let text = fs::read_to_string(&log).unwrap();
            assert!(!text.contains("reload failed"), "{text}");
            text.lines()
                .filter(|line| line.ends_with(" reloaded"))
                .count()
        };
        let before = reloads();
        let pid = Pid::from_raw(self.pid().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while reloads() == before {
            assert!(Instant::now() < deadline, "not reloaded");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What a configuration is made of.
struct Setup {
    /// The folder of its files.
    shown: String,
    plain: SocketAddr,
    tls: SocketAddr,
    backend: SocketAddr,
    tuning: Tuning,
    access_logs: AccessLogs,
}

fn config(peer: Peer, setup: &Setup) -> String {
    match peer {
        Peer::Tidegate | Peer::Baseline => tidegate(setup),
        Peer::Haproxy => haproxy(setup),
        Peer::Nginx => nginx(setup),
        Peer::Sozu => sozu(setup),
        Peer::Relay => format!("{} {}", setup.plain, setup.backend),
    }
}

fn tidegate(setup: &Setup) -> String {
    let Setup {
        shown,
        plain,
        tls,
        backend,
        ..
    } = setup;
    let http2 = match setup.tuning {
        Tuning::Http2 => "http2 = true\n",
        Tuning::Standard | Tuning::Bulk => "",
    };
    let log = match setup.access_logs {
        AccessLogs::On => "",
        AccessLogs::Off => "access_log.to = \"off\"\n",
    };
    format!(
        "[server]\nworkers = {THREADS}\nshutdown.grace = \"0s\"\n{log}\
         [admin]\nbind = \"unix:{shown}/log/admin.sock\"\n\
         metrics_bind = \"unix:{shown}/log/metrics.sock\"\n\
         [listener.plain]\nbind = [\"{plain}\"]\n\
         [listener.secure]\nbind = [\"{tls}\"]\n{http2}\
         [listener.secure.tls]\ncertificates = [{{ cert = \"cert.pem\", key = \"key.pem\" }}]\n\
         [[route]]\nupstream = \"backend\"\n\
         [upstream.backend]\nendpoints = [\"{backend}\"]\n"
    )
}

fn haproxy(setup: &Setup) -> String {
    let Setup {
        shown,
        plain,
        tls,
        backend,
        ..
    } = setup;
    let alpn = match setup.tuning {
        Tuning::Http2 => " alpn h2,http/1.1",
        Tuning::Standard | Tuning::Bulk => "",
    };
    // Without a limit on pipes it asks for more descriptors than many systems allow.
    let (pipes, splice) = match setup.tuning {
        Tuning::Bulk => (" maxpipes 100\n", " option splice-auto\n"),
        Tuning::Standard | Tuning::Http2 => ("", ""),
    };
    let log = match setup.access_logs {
        AccessLogs::On => " log global\n option httplog\n",
        AccessLogs::Off => "",
    };
    format!(
        "global\n nbthread {THREADS}\n maxconn 9000\n{pipes} log stdout format raw local0\n\
         defaults\n mode http\n{log}{splice} timeout connect 5s\n\
         timeout client 1h\n timeout server 1h\n timeout tunnel 1h\n\
         frontend front\n bind {plain}\n bind {tls} ssl crt {shown}/both.pem{alpn}\n\
         default_backend back\nbackend back\n server one {backend}\n"
    )
}

fn nginx(setup: &Setup) -> String {
    let Setup {
        shown,
        plain,
        tls,
        backend,
        ..
    } = setup;
    let buffers = match setup.tuning {
        Tuning::Bulk => "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;",
        Tuning::Standard | Tuning::Http2 => "",
    };
    let log = match setup.access_logs {
        AccessLogs::On => format!("access_log {shown}/log/access;"),
        AccessLogs::Off => "access_log off;".to_owned(),
    };
    format!(
        "worker_processes {THREADS};\nworker_rlimit_nofile 20000;\ndaemon off;\n\
         pid {shown}/nginx.pid;\nerror_log {shown}/log/error;\n\
         events {{ worker_connections 9000; }}\n\
         http {{ {log}\n\
         server {{ listen {plain} backlog=4096; listen {tls} ssl backlog=4096;\n\
         ssl_certificate {shown}/cert.pem; ssl_certificate_key {shown}/key.pem;\n\
         ssl_protocols TLSv1.2 TLSv1.3;\n\
         location / {{ proxy_pass http://{backend}; proxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;\n\
         proxy_set_header Host $host; proxy_read_timeout 1h; proxy_send_timeout 1h;\n\
         {buffers} }} }} }}\n"
    )
}

fn sozu(setup: &Setup) -> String {
    let Setup {
        shown,
        plain,
        tls,
        backend,
        ..
    } = setup;
    let buffer = match setup.tuning {
        Tuning::Bulk => 65_536,
        Tuning::Standard | Tuning::Http2 => 16_393,
    };
    let log = match setup.access_logs {
        AccessLogs::On => "info",
        AccessLogs::Off => "off",
    };
    format!(
        "command_socket = \"{shown}/sozu.sock\"\nlog_level = \"{log}\"\nlog_target = \"stdout\"\n\
         worker_count = {THREADS}\nmax_connections = 9000\nmax_buffers = 18000\nbuffer_size = {buffer}\n\
         activate_listeners = true\nfront_timeout = 3600\nback_timeout = 3600\n\
         [[listeners]]\nprotocol = \"http\"\naddress = \"{plain}\"\n\
         [[listeners]]\nprotocol = \"https\"\naddress = \"{tls}\"\n\
         [clusters.back]\nprotocol = \"http\"\nfrontends = [\n\
         {{ address = \"{plain}\", hostname = \"localhost\" }},\n\
         {{ address = \"{tls}\", hostname = \"localhost\", certificate = \"{shown}/cert.pem\", \
         certificate_chain = \"{shown}/cert.pem\", key = \"{shown}/key.pem\" }},\n]\n\
         backends = [{{ address = \"{backend}\" }}]\n"
    )
}
