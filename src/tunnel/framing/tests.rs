//! What goes on, what is swallowed and what is added, with streams cut at every place.

use proptest::prelude::*;

use super::*;

const MASK: [u8; 4] = [7, 7, 7, 7];
const PING: PingPayload = *b"tidegate";

/// A frame as a client sends it (masked with zeros), or an endpoint.
fn frame(from: Side, first: u8, payload: &[u8]) -> Vec<u8> {
    let masked = if from == Side::Client { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(masked | length as u8),
        length @ 126..=65_535 => {
            bytes.push(masked | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(masked | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    if from == Side::Client {
        bytes.extend([0; 4]);
    }
    bytes.extend(payload);
    bytes
}

/// Filters `bytes`; returns what goes on, the messages that began, and the notice.
fn pass(framing: &mut Framing, from: Side, bytes: &[u8]) -> (Vec<u8>, u32, Option<Notice>) {
    let mut buffer = vec![0xee; HEADROOM + bytes.len()];
    buffer[HEADROOM..].copy_from_slice(bytes);
    let end = buffer.len();
    let filtered = framing.filter(from, &mut buffer, end);
    (
        buffer[filtered.pass].to_vec(),
        filtered.messages,
        filtered.notice,
    )
}

/// The same in pieces that end at `cuts`.
fn pass_cut(
    framing: &mut Framing,
    from: Side,
    bytes: &[u8],
    cuts: &[usize],
) -> (Vec<u8>, u32, Vec<Notice>) {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    let (mut passed, mut messages, mut notices) = (Vec::new(), 0, Vec::new());
    for window in ends.windows(2) {
        let (more, count, notice) = pass(framing, from, &bytes[window[0]..window[1]]);
        passed.extend(more);
        messages += count;
        notices.extend(notice);
    }
    (passed, messages, notices)
}

fn injected(framing: &mut Framing, to: Side) -> Option<Vec<u8>> {
    framing.inject(to, MASK).map(Frame::into_bytes)
}

#[test]
fn a_ping_goes_between_frames_and_its_pong_is_removed() {
    let mut framing = Framing::new(None);
    framing.ping(Side::Client, PING);
    let message = frame(Side::Endpoint, 0x82, b"abcdef");
    pass(&mut framing, Side::Endpoint, &message[..4]);
    assert_eq!(injected(&mut framing, Side::Client), None, "within a frame");
    pass(&mut framing, Side::Endpoint, &message[4..]);
    assert_eq!(
        injected(&mut framing, Side::Client),
        Some(frame(Side::Endpoint, 0x89, &PING))
    );
    assert_eq!(injected(&mut framing, Side::Client), None, "once");
    let theirs = frame(Side::Client, 0x8a, b"theirs!!");
    let ours = frame(Side::Client, 0x8a, &PING);
    let (passed, _, notice) = pass(&mut framing, Side::Client, &[theirs.clone(), ours].concat());
    assert_eq!((passed, notice), (theirs, Some(Notice::Pong)));
}

#[test]
fn no_ping_of_ours_while_theirs_is_unanswered() {
    let mut framing = Framing::new(None);
    pass(
        &mut framing,
        Side::Client,
        &frame(Side::Client, 0x89, b"theirs"),
    );
    framing.ping(Side::Endpoint, PING);
    assert_eq!(injected(&mut framing, Side::Endpoint), None);
    let pong = frame(Side::Endpoint, 0x8a, b"theirs");
    assert_eq!(pass(&mut framing, Side::Endpoint, &pong).0, pong);
    let ping = injected(&mut framing, Side::Endpoint).unwrap();
    assert_eq!(
        ping[..6],
        [0x89, 0x88, 7, 7, 7, 7],
        "masked towards an endpoint"
    );
}

#[test]
fn a_close_goes_to_the_client_and_then_to_the_endpoint() {
    let mut framing = Framing::new(None);
    framing.close(Some(1012), "shutdown");
    assert_eq!(injected(&mut framing, Side::Endpoint), None, "not its turn");
    let close = injected(&mut framing, Side::Client).unwrap();
    assert_eq!(close, frame(Side::Endpoint, 0x88, b"\x03\xf4shutdown"));
    // The endpoint's messages no longer go on, the client's do.
    let late = frame(Side::Endpoint, 0x81, b"late");
    assert_eq!(pass(&mut framing, Side::Endpoint, &late).0, b"");
    let message = frame(Side::Client, 0x81, b"last");
    let answer = frame(Side::Client, 0x88, b"\x03\xf4");
    let (passed, ..) = pass(
        &mut framing,
        Side::Client,
        &[message.clone(), answer].concat(),
    );
    assert_eq!(passed, message);
    assert!(!framing.has_closed());
    let close = injected(&mut framing, Side::Endpoint).unwrap();
    assert_eq!(close[..2], [0x88, 0x80 | 10]);
    let (passed, ..) = pass(
        &mut framing,
        Side::Endpoint,
        &frame(Side::Endpoint, 0x88, b"\x03\xe9"),
    );
    assert!(passed.is_empty() && framing.has_closed());
}

#[test]
fn a_side_that_closes_by_itself_is_not_interrupted() {
    let mut framing = Framing::new(None);
    let close = frame(Side::Client, 0x88, b"\x03\xe8");
    let (passed, _, notice) = pass(&mut framing, Side::Client, &close);
    assert_eq!(
        (passed, notice),
        (close, Some(Notice::Close { code: 1000 }))
    );
    framing.close(Some(1001), "idle");
    assert!(framing.has_closed());
    assert_eq!(injected(&mut framing, Side::Client), None);
    framing.ping(Side::Endpoint, PING);
    assert_eq!(injected(&mut framing, Side::Endpoint), None);
}

#[test]
fn a_close_that_crosses_ours_is_taken_for_the_answer() {
    let mut framing = Framing::new(None);
    let close = frame(Side::Client, 0x88, b"\x03\xe8");
    pass(&mut framing, Side::Client, &close[..1]);
    framing.close(Some(1001), "idle");
    injected(&mut framing, Side::Client).unwrap();
    // Its first byte has gone on, so that the rest must.
    let (rest, ..) = pass(&mut framing, Side::Client, &close[1..]);
    assert_eq!(rest, close[1..]);
}

#[test]
fn a_message_beyond_the_limit_does_not_go_on() {
    let mut framing = Framing::new(Some(10));
    let good = frame(Side::Client, 0x02, b"123456");
    let rest = frame(Side::Client, 0x80, b"78901");
    let (passed, _, notice) = pass(&mut framing, Side::Client, &[good.clone(), rest].concat());
    assert_eq!((passed, notice), (good, Some(Notice::MessageTooBig)));
    framing.close(Some(1009), "message-too-big");
    assert!(injected(&mut framing, Side::Client).is_some());
    let answer = frame(Side::Client, 0x88, b"\x03\xf1");
    assert_eq!(pass(&mut framing, Side::Client, &answer).0, b"");
    assert!(
        injected(&mut framing, Side::Endpoint).is_some(),
        "between fragments"
    );
}

#[test]
fn invalid_frames_pass_unless_there_is_a_limit() {
    let odd = b"\x83\x80\0\0\0\0 not a frame";
    let mut framing = Framing::new(None);
    let (passed, _, notice) = pass(&mut framing, Side::Client, odd);
    assert_eq!(
        (passed.as_slice(), notice),
        (&odd[..], Some(Notice::Unframed))
    );
    framing.close(Some(1001), "idle");
    assert!(framing.has_closed(), "there is nothing to say");
    let mut framing = Framing::new(Some(1000));
    let (passed, _, notice) = pass(&mut framing, Side::Client, odd);
    assert_eq!(
        (passed.as_slice(), notice),
        (&b""[..], Some(Notice::ProtocolError))
    );
    // The client gets its Close; the endpoint cannot get one.
    framing.close(Some(1002), "protocol-error");
    let close = injected(&mut framing, Side::Client).unwrap();
    assert_eq!(
        close,
        frame(Side::Endpoint, 0x88, b"\x03\xeaprotocol-error")
    );
    assert!(framing.has_closed());
    let mut framing = Framing::new(Some(1000));
    pass(&mut framing, Side::Endpoint, b"\x83\0");
    framing.close(Some(1002), "protocol-error");
    assert!(framing.has_closed(), "no Close would be one");
}

/// Frames of one direction: messages, fragments, Pings, Pongs that are not ours, Pongs that are.
fn stream(from: Side) -> impl Strategy<Value = Vec<(Vec<u8>, bool)>> {
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..12),
        1 => (120..140usize).prop_map(|length| vec![1; length]),
    ];
    prop::collection::vec((0..6u8, payload), 1..8).prop_map(move |specs| {
        let mut open = false;
        let mut frames = Vec::new();
        for (kind, payload) in specs {
            let short: Vec<u8> = payload.iter().copied().take(125).collect();
            let (first, payload, ours) = match kind {
                0 => (0x89, short, false),
                1 => (0x8a, short, false),
                2 => (0x8a, b"tidegatf".to_vec(), false),
                3 => (0x8a, PING.to_vec(), true),
                kind => {
                    let opcode = if open { 0x0 } else { 0x1 };
                    open = kind == 4;
                    (opcode | if open { 0 } else { 0x80 }, payload, false)
                }
            };
            frames.push((frame(from, first, &payload), ours));
        }
        frames
    })
}

proptest! {
    /// Without anything of ours all bytes pass, and all messages count, however they are cut.
    #[test]
    fn all_passes(frames in stream(Side::Client), cuts in prop::collection::vec(any::<usize>(), 0..9)) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let messages = frames.iter().filter(|(bytes, _)| bytes[0] & 0xf == 1).count();
        let (passed, counted, _) = pass_cut(&mut Framing::new(None), Side::Client, &bytes, &cuts);
        prop_assert_eq!(passed, bytes);
        prop_assert_eq!(counted as usize, messages);
    }

    /// The first Pong to our Ping is removed, and nothing else, however the stream is cut.
    #[test]
    fn only_our_pong_is_swallowed(
        frames in stream(Side::Endpoint),
        cuts in prop::collection::vec(any::<usize>(), 0..9),
    ) {
        let mut framing = Framing::new(None);
        framing.ping(Side::Endpoint, PING);
        prop_assert!(injected(&mut framing, Side::Endpoint).is_some());
        let bytes: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let first = frames.iter().position(|(_, ours)| *ours);
        let expected: Vec<u8> = frames
            .iter()
            .enumerate()
            .filter(|(at, _)| Some(*at) != first)
            .flat_map(|(_, (bytes, _))| bytes.clone())
            .collect();
        let (passed, _, notices) = pass_cut(&mut framing, Side::Endpoint, &bytes, &cuts);
        prop_assert_eq!(passed, expected);
        prop_assert_eq!(notices.contains(&Notice::Pong), first.is_some());
    }

    /// After our Close the client's stream passes up to its answer, wherever it is cut.
    #[test]
    fn the_answer_to_our_close_is_swallowed(
        frames in stream(Side::Client),
        cuts in prop::collection::vec(any::<usize>(), 0..9),
    ) {
        let mut framing = Framing::new(None);
        framing.close(Some(1012), "drain");
        prop_assert!(injected(&mut framing, Side::Client).is_some());
        let before: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let answer = frame(Side::Client, 0x88, b"\x03\xf4drain");
        let (passed, ..) = pass_cut(&mut framing, Side::Client, &[before.clone(), answer].concat(), &cuts);
        prop_assert_eq!(passed, before);
        prop_assert!(injected(&mut framing, Side::Endpoint).is_some());
    }

    /// Whatever comes in whatever pieces, with a Ping and a Close of ours in between: no panic, and
    /// what goes on is what came, in order, with nothing added.
    #[test]
    fn nothing_is_invented(
        bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(0x8a), 1 => Just(0x88)], 0..200),
        cuts in prop::collection::vec(any::<usize>(), 0..9),
        ping in any::<bool>(),
        close in any::<bool>(),
    ) {
        for from in [Side::Client, Side::Endpoint] {
            let mut framing = Framing::new(None);
            if ping {
                framing.ping(from, PING);
                injected(&mut framing, from);
            }
            if close {
                framing.close(Some(1001), "idle");
                injected(&mut framing, Side::Client);
            }
            let (passed, ..) = pass_cut(&mut framing, from, &bytes, &cuts);
            let mut rest = bytes.iter();
            prop_assert!(passed.iter().all(|byte| rest.any(|other| other == byte)));
        }
    }
}
