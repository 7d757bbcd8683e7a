//! Bytes in both directions, in pieces of any size, with Pings and Closes of tidegate in between: without
//! these every byte is forwarded, with them every byte but our answers and what a Close cuts off, in
//! order. Our frames stand between frames, nothing follows our Close, and no message exceeds the limit.

use tidegate::config::model::TunnelLimits;
use tidegate::protocol::frame::{Event, Masking, Tracker};
use tidegate::tunnel::ended::Ended;
use tidegate::tunnel::forwarder::Forwarder;
use tidegate::tunnel::framing::{Allowance, HEADROOM};
use tidegate::tunnel::side::Side;

const SIDES: [Side; 2] = [Side::Client, Side::Endpoint];

const PING: [u8; 8] = *b"12345678";

enum Step<'a> {
    From(Side, &'a [u8]),
    Ping(Side),
    End,
}

/// A step of two bytes and what follows them: the kind of step, and the number of bytes that arrive.
fn step<'a>(bytes: &mut &'a [u8]) -> Option<Step<'a>> {
    let (&[what, length], rest) = bytes.split_first_chunk()?;
    let (from, rest) = rest.split_at(usize::from(length).min(rest.len()));
    let (step, rest) = match what % 5 {
        0 | 1 => (Step::From(Side::Client, from), rest),
        2 | 3 => (Step::From(Side::Endpoint, from), rest),
        _ if length % 4 == 1 => (Step::Ping(Side::Client), &bytes[2..]),
        _ if length % 4 == 3 => (Step::Ping(Side::Endpoint), &bytes[2..]),
        _ => (Step::End, &bytes[2..]),
    };
    *bytes = rest;
    Some(step)
}

/// What came from one side, and what of it went on.
struct Direction {
    came: Vec<u8>,
    went: Vec<u8>,
    /// Follows the frames of what went on.
    tracker: Tracker,
    longest_message: u64,
    /// Whether our Close has gone the same way.
    closed: bool,
}

impl Direction {
    fn new(masking: Masking) -> Self {
        Self {
            came: Vec::new(),
            went: Vec::new(),
            tracker: Tracker::new(masking),
            longest_message: 0,
            closed: false,
        }
    }

    fn pass(&mut self, came: &[u8], mut went: &[u8]) {
        self.came.extend(came);
        self.went.extend(went);
        while !went.is_empty() {
            let (length, event) = self.tracker.step(went);
            went = &went[length..];
            if let Some(Event::Data { message_bytes, .. }) = event {
                self.longest_message = self.longest_message.max(message_bytes);
            }
        }
    }

    /// The length of the frame at the beginning of `bytes`, as far as it is there, and whether it can
    /// be an answer to one of ours. A second reading of RFC 6455, independent of the tracker.
    fn frame(bytes: &[u8]) -> Option<(usize, bool)> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        let (extended, masked) = (
            [0, 2, 8][usize::from(second & 0x7f).saturating_sub(125)],
            second & 0x80 != 0,
        );
        let mask = if masked { 4 } else { 0 };
        let length = rest.get(..extended)?.iter();
        let length = match extended {
            0 => usize::from(second & 0x7f),
            _ => length.fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)),
        };
        let payload = rest.get(extended + mask..)?;
        let payload = &payload[..length.min(payload.len())];
        let key = &rest[extended..extended + mask];
        let ours = match first & 0xf {
            0x8 => true,
            0xa => PING
                .iter()
                .enumerate()
                .map(|(at, byte)| byte ^ key.get(at % 4).copied().unwrap_or_default())
                .eq(payload.iter().copied()),
            _ => false,
        };
        Some((2 + extended + mask + payload.len(), ours))
    }

    /// All that came went on, in order, but for whole answers to us and an end that is cut off.
    fn check_order(&self) {
        let (mut came, mut went) = (self.came.as_slice(), self.went.as_slice());
        while !went.is_empty() {
            let (length, ours) = Self::frame(came).unwrap_or((came.len(), false));
            let same = length.min(went.len());
            if went[..same] == came[..same] && (same == length || !ours) {
                went = &went[same..];
            } else {
                assert!(ours, "other bytes went on than came");
            }
            came = &came[length..];
            assert!(
                !came.is_empty() || went.is_empty(),
                "more went on than came"
            );
        }
    }
}

/// Panics if this does not hold. The first two bytes are the message size limit; 0 is no limit.
pub(crate) fn check(bytes: &[u8]) {
    let Some((limit, mut steps)) = bytes.split_first_chunk() else {
        return;
    };
    let limit = Some(u16::from_be_bytes(*limit).into()).filter(|limit| *limit > 0);
    let mut forwarder = Forwarder::new(&TunnelLimits {
        message_bytes: limit,
        ..TunnelLimits::default()
    });
    let mut directions = [Masking::Required, Masking::Forbidden].map(Direction::new);
    let mut untouched = limit.is_none();
    while let Some(step) = step(&mut steps) {
        let (side, bytes) = match step {
            Step::From(side, bytes) => (side, bytes),
            what => {
                match what {
                    Step::Ping(side) => _ = forwarder.ping(side, PING),
                    _ => forwarder.end(Ended::Idle),
                }
                untouched = false;
                for to in SIDES {
                    let Some(frame) = forwarder.inject(to, || [1, 2, 3, 4]) else {
                        continue;
                    };
                    let way = &mut directions[to.other() as usize];
                    assert!(way.tracker.at_boundary(), "our frame is within another");
                    assert!(!way.closed, "a frame behind our Close");
                    way.closed = !frame.is_ping();
                }
                continue;
            }
        };
        let mut buffer = [&[0; HEADROOM][..], bytes].concat();
        let end = buffer.len();
        let cut = forwarder.discards(side);
        let filtered = forwarder.filter(side, &mut buffer, end, Allowance::UNLIMITED);
        let way = &mut directions[side as usize];
        let passed = &buffer[filtered.pass];
        assert!(passed.is_empty() || !(cut || way.closed), "behind the end");
        way.pass(bytes, passed);
    }
    for way in &directions {
        if untouched {
            assert_eq!(way.came, way.went);
        }
        way.check_order();
        if let Some(limit) = limit {
            assert!(way.longest_message <= limit && way.tracker.error().is_none());
        }
    }
}
