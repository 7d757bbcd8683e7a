//! Several frames in one buffer, cut anywhere, with limits on: what comes out never exceeds them, as a
//! fresh tracker reads it, and as an independent library does.

use std::io::{self, Read, Write};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::*;
use crate::protocol::frame::{Event, Tracker};

/// The client's Close behind a frame that cuts the stream does not pass, and is answered by ours.
#[test]
fn what_follows_a_violation_does_not_hide_it() {
    let large = frame(Side::Client, 0x82, &[b'x'; 11]);
    let close = frame(Side::Client, 0x88, b"\x03\xe8");
    let ping = frame(Side::Client, 0x89, b"");
    for (behind, answers) in [
        (vec![], true),
        (ping.clone(), true),
        (close.clone(), false),
        ([ping, close].concat(), false),
        (vec![0xff; 20], false),
    ] {
        let mut framing = Framing::new(Some(10));
        let (passed, filtered) = pass(
            &mut framing,
            Side::Client,
            &[large.clone(), behind].concat(),
        );
        assert_eq!(passed, b"");
        assert_eq!(filtered.violation, Some(Violation::MessageTooBig));
        assert_eq!((filtered.close, filtered.messages), (None, 0));
        framing.close(Some(1009), "message-too-big");
        assert_eq!(
            injected(&mut framing, Side::Client),
            Some(frame(Side::Endpoint, 0x88, b"\x03\xf1message-too-big"))
        );
        assert!(injected(&mut framing, Side::Endpoint).is_some());
        let answer = frame(Side::Endpoint, 0x88, b"\x03\xe9");
        pass(&mut framing, Side::Endpoint, &answer);
        assert_eq!(framing.has_closed(), !answers);
        let answer = frame(Side::Client, 0x88, b"\x03\xf1");
        assert_eq!(pass(&mut framing, Side::Client, &answer).0, b"");
        assert!(framing.has_closed());
    }
}

#[test]
fn a_message_beyond_the_limit_does_not_go_on() {
    let mut framing = Framing::new(Some(10));
    let good = frame(Side::Client, 0x02, b"123456");
    let rest = frame(Side::Client, 0x80, b"78901");
    let (passed, filtered) = pass(&mut framing, Side::Client, &[good.clone(), rest].concat());
    assert_eq!(
        (passed, filtered.violation),
        (good, Some(Violation::MessageTooBig))
    );
    framing.close(Some(1009), "message-too-big");
    assert!(injected(&mut framing, Side::Client).is_some());
    assert!(
        injected(&mut framing, Side::Endpoint).is_some(),
        "between fragments, and without waiting: nothing more comes from the client"
    );
    let answer = frame(Side::Client, 0x88, b"\x03\xf1");
    assert_eq!(pass(&mut framing, Side::Client, &answer).0, b"");
    assert!(framing.ignores(Side::Client));
}

#[test]
fn nothing_of_a_client_that_is_cut_off_goes_on() {
    let message = frame(Side::Client, 0x81, b"abc");
    let answer = frame(Side::Client, 0x88, b"\x03\xf0");
    for (first, has_place) in [(0, true), (3, false), (message.len(), true)] {
        let mut framing = Framing::new(None);
        pass(&mut framing, Side::Client, &message[..first]);
        framing.cut_off_client();
        framing.close(Some(1008), "killed");
        assert!(injected(&mut framing, Side::Client).is_some());
        // Within a frame there is no place for a Close, and none is waited for.
        let close = injected(&mut framing, Side::Endpoint);
        assert_eq!(close.is_some(), has_place, "after {first} bytes");
        let rest = [&message[first..], &message, &answer].concat();
        assert_eq!(pass(&mut framing, Side::Client, &rest).0, b"");
        if has_place {
            framing.side_is_done(Side::Endpoint);
        }
        assert!(framing.has_closed());
    }
}

#[test]
fn a_client_that_goes_on_without_end_is_not_read_any_longer() {
    let mut framing = Framing::new(None);
    framing.cut_off_client();
    framing.close(Some(1008), "killed");
    injected(&mut framing, Side::Client).unwrap();
    let flood = frame(Side::Client, 0x89, b"").repeat(1000);
    let mut read = 0;
    while !framing.ignores(Side::Client) {
        assert_eq!(pass(&mut framing, Side::Client, &flood).0, b"");
        read += flood.len() as u32;
    }
    assert!((DISCARD_BYTES..DISCARD_BYTES + 10_000).contains(&read));
}

/// Frames from the client, what of them passes at four messages, and what that costs.
#[track_caller]
fn check_cost(framing: &mut Framing, frames: &[(u8, usize)], passing: usize, messages: u32) {
    let bytes = |frames: &[(u8, usize)]| -> Vec<u8> {
        let each = frames.iter();
        each.flat_map(|(first, length)| frame(Side::Client, *first, &vec![1; *length]))
            .collect()
    };
    let allowance = Allowance {
        cost: u64::from(4 * MESSAGE_COST),
        ..Allowance::UNLIMITED
    };
    let (passed, filtered) = pass_with(framing, Side::Client, &bytes(frames), allowance);
    assert_eq!(passed, bytes(&frames[..passing]));
    assert_eq!(filtered.messages, messages);
    let violation = (passing < frames.len()).then_some(Violation::MessageRate);
    assert_eq!(filtered.violation, violation);
}

#[test]
fn what_costs_an_endpoint_work_counts_as_messages() {
    let new = || Framing::new(Some(u64::MAX));
    check_cost(&mut new(), &[(0x82, 5); 6], 4, 4);
    check_cost(&mut new(), &[(0x89, 0); 6], 4, 0);
    check_cost(&mut new(), &[(0x8a, 0); 6], 4, 0);
    // One message in fragments: empty ones count, and 64 short ones; the last one never does.
    let fragments = |length, count| {
        let mut frames = vec![(0x02, length)];
        frames.extend(vec![(0x00, length); count]);
        frames.push((0x80, length));
        frames
    };
    check_cost(&mut new(), &fragments(0, 3), 5, 1);
    check_cost(&mut new(), &fragments(0, 4), 4, 1);
    check_cost(&mut new(), &fragments(1, 3 * 64), 3 * 64 + 2, 1);
    check_cost(&mut new(), &fragments(1, 3 * 64 + 1), 3 * 64 + 1, 1);
    check_cost(&mut new(), &fragments(1024, 1000), 1002, 1);
    // A Close is the end, once.
    check_cost(
        &mut new(),
        &[(0x82, 5), (0x82, 5), (0x82, 5), (0x82, 5), (0x88, 0)],
        5,
        4,
    );
    check_cost(&mut new(), &[(0x88, 0); 7], 5, 0);
    // Answers to Pings that have passed are free, one for each.
    let mut framing = new();
    pass(
        &mut framing,
        Side::Endpoint,
        &frame(Side::Endpoint, 0x89, b"").repeat(10),
    );
    check_cost(&mut framing, &[(0x8a, 0); 15], 14, 0);
}

/// A kind of frame, and the length of its payload.
#[derive(Debug, Clone, Copy)]
enum Spec {
    Whole(usize),
    Fragment(usize),
    Last(usize),
    Ping(usize),
    Pong(usize),
    Close,
}
use Spec::{Close, Fragment, Last, Ping, Pong, Whole};

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let length = prop_oneof![2 => Just(0), 4 => 1..20usize, 1 => 120..140usize];
    let one = (0..10u8, length).prop_map(|(kind, length)| match kind {
        0..3 => Whole(length),
        3..6 => Fragment(length),
        6 => Last(length),
        7 => Ping(length.min(125)),
        8 => Pong(length.min(125)),
        _ => Close,
    });
    prop::collection::vec(one, 1..20)
}

/// A frame, and what it means for limits.
struct Shown {
    bytes: Vec<u8>,
    message_bytes: usize,
    cost: u64,
}

/// The frames of a client, in a valid order.
fn shown(specs: &[Spec]) -> Vec<Shown> {
    let (mut within, mut message_bytes, mut closed) = (false, 0, false);
    let whole = u64::from(MESSAGE_COST);
    let show = |spec: &Spec| {
        let (first, length, cost) = match *spec {
            Whole(length) | Last(length) if !within => (0x82, length, whole),
            Fragment(length) if !within => (0x02, length, whole),
            Whole(length) | Last(length) => (0x80, length, 0),
            Fragment(0) => (0x00, 0, whole),
            Fragment(length) => (0x00, length, 1),
            Ping(length) => (0x89, length, whole),
            Pong(length) => (0x8a, length, whole),
            Close => (0x88, 2, if closed { whole } else { 0 }),
        };
        closed |= first == 0x88;
        if first & 0x8 == 0 {
            message_bytes = if within { message_bytes } else { 0 } + length;
            within = first & 0x80 == 0;
        }
        let payload = match first {
            0x88 => b"\x03\xe8".to_vec(),
            _ => vec![0; length],
        };
        Shown {
            bytes: frame(Side::Client, first, &payload),
            message_bytes: if first & 0x8 == 0 { message_bytes } else { 0 },
            cost,
        }
    };
    specs.iter().map(show).collect()
}

/// Reads from memory, and drops what is written.
struct Memory<'a>(&'a [u8]);

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The lengths of the messages that a server of the library reads, up to the end or a Close.
fn read_by_library(bytes: &[u8], limit: usize) -> Vec<usize> {
    let limits = WebSocketConfig::default().max_message_size(Some(limit));
    let mut socket = WebSocket::from_raw_socket(Memory(bytes), Role::Server, Some(limits));
    let mut lengths = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Binary(message)) => lengths.push(message.len()),
            Ok(_) => {}
            Err(Error::ConnectionClosed | Error::Protocol(_) | Error::Io(_)) => return lengths,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The longest message and the number of messages and Pings, as a fresh tracker sees them.
fn read_by_tracker(mut bytes: &[u8]) -> (u64, u64) {
    let mut tracker = Tracker::new(Masking::Required);
    let (mut longest, mut count) = (0, 0);
    while !bytes.is_empty() {
        let (length, event) = tracker.step(bytes);
        bytes = &bytes[length..];
        match event {
            Some(Event::Data {
                opcode,
                message_bytes,
            }) => {
                longest = longest.max(message_bytes);
                count += u64::from(opcode.begins_message());
            }
            Some(Event::Control(Control::Ping)) => count += 1,
            Some(Event::Invalid(error)) => panic!("{error}"),
            _ => {}
        }
    }
    (longest, count)
}

proptest! {
    /// Exactly the frames before the first one that violates a limit go on, whatever is around it.
    #[test]
    fn what_goes_on_keeps_to_the_limits(
        specs in specs(),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
        limit in 1..160u64,
        messages in 1..12u64,
        bytes in prop_oneof![Just(u64::MAX), 0..300u64],
    ) {
        let frames = shown(&specs);
        let came: Vec<u8> = frames.iter().flat_map(|it| it.bytes.clone()).collect();
        let allowance = Allowance { cost: messages * u64::from(MESSAGE_COST), bytes };
        let mut framing = Framing::new(Some(limit));
        let (went, all) = pass_cut(&mut framing, Side::Client, &came, &cuts, allowance);
        let violation = all.iter().find_map(|it| it.violation);

        // Where bytes are cut off depends on the pieces in which they come; all else does not.
        let (mut cost, mut expected) = (0, Vec::new());
        let mut first = None;
        for frame in &frames {
            cost += frame.cost;
            first = if frame.message_bytes as u64 > limit {
                Some(Violation::MessageTooBig)
            } else if frame.cost > 0 && cost > allowance.cost {
                Some(Violation::MessageRate)
            } else {
                None
            };
            if first.is_some() {
                break;
            }
            expected.extend(&frame.bytes);
        }
        if bytes == u64::MAX {
            prop_assert_eq!((&went, violation), (&expected, first));
        }
        prop_assert!(expected.starts_with(&went) && went.len() as u64 <= bytes);
        let (longest, count) = read_by_tracker(&went);
        prop_assert!(longest <= limit && count <= messages);
        let lengths = read_by_library(&went, limit as usize);
        prop_assert!(lengths.len() as u64 <= messages);

        // Both sides still get a Close: a limit on messages cuts between frames.
        prop_assert_eq!(violation.is_some(), framing.discards(Side::Client));
        if violation.is_some_and(|it| it != Violation::ByteRate) {
            framing.close(Some(1008), "limit");
            prop_assert!(injected(&mut framing, Side::Client).is_some() || framing.has_passed_both_closes() || all.iter().any(|it| it.close.is_some()));
            let closed = all.iter().any(|it| it.close.is_some());
            prop_assert_eq!(injected(&mut framing, Side::Endpoint).is_none(), closed);
        }
        let more = frame(Side::Client, 0x82, b"more");
        if violation.is_some() {
            prop_assert_eq!(pass(&mut framing, Side::Client, &more).0, b"");
        }
    }
}
