//! A first configuration that the program writes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::proxy::Proxy;

fn tidegate(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

#[track_caller]
fn assert_valid(folder: &Path, arguments: &[&str]) {
    let written = tidegate(folder, &[&["init"], arguments, &["new.toml"]].concat());
    assert!(written.status.success(), "{arguments:?}: {written:?}");
    let checked = tidegate(folder, &["check", "--json", "new.toml"]);
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let errors = report["diagnostics"].as_array().unwrap().iter();
    // The user that writes the file may be another than the one that runs tidegate, which may write to `state`.
    let errors = errors.filter(|it| {
        !it["message"]
            .as_str()
            .unwrap()
            .contains("/var/lib/tidegate")
    });
    assert_eq!(errors.count(), 0, "{arguments:?}: {report:#}");
    std::fs::remove_file(folder.join("new.toml")).unwrap();
}

#[test]
fn what_is_written_passes_the_check() {
    let (_, folder) = Authority::with_certificate();
    let files = ["--cert", "chat.pem", "--key", "chat.key"];
    let host = ["--host", "chat.example.com"];
    for options in [
        &[&host[..], &files].concat()[..],
        &[&host[..], &["--acme", "--agree"]].concat(),
        &[&host[..], &["--behind", "10.0.0.0/8"]].concat(),
        &["--backend", "127.0.0.1:1", "--backend", "[::1]:2"],
    ] {
        assert_valid(folder.path(), options);
    }
}

/// The file as tests need it: its listener is `main`, the log is JSON, and the admin interface is off.
fn testable(config: &str) -> String {
    let around = "[server]\nlog.format = \"json\"\n[admin]\nbind = \"off\"\n[listener.main]";
    config.replace("[listener.public]", around)
}

#[tokio::test]
async fn with_nothing_but_the_program_there_is_a_wss_proxy() {
    let echo = Echo::start("echo").await;
    let folder = TempDir::new().unwrap();
    let backend = echo.address.to_string();
    let options = ["init", "--host", "chat.example.com", "--self-signed"];
    let options = [
        &options[..],
        &["--backend", &backend, "--listen", "127.0.0.1:0"],
    ]
    .concat();
    let made = tidegate(folder.path(), &options);
    assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    let key = std::fs::metadata(folder.path().join("self-signed.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    // A second time nothing is replaced.
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let before = read("self-signed.key") + &read("self-signed.pem");
    let again = tidegate(folder.path(), &[&options[..], &["other.toml"]].concat());
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(!folder.path().join("other.toml").exists());
    assert_eq!(read("self-signed.key") + &read("self-signed.pem"), before);
    let printed = tidegate(folder.path(), &["init", "--self-signed", "-"]);
    assert_eq!(printed.status.code(), Some(2), "{printed:?}");

    let config = testable(&read("config.toml"));
    let proxy = Proxy::start_in(folder, &config).await;
    let address = proxy.address();
    let url = format!("wss://chat.example.com:{}/", address.port());
    let resolve = address.to_string();
    let ca = proxy.folder().join("self-signed.pem");
    let mut probe = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    probe.args(["probe", &url, "--resolve", &resolve, "--ca"]);
    let probed = probe.arg(ca).output().await.unwrap();
    assert!(probed.status.success(), "{probed:?}");
}

#[test]
fn a_file_is_never_overwritten_and_mistakes_are_shown() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, "mine").unwrap();
    let refused = tidegate(folder.path(), &["init"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(why.contains("there already"), "{why}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    let wrong = tidegate(folder.path(), &["init", "--backend", "nowhere", "new.toml"]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let why = String::from_utf8_lossy(&wrong.stderr);
    assert!(
        why.contains("nowhere") && why.contains("or delete it and run"),
        "{why}"
    );
    let printed = tidegate(folder.path(), &["init", "-"]);
    assert!(
        String::from_utf8_lossy(&printed.stdout).contains("[[route]]"),
        "{printed:?}"
    );
}

#[tokio::test]
async fn what_is_written_serves_tunnels() {
    let endpoint = Endpoint::bind().await;
    let folder = TempDir::new().unwrap();
    let backend = endpoint.address.to_string();
    let arguments = [
        "init",
        "--backend",
        &backend,
        "--listen",
        "127.0.0.1:0",
        "-",
    ];
    let printed = tidegate(folder.path(), &arguments);
    let config = String::from_utf8(printed.stdout).unwrap();
    let proxy = Proxy::start(&testable(&config)).await;
    let (mut client, mut app) = proxy.tunnel_to(&endpoint).await;
    client.send("through").await;
    assert_eq!(app.exactly(7).await, b"through");
}
