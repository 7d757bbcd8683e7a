//! `tidegate probe`: one WebSocket through a URL, each leg timed.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::Command;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::{frame, frames};
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::wire::{ACCEPT, Head, SWITCH, Wire};
use crate::harness::within;

/// The exit code of a probe that failed.
const FAILED: i32 = 5;

const DOCUMENTED: &str = include_str!("../../docs/probe.md");

/// The output of a probe, and its exit code.
struct ProbeOutput {
    code: i32,
    out: String,
    err: String,
}

impl ProbeOutput {
    /// The printed object. Asserts that all its fields are documented.
    fn json(&self) -> Value {
        let output: Value =
            serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.err));
        let legs = output["legs"].as_object().unwrap();
        let facts = legs.values().filter_map(Value::as_object);
        for field in legs.keys().chain(facts.flat_map(|facts| facts.keys())) {
            assert!(DOCUMENTED.contains(&format!("`{field}`")), "{field}");
        }
        output
    }

    /// Asserts that the probe failed at this leg with all of these texts.
    #[track_caller]
    fn failed(&self, leg: &str, said: &[&str]) {
        assert_eq!(self.code, FAILED, "{}{}", self.out, self.err);
        let beginning = format!("error: {leg}: ");
        assert!(self.err.starts_with(&beginning), "{}", self.err);
        for text in said {
            let output = self.err.contains(text) || self.out.contains(text);
            assert!(output, "{text} in:\n{}{}", self.out, self.err);
        }
        let row = self.out.lines().find(|line| line.starts_with(leg));
        assert!(row.is_some(), "{}", self.out);
    }
}

async fn probe(arguments: &[&str]) -> ProbeOutput {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .arg("probe")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let Output {
        status,
        stdout,
        stderr,
    } = within("the probe", command.output()).await.unwrap();
    ProbeOutput {
        code: status.code().unwrap(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

fn ws(address: SocketAddr) -> String {
    format!("ws://{address}/chat")
}

/// The names of the rows.
fn rows(out: &str) -> Vec<&str> {
    let rows = out.lines().filter(|line| !line.starts_with(' '));
    rows.map(|line| line.split_whitespace().next().unwrap())
        .collect()
}

/// Accepts a handshake at `endpoint`, with these additional header fields.
async fn take(endpoint: &Endpoint, fields: &str) -> (Wire, Head) {
    let (mut wire, head) = endpoint.request().await;
    let accept = derive_accept_key(head.value("sec-websocket-key").unwrap().as_bytes());
    let switch = SWITCH.replace(ACCEPT, &accept);
    wire.send(switch.replace("\r\n\r\n", &format!("\r\n{fields}\r\n")))
        .await;
    (wire, head)
}

#[tokio::test]
async fn each_leg_has_a_row() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&simple(&[echo.address])).await;
    let port = proxy.address().port();
    let output = probe(&[&format!("ws://localhost:{port}/"), "--resolve", "127.0.0.1"]).await;
    assert_eq!((output.code, &*output.err), (0, ""), "{}", output.out);
    assert_eq!(
        rows(&output.out),
        ["connect", "handshake", "ping", "close", "total"]
    );
    for text in [
        &*format!("127.0.0.1:{port}"),
        "101, no subprotocol",
        "Pong",
        "1000",
    ] {
        assert!(output.out.contains(text), "{text}: {}", output.out);
    }
    // The endpoint has seen a complete closing handshake.
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(ended["reason"], "client-close", "{ended}");

    let output = probe(&[&format!("ws://localhost:{port}/")]).await;
    assert_eq!(
        rows(&output.out)[..2],
        ["name", "connect"],
        "{}",
        output.out
    );
    assert!(output.out.contains("localhost is "), "{}", output.out);
}

#[tokio::test]
async fn json_output_is_one_object() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&simple(&[echo.address])).await;
    let url = ws(proxy.address());
    let output = probe(&[&url, "--json"]).await.json();
    assert_eq!((&output["url"], &output["ok"]), (&url.into(), &true.into()));
    assert_eq!(output["failed"], Value::Null);
    let legs = output["legs"].as_object().unwrap();
    let names: Vec<_> = legs.keys().collect();
    assert_eq!(names, ["close", "connect", "handshake", "ping"]);
    let sum: f64 = legs
        .values()
        .map(|leg| leg["seconds"].as_f64().unwrap())
        .sum();
    assert!((output["seconds"].as_f64().unwrap() - sum).abs() < 1e-3);
    assert_eq!(legs["handshake"]["status"], 101);
    assert_eq!(legs["close"]["code"], 1000);

    let output = probe(&["ws://127.0.0.1:1/", "--json"]).await;
    assert_eq!((output.code, &*output.err), (FAILED, ""));
    let output = output.json();
    assert_eq!(
        (&output["ok"], &output["failed"]["leg"]),
        (&false.into(), &"connect".into())
    );
    assert!(output["failed"]["hint"].is_string(), "{output}");
    assert!(output["legs"]["connect"]["seconds"].is_number(), "{output}");
}

/// A proxy with a certificate for `chat.example.com`, signed by the authority in `ca.pem`.
async fn secure() -> (Proxy, Echo) {
    let (authority, folder) = Authority::with_certificate();
    authority.write(&folder.path().join("ca.pem"));
    let echo = Echo::start("echo").await;
    let config = settings(
        &[echo.address],
        "tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]",
        "hosts = [\"chat.example.com\"]",
    );
    (Proxy::start_in(folder, &config).await, echo)
}

#[tokio::test]
async fn the_tls_leg_shows_the_certificate() {
    let (proxy, _echo) = secure().await;
    let (there, ca) = (proxy.address().to_string(), proxy.folder().join("ca.pem"));
    let ca = ca.to_str().unwrap();
    // Host and SNI are those of the URL, whatever address is used.
    let url = "wss://chat.example.com/chat";
    let output = probe(&[url, "--resolve", &there, "--ca", ca]).await;
    assert_eq!((output.code, &*output.err), (0, ""), "{}", output.out);
    assert_eq!(rows(&output.out)[1], "tls", "{}", output.out);
    for text in ["TLSv1.3", "certificate of chat.example.com", "days left"] {
        assert!(output.out.contains(text), "{text}: {}", output.out);
    }
    let output = probe(&[url, "--resolve", &there, "--ca", ca, "--json"])
        .await
        .json();
    let certificate = &output["legs"]["tls"]["certificate"];
    assert_eq!(certificate["names"][0], "chat.example.com");
    assert_eq!(certificate["fault"], Value::Null);
    assert!(certificate["not_after"].is_string(), "{output}");
}

#[tokio::test]
async fn an_untrusted_certificate_is_shown_with_the_reason() {
    let (proxy, _echo) = secure().await;
    let (there, ca) = (proxy.address().to_string(), proxy.folder().join("ca.pem"));
    let url = "wss://chat.example.com/chat";
    let output = probe(&[url, "--resolve", &there]).await;
    let said = [
        "certificate of chat.example.com",
        "`--ca FILE`",
        "`--insecure`",
    ];
    output.failed("tls", &said);
    assert!(!output.out.contains("handshake"), "{}", output.out);

    let output = probe(&[url, "--resolve", &there, "--insecure", "--json"]).await;
    assert_eq!(output.code, 0, "{}", output.out);
    let output = output.json();
    let fault = &output["legs"]["tls"]["certificate"]["fault"];
    assert!(fault.is_string(), "{output}");
    assert_eq!(output["legs"]["handshake"]["status"], 101);

    let other = "wss://other.example.com/chat";
    let output = probe(&[other, "--resolve", &there, "--ca", ca.to_str().unwrap()]).await;
    output.failed("tls", &["it is valid for chat.example.com only"]);
}

#[tokio::test]
async fn a_wrong_scheme_gets_a_hint() {
    let (secure, _echo) = secure().await;
    let output = probe(&[&ws(secure.address())]).await;
    output.failed("handshake", &["hint: ", "wss://"]);
    let echo = Echo::start("echo").await;
    let plain = Proxy::start(&simple(&[echo.address])).await;
    let output = probe(&[&format!("wss://{}/", plain.address())]).await;
    output.failed("tls", &["hint: ", "ws:// instead of wss://"]);
}

#[tokio::test]
async fn a_refused_handshake_shows_the_reason() {
    let echo = Echo::start("echo").await;
    let config = settings(&[echo.address], "", "path = \"/realtime\"");
    let proxy = Proxy::start(&config).await;
    let output = probe(&[&ws(proxy.address())]).await;
    output.failed(
        "handshake",
        &[
            "404 no-route",
            "instead of 101 (no-route)",
            "docs/reasons.md",
        ],
    );
    let output = probe(&[&ws(proxy.address()), "--json"]).await.json();
    let handshake = &output["legs"]["handshake"];
    assert_eq!(
        (&handshake["status"], &handshake["reason"]),
        (&404.into(), &"no-route".into())
    );
    let body = handshake["body"].as_str().unwrap();
    assert!(
        output["failed"]["error"].as_str().unwrap().ends_with(body),
        "{output}"
    );
}

#[tokio::test]
async fn an_endpoint_is_asked_as_the_command_line_says_and_its_refusal_is_quoted() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let url = ws(proxy.address());
    let arguments = [
        &*url,
        "--origin",
        "https://chat.example.com",
        "--header",
        "Cookie: sid=1",
        "-H",
        "Host: chat.internal",
        "--subprotocol",
        "v2",
        "--subprotocol",
        "v1",
    ];
    let answer = async {
        let (mut wire, head) = endpoint.request().await;
        // Two chunks of a body that never ends.
        wire.send(
            "HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n\
             b\r\nwho are you\r\n6\r\n\x1b[2J?\n\r\n40\r\nmore",
        )
        .await;
        (head, wire)
    };
    let (output, (head, _wire)) = tokio::join!(probe(&arguments), answer);
    output.failed(
        "handshake",
        &[
            "the response was 403 instead of 101: who are you\u{fffd}[2J?\n",
            "--origin",
        ],
    );
    assert!(!output.out.contains('\x1b'), "{}", output.out);
    assert_eq!(head.value("origin"), Some("https://chat.example.com"));
    assert_eq!(head.value("cookie"), Some("sid=1"));
    assert_eq!(head.value("host"), Some("chat.internal"));
    assert_eq!(head.value("sec-websocket-protocol"), Some("v2, v1"));
}

#[tokio::test]
async fn a_subprotocol_is_shown_and_must_be_agreed_on() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let url = ws(proxy.address());
    let arguments = [&*url, "--subprotocol", "v2"];
    let taking = async {
        // A probe sends nothing but the handshake here.
        drop(take(&endpoint, "Sec-WebSocket-Protocol: v2\r\n").await);
    };
    let (output, ()) = tokio::join!(probe(&arguments), taking);
    output.failed("ping", &["no Pong", "the log of tidegate"]);
    assert!(output.out.contains("101, subprotocol v2"), "{}", output.out);
    let (output, _wire) = tokio::join!(probe(&arguments), take(&endpoint, ""));
    output.failed("handshake", &["none of the subprotocols"]);
}

#[tokio::test]
async fn a_port_without_a_listener_is_a_connect_failure() {
    let endpoint = Endpoint::bind().await;
    let url = ws(endpoint.address);
    drop(endpoint);
    probe(&[&url])
        .await
        .failed("connect", &["refused", "hint: no server listens there"]);
}

#[tokio::test]
async fn an_endpoint_that_swallows_pings_fails_by_its_pong() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let url = ws(proxy.address());
    let arguments = [&*url, "--timeout", "1s"];
    let (output, _wire) = tokio::join!(probe(&arguments), take(&endpoint, ""));
    output.failed("ping", &["no Pong within 1s"]);

    // A Pong with another payload does not answer the Ping.
    let other = async {
        let (mut wire, _) = take(&endpoint, "").await;
        wire.send(frame(0x8a, None, b"another!")).await;
        wire
    };
    let (output, _wire) = tokio::join!(probe(&arguments), other);
    output.failed("ping", &["no Pong within 1s"]);
}

#[tokio::test]
async fn a_close_instead_of_a_pong_is_quoted() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let url = ws(proxy.address());
    let closing = async {
        let (mut wire, _) = take(&endpoint, "").await;
        wire.send(frame(0x88, None, b"\x03\xf0no token")).await;
        wire
    };
    let arguments = [&*url];
    let (output, _wire) = tokio::join!(probe(&arguments), closing);
    output.failed("ping", &["closed with 1008 `no token` instead of a Pong"]);
}

#[tokio::test]
async fn an_endpoint_that_answers_no_close_fails_by_it() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let url = ws(proxy.address());
    let arguments = [&*url, "--timeout", "1s"];
    let answering = async {
        let (mut wire, _) = take(&endpoint, "").await;
        pong(&mut wire).await;
        wire
    };
    let (output, _wire) = tokio::join!(probe(&arguments), answering);
    output.failed("close", &["no Close within 1s"]);
    assert!(output.out.contains("Pong"), "{}", output.out);
}

/// Reads a Ping and answers it.
async fn pong(wire: &mut Wire) {
    // 2 bytes of header, 4 of mask, 8 of payload.
    let ping = wire.exactly(14).await;
    let payload = frames(&ping).swap_remove(0).1;
    wire.send(frame(0x8a, None, &payload)).await;
}

#[tokio::test]
async fn closing_the_connection_is_left_to_the_server() {
    let endpoint = Endpoint::bind().await;
    let url = ws(endpoint.address);
    let arguments = [&*url];
    let answering = async {
        let (mut wire, _) = take(&endpoint, "").await;
        pong(&mut wire).await;
        let close = wire.exactly(8).await;
        assert_eq!(frames(&close), [(0x88, b"\x03\xe8".to_vec())]);
        wire.send(frame(0x88, None, b"\x03\xe8bye")).await;
        wire.stays_quiet().await;
    };
    let (output, ()) = tokio::join!(probe(&arguments), answering);
    assert_eq!(output.code, 0, "{}", output.err);
    assert!(output.out.contains("1000 `bye`"), "{}", output.out);
}

#[tokio::test]
async fn a_response_that_clients_would_reject_fails() {
    let endpoint = Endpoint::bind().await;
    let url = ws(endpoint.address);
    let arguments = [&*url];
    let without = SWITCH.replace("Sec-WebSocket-Accept", "X-Accept");
    for (answer, fault) in [
        (SWITCH, "wrong `Sec-WebSocket-Accept`"),
        (&without, "no `Sec-WebSocket-Accept`"),
    ] {
        let answering = async {
            let (mut wire, _) = endpoint.request().await;
            wire.send(answer).await;
            wire
        };
        let (output, _wire) = tokio::join!(probe(&arguments), answering);
        output.failed("handshake", &[fault]);
    }
}

#[tokio::test]
async fn every_option_is_documented() {
    let help = probe(&["--help"]).await.out;
    let words = help.split([' ', ',', '\n']);
    let options: Vec<_> = words.filter(|word| word.starts_with("--")).collect();
    assert!(options.len() > 8, "{help}");
    for option in options.into_iter().filter(|option| *option != "--help") {
        let row = DOCUMENTED
            .lines()
            .find(|line| line.starts_with("| `-") && line.contains(&format!("`{option}")));
        assert!(row.is_some(), "{option}");
    }
}

#[tokio::test]
async fn wrong_arguments_are_reported_before_anything_is_done() {
    for (arguments, said) in [
        (&["http://a/"][..], "ws://"),
        (&["ws://a/", "--timeout", "soon"], "10s"),
        (
            &["wss://a/", "--ca", "/nonexistent"],
            "cannot read the file",
        ),
        (
            &["ws://a/", "--header", "upgrade: h2c"],
            "set by the handshake itself",
        ),
        (&["ws://a/", "--resolve", "somewhere"], "192.0.2.1"),
    ] {
        let output = probe(arguments).await;
        assert_eq!(output.code, 2, "{arguments:?}");
        assert!(output.err.contains(said), "{}", output.err);
    }
}
