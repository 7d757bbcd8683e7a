//! `tidegate demo`: everything that is needed to see tidegate work, created on the spot.
//!
//! The demo consists of three backends, a certificate and a configuration file. tidegate runs with that
//! file as with any other. Nothing remains after it has stopped.

mod backend;
mod control;
mod fleet;
mod sockets;
mod state;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tempfile::TempDir;
use tidegate::server::ServingProcess;

use self::fleet::DemoFleet;
use super::{ExitStatus, err, out, run};

/// The port of the page, if it is free.
const DEFAULT_PORT: u16 = 8443;

/// Runs the demo until a signal stops it.
pub(super) fn demo(port: Option<u16>) -> ExitCode {
    match prepare(port) {
        Ok(stage) => run::run(&stage.config, |running| out(&stage.welcome(running))),
        Err(error) => {
            err(&format!("error: cannot set up the demo: {error}\n"));
            ExitStatus::Start.into()
        }
    }
}

/// The files of the demo; the folder is removed when this is dropped.
struct Stage {
    folder: TempDir,
    config: PathBuf,
    text: String,
}

fn prepare(port: Option<u16>) -> io::Result<Stage> {
    let folder = tempfile::Builder::new()
        .prefix("tidegate-demo-")
        .tempdir()?;
    write_certificate(folder.path())?;
    let fleet = DemoFleet::start()?;
    let control = control::start(&fleet)?;
    let port = port.unwrap_or_else(default_port_if_free);
    let text = configuration(port, &fleet.addresses(), control, folder.path());
    let config = folder.path().join("demo.toml");
    fs::write(&config, &text)?;
    Ok(Stage {
        folder,
        config,
        text,
    })
}

fn default_port_if_free() -> u16 {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, DEFAULT_PORT)) {
        Ok(_) => DEFAULT_PORT,
        // In use, perhaps by another demo: the kernel chooses a port, which the welcome shows.
        Err(_) => 0,
    }
}

fn write_certificate(folder: &Path) -> io::Result<()> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    fs::write(folder.join("demo.pem"), made.cert.pem())?;
    let mut key = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(folder.join("demo.key"))?;
    key.write_all(made.signing_key.serialize_pem().as_bytes())
}

fn configuration(port: u16, backends: &[SocketAddr], control: SocketAddr, folder: &Path) -> String {
    let endpoints: Vec<String> = backends
        .iter()
        .map(|backend| format!("\"{backend}\""))
        .collect();
    format!(
        "\
[server]
log = {{ level = \"warn\" }}
shutdown = {{ grace = \"1s\" }}

[admin]
bind = \"unix:{}/admin.sock\"

[listener.demo]
bind = [\"127.0.0.1:{port}\"]
[listener.demo.tls]
certificates = [{{ cert = \"demo.pem\", key = \"demo.key\" }}]

[[route]]
name = \"page-and-sockets\"
upstream = \"backends\"

[[route]]
name = \"control\"
path_prefix = \"/control\"
upstream = \"control\"

[upstream.backends]
endpoints = [{}]
tries = 3
health = {{ tcp = {{}}, interval = \"1s\", timeout = \"1s\" }}

[upstream.control]
endpoints = [\"{control}\"]
",
        folder.display(),
        endpoints.join(", ")
    )
}

impl Stage {
    fn welcome(&self, running: &ServingProcess) -> String {
        let address = running
            .addresses()
            .first()
            .map_or("", |(_, address)| address.as_str());
        let port = address.rsplit(':').next().unwrap_or_default();
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("tidegate"));
        let program = program.display();
        let indented: String = self
            .text
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect();
        format!(
            "\
tidegate demo

  Page       https://localhost:{port}/
             The certificate is self-signed, so the browser shows a warning.

  Sockets    wss://localhost:{port}/chat
             wss://localhost:{port}/dashboard
             wss://localhost:{port}/echo

  Terminal   {program} probe --insecure wss://localhost:{port}/echo
             npx wscat --no-check -c wss://localhost:{port}/echo
             curl -k https://localhost:{port}/

  Inspect    export TIDEGATE_ADMIN=unix:{}/admin.sock
             {program} status
             {program} tunnels

  Configuration ({}):

{indented}
  Press Ctrl-C to stop the demo.
",
            self.folder.path().display(),
            self.config.display(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_a_good_one() {
        let folder = tempfile::tempdir().unwrap();
        write_certificate(folder.path()).unwrap();
        let address: SocketAddr = "127.0.0.1:9000".parse().unwrap();
        let other: SocketAddr = "127.0.0.1:9001".parse().unwrap();
        let text = configuration(0, &[address, other], address, folder.path());
        let path = folder.path().join("demo.toml");
        let loaded = tidegate::config::parse(&text, &path, &|_| None).unwrap();
        assert!(
            loaded.warnings.diagnostics().is_empty(),
            "{}",
            loaded.warnings.render(false)
        );
    }
}
