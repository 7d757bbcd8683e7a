//! Once a limit or an operator has judged a client, nothing more of it reaches the endpoint; a client
//! that is not to blame may finish what it was sending.

use serde_json::json;

use crate::harness::endpoint::Endpoint;
use crate::harness::frames::{close, close_payload, frame, frames};
use crate::harness::operator::Operator;
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::wire::{End, Wire};

const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

async fn limited(limits: &str) -> (Proxy, Endpoint, Wire, Wire) {
    let endpoint = Endpoint::bind().await;
    let limits = format!("limits = {{ {limits} }}");
    let proxy = Proxy::start(&settings(&[endpoint.address], "", &limits)).await;
    let (client, served) = proxy.tunnel_to(&endpoint).await;
    (proxy, endpoint, client, served)
}

/// A frame's payload, with the header that an endpoint's or a masking client's has.
fn close_length(reason: &str, masked: bool) -> usize {
    4 + reason.len() + if masked { 4 } else { 0 }
}

/// Two remarkable things in one read.
#[tokio::test]
async fn a_long_message_stays_out_whatever_follows_it() {
    const REASON: &str = "message-too-big";
    let (proxy, endpoint, mut client, mut served) = limited("message_bytes = \"1000B\"").await;
    let large = frame(0x82, MASK, &[b'x'; 1001]);
    let goodbye = frame(0x88, MASK, &1000_u16.to_be_bytes());
    let behind = [frame(0x89, MASK, b""), goodbye.clone()];
    for (number, behind) in behind.iter().enumerate() {
        if number > 0 {
            (client, served) = proxy.tunnel_to(&endpoint).await;
        }
        client.send([&large[..], behind].concat()).await;
        let end = client.exactly(close_length(REASON, false)).await;
        assert_eq!(close_payload(&end), close(1009, REASON));
        if *behind != goodbye {
            client.send(&goodbye).await;
        }
        let end = served.exactly(close_length(REASON, true)).await;
        assert_eq!(close_payload(&end), close(1001, REASON));
        served.send(frame(0x88, None, b"")).await;
        client.closed().await;
        served.closed().await;
        let ended = proxy.logged_times("tunnel ended", number + 1).await;
        assert_eq!(ended[number]["reason"], REASON);
        assert_eq!(ended[number]["bytes_from_client"], 0);
    }
}

#[tokio::test]
async fn a_client_that_floods_and_ignores_its_close_reaches_no_endpoint() {
    let empty_fragments = [frame(0x02, MASK, b""), frame(0x00, MASK, b"").repeat(1000)].concat();
    for (limits, reason, flood) in [
        (
            "messages_per_second = 5",
            "message-rate",
            frame(0x81, MASK, b"x").repeat(1000),
        ),
        (
            "messages_per_second = 5",
            "message-rate",
            frame(0x89, MASK, b"").repeat(1000),
        ),
        (
            "messages_per_second = 5",
            "message-rate",
            frame(0x8a, MASK, b"").repeat(1000),
        ),
        ("messages_per_second = 5", "message-rate", empty_fragments),
        (
            "bytes_per_second = { rate = \"100B\", action = \"close\" }",
            "byte-rate",
            frame(0x81, MASK, b"x").repeat(1000),
        ),
    ] {
        let (proxy, _endpoint, mut client, mut served) = limited(limits).await;
        let ((), (reached, _)) = tokio::join!(client.flood_out(&flood), served.rest());
        let mut reached = frames(&reached);
        let last = reached.pop().unwrap();
        assert_eq!((last.0, Some(last.1)), (0x88, close(1001, reason)));
        assert!(reached.len() < 50, "{reason}: {} frames", reached.len());
        let ended = proxy.logged("tunnel ended").await;
        assert_eq!(ended["reason"], reason);
    }
}

#[tokio::test]
async fn a_pong_that_was_asked_for_does_not_count_as_a_message() {
    let (_proxy, _endpoint, mut client, mut served) = limited("messages_per_second = 2").await;
    let (ping, pong) = (frame(0x89, None, b"?"), frame(0x8a, MASK, b"?"));
    served.send(ping.repeat(100)).await;
    client.exactly(ping.len() * 100).await;
    client.send(pong.repeat(100)).await;
    served.exactly(pong.len() * 100).await;
    let message = frame(0x81, MASK, b"still here");
    client.send(&message).await;
    assert_eq!(served.exactly(message.len()).await, message);
}

#[tokio::test]
async fn nothing_of_a_client_that_an_operator_closes_goes_on() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let message = frame(0x81, MASK, b"a message");
    let answer = frame(0x88, MASK, &1008_u16.to_be_bytes());
    for (number, before) in [0, 4, message.len()].into_iter().enumerate() {
        let (mut client, mut served) = proxy.tunnel_to(&endpoint).await;
        client.send(&message[..before]).await;
        served.exactly(before).await;
        let client_only = json!({ "filter": { "client": "127.0.0.1" } });
        let closed = operator.post("/v1/tunnels/close", &client_only).await;
        assert_eq!(closed.0, 200);
        let end = client.exactly(close_length("killed", false)).await;
        assert_eq!(close_payload(&end), close(1008, "killed"));
        client
            .send([&message[before..], &message, &answer].concat())
            .await;
        // Within a frame there is no place for a Close.
        if before == 4 {
            served.closed().await;
        } else {
            let end = served.exactly(close_length("killed", true)).await;
            assert_eq!(close_payload(&end), close(1001, "killed"));
            served.send(frame(0x88, None, b"")).await;
            served.closed().await;
        }
        assert_eq!(client.rest().await, (vec![], End::Orderly));
        let ended = proxy.logged_times("tunnel ended", number + 1).await;
        assert_eq!(ended[number]["reason"], "killed");
        assert_eq!(ended[number]["bytes_from_client"], before);
    }
}

/// Both sides have said goodbye and neither hangs up: what was promised for one that has ended holds
/// for two that have closed, with `ping`, too.
#[tokio::test]
async fn a_tunnel_that_both_sides_have_closed_does_not_stay() {
    for timeouts in [
        "half_closed = \"1s\", idle = \"off\"",
        "half_closed = \"1s\", ping = \"30s\"",
        // Without that limit, the Close stands for the Ping that can no longer be sent.
        "half_closed = \"off\", ping = \"1s\", pong = \"1s\"",
    ] {
        let endpoint = Endpoint::bind().await;
        let timeouts = format!("timeouts = {{ {timeouts} }}");
        let proxy = Proxy::start(&settings(&[endpoint.address], "", &timeouts)).await;
        let (mut client, mut served) = proxy.tunnel_to(&endpoint).await;
        let goodbye = frame(0x88, MASK, &1000_u16.to_be_bytes());
        client.send(&goodbye).await;
        assert_eq!(served.exactly(goodbye.len()).await, goodbye);
        let answer = frame(0x88, None, &1000_u16.to_be_bytes());
        served.send(&answer).await;
        assert_eq!(client.exactly(answer.len()).await, answer);
        client.closed().await;
        served.closed().await;
        let ended = proxy.logged("tunnel ended").await;
        assert_eq!(
            (&ended["reason"], &ended["close_code"]),
            (&"client-close".into(), &1000.into())
        );
    }
}
