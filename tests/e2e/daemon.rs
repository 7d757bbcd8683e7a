//! The process and its keys: it needs no privileges, and keys are nowhere but in memory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::Echo;
use crate::harness::frames::Random;
use crate::harness::not_run;
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::HANDSHAKE;

/// The core dump limit of a process.
fn core_limit(pid: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    line.split_whitespace().nth(5).unwrap().to_owned()
}

/// The owner of the files in /proc/PID: root, if the process is not dumpable (proc_pid(5)).
fn owner(pid: u32) -> u32 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}/status")).unwrap().uid()
}

#[tokio::test]
async fn a_crash_leaves_no_keys_on_the_disk_unless_core_dumps_are_enabled() {
    let echo = Echo::start("echo").await;
    let config = simple(&[echo.address]);
    let proxy = Proxy::start(&config).await;
    assert_eq!(core_limit(proxy.pid()), "0");
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\ncore_dumps = true\n";
    let proxy = Proxy::start(&(server.to_owned() + &config)).await;
    assert_eq!(core_limit(proxy.pid()), core_limit(std::process::id()));
}

/// A user without privileges, if the test runs as root.
const NOBODY: u32 = 65_534;

#[tokio::test]
async fn no_privileges_are_needed() {
    let echo = Echo::start("echo").await;
    let (authority, folder) = Authority::with_certificate();
    let program = folder.path().join("tidegate");
    fs::copy(env!("CARGO_BIN_EXE_tidegate"), &program).unwrap();
    let tls = "[listener.main.tls]\ncertificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        for path in [folder.path(), &folder.path().join("chat.key")] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let config = simple(&[echo.address]) + tls;
    let proxy = Proxy::spawn(Arc::new(folder), &config, |command| {
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        *command = Command::new(program);
        command
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
    });
    proxy.logged("ready").await;
    let mut client = proxy
        .connect_tls(authority.client(), "chat.example.com")
        .await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.head().await.status(), 101);
    // Other processes of its user cannot read its memory, and it still reloads changed files.
    if is_root {
        assert_eq!(owner(proxy.pid()), 0);
    }
    proxy.reload(&(config + "# the same\n")).await;
}

/// Keys of every kind, and a configuration that uses them.
struct Secrets {
    config: String,
    /// The secrets that must not appear.
    texts: Vec<String>,
}

impl Secrets {
    fn write(folder: &Path, endpoint: SocketAddr) -> Self {
        let authority = Authority::new();
        authority.issue(folder, "chat", &["chat.example.com"]);
        authority.issue(folder, "ours", &["tidegate"]);
        let mut texts = vec!["hunter2".to_owned()];
        for key in ["chat.key", "ours.key"] {
            let pem = fs::read_to_string(folder.join(key)).unwrap();
            let lines = pem.lines().filter(|line| !line.starts_with("---"));
            // A short line could appear anywhere by chance.
            let lines = lines.filter(|line| line.len() > 20).map(str::to_owned);
            texts.extend(lines);
            let der: String = pem
                .lines()
                .filter(|line| !line.starts_with("---"))
                .collect();
            texts.extend(shown(&STANDARD.decode(der).unwrap()));
        }
        for (name, length) in [("tickets.key", 80), ("sticky.key", 32)] {
            let bytes = Random(length as u64).bytes(length);
            let text = STANDARD.encode(&bytes);
            let path = folder.join(name);
            fs::write(&path, format!("{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            texts.extend(shown(&bytes));
            texts.push(text);
        }
        let config = "[server]\nworkers = 2\nlog = { format = \"json\", level = \"trace\" }\n"
            .to_owned()
            + &simple(&[endpoint]).replace(
                "[[route]]\n",
                "tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n\
                 tls.ticket_keys_file = \"tickets.key\"\n\
                 [[route]]\nrequest_headers.set = { authorization = \"Bearer hunter2\" }\n",
            )
            + "sticky = { cookie = \"tidegate\", secret_file = \"sticky.key\" }\n\
               [upstream.secure]\nendpoints = [\"127.0.0.1:1\"]\n\
               tls = { client_cert = \"ours.pem\", client_key = \"ours.key\" }\n\
               [[route]]\npath = \"/secure\"\nupstream = \"secure\"\n";
        Self { config, texts }
    }

    #[track_caller]
    fn are_not_in(&self, shown: &str) {
        for text in &self.texts {
            assert!(!shown.contains(text), "{text} is in {shown}");
        }
    }
}

/// A part of a key in the notations of debug output and hex dumps.
fn shown(bytes: &[u8]) -> [String; 3] {
    let part = &bytes[bytes.len() / 2..][..8];
    let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{part:?}");
    [
        hex.to_uppercase(),
        hex,
        list.trim_matches(['[', ']']).to_owned(),
    ]
}

#[tokio::test]
async fn secrets_are_in_no_log_and_no_dump() {
    let folder = TempDir::new().unwrap();
    let echo = Echo::start("echo").await;
    let secrets = Secrets::write(folder.path(), echo.address);
    let path = folder.path().join("config.toml");
    fs::write(&path, &secrets.config).unwrap();
    let loaded = tidegate::config::load(&path).unwrap();
    let dumped = format!("{loaded:?}");
    assert!(dumped.contains("tickets.key"), "{dumped}");
    secrets.are_not_in(&dumped);

    let proxy = Proxy::start_in(folder, &secrets.config).await;
    let authority = Authority::new();
    // A client that does not trust the certificate: its failed handshake is logged.
    let socket = tokio::net::TcpStream::connect(proxy.address())
        .await
        .unwrap();
    let name = rustls::pki_types::ServerName::try_from("chat.example.com").unwrap();
    let connector = tokio_rustls::TlsConnector::from(authority.client());
    connector.connect(name, socket).await.unwrap_err();
    proxy
        .reload(&(secrets.config.clone() + "# the same\n"))
        .await;
    for broken in ["chat.key", "tickets.key", "sticky.key"] {
        let path = proxy.folder().join(broken);
        let text = fs::read_to_string(&path).unwrap();
        let half = text.get(..text.len() / 2).unwrap().to_owned();
        fs::write(&path, half).unwrap();
        let before = proxy
            .log()
            .events("reload failed; the previous configuration stays in effect")
            .len();
        proxy.signal(crate::harness::proxy::Signal::HUP);
        proxy
            .logged_times(
                "reload failed; the previous configuration stays in effect",
                before + 1,
            )
            .await;
        fs::write(&path, text).unwrap();
    }
    let log = proxy.log().text();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    secrets.are_not_in(&log);
}

/// Values from the environment may be secrets, so diagnostics quote the file without them.
#[test]
fn values_from_the_environment_are_not_quoted_in_diagnostics() {
    let file = |line: &str| {
        format!(
            "[listener.main]\nbind = [\"127.0.0.1:0\"]\n[[route]]\nupstream = \"main\"\n{line}\n\
             [upstream.main]\nendpoints = [\"127.0.0.1:1\"]\n"
        )
    };
    for line in [
        "request_headers.set = { authorization = \"${TOKEN}\" }",
        "request_headers.set = { \"x y\" = \"${TOKEN}\" }",
        "path = \"${TOKEN}\"",
        "hosts = [\"${TOKEN}\"]",
        "allow = [\"${TOKEN}\"]",
        "http = \"${TOKEN}\"",
        "timeouts.idle = \"${TOKEN}\"",
    ] {
        let secret = |name: &str| (name == "TOKEN").then(|| "hunter2 \u{1} hunter2".to_owned());
        let path = Path::new("/nonexistent/config.toml");
        let report = tidegate::config::parse(&file(line), path, &secret).unwrap_err();
        let diagnostics = report.render(false);
        assert!(diagnostics.contains("TOKEN"), "{diagnostics}");
        assert!(!diagnostics.contains("hunter2"), "{diagnostics}");
    }
}

/// As in a minimal container or a strict sandbox.
#[test]
fn it_starts_without_proc() {
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c"]);
        command.arg(format!("mount -t tmpfs none /proc && {script}"));
        command
    };
    match run("true").output() {
        Ok(done) if done.status.success() => {}
        refused => {
            not_run("it_starts_without_proc", &format!("{refused:?}"));
            return;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let endpoint = SocketAddr::from(([127, 0, 0, 1], 1));
    let text = simple(&[endpoint]) + "[admin]\nbind = \"off\"\n";
    fs::write(&config, text).unwrap();
    let mut command = run("exec \"$0\" \"$@\"");
    command.arg(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["run", "--config"]).arg(&config);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let lines: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.contains("ready"))
        .collect();
    // Its log ends if it exits, and goes on if it is ready.
    let exited = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(exited, None, "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("listening")),
        "{lines:?}"
    );
}
