//! The files of the demo: a certificate, a configuration, and the sockets between the processes.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

/// The port of the page, if it is free.
const DEFAULT_PORT: u16 = 8443;

/// Where the page is, as TOML.
const HOSTS: &str = r#"["localhost", "127.0.0.1"]"#;

pub(super) const CONFIG: &str = "demo.toml";
const CERTIFICATE: &str = "demo.pem";
const KEY: &str = "demo.key";
const ADMIN_SOCKET: &str = "admin.sock";
const PAGE_SOCKET: &str = "page.sock";
const CLIENTS_SOCKET: &str = "clients.sock";

/// Every file that the folder may contain.
pub(super) const FILES: [&str; 6] = [
    CONFIG,
    CERTIFICATE,
    KEY,
    ADMIN_SOCKET,
    PAGE_SOCKET,
    CLIENTS_SOCKET,
];

/// The folder of the demo, which is removed when this is dropped.
pub(super) struct Stage {
    folder: TempDir,
    port: u16,
    backends: Vec<SocketAddr>,
    version: Mutex<ConfigVersion>,
}

/// What differs between the configurations that a reload switches between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConfigVersion {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) balance: &'static str,
}

const FIRST: ConfigVersion = ConfigVersion {
    number: 1,
    balance: "least_connections",
};

impl ConfigVersion {
    /// The version that the next reload brings.
    fn next(self) -> Self {
        Self {
            number: self.number + 1,
            balance: match self.balance {
                "least_connections" => "power_of_two",
                _ => "least_connections",
            },
        }
    }
}

impl Stage {
    /// Creates the folder with everything that tidegate reads.
    pub(super) fn new(port: Option<u16>, backends: Vec<SocketAddr>) -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tidegate-demo-")
            // It has the key, and the socket of the admin interface.
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        write_certificate(folder.path())?;
        let stage = Self {
            folder,
            port: match port {
                Some(port) if port != 0 => port,
                port => free_port(port)?,
            },
            backends,
            version: Mutex::new(FIRST),
        };
        stage.write(FIRST)?;
        Ok(stage)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn admin_socket(&self) -> PathBuf {
        self.folder().join(ADMIN_SOCKET)
    }

    /// Where the page is served: tidegate proxies to it.
    pub(super) fn page_socket(&self) -> PathBuf {
        self.folder().join(PAGE_SOCKET)
    }

    /// Where the simulated clients connect: the same routes without TLS.
    pub(super) fn clients_socket(&self) -> PathBuf {
        self.folder().join(CLIENTS_SOCKET)
    }

    /// Writes the next version of the configuration; [`keep`](Self::keep) or [`restore`](Self::restore)
    /// follows.
    pub(super) fn write_next(&self) -> io::Result<ConfigVersion> {
        let next = self.version().next();
        self.write(next)?;
        Ok(next)
    }

    /// This version has been loaded.
    pub(super) fn keep(&self, version: ConfigVersion) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    /// Writes the version again that was loaded last.
    pub(super) fn restore(&self) -> io::Result<()> {
        self.write(self.version())
    }

    fn version(&self) -> ConfigVersion {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, version: ConfigVersion) -> io::Result<()> {
        let text = self.configuration(version);
        fs::write(self.folder().join(CONFIG), text)
    }

    fn configuration(&self, version: ConfigVersion) -> String {
        let endpoints: Vec<String> = self
            .backends
            .iter()
            .map(|backend| format!("\"{backend}\""))
            .collect();
        let endpoints = endpoints.join(", ");
        let folder = self.folder().display();
        let (port, ConfigVersion { number, balance }) = (self.port, version);
        let origins = format!("[\"https://localhost:{port}\", \"https://127.0.0.1:{port}\"]");
        format!(
            "\
# Everything that the demo shows is in this file. Change it, and run `tidegate reload`.

[server]
access_log = {{ to = \"off\" }}
shutdown = {{ grace = \"1s\" }}
upgrade = {{ settle = \"1s\", drain = \"10s\", max_generations = 3 }}

[admin]
bind = \"unix:{folder}/{ADMIN_SOCKET}\"

[listener.demo]
bind = [\"127.0.0.1:{port}\"]
[listener.demo.tls]
certificates = [{{ cert = \"{CERTIFICATE}\", key = \"{KEY}\" }}]

# For the simulated clients.
[listener.clients]
bind = [\"unix:{folder}/{CLIENTS_SOCKET}\"]

# WebSockets go to the backends. The hosts and origins are those of the page: pages of other sites, which the same
# browser may show, reach neither route.
[[route]]
name = \"sockets\"
only = \"handshakes\"
hosts = {HOSTS}
origins = {origins}
upstream = \"backends\"
timeouts = {{ ping = \"20s\", pong = \"10s\" }}

# The page and its controls do not: they work while no backend runs.
[[route]]
name = \"page\"
only = \"plain\"
hosts = {HOSTS}
origins = {origins}
upstream = \"page\"
response_headers = {{ set = {{ x-demo-configuration = \"{number}\" }} }}

[upstream.backends]
endpoints = [{endpoints}]
balance = \"{balance}\"
tries = 3
health = {{ tcp = {{}}, interval = \"1s\", timeout = \"1s\" }}
on_drain = {{ action = \"drain\", over = \"4s\" }}
rebalance = {{ mode = \"on\", factor = 1.05, rate = \"4/s\", min_age = \"1s\" }}

[upstream.page]
endpoints = [\"unix:{folder}/{PAGE_SOCKET}\"]
"
        )
    }

    /// What the terminal shows once the page can be opened.
    pub(super) fn welcome(&self, address: &str) -> String {
        let port = address.rsplit(':').next().unwrap_or_default();
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("tidegate"));
        let program = program.display();
        let folder = self.folder().display();
        let mut text = String::from("tidegate demo\n\n");
        let lines = [
            ("Open", format!("https://localhost:{port}/")),
            (
                "",
                "The certificate is self-signed, so the browser shows a warning first.".to_owned(),
            ),
            (
                "Try",
                "On the page: drain a backend, stop all three, reload, upgrade.".to_owned(),
            ),
            (
                "",
                format!("{program} probe --insecure wss://localhost:{port}/echo"),
            ),
            (
                "Operate",
                format!("export TIDEGATE_ADMIN=unix:{folder}/{ADMIN_SOCKET}"),
            ),
            ("", format!("{program} status --watch")),
            ("Files", format!("{folder}/{CONFIG}")),
            ("Stop", "Ctrl-C".to_owned()),
        ];
        for (title, line) in lines {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {title:<9}{line}");
        }
        text + "\nWhat tidegate logs from now on:\n\n"
    }
}

/// A port that is free now. It has to be known before tidegate runs: `origins` have it.
fn free_port(preferred: Option<u16>) -> io::Result<u16> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    // The preferred one may be in use, perhaps by another demo.
    let bound = bind(preferred.unwrap_or(DEFAULT_PORT)).or_else(|_| bind(0))?;
    Ok(bound.local_addr()?.port())
}

fn write_certificate(folder: &Path) -> io::Result<()> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    fs::write(folder.join(CERTIFICATE), made.cert.pem())?;
    let mut key = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(folder.join(KEY))?;
    key.write_all(made.signing_key.serialize_pem().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_the_configuration_is_valid_and_without_warnings() {
        let addresses = ["127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:9002"];
        let addresses = addresses.map(|it| it.parse().unwrap());
        let stage = Stage::new(Some(0), addresses.to_vec()).unwrap();
        let path = stage.folder().join(CONFIG);
        let check = |number, balance: &str| {
            let text = fs::read_to_string(&path).unwrap();
            let loaded = tidegate::config::parse(&text, &path, &|_| None).unwrap();
            let warnings = &loaded.warnings;
            assert!(
                warnings.diagnostics().is_empty(),
                "{}",
                warnings.render(false)
            );
            assert!(
                text.contains(&format!("x-demo-configuration = \"{number}\"")),
                "{text}"
            );
            assert!(text.contains(&format!("balance = \"{balance}\"")), "{text}");
        };
        check(1, "least_connections");
        let next = stage.write_next().unwrap();
        check(2, "power_of_two");
        stage.restore().unwrap();
        check(1, "least_connections");
        stage.keep(next);
        stage.write_next().unwrap();
        check(3, "least_connections");
    }
}
