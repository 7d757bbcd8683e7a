//! The proxies under comparison: how each is configured and started.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::generate_simple_self_signed;
use tempfile::TempDir;

/// Threads of every proxy.
const THREADS: usize = 2;

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Peer {
    Tidegate,
    Haproxy,
    Nginx,
    /// Copies bytes between two sockets and knows nothing of HTTP: the floor.
    Relay,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Tidegate, Self::Haproxy, Self::Nginx, Self::Relay];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Relay => "bare relay",
        }
    }

    /// As it tells itself; `None` if it is not there.
    pub(crate) fn version(self) -> Option<String> {
        let output = match self {
            Self::Tidegate => Command::new(env!("CARGO_BIN_EXE_tidegate"))
                .arg("--version")
                .output(),
            Self::Haproxy => Command::new("haproxy").arg("-v").output(),
            Self::Nginx => Command::new("nginx").arg("-v").output(),
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
}

/// A proxy that runs.
pub(crate) struct Running {
    child: Child,
    folder: TempDir,
    pub(crate) plain: SocketAddr,
    pub(crate) tls: SocketAddr,
}

impl Running {
    /// With large buffers for `bulk`, where that is a setting.
    pub(crate) fn start(peer: Peer, backend: SocketAddr, bulk: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let (plain, tls) = (free(), free());
        let certified = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
        fs::write(folder.path().join("cert.pem"), &cert).unwrap();
        fs::write(folder.path().join("key.pem"), &key).unwrap();
        fs::write(folder.path().join("both.pem"), cert + &key).unwrap();
        // Not beside the certificates: tidegate watches their folder.
        fs::create_dir(folder.path().join("log")).unwrap();
        let log = fs::File::create(folder.path().join("log/stderr")).unwrap();
        let buffers = if bulk {
            "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;"
        } else {
            ""
        };
        let addresses = Addresses {
            plain,
            tls,
            backend,
        };
        let mut command = command(peer, folder.path(), addresses, buffers);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let running = Self {
            child,
            folder,
            plain,
            tls,
        };
        running.wait_until_it_listens();
        running
    }

    /// Where its configuration is, and its log.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where tidegate serves operators.
    pub(crate) fn admin(&self) -> String {
        self.folder
            .path()
            .join("log/admin.sock")
            .display()
            .to_string()
    }

    /// Where it serves metrics.
    pub(crate) fn metrics(&self) -> String {
        self.folder
            .path()
            .join("log/metrics.sock")
            .display()
            .to_string()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&self) {
        for _ in 0..500 {
            if TcpStream::connect(self.plain).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let log = fs::read_to_string(self.folder.path().join("log/stderr"));
        panic!("it does not listen: {log:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // nginx and HAProxy take their workers with them on SIGTERM; at once.
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
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

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[derive(Clone, Copy)]
struct Addresses {
    plain: SocketAddr,
    tls: SocketAddr,
    backend: SocketAddr,
}

fn command(peer: Peer, folder: &Path, addresses: Addresses, nginx_buffers: &str) -> Command {
    let Addresses {
        plain,
        tls,
        backend,
    } = addresses;
    let shown = folder.display();
    match peer {
        Peer::Tidegate => {
            let config = format!(
                "[server]\nworkers = {THREADS}\nshutdown.grace = \"0s\"\n\
                 [admin]\nbind = \"unix:{shown}/log/admin.sock\"\n\
                 metrics_bind = \"unix:{shown}/log/metrics.sock\"\n\
                 [listener.plain]\nbind = [\"{plain}\"]\n\
                 [listener.secure]\nbind = [\"{tls}\"]\n\
                 [listener.secure.tls]\ncertificates = [{{ cert = \"cert.pem\", key = \"key.pem\" }}]\n\
                 [[route]]\nupstream = \"backend\"\n\
                 [upstream.backend]\nendpoints = [\"{backend}\"]\n"
            );
            fs::write(folder.join("config.toml"), config).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
            command
                .args(["run", "--config"])
                .arg(folder.join("config.toml"));
            command
        }
        Peer::Haproxy => {
            let config = format!(
                "global\n nbthread {THREADS}\n maxconn 9000\n log stdout format raw local0\n\
                 defaults\n mode http\n log global\n option httplog\n timeout connect 5s\n\
                 timeout client 1h\n timeout server 1h\n timeout tunnel 1h\n\
                 frontend front\n bind {plain}\n bind {tls} ssl crt {shown}/both.pem\n\
                 default_backend back\nbackend back\n server one {backend}\n"
            );
            fs::write(folder.join("haproxy.cfg"), config).unwrap();
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
            command
        }
        Peer::Nginx => {
            let config = format!(
                "worker_processes {THREADS};\nworker_rlimit_nofile 20000;\ndaemon off;\n\
                 pid {shown}/nginx.pid;\nerror_log {shown}/log/error;\n\
                 events {{ worker_connections 9000; }}\n\
                 http {{ access_log {shown}/log/access;\n\
                 server {{ listen {plain} backlog=4096; listen {tls} ssl backlog=4096;\n\
                 ssl_certificate {shown}/cert.pem; ssl_certificate_key {shown}/key.pem;\n\
                 ssl_protocols TLSv1.2 TLSv1.3;\n\
                 location / {{ proxy_pass http://{backend}; proxy_http_version 1.1;\n\
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;\n\
                 proxy_set_header Host $host; proxy_read_timeout 1h; proxy_send_timeout 1h;\n\
                 {nginx_buffers} }} }} }}\n"
            );
            fs::write(folder.join("nginx.conf"), config).unwrap();
            let mut command = Command::new("nginx");
            command
                .arg("-p")
                .arg(folder)
                .arg("-c")
                .arg(folder.join("nginx.conf"));
            command
        }
        Peer::Relay => {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command
                .arg("--relay")
                .arg(plain.to_string())
                .arg(backend.to_string());
            command
        }
    }
}
