//! Tunnels: every byte arrives in order, none is added, and ends are passed on as they are.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::certificates::Authority;
use crate::harness::endpoint::{Echo, Endpoint, Unit};
use crate::harness::frames::{Random, frame};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::{End, HANDSHAKE, SWITCH, Wire};
use crate::harness::within;

/// Frames with every possible first byte and every form of length, masked and unmasked.
fn odd_frames(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for first in 0..=255 {
        let length = [0, 1, 125, 126, 127, 300][random.up_to(5)];
        let mask = (first % 2 == 0).then(|| (random.next() as u32).to_be_bytes());
        bytes.extend(frame(first, mask, &random.bytes(length)));
    }
    bytes
}

/// One message of `length` bytes in fragments, with a Ping between any two.
fn fragments(random: &mut Random, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = length;
    let mut opcode = 0x2;
    while left > 0 {
        let piece = 1 + random.up_to(left - 1);
        left -= piece;
        let fin = if left == 0 { 0x80 } else { 0 };
        bytes.extend(frame(
            fin | opcode,
            Some([1, 2, 3, 4]),
            &random.bytes(piece),
        ));
        bytes.extend(frame(0x89, Some([5, 6, 7, 8]), b"ping"));
        opcode = 0;
    }
    bytes
}

/// Sends in pieces of random size and expects the same bytes back.
async fn echoes(wire: Wire, bytes: Vec<u8>, mut random: Random) {
    let bytes = Arc::new(bytes);
    let (mut reader, mut writer) = tokio::io::split(wire);
    let sent = Arc::clone(&bytes);
    let sender = tokio::spawn(async move {
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let most = if random.up_to(3) == 0 { 10 } else { 1 << 20 };
            let (piece, after) = rest.split_at((1 + random.up_to(most)).min(rest.len()));
            writer.write_all(piece).await.unwrap();
            writer.flush().await.unwrap();
            rest = after;
        }
        writer.shutdown().await.unwrap();
    });
    let mut back = Vec::with_capacity(bytes.len());
    within("the echo", reader.read_to_end(&mut back))
        .await
        .unwrap();
    sender.await.unwrap();
    assert_eq!(back.len(), bytes.len());
    assert!(back == *bytes, "other bytes came back");
}

async fn transparent(client_tls: bool, endpoint_tls: bool) {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.write(&folder.path().join("ca.pem"));
    authority.issue(folder.path(), "chat", &["chat.example.com"]);
    let server = endpoint_tls.then(|| authority.server(folder.path(), &["127.0.0.1"], false));
    let echo = Echo::with("echo", Unit::Bytes, server).await;
    let mut config = simple(&[echo.address]);
    if endpoint_tls {
        config.push_str("tls = { ca = \"ca.pem\" }\n");
    }
    if client_tls {
        config.push_str(
            "[listener.main.tls]\ncertificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n",
        );
    }
    let proxy = Proxy::start_in(folder, &config).await;
    let mut random = Random(7);
    let small = odd_frames(&mut random);
    let pieces = fragments(&mut random, 200_000);
    let large: Vec<u8> = [65_535, 65_536, 1 << 20, 16 << 20]
        .into_iter()
        .flat_map(|length| frame(0x82, Some([9, 8, 7, 6]), &random.bytes(length)))
        .collect();
    for bytes in [small, pieces, large] {
        let mut wire = if client_tls {
            proxy
                .connect_tls(authority.client(), "chat.example.com")
                .await
        } else {
            proxy.connect().await
        };
        wire.send(HANDSHAKE).await;
        assert_eq!(wire.head().await.status(), 101);
        let length = bytes.len() as u64;
        echoes(wire, bytes, Random(random.next())).await;
        let ended = proxy.logged_times("tunnel ended", echo.served()).await;
        let ended = ended.last().unwrap();
        assert_eq!(ended["bytes_from_client"], length);
        assert_eq!(ended["bytes_from_endpoint"], length);
        assert_eq!(ended["reason"], "client-eof");
    }
}

#[tokio::test]
async fn every_frame_passes_untouched_over_plain_text() {
    transparent(false, false).await;
}

#[tokio::test]
async fn every_frame_passes_untouched_over_tls() {
    transparent(true, false).await;
}

#[tokio::test]
async fn every_frame_passes_untouched_to_endpoints_over_tls() {
    transparent(false, true).await;
}

#[tokio::test]
async fn every_frame_passes_untouched_over_tls_on_both_sides() {
    transparent(true, true).await;
}

#[tokio::test]
async fn bytes_that_the_endpoint_sends_with_its_101_arrive() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let (mut served, _) = endpoint.request().await;
    let greeting = frame(0x81, None, b"welcome");
    served.send([SWITCH.as_bytes(), &greeting].concat()).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.exactly(greeting.len()).await, greeting);
    served.send("more").await;
    assert_eq!(client.exactly(4).await, b"more");
}

#[tokio::test]
async fn bytes_that_the_client_sends_early_wait_for_the_101() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let early = Random(1).bytes(64 * 1024);
    let mut client = proxy.connect().await;
    client.send([HANDSHAKE.as_bytes(), &early].concat()).await;
    let (mut served, _) = endpoint.request().await;
    served.stays_quiet().await;
    served.send(SWITCH).await;
    assert!(served.exactly(early.len()).await == early);
    assert_eq!(client.head().await.status(), 101);
    client.send("later").await;
    assert_eq!(served.exactly(5).await, b"later");
}

#[tokio::test]
async fn a_client_that_has_ended_still_receives() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let (mut client, mut served) = pair(&proxy, &endpoint).await;
    client.send("last words").await;
    client.finish().await;
    assert_eq!(served.rest().await, (b"last words".to_vec(), End::Orderly));
    let answer = Random(2).bytes(1 << 20);
    let expected = answer.clone();
    let sender = tokio::spawn(async move {
        served.send(answer).await;
        served.finish().await;
    });
    let (rest, end) = client.rest().await;
    assert!(rest == expected && end == End::Orderly);
    sender.await.unwrap();
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "client-eof");
}

#[tokio::test]
async fn an_endpoint_that_has_ended_still_receives() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let (mut client, mut served) = pair(&proxy, &endpoint).await;
    served.send("last words").await;
    served.finish().await;
    assert_eq!(client.rest().await, (b"last words".to_vec(), End::Orderly));
    client.send("noted").await;
    client.finish().await;
    assert_eq!(served.rest().await, (b"noted".to_vec(), End::Orderly));
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "upstream-eof");
}

#[tokio::test]
async fn a_reset_is_passed_on_as_one_after_the_bytes_before_it() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let (mut client, mut served) = pair(&proxy, &endpoint).await;
    client.send("before").await;
    assert_eq!(served.exactly(6).await, b"before");
    client.reset();
    assert_eq!(served.rest().await, (Vec::new(), End::Reset));
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "client-reset");

    let (mut client, mut served) = pair(&proxy, &endpoint).await;
    served.send("before").await;
    assert_eq!(client.exactly(6).await, b"before");
    served.reset();
    assert_eq!(client.rest().await, (Vec::new(), End::Reset));
    let ended = proxy.logged_times("tunnel ended", 2).await;
    assert_eq!(ended[1]["reason"], "upstream-reset");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody_else() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]);
    let proxy = Proxy::start(&format!(
        "[server]\nworkers = 1\nlog.format = \"json\"\n{config}"
    ))
    .await;
    let (mut stalled, mut flooding) = pair(&proxy, &endpoint).await;
    let flood = Random(3).bytes(16 << 20);
    let expected = flood.clone();
    let sender = tokio::spawn(async move {
        flooding.send(flood).await;
        flooding
    });
    // The other direction of the tunnel and another tunnel of the same worker still work.
    let (mut client, mut served) = pair(&proxy, &endpoint).await;
    for _ in 0..100 {
        client.send("ping").await;
        assert_eq!(served.exactly(4).await, b"ping");
        served.send("pong").await;
        assert_eq!(client.exactly(4).await, b"pong");
    }
    stalled.send("still here").await;
    assert!(!sender.is_finished(), "16 MiB exceed all buffers");
    assert!(stalled.exactly(expected.len()).await == expected);
    let mut flooding = sender.await.unwrap();
    assert_eq!(flooding.exactly(10).await, b"still here");
}

#[tokio::test]
async fn idle_and_half_closed_tunnels_time_out() {
    let endpoint = Endpoint::bind().await;
    let config = simple(&[endpoint.address]).replace(
        "[upstream.main]",
        "timeouts = { idle = \"1s\", half_closed = \"1s\" }\n[upstream.main]",
    );
    let proxy = Proxy::start(&config).await;
    let (mut client, mut served) = pair(&proxy, &endpoint).await;
    client.rest().await;
    served.rest().await;
    assert_eq!(proxy.logged("tunnel ended").await["reason"], "idle");

    let config = config.replace("idle = \"1s\"", "idle = \"off\"");
    proxy.reload(&config).await;
    let (mut client, mut served) = pair(&proxy, &endpoint).await;
    client.finish().await;
    served.rest().await;
    client.rest().await;
    let ended = proxy.logged_times("tunnel ended", 2).await;
    assert_eq!(ended[1]["reason"], "half-closed");
}

/// Both ends of a tunnel.
async fn pair(proxy: &Proxy, endpoint: &Endpoint) -> (Wire, Wire) {
    let mut client = proxy.connect().await;
    client.send(HANDSHAKE).await;
    let served = endpoint.tunnel().await;
    assert_eq!(client.head().await.status(), 101);
    (client, served)
}
