//! The admin interface over TLS.

use std::path::Path;

use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::Echo;
use crate::harness::operator::{Operator, Printed, TOKEN, command, write_token};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::scrape::Scrape;
use crate::harness::wire::Wire;
use crate::harness::within;

/// The names that the interface's certificate is for.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// A proxy whose admin interface has a certificate of this authority, and these settings.
async fn start(authority: &Authority, settings: &str) -> (Echo, Proxy, Operator) {
    let folder = TempDir::new().unwrap();
    write_token(folder.path());
    authority.issue(folder.path(), "admin", &NAMES);
    authority.write(&folder.path().join("ca.pem"));
    let echo = Echo::start("echo").await;
    let config = format!(
        "[server]\nlog.format = \"json\"\n[admin]\nbind = \"127.0.0.1:0\"\nmetrics_bind = \"127.0.0.1:0\"\ntoken_file = \"admin.token\"\n\
         tls = {{ cert = \"admin.pem\", key = \"admin.key\"{settings} }}\n{}",
        simple(&[echo.address])
    );
    let proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    (echo, proxy, operator)
}

/// Runs `tidegate status` with these options in addition to the token.
async fn status(operator: &Operator, host: &str, options: &[&str]) -> Printed {
    run(operator, "status", host, options).await
}

async fn run(operator: &Operator, verb: &str, host: &str, options: &[&str]) -> Printed {
    let port = operator.address().rsplit(':').next().unwrap();
    let admin = format!("https://{host}:{port}");
    let words: Vec<&str> = [verb].iter().chain(options).copied().collect();
    command(&words, &admin, Some(operator.token_file())).await
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[tokio::test]
async fn commands_and_programs_use_tls_and_plain_text_is_not_answered() {
    let authority = Authority::new();
    let (_echo, proxy, operator) = start(&authority, "").await;
    let ca = path(proxy.folder(), "ca.pem");
    for host in NAMES {
        let printed = status(&operator, host, &["--admin-ca", &ca]).await;
        assert_eq!(printed.code, 0, "{}", printed.err);
        assert!(printed.out.contains("is serving"), "{}", printed.out);
    }
    // The operating system does not know this authority.
    let printed = status(&operator, "localhost", &[]).await;
    assert_eq!(printed.code, 6, "{}", printed.err);
    assert!(printed.err.contains("--admin-ca"), "{}", printed.err);
    let printed = command(&["status"], operator.address(), Some(operator.token_file())).await;
    assert_eq!(printed.code, 6, "{}{}", printed.out, printed.err);
    let failed = proxy
        .logged("TLS handshake of an admin connection failed")
        .await;
    assert!(failed["from"].as_str().unwrap().starts_with("127.0.0.1:"));

    // A name is served as well: its certificate protects it from being another site's.
    let address = operator.address().parse().unwrap();
    let mut wire = Wire::connect_tls(address, authority.client(), "localhost").await;
    let request = |token: &str| {
        format!(
            "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
    };
    wire.send(request(TOKEN)).await;
    assert_eq!(wire.reply().await.0.status(), 200);
    wire.send(request("wrong")).await;
    assert_eq!(wire.reply().await.0.status(), 401);
}

#[tokio::test]
async fn a_new_certificate_is_served_at_once() {
    let (first, second) = (Authority::new(), Authority::new());
    let (_echo, proxy, operator) = start(&first, "").await;
    second.write(&proxy.folder().join("second.pem"));
    let [old, new] = ["ca.pem", "second.pem"].map(|name| path(proxy.folder(), name));
    let codes = async || {
        let old = status(&operator, "localhost", &["--admin-ca", &old]).await;
        let new = status(&operator, "localhost", &["--admin-ca", &new]).await;
        (old.code, new.code)
    };
    assert_eq!(codes().await, (0, 6));
    second.issue(proxy.folder(), "admin", &NAMES);
    proxy.logged("certificates reloaded").await;
    assert_eq!(codes().await, (6, 0));
}

#[tokio::test]
async fn the_certificate_is_listed_and_measured_like_those_of_listeners() {
    let authority = Authority::new();
    let (_echo, proxy, operator) = start(&authority, "").await;
    let ca = path(proxy.folder(), "ca.pem");
    let printed = run(&operator, "certificates", "localhost", &["--admin-ca", &ca]).await;
    let mut lines = printed.out.lines().skip(1);
    let line = lines.next().unwrap();
    assert!(line.starts_with("admin.tls "), "{}", printed.out);
    assert!(line.contains(" localhost "), "{}", printed.out);
    assert_eq!(lines.next(), None);
    let scrape = Scrape::of(&proxy).await;
    let certificate = format!("certificate=\"{}\"", path(proxy.folder(), "admin.pem"));
    let name = "tidegate_certificate_expiry_timestamp_seconds";
    let expires = scrape.sum(name, &["listener=\"admin.tls\"", &certificate]);
    assert!(expires > 0.0);
}

#[tokio::test]
async fn with_a_client_ca_both_certificate_and_token_are_required() {
    let authority = Authority::new();
    let (_echo, proxy, operator) = start(&authority, ", client_ca = \"ca.pem\"").await;
    let folder = proxy.folder();
    authority.issue(folder, "operator", &["operator"]);
    Authority::new().issue(folder, "stranger", &["operator"]);
    let ca = path(folder, "ca.pem");
    let with = async |name: &str| {
        let [cert, key] = ["pem", "key"].map(|kind| path(folder, &format!("{name}.{kind}")));
        let options = [
            "--admin-ca",
            &ca,
            "--admin-cert",
            &cert,
            "--admin-key",
            &key,
        ];
        status(&operator, "localhost", &options).await
    };
    let printed = with("operator").await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert_eq!(with("stranger").await.code, 6);
    let printed = status(&operator, "localhost", &["--admin-ca", &ca]).await;
    assert_eq!(printed.code, 6, "{}{}", printed.out, printed.err);
    // The certificate is not enough.
    let port = operator.address().rsplit(':').next().unwrap();
    let mut without_token = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    without_token
        .args(["status", "--admin-ca", &ca, "--admin-cert"])
        .args([path(folder, "operator.pem"), "--admin-key".to_owned()])
        .arg(path(folder, "operator.key"))
        .env("TIDEGATE_ADMIN", format!("https://localhost:{port}"));
    let output = within("a command", without_token.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(7));
}
