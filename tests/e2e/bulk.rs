//! Large messages: nothing is lost, mixed up or left behind, and the limits of a tunnel hold for them as for
//! small ones.

use crate::harness::endpoint::Endpoint;
use crate::harness::frames::{Random, frame, frames};
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::until;
use crate::harness::wire::{End, Wire};

/// Core dumps, so that a test without root can read /proc of the process.
const LOOKED_INTO: &str = "[server]\nworkers = 2\nlog.format = \"json\"\ncore_dumps = true\n";

/// After these messages a side counts as one that keeps up.
const TRUSTED: usize = 8;

/// The number of open descriptors of the process.
fn descriptors(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.pid()))
        .unwrap()
        .count()
}

/// A message of an endpoint in which a lost, repeated or moved byte is noticed.
fn message(length: usize) -> Vec<u8> {
    frame(0x82, None, &Random(length as u64).bytes(length))
}

/// Sends `bytes` in pieces of this length and asserts that they arrive.
async fn cross(sender: &mut Wire, reader: &mut Wire, bytes: &[u8], piece: usize) {
    let sending = async {
        for piece in bytes.chunks(piece) {
            sender.send(piece).await;
        }
    };
    let ((), received) = tokio::join!(sending, reader.exactly(bytes.len()));
    assert!(received == bytes, "{} bytes", bytes.len());
}

/// Passes large messages until the reader counts as one that keeps up.
async fn pass_some(sender: &mut Wire, reader: &mut Wire) {
    for _ in 0..TRUSTED {
        cross(sender, reader, &message(1 << 20), 1 << 20).await;
    }
}

/// Messages of many lengths, cut at random, up and down in several tunnels at once.
#[tokio::test]
async fn large_and_small_messages_cross_at_full_speed_and_leave_nothing_behind() {
    let endpoint = Endpoint::bind().await;
    let config = LOOKED_INTO.to_owned() + &simple(&[endpoint.address]);
    let proxy = Proxy::start(&config).await;
    let before = descriptors(&proxy);
    let mut tunnels = Vec::new();
    for _ in 0..4 {
        tunnels.push(proxy.tunnel_to(&endpoint).await);
    }
    let talks = tunnels
        .into_iter()
        .zip(0..)
        .map(async |((mut client, mut wire), seed)| {
            let mut random = Random(seed);
            for number in 0..60 {
                let length = match random.up_to(3) {
                    0 => random.up_to(2000),
                    1 => random.up_to(100_000),
                    _ => random.up_to(2 << 20),
                };
                let payload = random.bytes(length);
                let piece = random.up_to(200_000) + 1;
                if number % 2 == 0 {
                    let sent = frame(0x82, Some([1, 2, 3, 4]), &payload);
                    cross(&mut client, &mut wire, &sent, piece).await;
                } else {
                    let sent = frame(0x82, None, &payload);
                    cross(&mut wire, &mut client, &sent, piece).await;
                }
            }
        });
    futures_util::future::join_all(talks).await;
    until("all descriptors to be free again", || {
        descriptors(&proxy) <= before
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_stops_behind_large_messages_is_found_out() {
    let endpoint = Endpoint::bind().await;
    let limits = "limits = { slow_reader = \"2s\" }";
    let proxy = Proxy::start(&settings(&[endpoint.address], "", limits)).await;
    let (mut client, mut wire) = proxy.tunnel_to(&endpoint).await;
    pass_some(&mut wire, &mut client).await;
    wire.flood(&message(1 << 20)).await;
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(ended["reason"], "slow-client");
}

#[tokio::test]
async fn a_close_of_ours_comes_behind_the_large_message_under_way() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let (mut client, mut wire) = proxy.tunnel_to(&endpoint).await;
    pass_some(&mut wire, &mut client).await;
    let message = message(4 << 20);
    let (first, rest) = message.split_at(3 << 20);
    let ((), begin) = tokio::join!(wire.send(first), client.exactly(2 << 20));
    proxy.signal(rustix::process::Signal::TERM);
    proxy.logged("draining").await;
    wire.send(rest).await;
    let (end, _) = tokio::join!(client.rest(), wire.rest());
    let received = frames(&[begin, end.0].concat());
    assert_eq!(received.len(), 2);
    assert!(received[0].1 == frames(&message)[0].1);
    assert_eq!(received[1].0, 0x88);
}

#[tokio::test]
async fn a_reset_within_a_large_message_is_passed_on() {
    let endpoint = Endpoint::bind().await;
    let proxy = Proxy::start(&simple(&[endpoint.address])).await;
    let (mut client, mut wire) = proxy.tunnel_to(&endpoint).await;
    pass_some(&mut wire, &mut client).await;
    let message = message(16 << 20);
    let part = &message[..9 << 20];
    let ((), received) = tokio::join!(wire.send(part), client.exactly(part.len()));
    assert!(received == part);
    wire.reset();
    assert_eq!(client.rest().await, (Vec::new(), End::Reset));
    let ended = proxy.logged("tunnel ended").await;
    assert_eq!(ended["reason"], "upstream-reset");
}
