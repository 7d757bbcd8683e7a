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
struct Told {
    code: i32,
    out: String,
    err: String,
}

impl Told {
    /// The printed object. Asserts that all its fields are documented.
    fn json(&self) -> Value {
        let told: Value =
            serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.err));
        let legs = told["legs"].as_object().unwrap();
        let facts = legs.values().filter_map(Value::as_object);
        for field in legs.keys().chain(facts.flat_map(|facts| facts.keys())) {
            assert!(DOCUMENTED.contains(&format!("`{field}`")), "{field}");
        }
        told
    }

    /// Asserts that the probe failed at this leg with all of these texts.
    #[track_caller]
    fn failed(&self, leg: &str, said: &[&str]) {
        assert_eq!(self.code, FAILED, "{}{}", self.out, self.err);
        let beginning = format!("error: {leg}: ");
        assert!(self.err.starts_with(&beginning), "{}", self.err);
        for text in said {
            let told = self.err.contains(text) || self.out.contains(text);
            assert!(told, "{text} in:\n{}{}", self.out, self.err);
        }
        let row = self.out.lines().find(|line| line.starts_with(leg));
        assert!(row.is_some(), "{}", self.out);
    }
}

async fn probe(arguments: &[&str]) -> Told {
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
    Told {
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
    let told = probe(&[&format!("ws://localhost:{port}/"), "--resolve", "127.0.0.1"]).await;
    assert_eq!((told.code, &*told.err), (0, ""), "{}", told.out);
    assert_eq!(
        rows(&told.out),
        ["connect", "handshake", "ping", "close", "total"]
    );
    for text in [
        &*format!("127.0.0.1:{port}"),
        "101, no subprotocol",
        "Pong",
        "1000",
    ] {
        assert!(told.out.contains(text), "{text}: {}", told.out);
    }
    // The endpoint has seen a complete closing handshake.
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(ended["reason"], "client-close", "{ended}");

    let told = probe(&[&format!("ws://localhost:{port}/")]).await;
    assert_eq!(rows(&told.out)[..2], ["name", "connect"], "{}", told.out);
    assert!(told.out.contains("localhost is "), "{}", told.out);
}

#[tokio::test]
async fn json_output_is_one_object() {
    let echo = Echo::start("echo").await;
    let proxy = Proxy::start(&simple(&[echo.address])).await;
    let url = ws(proxy.address());
    let told = probe(&[&url, "--json"]).await.json();
    assert_eq!((&told["url"], &told["ok"]), (&url.into(), &true.into()));
    assert_eq!(told["failed"], Value::Null);
    let legs = told["legs"].as_object().unwrap();
    let names: Vec<_> = legs.keys().collect();
    assert_eq!(names, ["close", "connect", "handshake", "ping"]);
    let sum: f64 = legs
        .values()
        .map(|leg| leg["seconds"].as_f64().unwrap())
        .sum();
    assert!((told["seconds"].as_f64().unwrap() - sum).abs() < 1e-3);
    assert_eq!(legs["handshake"]["status"], 101);
    assert_eq!(legs["close"]["code"], 1000);

    let told = probe(&["ws://127.0.0.1:1/", "--json"]).await;
    assert_eq!((told.code, &*told.err), (FAILED, ""));
    let told = told.json();
    assert_eq!(
        (&told["ok"], &told["failed"]["leg"]),
        (&false.into(), &"connect".into())
    );
    assert!(told["failed"]["hint"].is_string(), "{told}");
    assert!(told["legs"]["connect"]["seconds"].is_number(), "{told}");
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
    let told = probe(&[url, "--resolve", &there, "--ca", ca]).await;
    assert_eq!((told.code, &*told.err), (0, ""), "{}", told.out);
    assert_eq!(rows(&told.out)[1], "tls", "{}", told.out);
    for text in ["TLSv1.3", "certificate of chat.example.com", "days left"] {
        assert!(told.out.contains(text), "{text}: {}", told.out);
    }
    let told = probe(&[url, "--resolve", &there, "--ca", ca, "--json"])
        .await
        .json();
    let certificate = &told["legs"]["tls"]["certificate"];
    assert_eq!(certificate["names"][0], "chat.example.com");
    assert_eq!(certificate["fault"], Value::Null);
    assert!(certificate["not_after"].is_string(), "{told}");
}

#[tokio::test]
async fn an_untrusted_certificate_is_shown_with_the_reason() {
    let (proxy, _echo) = secure().await;
    let (there, ca) = (proxy.address().to_string(), proxy.folder().join("ca.pem"));
    let url = "wss://chat.example.com/chat";
    let told = probe(&[url, "--resolve", &there]).await;
    let said = [
        "certificate of chat.example.com",
        "`--ca FILE`",
        "`--insecure`",
    ];
    told.failed("tls", &said);
    assert!(!told.out.contains("handshake"), "{}", told.out);

    let told = probe(&[url, "--resolve", &there, "--insecure", "--json"]).await;
    assert_eq!(told.code, 0, "{}", told.out);
    let told = told.json();
    let fault = &told["legs"]["tls"]["certificate"]["fault"];
    assert!(fault.is_string(), "{told}");
    assert_eq!(told["legs"]["handshake"]["status"], 101);

    let other = "wss://other.example.com/chat";
    let told = probe(&[other, "--resolve", &there, "--ca", ca.to_str().unwrap()]).await;
    told.failed(
        "tls",
        &["it is valid for other names only", "chat.example.com"],
    );
}

#[tokio::test]
async fn a_wrong_scheme_gets_a_hint() {
    let (secure, _echo) = secure().await;
    let told = probe(&[&ws(secure.address())]).await;
    told.failed("handshake", &["hint: ", "wss://"]);
    let echo = Echo::start("echo").await;
    let plain = Proxy::start(&simple(&[echo.address])).await;
    let told = probe(&[&format!("wss://{}/", plain.address())]).await;
    told.failed("tls", &["hint: ", "ws:// instead of wss://"]);
}

#[tokio::test]
async fn a_refused_handshake_shows_the_reason() {
    let echo = Echo::start("echo").await;
    let config = settings(&[echo.address], "", "path = \"/realtime\"");
    let proxy = Proxy::start(&config).await;
    let told = probe(&[&ws(proxy.address())]).await;
    told.failed(
        "handshake",
        &[
            "404 no-route",
            "instead of 101 (no-route)",
            "docs/reasons.md",
        ],
    );
    let told = probe(&[&ws(proxy.address()), "--json"]).await.json();
    let handshake = &told["legs"]["handshake"];
    assert_eq!(
        (&handshake["status"], &handshake["reason"]),
        (&404.into(), &"no-route".into())
    );
    let body = handshake["body"].as_str().unwrap();
    assert!(
        told["failed"]["error"].as_str().unwrap().ends_with(body),
        "{told}"
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
    let (told, (head, _wire)) = tokio::join!(probe(&arguments), answer);
    told.failed(
        "handshake",
        &[
            "the response was 403 instead of 101: who are you\u{fffd}[2J?\n",
            "--origin",
        ],
    );
    assert!(!told.out.contains('\x1b'), "{}", told.out);
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
    let (told, ()) = tokio::join!(probe(&arguments), taking);
    told.failed("ping", &["no Pong", "the log of tidegate"]);
    assert!(told.out.contains("101, subprotocol v2"), "{}", told.out);
    let (told, _wire) = tokio::join!(probe(&arguments), take(&endpoint, ""));
    told.failed("handshake", &["none of the subprotocols"]);
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
    let (told, _wire) = tokio::join!(probe(&arguments), take(&endpoint, ""));
    told.failed("ping", &["no Pong within 1s"]);

    // A Pong with another payload does not answer the Ping.
    let other = async {
        let (mut wire, _) = take(&endpoint, "").await;
        wire.send(frame(0x8a, None, b"another!")).await;
        wire
    };
    let (told, _wire) = tokio::join!(probe(&arguments), other);
    told.failed("ping", &["no Pong within 1s"]);
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
    let (told, _wire) = tokio::join!(probe(&arguments), closing);
    told.failed("ping", &["closed with 1008 `no token` instead of a Pong"]);
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
    let (told, _wire) = tokio::join!(probe(&arguments), answering);
    told.failed("close", &["no Close within 1s"]);
    assert!(told.out.contains("Pong"), "{}", told.out);
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
    let (told, ()) = tokio::join!(probe(&arguments), answering);
    assert_eq!(told.code, 0, "{}", told.err);
    assert!(told.out.contains("1000 `bye`"), "{}", told.out);
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
        let (told, _wire) = tokio::join!(probe(&arguments), answering);
        told.failed("handshake", &[fault]);
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
        let told = probe(arguments).await;
        assert_eq!(told.code, 2, "{arguments:?}");
        assert!(told.err.contains(said), "{}", told.err);
    }
}
