//! What goes on, what is swallowed and what is added, with streams cut at every place.

use proptest::prelude::*;

use super::*;
use crate::protocol::opcode::Opcode;

const MASK: [u8; 4] = [7, 7, 7, 7];
const PING: PingPayload = *b"tidegate";

/// A frame as a client sends it (masked with zeros), or an endpoint.
pub(in crate::tunnel) fn frame(from: Side, first: u8, payload: &[u8]) -> Vec<u8> {
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

/// Filters `bytes` with this allowance; returns what goes on, and what happened.
fn pass_with(
    framing: &mut Framing,
    from: Side,
    bytes: &[u8],
    allowance: Allowance,
) -> (Vec<u8>, Filtered) {
    let mut buffer = vec![0xee; HEADROOM + bytes.len()];
    buffer[HEADROOM..].copy_from_slice(bytes);
    let end = buffer.len();
    let filtered = framing.filter(from, &mut buffer, end, allowance);
    (buffer[filtered.pass.clone()].to_vec(), filtered)
}

/// The same without a limit on rates.
fn pass(framing: &mut Framing, from: Side, bytes: &[u8]) -> (Vec<u8>, Filtered) {
    pass_with(framing, from, bytes, Allowance::UNLIMITED)
}

/// The same in pieces that end at `cuts`, with one allowance for all of them.
fn pass_cut(
    framing: &mut Framing,
    from: Side,
    bytes: &[u8],
    cuts: &[usize],
    mut allowance: Allowance,
) -> (Vec<u8>, Vec<Filtered>) {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    let (mut passed, mut all) = (Vec::new(), Vec::new());
    for window in ends.windows(2) {
        let piece = &bytes[window[0]..window[1]];
        let (more, filtered) = pass_with(framing, from, piece, allowance);
        passed.extend(more);
        allowance.cost = allowance.cost.saturating_sub(filtered.cost.into());
        allowance.bytes = allowance.bytes.saturating_sub(piece.len() as u64);
        all.push(filtered);
    }
    (passed, all)
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
    let (passed, filtered) = pass(&mut framing, Side::Client, &[theirs.clone(), ours].concat());
    assert_eq!((passed, filtered.pong), (theirs, true));
}

#[test]
fn a_close_takes_the_place_of_a_ping_that_is_due() {
    for from in [Side::Client, Side::Endpoint] {
        let mut framing = Framing::new(None);
        let message = frame(from, 0x82, b"hi");
        pass(&mut framing, from, &message[..3]);
        assert!(framing.ping(from.other(), PING));
        assert_eq!(injected(&mut framing, from.other()), None);
        let rest = [&message[3..], &frame(from, 0x88, b"")].concat();
        let (passed, filtered) = pass(&mut framing, from, &rest);
        assert_eq!(passed, rest);
        assert!(filtered.replaces_ping);
        assert!(!framing.has_frame_for(from.other()));
        assert!(!pass(&mut framing, from, b"").1.replaces_ping, "once");
    }
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
    let behind = frame(Side::Client, 0x81, b"behind its answer");
    let (passed, _) = pass(
        &mut framing,
        Side::Client,
        &[message.clone(), answer, behind].concat(),
    );
    assert_eq!(passed, message);
    assert!(!framing.has_closed());
    assert!(framing.ignores(Side::Client), "it has said all");
    let close = injected(&mut framing, Side::Endpoint).unwrap();
    assert_eq!(close[..2], [0x88, 0x80 | 10]);
    let (passed, _) = pass(
        &mut framing,
        Side::Endpoint,
        &frame(Side::Endpoint, 0x88, b"\x03\xe9"),
    );
    assert!(passed.is_empty() && framing.has_closed());
}

#[test]
fn a_side_that_closes_by_itself_is_not_interrupted() {
    for from in [Side::Client, Side::Endpoint] {
        let mut framing = Framing::new(None);
        let close = frame(from, 0x88, b"\x03\xe8");
        let (passed, filtered) = pass(&mut framing, from, &close);
        assert_eq!((passed, filtered.close), (close, Some(1000)));
        framing.close(Some(1001), "idle");
        assert_eq!(injected(&mut framing, Side::Client), None);
        assert!(!framing.ping(from.other(), PING));
        assert_eq!(injected(&mut framing, Side::Endpoint), None);
        // Its answer passes, and is the end.
        assert!(!framing.has_closed());
        let answer = frame(from.other(), 0x88, b"\x03\xe8");
        assert_eq!(pass(&mut framing, from.other(), &answer).0, answer);
        assert!(framing.has_closed() && framing.has_passed_both_closes());
    }
}

#[test]
fn a_close_that_crosses_ours_is_taken_for_the_answer() {
    let mut framing = Framing::new(None);
    let close = frame(Side::Client, 0x88, b"\x03\xe8");
    pass(&mut framing, Side::Client, &close[..1]);
    framing.close(Some(1001), "idle");
    injected(&mut framing, Side::Client).unwrap();
    // Its first byte has gone on, so that the rest must.
    let (rest, _) = pass(&mut framing, Side::Client, &close[1..]);
    assert_eq!(rest, close[1..]);
    // So the endpoint has its Close, and gets no second one. Its answer is all that is missing.
    assert_eq!(injected(&mut framing, Side::Endpoint), None);
    assert!(!framing.has_closed());
    let answer = frame(Side::Endpoint, 0x88, b"\x03\xe8");
    assert_eq!(pass(&mut framing, Side::Endpoint, &answer).0, b"");
    assert!(framing.has_closed());
}

#[test]
fn a_side_whose_close_comes_before_ours_gets_only_one() {
    // The endpoint's passes while ours has no place: the client's answer ends it all.
    let mut framing = Framing::new(None);
    let close = frame(Side::Endpoint, 0x88, b"\x03\xe8");
    pass(&mut framing, Side::Endpoint, &close[..1]);
    framing.close(Some(1001), "idle");
    assert_eq!(injected(&mut framing, Side::Client), None);
    pass(&mut framing, Side::Endpoint, &close[1..]);
    assert_eq!(injected(&mut framing, Side::Client), None);
    let answer = frame(Side::Client, 0x88, b"\x03\xe8");
    assert_eq!(pass(&mut framing, Side::Client, &answer).0, answer);
    assert!(framing.has_closed());
}

#[test]
fn invalid_frames_pass_unless_there_is_a_limit() {
    let odd = b"\x83\x80\0\0\0\0 not a frame";
    let mut framing = Framing::new(None);
    let (passed, filtered) = pass(&mut framing, Side::Client, odd);
    assert_eq!((passed.as_slice(), filtered.violation), (&odd[..], None));
    assert!(framing.is_unframed());
    framing.close(Some(1001), "idle");
    assert!(framing.has_closed(), "there is nothing to say");
    // With a limit both sides get their Close: what passed before consists of frames.
    for (from, odd) in [(Side::Client, &odd[..]), (Side::Endpoint, &b"\x83\0"[..])] {
        for split in 0..=2 {
            let mut framing = Framing::new(Some(1000));
            let (first, rest) = odd.split_at(split);
            let (mut passed, one) = pass(&mut framing, from, first);
            let (more, two) = pass(&mut framing, from, rest);
            passed.extend(more);
            let violation = one.violation.or(two.violation);
            assert_eq!(passed, b"");
            assert_eq!(violation, Some(Violation::ProtocolError));
            framing.close(Some(1002), "protocol-error");
            let close = injected(&mut framing, Side::Client).unwrap();
            let expected = frame(Side::Endpoint, 0x88, b"\x03\xeaprotocol-error");
            assert_eq!(close, expected);
            framing.side_is_done(Side::Client);
            assert!(injected(&mut framing, Side::Endpoint).is_some());
            framing.side_is_done(Side::Endpoint);
            assert!(framing.has_closed());
        }
    }
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
    /// Without anything of ours all bytes pass, and all messages and frames count, however they are cut.
    #[test]
    fn all_passes(frames in stream(Side::Client), cuts in prop::collection::vec(any::<usize>(), 0..9)) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let messages = frames.iter().filter(|(bytes, _)| bytes[0] & 0xf == 1).count();
        let mut framing = Framing::new(None);
        let (passed, all) = pass_cut(&mut framing, Side::Client, &bytes, &cuts, Allowance::UNLIMITED);
        prop_assert_eq!(passed, bytes);
        prop_assert_eq!(all.iter().map(|it| it.messages as usize).sum::<usize>(), messages);
        for opcode in Opcode::ALL {
            let sent = frames.iter().filter(|(bytes, _)| Opcode::of(bytes[0] & 0xf) == Some(opcode));
            let counted = all.iter().map(|it| usize::from(it.frames.each()[opcode as usize]));
            prop_assert_eq!(counted.sum::<usize>(), sent.count());
        }
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
        let (passed, all) =
            pass_cut(&mut framing, Side::Endpoint, &bytes, &cuts, Allowance::UNLIMITED);
        prop_assert_eq!(passed, expected);
        prop_assert_eq!(all.iter().any(|it| it.pong), first.is_some());
    }

    /// After our Close the client's stream passes up to its answer, wherever it is cut, and nothing
    /// behind that.
    #[test]
    fn the_answer_to_our_close_is_swallowed(
        frames in stream(Side::Client),
        behind in stream(Side::Client),
        cuts in prop::collection::vec(any::<usize>(), 0..9),
    ) {
        let mut framing = Framing::new(None);
        framing.close(Some(1012), "drain");
        prop_assert!(injected(&mut framing, Side::Client).is_some());
        let before: Vec<u8> = frames.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let answer = frame(Side::Client, 0x88, b"\x03\xf4drain");
        let behind: Vec<u8> = behind.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let bytes = [before.clone(), answer, behind].concat();
        let (passed, _) =
            pass_cut(&mut framing, Side::Client, &bytes, &cuts, Allowance::UNLIMITED);
        prop_assert_eq!(passed, before);
        prop_assert!(injected(&mut framing, Side::Endpoint).is_some());
    }

    /// Whatever comes in whatever pieces, with a Ping and a Close of ours in between: no panic; all of
    /// it goes on but our Pong and what a Close cuts off, and at the end nothing is held back.
    #[test]
    fn nothing_is_invented_nor_lost(
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
            let (mut passed, all) =
                pass_cut(&mut framing, from, &bytes, &cuts, Allowance::UNLIMITED);
            passed.extend(framing.take_held(from).unwrap_or_default());
            let pong = all.iter().any(|it| it.pong);
            match close {
                true => prop_assert!(bytes.starts_with(&passed) || pong),
                false => prop_assert!(passed == bytes || pong),
            }
            if close && from == Side::Endpoint {
                prop_assert_eq!(passed, b"");
            }
        }
    }
}

mod limits;
