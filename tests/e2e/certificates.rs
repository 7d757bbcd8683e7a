//! Which certificate a listener presents: by what the client can verify, with the real `openssl s_client`; and
//! what happens while tidegate has not obtained one.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::certificates::Authority;
use crate::harness::operator::{ADMIN, Operator, write_token};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::scrape::{Scrape, get};
use crate::harness::{not_run, within};

/// Neither needs an endpoint.
fn nobody() -> SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

/// What `openssl s_client` prints with these arguments.
async fn s_client(proxy: &Proxy, arguments: &str) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &proxy.address().to_string()])
        .args(arguments.split_whitespace())
        .stdin(Stdio::null());
    let output = within("openssl s_client", command.output()).await.unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    text
}

/// The type of the signature that the server made in the handshake.
fn signature(printed: &str) -> Option<&str> {
    let mut lines = printed.lines();
    lines.find_map(|line| line.strip_prefix("Peer signature type: "))
}

/// A folder with an RSA and an ECDSA certificate for `chat.example.com`, and one for `*.example.org` and
/// `only.example.com`.
fn folder() -> TempDir {
    let (authority, folder) = Authority::with_certificate();
    authority.issue_rsa(folder.path(), "rsa", &["chat.example.com"]);
    authority.issue(folder.path(), "org", &["*.example.org", "only.example.com"]);
    folder
}

async fn start(folder: TempDir, certificates: &[&str]) -> Proxy {
    let mut list = String::new();
    for name in certificates {
        writeln!(list, "{{ cert = \"{name}.pem\", key = \"{name}.key\" }},").unwrap();
    }
    let tls = format!("[listener.main.tls]\ncertificates = [{list}]\n");
    Proxy::start_in(folder, &(simple(&[nobody()]) + &tls)).await
}

/// Whether there is an OpenSSL; the tests need nothing but Rust and a C compiler, and `.ci/run` has one.
fn is_openssl_missing(test: &str) -> bool {
    let found = std::process::Command::new("openssl")
        .arg("version")
        .output();
    if let Err(error) = &found {
        not_run(test, &format!("openssl: {error}"));
    }
    found.is_err()
}

#[tokio::test]
async fn the_certificate_is_one_that_the_client_can_verify() {
    if is_openssl_missing("the_certificate_is_one_that_the_client_can_verify") {
        return;
    }
    for certificates in [["rsa", "chat", "org"], ["chat", "rsa", "org"]] {
        let proxy = start(folder(), &certificates).await;
        let both = match certificates[0] {
            "rsa" => "RSA-PSS",
            _ => "ECDSA",
        };
        for (arguments, expected) in [
            ("-tls1_3", both),
            ("-tls1_2", both),
            ("-tls1_3 -sigalgs RSA-PSS+SHA256", "RSA-PSS"),
            ("-tls1_3 -sigalgs RSA+SHA256:ECDSA+SHA256", "ECDSA"),
            ("-tls1_3 -sigalgs ECDSA+SHA256", "ECDSA"),
            ("-tls1_2 -sigalgs RSA+SHA256", "RSA"),
            ("-tls1_2 -sigalgs ECDSA+SHA256", "ECDSA"),
            ("-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", "RSA-PSS"),
            ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "ECDSA"),
        ] {
            for name in ["-servername chat.example.com", "-noservername"] {
                let printed = s_client(&proxy, &format!("{name} {arguments}")).await;
                assert_eq!(
                    signature(&printed),
                    Some(expected),
                    "{name} {arguments} {printed}"
                );
            }
        }
        // Another name has one certificate, whatever the client can verify.
        let other = "-servername a.example.org -tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256";
        let printed = s_client(&proxy, other).await;
        assert!(printed.contains("handshake failure"), "{printed}");
        let printed = s_client(&proxy, "-servername only.example.com").await;
        assert_eq!(signature(&printed), Some("ECDSA"), "{printed}");
    }
}

/// A listener whose only certificate comes from an authority that nobody can reach.
fn unissued(folder: &Path, settings: &str) -> String {
    format!(
        "{ADMIN}metrics_bind = \"127.0.0.1:0\"\n\
         [acme.ca]\ndirectory = \"https://127.0.0.1:9/directory\"\nterms_agreed = true\nstate = \"{}\"\n{settings}\
         {}[listener.main.tls]\ncertificates = [{{ names = [\"chat.example.com\"], acme = \"ca\" }}]\n",
        folder.join("acme").display(),
        simple(&[nobody()]),
    )
}

#[tokio::test]
async fn without_a_certificate_handshakes_are_refused_and_the_process_is_not_ready() {
    if is_openssl_missing(
        "without_a_certificate_handshakes_are_refused_and_the_process_is_not_ready",
    ) {
        return;
    }
    let folder = TempDir::new().unwrap();
    write_token(folder.path());
    let config = unissued(folder.path(), "");
    let proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    for name in ["-servername chat.example.com", "-noservername"] {
        let printed = s_client(&proxy, name).await;
        assert!(printed.contains("access denied"), "{printed}");
    }
    let labels = ["reason=\"no-certificate\""];
    Scrape::until(&proxy, "tidegate_tls_failures_total", &labels, 2.0).await;
    let event = proxy
        .logged("TLS handshake failed; each reason is logged at most once a minute")
        .await;
    assert_eq!(event["reason"], "no-certificate", "{event}");
    let (head, body) = get(&proxy, "/readyz", "").await;
    assert_eq!(
        (head.status(), body.as_str()),
        (503, "no certificate yet\n")
    );
    let listed = operator.get("/v1/certificates").await;
    let certificate = &listed["certificates"][0];
    assert_eq!(certificate["names"][0], "chat.example.com", "{listed}");
    assert_eq!(certificate["authority"], "ca", "{listed}");
    assert!(certificate["expires"].is_null(), "{listed}");
    // Validations by `tls-alpn-01` are answered only while a challenge is open.
    let printed = s_client(&proxy, "-servername chat.example.com -alpn acme-tls/1").await;
    assert!(printed.contains("access denied"), "{printed}");
}
