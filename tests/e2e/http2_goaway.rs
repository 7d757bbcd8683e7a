//! The turn of an HTTP/2 connection in a drain: its tunnels are closed together, and the GOAWAY is not late.

use h2::Reason;
use serde_json::json;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Unit};
use crate::harness::frames::frame;
use crate::harness::h2_client::{H2Client, H2Proxy, h2_settings, websocket};
use crate::harness::operator::{ADMIN, Operator, upgradable, write_token};
use crate::harness::proxy::Signal;
use crate::harness::wire::Wire;
use crate::harness::within;

const CLOSE: &[u8] = b"\x88\x0a\x03\xf4shutdown";

/// Waits until the client has got a GOAWAY: what it opens next, it opens on another connection.
async fn goaway(client: &H2Client) {
    let error = within("a GOAWAY", client.no_more_streams()).await;
    let is_right = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
    assert!(is_right, "{error:?}");
}

/// Shows that a tunnel works whose endpoint echoes bytes.
async fn echoes(tunnel: &mut Wire) {
    tunnel.send("still").await;
    assert_eq!(tunnel.exactly(5).await, b"still");
}

/// A configuration whose tunnels an echo has, and that responds to page requests itself.
fn pages(echo: &Echo) -> String {
    let page = "[[route]]\nname = \"page\"\npath = \"/page\"\nrespond = { status = 204 }\n";
    h2_settings(&[echo.address], "true", "", "") + page
}

/// The connection of `client` has this tunnel, and a drain has begun that closes no tunnels.
async fn serves_one_more_handshake(mut client: H2Client, mut tunnel: Wire) {
    // It serves requests as before, and its tunnel.
    assert_eq!(client.get("/page").await.status, 204);
    client.ping().await;
    assert_eq!(client.get("/page").await.status, 204);
    echoes(&mut tunnel).await;
    // Neither a handshake nor a tunnel is lost.
    let mut newcomer = Wire::over(client.tunnel().await);
    goaway(&client).await;
    echoes(&mut tunnel).await;
    echoes(&mut newcomer).await;
    for mut tunnel in [tunnel, newcomer] {
        tunnel.finish().await;
        tunnel.closed().await;
    }
    client.ended_by_server().await;
}

// It would go on for ever with the configuration of a process that has been replaced.
#[tokio::test]
async fn a_connection_with_tunnels_ends_in_an_upgrade_that_closes_none() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let (authority, folder) = Authority::with_certificate();
    write_token(folder.path());
    let config = pages(&echo);
    let server = "upgrade = { settle = \"200ms\", drain = \"off\" }";
    let proxy = H2Proxy::start_in(authority, folder, &upgradable(server, &config)).await;
    let mut client = proxy.client().await;
    let tunnel = Wire::over(client.tunnel().await);
    proxy.proxy.signal(Signal::USR2);
    proxy.proxy.successor(1).await;
    serves_one_more_handshake(client, tunnel).await;
    proxy.proxy.logged("older generation has exited").await;
    assert!(proxy.client().await.open(websocket("/chat")).await.is_ok());
}

#[tokio::test]
async fn a_connection_with_tunnels_ends_when_its_listener_is_drained() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let (authority, folder) = Authority::with_certificate();
    write_token(folder.path());
    let config = [ADMIN, &pages(&echo)].concat();
    let proxy = H2Proxy::start_in(authority, folder, &config).await;
    let operator = Operator::of(&proxy.proxy).await;
    let mut client = proxy.client().await;
    let tunnel = Wire::over(client.tunnel().await);
    let which = json!({ "listener": "main" });
    assert_eq!(operator.post("/v1/listeners/drain", &which).await.0, 200);
    serves_one_more_handshake(client, tunnel).await;
}

#[tokio::test]
async fn a_connection_of_a_removed_listener_closes_its_tunnels_at_its_age() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let http2 = "{ max_age = \"1s\" }";
    let main = h2_settings(&[echo.address], http2, "", "");
    let proxy = H2Proxy::start(&main).await;
    let mut client = proxy.client().await;
    let mut tunnel = Wire::over(client.tunnel().await);
    proxy
        .proxy
        .reload(&main.replace("listener.main", "listener.other"))
        .await;
    assert_eq!(tunnel.exactly(11).await, b"\x88\x09\x03\xe9max-age");
    goaway(&client).await;
}

// A page opens the next tunnel as soon as it has got a Close, and without the GOAWAY on the same connection.
#[tokio::test]
async fn a_goaway_follows_the_close_frames_and_waits_for_no_answer() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut client = proxy.client().await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(Wire::over(client.tunnel().await));
    }
    proxy.proxy.signal(Signal::TERM);
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.exactly(CLOSE.len()).await, CLOSE);
    }
    // None has been answered, so that none has ended.
    goaway(&client).await;
    assert!(proxy.proxy.log().events("tunnel ended").is_empty());
    for tunnel in &mut tunnels {
        tunnel.send(frame(0x88, Some([0; 4]), &[3, 244])).await;
    }
    for ended in proxy.proxy.logged_times("tunnel ended", 3).await {
        assert_eq!(ended["reason"], "shutdown");
    }
}
