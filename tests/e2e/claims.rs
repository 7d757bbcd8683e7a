//! What a claim of a token decides besides who is admitted: for which key of a shared limit a request counts, and to
//! which endpoint it goes.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::certificates;
use crate::harness::endpoint::Echo;
use crate::harness::frames::frame;
use crate::harness::issuer::{TokenKey, claims_with};
use crate::harness::proxy::{Proxy, settings};
use crate::harness::wire::{Wire, handshake_with};
use crate::tokens::{SECRET, SECRET_ISSUER};

/// The program behind tokens that [`SECRET`] signs, with these lines for the route, and these tables.
async fn start(endpoints: &[SocketAddr], route: &str, tables: &str) -> Proxy {
    let folder = TempDir::new().unwrap();
    certificates::write(&folder.path().join("secret.key"), SECRET);
    let route = format!("auth = \"players\"\n{route}");
    let config = [SECRET_ISSUER, &settings(endpoints, "", &route), tables].concat();
    Proxy::start_in(folder, &config).await
}

/// A handshake with a token that has this claim: its connection, the status and the reason.
async fn shake(proxy: &Proxy, claim: &str, value: Value) -> (Wire, u16, Option<String>) {
    let token = TokenKey::secret(SECRET.as_bytes()).token(&claims_with(claim, value));
    let mut wire = proxy.connect().await;
    wire.send(handshake_with(&format!(
        "Authorization: Bearer {token}\r\n"
    )))
    .await;
    let head = wire.head().await;
    let reason = head.value("tidegate-reason").map(str::to_owned);
    (wire, head.status(), reason)
}

#[tokio::test]
async fn a_user_has_a_maximum_of_tunnels_with_all_tokens_together() {
    let echo = Echo::start("echo").await;
    let limit = "[limit.user]\nkey = { claim = \"sub\" }\nmissing = \"refuse\"\ntunnels = 2\n";
    let proxy = start(&[echo.address], "limits.shared = [\"user\"]", limit).await;
    let outcome = |(_, status, reason): &(Wire, u16, Option<String>)| (*status, reason.clone());
    let full = (429, Some("limit-full".to_owned()));
    let mut held = Vec::new();
    for expected in [(101, None), (101, None), full.clone(), full.clone()] {
        let client = shake(&proxy, "sub", json!("alice")).await;
        assert_eq!(outcome(&client), expected);
        held.push(client);
    }
    let other = shake(&proxy, "sub", json!("bob")).await;
    assert_eq!(other.1, 101, "another user has tunnels of its own");
    let nameless = shake(&proxy, "sub", Value::Null).await;
    let missing = (403, Some("limit-key-missing".to_owned()));
    assert_eq!(outcome(&nameless), missing);
    drop(held);
    for _ in 0..2 {
        proxy.logged("tunnel ended").await;
    }
    assert_eq!(shake(&proxy, "sub", json!("alice")).await.1, 101);
}

#[tokio::test]
async fn a_claim_names_the_endpoint() {
    let (one, two) = (Echo::start("game-1").await, Echo::start("game-2").await);
    let listed = [(&one, "game-1"), (&two, "game-2")]
        .map(|(echo, name)| format!("{{ address = \"{}\", name = \"{name}\" }}", echo.address));
    let folder = TempDir::new().unwrap();
    certificates::write(&folder.path().join("secret.key"), SECRET);
    let route = "auth = \"players\"\nendpoint = { claim = \"game.server\" }";
    let config = [SECRET_ISSUER, &settings(&[], "", route)].concat();
    let config = config.replace(
        "endpoints = []",
        &format!("endpoints = [{}]", listed.join(", ")),
    );
    let proxy = Proxy::start_in(folder, &config).await;
    for name in ["game-2", "game-1", "game-2", "game-2", "game-1"] {
        let (mut wire, status, _) = shake(&proxy, "game", json!({ "server": name })).await;
        assert_eq!(status, 101, "{name}");
        wire.send(frame(0x81, Some([0; 4]), b"name")).await;
        let length = usize::from(wire.exactly(2).await[1]);
        assert_eq!(wire.exactly(length).await, name.as_bytes());
    }
    for other in [
        json!({ "server": "game-3" }),
        json!({ "server": ["game-1", "game-2"] }),
        json!("game-1"),
        Value::Null,
    ] {
        let (_, status, reason) = shake(&proxy, "game", other.clone()).await;
        let expected = (404, Some("endpoint-unknown"));
        assert_eq!((status, reason.as_deref()), expected, "{other}");
    }
}
