//! Peers that do not read: the other side has to wait, and the memory that tidegate uses for them does
//! not depend on the amount of data.

use crate::harness::endpoint::Endpoint;
use crate::harness::frames::{Random, frame};
use crate::harness::proxy::{Proxy, simple};
use crate::harness::wire::Wire;

/// The messages of a sender that is never stopped: 1 GiB.
const MESSAGES: usize = 1024;

/// The number of messages that shows that the relay continues.
const SOME: usize = 64;

/// The unwritten bytes that a tunnel may keep, and the same again as overhead.
const TUNNEL_KIB: usize = 2 * 128;

/// The bytes of a body that hyper may keep (64 KiB to read and to write, on both sides), and the same
/// again as overhead.
const BODY_KIB: usize = 2 * 4 * 64;

/// Memory that a process needs once, whatever is sent: first use of code, pages of the allocator.
const SLACK_KIB: usize = 4 * 1024;

/// A message of 1 MiB in which a lost, repeated or moved byte is noticed.
fn message() -> Vec<u8> {
    frame(0x82, None, &Random(9).bytes((1 << 20) - 7))
}

/// Asserts that the memory of the process has grown by no more than `most` since `before`.
fn grew_at_most(proxy: &Proxy, before: usize, most: usize) {
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < most + SLACK_KIB, "{grown} KiB");
}

/// Both ends of a request with a body of 1 GiB: the sender, and the reader.
async fn upload(proxy: &Proxy, endpoint: &Endpoint) -> (Wire, Wire) {
    let mut client = proxy.connect().await;
    let length = MESSAGES * message().len();
    client
        .send(format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
        ))
        .await;
    let (served, _) = endpoint.request().await;
    (client, served)
}

/// Both ends of a response with a body of 1 GiB: the sender, and the reader.
async fn reply(proxy: &Proxy, endpoint: &Endpoint) -> (Wire, Wire) {
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut served, _) = endpoint.request().await;
    let length = MESSAGES * message().len();
    served
        .send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ))
        .await;
    assert_eq!(client.head().await.status(), 200);
    (served, client)
}

/// Sends as much as possible while the reader does not read, and then `through` messages in total while
/// it does: every byte arrives, and memory is bounded both times.
async fn stall_and_go_on(
    proxy: &Proxy,
    most: usize,
    through: usize,
    (mut sender, mut reader): (Wire, Wire),
) {
    let message = message();
    let before = proxy.resident_kib();
    let sent = sender.flood_up_to(&message, MESSAGES).await;
    assert!(sent < through * message.len(), "{sent} bytes were taken");
    grew_at_most(proxy, before, most);
    tokio::join!(
        async {
            sender.send(&message[sent % message.len()..]).await;
            for _ in sent / message.len() + 1..through {
                sender.send(&message).await;
            }
        },
        async {
            for _ in 0..through {
                assert!(reader.exactly(message.len()).await == message);
            }
        }
    );
    grew_at_most(proxy, before, most);
}

#[tokio::test]
async fn a_gibibyte_waits_for_a_client_that_does_not_read() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let (client, wire) = proxy.tunnel_to(&endpoint).await;
    stall_and_go_on(&proxy, TUNNEL_KIB, MESSAGES, (wire, client)).await;
}

#[tokio::test]
async fn a_gibibyte_waits_for_an_endpoint_that_does_not_read() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let (client, wire) = proxy.tunnel_to(&endpoint).await;
    stall_and_go_on(&proxy, TUNNEL_KIB, SOME, (client, wire)).await;
}

/// Bytes that clients do not read stay with the endpoints that send them.
#[tokio::test]
async fn a_hundred_stalled_readers_stall_their_endpoints_and_cost_no_memory() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let mut tunnels = Vec::new();
    for _ in 0..100 {
        tunnels.push(proxy.tunnel_to(&endpoint).await);
    }
    let before = proxy.resident_kib();
    let message = message();
    let floods = tunnels.iter_mut().map(|(_, wire)| wire.flood(&message));
    futures_util::future::join_all(floods).await;
    grew_at_most(&proxy, before, 100 * TUNNEL_KIB);
    // The tunnels continue as soon as their clients read.
    let (client, _) = &mut tunnels[0];
    assert!(client.exactly(message.len()).await == message);
}

#[tokio::test]
async fn a_reply_waits_for_a_client_that_does_not_read() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let ends = reply(&proxy, &endpoint).await;
    stall_and_go_on(&proxy, BODY_KIB, SOME, ends).await;
}

#[tokio::test]
async fn an_upload_waits_for_an_endpoint_that_does_not_read() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let ends = upload(&proxy, &endpoint).await;
    stall_and_go_on(&proxy, BODY_KIB, SOME, ends).await;
}

#[tokio::test]
async fn a_hundred_unread_responses_and_uploads_stay_with_their_senders() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let before = proxy.resident_kib();
    let mut stalled = Vec::new();
    for _ in 0..50 {
        stalled.push(upload(&proxy, &endpoint).await);
        stalled.push(reply(&proxy, &endpoint).await);
    }
    let message = message();
    let floods = stalled.iter_mut().map(|(sender, _)| sender.flood(&message));
    futures_util::future::join_all(floods).await;
    grew_at_most(&proxy, before, 100 * BODY_KIB);
}
