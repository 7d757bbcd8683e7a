//! Large frames: what comes out is the same whether the kernel passes them on or they are copied.

use proptest::prelude::*;

use super::*;
use crate::protocol::frame::{Event, Masking, Tracker};
use crate::tunnel::ended::Ended;
use crate::tunnel::framing;

const MIB: usize = 1 << 20;

/// What a side sends.
#[derive(Debug, Clone)]
struct Script {
    /// The first byte and the length of the payload of each frame.
    frames: Vec<(u8, usize)>,
    /// Bytes written at once, over and over.
    pieces: Vec<usize>,
    /// How often the other side lets others run before it reads.
    slowness: usize,
    /// Whether it stops within the last frame.
    is_cut: bool,
}

/// What came of two scripts.
#[derive(Debug, PartialEq)]
struct Outcome {
    received: [Vec<u8>; 2],
    bytes: [u64; 2],
    messages: [u64; 2],
    finished: (Ended, Option<(Side, u16)>, bool),
}

/// A payload in which a lost, repeated or moved byte is noticed.
fn payload(length: usize, seed: usize) -> Vec<u8> {
    let circle: Vec<u8> = (0..251).collect();
    let start = seed * 7 % circle.len();
    let bytes = circle.repeat((start + length).div_ceil(circle.len()));
    bytes[start..start + length].to_vec()
}

fn frame(from: Side, first: u8, length: usize, seed: usize) -> Vec<u8> {
    framing::tests::frame(from, first, &payload(length, seed))
}

impl Script {
    fn large(count: usize, length: usize) -> Self {
        Self {
            frames: vec![(0x82, length); count],
            pieces: vec![MIB],
            slowness: 0,
            is_cut: false,
        }
    }

    fn bytes(&self, from: Side) -> Vec<u8> {
        let frames = self.frames.iter().enumerate();
        let mut bytes: Vec<u8> = frames
            .flat_map(|(seed, &(first, length))| frame(from, first, length, seed))
            .collect();
        if self.is_cut {
            bytes.truncate(bytes.len() - bytes.len() / 7);
        }
        bytes
    }
}

/// Lets the sides use the pipe from the first byte on, or not at all.
fn prepare(tunnel: &mut Tunnel, by_pipe: bool) {
    tunnel.to_client.trust(1 << 30);
    tunnel.to_endpoint.trust(1 << 30);
    if !by_pipe {
        tunnel.scratch.0.borrow_mut().pipe.refuse();
    }
}

async fn send(socket: &mut (impl AsyncWrite + Unpin), script: &Script, from: Side) {
    let bytes = script.bytes(from);
    let (mut rest, mut pieces) = (&bytes[..], script.pieces.iter().cycle());
    while let (false, Some(piece)) = (rest.is_empty(), pieces.next()) {
        let (now, later) = rest.split_at(rest.len().min(*piece));
        socket.write_all(now).await.unwrap();
        tokio::task::yield_now().await;
        rest = later;
    }
}

async fn receive(socket: &mut (impl tokio::io::AsyncRead + Unpin), slowness: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 200_000 >> slowness];
    loop {
        for _ in 0..slowness {
            tokio::task::yield_now().await;
        }
        match socket.read(&mut buffer).await.unwrap() {
            0 => return all,
            length => all.extend(&buffer[..length]),
        }
    }
}

/// Runs both scripts in one tunnel, the client's to its end before the endpoint's ends. Returns also how
/// many bytes went through the pipe.
async fn run(client_script: &Script, endpoint_script: &Script, by_pipe: bool) -> (Outcome, u64) {
    let limits = TunnelLimits::default();
    let Ends {
        mut tunnel,
        client,
        endpoint,
        ..
    } = ends_in(&Rc::default(), InitialBytes::default(), limits).await;
    prepare(&mut tunnel, by_pipe);
    let scratch = tunnel.scratch.clone();
    let entry = Rc::clone(tunnel.slot.entry());
    let (mut from_tunnel, mut to_tunnel) = client.into_split();
    let (mut endpoint_in, mut endpoint_out) = endpoint.into_split();
    let (finished, (), down, up) = tokio::join!(
        tunnel,
        async {
            send(&mut to_tunnel, client_script, Side::Client).await;
            to_tunnel.shutdown().await.unwrap();
        },
        receive(&mut from_tunnel, endpoint_script.slowness),
        async {
            let ((), up) = tokio::join!(
                send(&mut endpoint_out, endpoint_script, Side::Endpoint),
                receive(&mut endpoint_in, client_script.slowness),
            );
            endpoint_out.shutdown().await.unwrap();
            up
        },
    );
    let sides = [Side::Client, Side::Endpoint];
    let outcome = Outcome {
        received: [up, down],
        bytes: sides.map(|side| entry.meter.bytes(side)),
        messages: sides.map(|side| entry.meter.messages(side)),
        finished: (finished.ended, finished.closed, finished.unframed),
    };
    let passed = scratch.0.borrow().pipe.passed;
    (outcome, passed)
}

#[tokio::test]
async fn large_frames_go_through_the_pipe_and_small_ones_do_not() {
    for (length, slowness, expected) in [(64 << 10, 0, true), (4 * MIB, 2, true), (2000, 0, false)]
    {
        let script = Script {
            slowness,
            ..Script::large(12 * MIB / length, length)
        };
        let (outcome, passed) = run(&script, &script, true).await;
        let sent = [Side::Client, Side::Endpoint].map(|side| script.bytes(side));
        assert!(outcome.received == sent, "{length}");
        assert_eq!(outcome.bytes, [sent[0].len() as u64, sent[1].len() as u64]);
        assert_eq!(passed > 4 << 20, expected, "{passed} bytes of {length}");
    }
}

/// What is neither frames nor limited passes through the pipe, too.
#[tokio::test]
async fn a_stream_of_something_else_goes_through_the_pipe() {
    let script = Script::large(2, 8 * MIB);
    let other = Script {
        frames: vec![(0x83, 16 * MIB)],
        ..script.clone()
    };
    let (outcome, passed) = run(&script, &other, true).await;
    assert!(outcome.finished.2);
    assert!(outcome.received == [script.bytes(Side::Client), other.bytes(Side::Endpoint)]);
    assert!(passed > 20 << 20, "{passed}");
}

fn script() -> impl Strategy<Value = Script> {
    let length = prop_oneof![
        3 => 0..2000usize,
        3 => 10_000..70_000usize,
        4 => 60_000..400_000usize,
        1 => Just(MIB),
    ];
    let frames = prop::collection::vec((0..6u8, length), 1..10).prop_map(|specs| {
        let mut open = false;
        let frame = |(kind, length): (u8, usize)| match kind {
            0 => (0x89, length % 126),
            1 => (0x8a, length % 126),
            kind => {
                let opcode = if open { 0x0 } else { 0x2 };
                open = kind == 2;
                (opcode | if open { 0 } else { 0x80 }, length)
            }
        };
        specs.into_iter().map(frame).collect()
    });
    let pieces = prop::collection::vec(prop_oneof![1..2000usize, 30_000..300_000usize], 1..5);
    (frames, pieces, 0..4usize, any::<bool>(), 0..3u8).prop_map(
        |(mut frames, pieces, slowness, is_cut, end): (Vec<(u8, usize)>, _, _, _, _)| {
            match end {
                0 => frames.push((0x88, 2)),
                1 => frames.push((0x83, 100_000)),
                _ => {}
            }
            Script {
                frames,
                pieces,
                slowness,
                is_cut,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// The same bytes, the same meters and the same end, whatever is sent in whatever pieces.
    #[test]
    fn the_pipe_changes_nothing(client in script(), endpoint in script()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (by_pipe, _) = runtime.block_on(run(&client, &endpoint, true));
        let (copied, _) = runtime.block_on(run(&client, &endpoint, false));
        prop_assert!(by_pipe.received[0] == client.bytes(Side::Client));
        prop_assert!(by_pipe.received[1] == endpoint.bytes(Side::Endpoint));
        prop_assert_eq!(by_pipe.bytes, copied.bytes);
        prop_assert_eq!(by_pipe.messages, copied.messages);
        prop_assert_eq!(by_pipe.finished, copied.finished);
    }
}

/// The frames in these bytes: where each begins, and its first byte. The last one is whole.
fn frame_starts(bytes: &[u8]) -> Vec<(usize, u8)> {
    let mut tracker = Tracker::new(Masking::Forbidden);
    let (mut at, mut starts) = (0, Vec::new());
    while at < bytes.len() {
        let (length, event) = tracker.step(&bytes[at..]);
        at += length;
        if let Some(Event::Data { .. } | Event::Control(_)) = event {
            let start = at - tracker.header_size();
            starts.push((start, bytes[start]));
        }
        assert_eq!(tracker.error(), None);
    }
    assert!(tracker.at_boundary());
    starts
}

/// A Ping and a Close of ours, asked for at any time, stand between two frames of the endpoint's.
#[tokio::test]
async fn frames_of_ours_stand_between_those_that_the_kernel_passes_on() {
    for trial in 0..12 {
        let limits = TunnelLimits::default();
        let Ends {
            mut tunnel,
            mut client,
            mut endpoint,
            table,
        } = ends_in(&Rc::default(), InitialBytes::default(), limits).await;
        prepare(&mut tunnel, true);
        let scratch = tunnel.scratch.clone();
        let entry = Rc::clone(tunnel.slot.entry());
        let script = Script::large(12, 700_000);
        let sent = script.bytes(Side::Endpoint);
        let (finished, (), received) = tokio::join!(
            tunnel,
            async {
                let mut rest = &sent[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(rest.len().min(90_000));
                    endpoint.write_all(now).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = later;
                }
                let mut close = [0; 13];
                endpoint.read_exact(&mut close).await.unwrap();
                endpoint.write_all(b"\x88\0").await.unwrap();
            },
            async {
                let mut received = Vec::new();
                let mut buffer = vec![0; 50_000];
                let (ping, close) = (400_000 * trial + 1_000_000, 500_000 * trial + 1_700_000);
                loop {
                    let before = received.len();
                    let length = client.read(&mut buffer).await.unwrap();
                    received.extend(&buffer[..length]);
                    if (before..received.len()).contains(&ping) {
                        entry.flags.set(Flags::PING[Side::Client as usize], true);
                        entry.wake();
                    }
                    if (before..received.len()).contains(&close) {
                        table.end_all(Ended::Drain);
                    }
                    if received.ends_with(b"\x88\x07\x03\xf4drain") {
                        break;
                    }
                }
                client.write_all(b"\x88\x80\0\0\0\0").await.unwrap();
                received
            },
        );
        assert_eq!(finished.ended, Ended::Drain);
        let starts = frame_starts(&received);
        let pings = starts.iter().filter(|(_, first)| *first == 0x89).count();
        assert!(pings <= 1, "{starts:?}");
        assert_eq!(starts.last().unwrap().1, 0x88);
        let frame_length = sent.len() / 12;
        let whole = starts.iter().filter(|(_, first)| *first == 0x82).count();
        assert_eq!(received.len(), whole * frame_length + pings * 10 + 9);
        assert!(scratch.0.borrow().pipe.passed > 500_000);
    }
}

/// A message beyond the limit does not pass, whatever the kernel has passed on before it.
#[tokio::test]
async fn a_limit_on_messages_holds_behind_large_ones() {
    let limits = TunnelLimits {
        message_bytes: Some(MIB as u64),
        ..TunnelLimits::default()
    };
    let Ends {
        mut tunnel,
        mut client,
        mut endpoint,
        ..
    } = ends_in(&Rc::default(), InitialBytes::default(), limits).await;
    prepare(&mut tunnel, true);
    let scratch = tunnel.scratch.clone();
    let good = Script::large(6, MIB).bytes(Side::Client);
    let (finished, up, ()) = tokio::join!(
        tunnel,
        async {
            let mut up = vec![0; good.len()];
            endpoint.read_exact(&mut up).await.unwrap();
            let mut close = [0; 6];
            endpoint.read_exact(&mut close).await.unwrap();
            assert_eq!(close[0], 0x88);
            endpoint.write_all(b"\x88\0").await.unwrap();
            up
        },
        async {
            client.write_all(&good).await.unwrap();
            let bad = frame(Side::Client, 0x82, MIB + 1, 0);
            let _ = client.write_all(&bad).await;
            let mut close = [0; 4];
            client.read_exact(&mut close).await.unwrap();
            assert_eq!(close[2..], 1009u16.to_be_bytes());
            client.write_all(b"\x88\x80\0\0\0\0").await.unwrap();
        },
    );
    assert_eq!(finished.ended, Ended::MessageTooBig);
    assert!(up == good);
    assert!(scratch.0.borrow().pipe.passed > 3 << 20);
}

/// A reset in the middle of a large frame comes after everything that was read before it.
#[tokio::test]
async fn a_reset_within_a_large_frame_discards_nothing_that_was_read() {
    let Ends {
        mut tunnel,
        mut client,
        mut endpoint,
        ..
    } = ends(InitialBytes::default()).await;
    prepare(&mut tunnel, true);
    let scratch = tunnel.scratch.clone();
    let entry = Rc::clone(tunnel.slot.entry());
    let sent = frame(Side::Endpoint, 0x82, 16 * MIB, 0);
    let part = &sent[..5 * MIB];
    let (finished, (), received) = tokio::join!(
        tunnel,
        async {
            endpoint.write_all(part).await.unwrap();
            while entry.meter.bytes(Side::Endpoint) < part.len() as u64 {
                tokio::task::yield_now().await;
            }
            endpoint.set_zero_linger().unwrap();
            drop(endpoint);
        },
        async {
            let mut received: Vec<u8> = Vec::new();
            let mut buffer = vec![0; 50_000];
            while let Ok(length @ 1..) = client.read(&mut buffer).await {
                received.extend(&buffer[..length]);
            }
            received
        },
    );
    assert_eq!(finished.ended, Ended::UpstreamReset);
    assert!(received == part, "{} bytes", received.len());
    assert!(scratch.0.borrow().pipe.passed > 3 << 20);
}

/// A client that goes away with bytes on their way to it leaves none of them in the pipe for others.
#[tokio::test]
async fn what_a_broken_side_has_not_taken_is_not_for_the_next_tunnel() {
    let scratch = Scratch::new();
    for round in 0..4 {
        let Ends {
            mut tunnel,
            mut client,
            mut endpoint,
            ..
        } = ends(InitialBytes::default()).await;
        tunnel.scratch = scratch.clone();
        prepare(&mut tunnel, true);
        let sent = frame(Side::Endpoint, 0x82, 16 * MIB, round);
        let says_nothing = round % 2 == 1;
        let (finished, (), ()) = tokio::join!(
            tunnel,
            async {
                let _ = endpoint.write_all(&sent).await;
                let _ = endpoint.read(&mut [0]).await;
            },
            async {
                // Its own direction would show first that it is gone.
                if says_nothing {
                    client.shutdown().await.unwrap();
                }
                let mut received = vec![0; 4 * MIB];
                client.read_exact(&mut received).await.unwrap();
                assert!(received == sent[..received.len()]);
                client.set_zero_linger().unwrap();
                drop(client);
            },
        );
        let expected = match says_nothing {
            true => Ended::ClientEof,
            false => Ended::ClientReset,
        };
        assert_eq!(finished.ended, expected);
        assert!(scratch.0.borrow().pipe.is_empty());
    }
    assert!(scratch.0.borrow().pipe.passed > 4 << 20);
}
