//! HTTP/2 connections while tidegate stops, reloads, upgrades or closes tunnels. A browser may end all tunnels of a
//! connection at a GOAWAY, so there is none as long as there are tunnels that stay.

use futures_util::future::join_all;
use serde_json::json;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::frames::{close, close_payload, frame};
use crate::harness::h2_client::{H2Client, H2Proxy, get, h2_settings, websocket};
use crate::harness::h2_frames::{DATA, GOAWAY, OPEN, Outcome, PING, RawH2, raw_frame};
use crate::harness::h2_stream::H2Stream;
use crate::harness::operator::{ADMIN, Operator, upgradable, write_token};
use crate::harness::proxy::Signal;
use crate::harness::wire::Wire;
use crate::harness::{quiet_for, within};

fn with_server(server: &str, config: &str) -> String {
    format!("[server]\nworkers = 2\nlog.format = \"json\"\n{server}\n{config}")
}

async fn tunnels(client: &mut H2Client, count: usize) -> Vec<Wire> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(Wire::over(client.tunnel().await));
    }
    held
}

/// Answers a Close as a client does. Returns its payload.
async fn goodbye(mut client: Wire, length: usize) -> Vec<u8> {
    let bytes = client.exactly(length).await;
    let payload = close_payload(&bytes).unwrap();
    client.send(frame(0x88, Some([0; 4]), &payload[..2])).await;
    client.finish_anyway().await;
    client.closed().await;
    payload
}

/// Opens a tunnel whose endpoint echoes bytes, and shows that it does.
async fn echoes(wire: &mut Wire) {
    wire.send("still").await;
    assert_eq!(wire.exactly(5).await, b"still");
}

#[tokio::test]
async fn a_stop_closes_the_tunnels_of_a_connection_and_then_the_connection() {
    let echo = Echo::start("echo").await;
    let config = with_server(
        "shutdown = { grace = \"20s\", close_code = 4012 }",
        &h2_settings(&[echo.address], "true", "", ""),
    );
    let mut proxy = H2Proxy::start(&config).await;
    let mut clients = Vec::new();
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.client().await;
        held.extend(tunnels(&mut client, 5).await);
        clients.push(client);
    }
    proxy.proxy.signal(Signal::TERM);
    let goodbyes = held.into_iter().map(|client| goodbye(client, 2 + 2 + 8));
    for payload in join_all(goodbyes).await {
        assert_eq!(Some(payload), close(4012, "shutdown"));
    }
    for client in clients {
        client.ended_by_server().await;
    }
    assert_eq!(proxy.proxy.exit().await, 0);
    let ended = proxy.proxy.log().events("tunnel ended");
    assert_eq!(ended.len(), 15);
    assert!(ended.iter().all(|event| event["reason"] == "shutdown"));
}

#[tokio::test]
async fn a_connection_hears_of_a_stop_after_the_close_of_its_tunnels() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let config = with_server(
        "shutdown.grace = \"1h\"",
        &h2_settings(&[echo.address], "true", "", ""),
    );
    let mut proxy = H2Proxy::start(&config).await;
    let mut raw = RawH2::connect(&proxy).await;
    raw.open(1, &OPEN, 0).await;
    assert_eq!(raw.outcome(1).await, Outcome::Status(200));
    proxy.proxy.signal(Signal::TERM);
    proxy.proxy.logged("no longer listening").await;
    quiet_for(300, raw.frame_of(GOAWAY)).await;
    raw.send(raw_frame(DATA, 0, 1, b"still")).await;
    assert_eq!(raw.frame_of(DATA).await.unwrap().payload, b"still");
    raw.send(raw_frame(DATA, 1, 1, b"")).await;
    assert!(raw.frame_of(GOAWAY).await.is_some());
    assert!(raw.ended().await.is_none_or(|code| code == 0));
    // What a client still sends meanwhile is read: unread, it would be answered by a reset, which may overtake the last
    // bytes of a response.
    let ping = raw_frame(PING, 0, 0, &[7; 8]);
    for _ in 0..3 {
        assert!(raw.try_send(&ping).await);
        quiet_for(50, std::future::pending::<()>()).await;
    }
    drop(raw);
    assert_eq!(proxy.proxy.exit().await, 0);
}

#[tokio::test]
async fn requests_finish_during_a_stop_and_idle_connections_end() {
    let endpoint = Endpoint::bind().await;
    let config = with_server(
        "shutdown.grace = \"1h\"",
        &h2_settings(&[endpoint.address], "true", "", ""),
    );
    let mut proxy = H2Proxy::start(&config).await;
    let mut idle = proxy.client().await;
    idle.ping().await;
    let mut client = proxy.client().await;
    let (response, _) = client.begin(get("/"), true).await.unwrap();
    let (mut wire, _) = endpoint.request().await;
    proxy.proxy.signal(Signal::TERM);
    proxy.proxy.logged("no longer listening").await;
    idle.ended_by_server().await;
    wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        .await;
    let response = within("a response", response).await.unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    client.ended_by_server().await;
    assert_eq!(proxy.proxy.exit().await, 0);
}

#[tokio::test]
async fn a_reload_ends_nothing_and_turns_http2_off_for_new_connections() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let proxy = H2Proxy::simple(&[echo.address]).await;
    let mut client = proxy.client().await;
    let mut held = tunnels(&mut client, 3).await;
    let off = h2_settings(&[echo.address], "false", "", "");
    proxy.proxy.reload(&off).await;
    for wire in &mut held {
        echoes(wire).await;
    }
    // The connection serves as before, and a new one is of HTTP/1.1.
    echoes(&mut Wire::over(client.tunnel().await)).await;
    let stream = proxy.offering(&[b"h2", b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    proxy
        .proxy
        .reload(&h2_settings(&[echo.address], "true", "", ""))
        .await;
    echoes(&mut Wire::over(proxy.client().await.tunnel().await)).await;
}

#[tokio::test]
async fn tunnels_can_be_listed_and_closed_one_by_one() {
    let echo = Echo::start("echo").await;
    let (authority, folder) = Authority::with_certificate();
    write_token(folder.path());
    let config = [ADMIN, &h2_settings(&[echo.address], "true", "", "")].concat();
    let proxy = H2Proxy::start_in(authority, folder, &config).await;
    let operator = Operator::of(&proxy.proxy).await;
    let mut client = proxy.client().await;
    let mut held = tunnels(&mut client, 2).await;
    let opened = proxy.proxy.logged_times("tunnel opened", 2).await;
    let listed = operator.get("/v1/tunnels").await;
    assert_eq!(listed["tunnels"].as_array().unwrap().len(), 2, "{listed}");
    let id = &opened[0]["session"];
    let (status, _) = operator
        .post("/v1/tunnels/close", &json!({ "filter": { "id": id } }))
        .await;
    assert_eq!(status, 200);
    let first = held.remove(0);
    let payload = goodbye(first, 2 + 2 + 6).await;
    assert_eq!(Some(payload), close(1008, "killed"));
    // The other one, and the connection, are as they were.
    held[0].echoes().await;
    Wire::over(client.tunnel().await).echoes().await;
}

#[tokio::test]
async fn an_upgrade_leaves_tunnels_with_the_old_process() {
    let echo = Echo::with("echo", Unit::Bytes, None).await;
    let (authority, folder) = Authority::with_certificate();
    write_token(folder.path());
    let config = h2_settings(&[echo.address], "true", "", "");
    let server = "upgrade = { settle = \"200ms\", drain = \"off\" }";
    let proxy = H2Proxy::start_in(authority, folder, &upgradable(server, &config)).await;
    let mut client = proxy.client().await;
    let mut held = tunnels(&mut client, 3).await;
    proxy.proxy.signal(Signal::USR2);
    proxy.proxy.successor(1).await;
    for wire in &mut held {
        echoes(wire).await;
    }
    // The connection goes on as long as it has tunnels, and new connections are the new process's.
    client.ping().await;
    let mut other = proxy.client().await;
    echoes(&mut Wire::over(other.tunnel().await)).await;
    for wire in &mut held {
        wire.finish().await;
    }
    drop(held);
    client.ended_by_server().await;
    proxy.proxy.logged("older generation has exited").await;
    echoes(&mut Wire::over(other.tunnel().await)).await;
}

#[tokio::test]
async fn a_connection_that_has_reached_its_age_closes_its_tunnels() {
    let echo = Echo::start("echo").await;
    let config = h2_settings(&[echo.address], "{ max_age = \"1s\" }", "", "");
    let proxy = H2Proxy::start(&config).await;
    let mut client = proxy.client().await;
    let stream: H2Stream = client.tunnel().await;
    let payload = goodbye(Wire::over(stream), 2 + 2 + 7).await;
    assert_eq!(Some(payload), close(1001, "max-age"));
    client.ended_by_server().await;
    let mut next = proxy.client().await;
    assert!(next.open(websocket("/chat")).await.is_ok());
}
