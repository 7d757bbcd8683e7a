//! The proxies, each as its operators would set it up for endpoints that fail: checks every second by
//! a handshake where it has them, a second for a connection and for an answer, one more endpoint
//! tried.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peer {
    Tidegate,
    Haproxy,
    Nginx,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::Tidegate, Self::Haproxy, Self::Nginx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        let program = match self {
            Self::Tidegate => return true,
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        };
        Command::new(program).arg("-v").output().is_ok()
    }
}

/// A proxy that runs.
pub(crate) struct Running {
    child: Child,
    _folder: TempDir,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) async fn start(peer: Peer, endpoints: [SocketAddr; 3]) -> Self {
        let folder = TempDir::new().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = address.local_addr().unwrap();
        let file = folder.path().join("config");
        fs::write(&file, config(peer, address, endpoints, &folder)).unwrap();
        let mut command = match peer {
            Peer::Tidegate => Command::new(env!("CARGO_BIN_EXE_tidegate")),
            Peer::Haproxy => Command::new("haproxy"),
            Peer::Nginx => Command::new("nginx"),
        };
        match peer {
            Peer::Tidegate => command.args(["run", "--config"]),
            Peer::Haproxy => command.args(["-db", "-f"]),
            Peer::Nginx => command.arg("-p").arg(folder.path()).arg("-c"),
        };
        let child = command
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for _ in 0..500 {
            if TcpStream::connect(address).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self {
            child,
            _folder: folder,
            address,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // In one process each: nobody is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(peer: Peer, at: SocketAddr, endpoints: [SocketAddr; 3], folder: &TempDir) -> String {
    let [a, b, c] = endpoints;
    match peer {
        Peer::Tidegate => format!(
            "[server]\nworkers = 2\n[listener.main]\nbind = [\"{at}\"]\n\
             [[route]]\nupstream = \"main\"\n\
             [upstream.main]\nendpoints = [\"{a}\", \"{b}\", \"{c}\"]\nretry_on = [\"timeout\"]\n\
             timeouts = {{ connect = \"1s\", handshake = \"1s\" }}\n\
             health = {{ websocket = {{}}, interval = \"1s\", timeout = \"1s\", fall = 2 }}\n\
             [upstream.main.ejection]\n"
        ),
        Peer::Haproxy => format!(
            "global\n nbthread 2\n maxconn 9000\ndefaults\n mode http\n timeout connect 1s\n\
             timeout client 1h\n timeout server 1s\n timeout tunnel 1h\n timeout check 1s\n\
             retries 1\n option redispatch 1\n retry-on conn-failure empty-response response-timeout\n\
             frontend front\n bind {at}\n default_backend back\n\
             backend back\n balance leastconn\n option httpchk\n\
             http-check send meth GET uri / ver HTTP/1.1 hdr Host localhost hdr Connection Upgrade \
             hdr Upgrade websocket hdr Sec-WebSocket-Version 13 \
             hdr Sec-WebSocket-Key dGhlIHNhbXBsZSBub25jZQ==\n http-check expect status 101\n\
             default-server check inter 1s fall 2 rise 2 observe layer4 error-limit 5 on-error mark-down\n\
             server a {a}\n server b {b}\n server c {c}\n"
        ),
        Peer::Nginx => format!(
            "worker_processes 1;\nmaster_process off;\nworker_rlimit_nofile 20000;\ndaemon off;\n\
             pid {0}/nginx.pid;\nerror_log {0}/error;\nevents {{ worker_connections 9000; }}\n\
             http {{ access_log off;\n upstream back {{ least_conn;\n\
             server {a} max_fails=2 fail_timeout=5s; server {b} max_fails=2 fail_timeout=5s;\n\
             server {c} max_fails=2 fail_timeout=5s; }}\n\
             server {{ listen {at} backlog=4096; location / {{ proxy_pass http://back;\n\
             proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;\n\
             proxy_set_header Connection upgrade; proxy_connect_timeout 1s; proxy_read_timeout 1s;\n\
             proxy_next_upstream error timeout; proxy_next_upstream_tries 2; }} }} }}\n",
            folder.path().display()
        ),
    }
}
