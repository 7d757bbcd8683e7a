//! The tracker is compared with frames that are encoded another way and cut at every byte.

use proptest::prelude::*;

use super::*;

/// A frame whose header may have any form.
#[derive(Debug, Clone)]
struct Written {
    first: u8,
    /// How many bytes encode the extended length: 0, 2 or 8.
    extended: usize,
    mask: Option<[u8; 4]>,
    payload: Vec<u8>,
}

impl Written {
    fn minimal(first: u8, mask: Option<[u8; 4]>, payload: Vec<u8>) -> Self {
        let extended = match payload.len() {
            0..=125 => 0,
            126..=65_535 => 2,
            _ => 8,
        };
        Self {
            first,
            extended,
            mask,
            payload,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let length = self.payload.len();
        let mut bytes = vec![self.first];
        match self.extended {
            0 => bytes.push(masked | length as u8),
            2 => {
                bytes.push(masked | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(masked | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(self.mask.into_iter().flatten());
        let mask = self.mask.unwrap_or_default();
        bytes.extend(
            self.payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(b, m)| b ^ m),
        );
        bytes
    }
}

/// All events that the tracker reports for `pieces`, with their positions.
fn events(masking: Masking, pieces: &[&[u8]]) -> (Vec<(usize, Event)>, Tracker) {
    let mut tracker = Tracker::new(masking);
    let mut found = Vec::new();
    let mut position = 0;
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let (length, event) = tracker.step(rest);
            assert!(length <= rest.len());
            rest = &rest[length..];
            position += length;
            match event {
                Some(event) => found.push((position, event)),
                None => break,
            }
        }
        assert!(rest.is_empty(), "bytes were left");
    }
    (found, tracker)
}

#[track_caller]
fn check(frames: &[Written], expected: &[Event]) {
    let bytes: Vec<u8> = frames.iter().flat_map(Written::bytes).collect();
    let masking = match frames.first().is_some_and(|frame| frame.mask.is_some()) {
        true => Masking::Required,
        false => Masking::Forbidden,
    };
    let (found, _) = events(masking, &[&bytes]);
    let found: Vec<Event> = found.into_iter().map(|(_, event)| event).collect();
    assert_eq!(found, expected);
}

use Opcode::{Binary, Continuation, Text};

const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);

fn data(opcode: Opcode, message_bytes: u64) -> Event {
    Event::Data {
        opcode,
        message_bytes,
    }
}

#[test]
fn messages_and_their_fragments() {
    let text = |first, length| Written::minimal(first, MASK, vec![7; length]);
    check(&[text(0x81, 5)], &[data(Text, 5)]);
    check(
        &[text(0x82, 0), text(0xc1, 70_000)],
        &[data(Binary, 0), data(Text, 70_000)],
    );
    check(
        &[text(0x01, 3), text(0x00, 4), text(0x80, 5), text(0x81, 1)],
        &[
            data(Text, 3),
            data(Continuation, 7),
            data(Continuation, 12),
            data(Text, 1),
        ],
    );
}

#[test]
fn control_frames_between_fragments() {
    let close = Written::minimal(
        0x88,
        MASK,
        [&1001u16.to_be_bytes()[..], b"going away"].concat(),
    );
    let ping = Written::minimal(0x89, MASK, vec![]);
    check(
        &[
            Written::minimal(0x01, MASK, vec![0; 3]),
            ping,
            Written::minimal(0x80, MASK, vec![0; 3]),
            close,
        ],
        &[
            data(Text, 3),
            Event::Control(Control::Ping),
            Event::ControlEnd {
                kind: Control::Ping,
                length: 0,
                payload: [0; 8],
            },
            data(Continuation, 6),
            Event::Control(Control::Close),
            Event::ControlEnd {
                kind: Control::Close,
                length: 12,
                payload: *b"\x03\xe9going ",
            },
        ],
    );
}

#[test]
fn every_error_is_reported() {
    let one = |written: Written| -> Event {
        let masking = Masking::Required;
        let (found, tracker) = events(masking, &[&written.bytes()]);
        assert!(matches!(found[0].1, Event::Invalid(fault) if tracker.error() == Some(fault)));
        assert!(!tracker.at_boundary());
        found[0].1
    };
    let plain = |first, length| Written::minimal(first, MASK, vec![0; length]);
    for opcode in [3, 4, 5, 6, 7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        assert_eq!(
            one(plain(0x80 | opcode, 1)),
            Event::Invalid(FrameError::Opcode)
        );
    }
    assert_eq!(
        one(Written::minimal(0x81, None, vec![0])),
        Event::Invalid(FrameError::Masking)
    );
    for extended in [2, 8] {
        let wasteful = Written {
            extended,
            ..plain(0x81, 125)
        };
        assert_eq!(one(wasteful), Event::Invalid(FrameError::Length));
    }
    assert_eq!(one(plain(0x89, 126)), Event::Invalid(FrameError::Control));
    assert_eq!(one(plain(0x09, 1)), Event::Invalid(FrameError::Control));
    assert_eq!(one(plain(0x80, 1)), Event::Invalid(FrameError::Fragments));
    let mut huge = plain(0x82, 0).bytes();
    huge[1] = 0x80 | 127;
    huge.splice(2..2, u64::MAX.to_be_bytes());
    let (found, _) = events(Masking::Required, &[&huge]);
    assert_eq!(found[0].1, Event::Invalid(FrameError::Length));
}

#[test]
fn our_own_frames_parse_back() {
    for mask in [None, Some([9, 8, 7, 6])] {
        let masking = if mask.is_some() {
            Masking::Required
        } else {
            Masking::Forbidden
        };
        let bytes = Frame::close(1012, "shutdown", mask).into_bytes();
        let (found, tracker) = events(masking, &[&bytes]);
        assert_eq!(
            found[1],
            (
                bytes.len(),
                Event::ControlEnd {
                    kind: Control::Close,
                    length: 10,
                    payload: *b"\x03\xf4shutdo",
                }
            )
        );
        assert!(tracker.at_boundary());
    }
    assert_eq!(
        Frame::control(Control::Ping, &[0; 200], None)
            .into_bytes()
            .len(),
        127
    );
}

fn frames() -> impl Strategy<Value = Vec<Written>> {
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(any::<u8>(), 120..130),
        1 => (65_530..65_540usize).prop_map(|length| vec![3; length]),
    ];
    prop::collection::vec((any::<[u8; 4]>(), payload, 0..4u8), 1..6).prop_map(|specs| {
        let mut frames = Vec::new();
        let mut open = false;
        for (mask, payload, kind) in specs {
            let (first, payload) = match kind {
                0 => (0x89, payload.into_iter().take(125).collect()),
                kind => {
                    let opcode = if open { 0x0 } else { 0x2 };
                    open = kind == 1;
                    (opcode | if open { 0 } else { 0x80 }, payload)
                }
            };
            frames.push(Written::minimal(first, Some(mask), payload));
        }
        frames
    })
}

proptest! {
    /// However a stream is cut, the tracker reports the same events at the same positions.
    #[test]
    fn cuts_change_nothing(frames in frames(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
        let bytes: Vec<u8> = frames.iter().flat_map(Written::bytes).collect();
        let (whole, tracker) = events(Masking::Required, &[&bytes]);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|window| &bytes[window[0]..window[1]]).collect();
        let (cut, tracker_of_cut) = events(Masking::Required, &pieces);
        prop_assert_eq!(&cut, &whole);
        prop_assert!(tracker.at_boundary() && tracker_of_cut.at_boundary());
    }

    /// The same for one byte at a time, whatever the bytes.
    #[test]
    fn any_bytes_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for masking in [Masking::Required, Masking::Forbidden] {
            let (whole, _) = events(masking, &[&bytes]);
            let singles: Vec<&[u8]> = bytes.chunks(1).collect();
            let (single, _) = events(masking, &singles);
            prop_assert_eq!(&single, &whole);
        }
    }

    /// A boundary is reported exactly where a frame ends.
    #[test]
    fn boundaries_are_where_frames_end(frames in frames()) {
        let bytes: Vec<u8> = frames.iter().flat_map(Written::bytes).collect();
        let mut tracker = Tracker::new(Masking::Required);
        let mut ends = Vec::new();
        for (at, byte) in bytes.iter().enumerate() {
            let mut rest = std::slice::from_ref(byte);
            loop {
                let (length, event) = tracker.step(rest);
                rest = &rest[length..];
                if event.is_none() {
                    break;
                }
            }
            if tracker.at_boundary() {
                ends.push(at + 1);
            }
        }
        let mut expected = Vec::new();
        let mut at = 0;
        for frame in &frames {
            at += frame.bytes().len();
            expected.push(at);
        }
        prop_assert_eq!(ends, expected);
    }
}
