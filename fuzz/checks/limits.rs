//! The frames of a client, several in a buffer and cut anywhere, with limits on: exactly those before the
//! first that violates one go on, and both sides can still be closed in order.
//!
//! The first three bytes are the limits: of a message's length, of messages, and of bytes (in sixteens; 0
//! is none). Every other byte is a frame, or an end of a read.

use tidegate::config::model::TunnelLimits;
use tidegate::tunnel::forwarder::Forwarder;
use tidegate::tunnel::framing::{Allowance, HEADROOM, MESSAGE_COST, Violation};
use tidegate::tunnel::side::Side;

/// What frames cost and how long their messages are: a second reading of the rules.
#[derive(Default)]
struct Model {
    within: bool,
    message_bytes: u64,
    closed: bool,
    pongs_due: u64,
}

/// A frame, the length of its message so far, and its cost.
struct Shown {
    bytes: Vec<u8>,
    message_bytes: u64,
    cost: u64,
}

impl Model {
    fn show(&mut self, kind: u8, length: u8) -> Shown {
        let whole = u64::from(MESSAGE_COST);
        let (first, cost) = match kind {
            0 | 2 if !self.within => (0x82, whole),
            1 if !self.within => (0x02, whole),
            0 | 2 => (0x80, 0),
            1 if length == 0 => (0x00, whole),
            1 => (0x00, 1),
            3 => (0x89, whole),
            4 if self.pongs_due > 0 => (0x8a, 0),
            4 => (0x8a, whole),
            _ if self.closed => (0x88, whole),
            _ => (0x88, 0),
        };
        match first {
            0x8a => self.pongs_due = self.pongs_due.saturating_sub(1),
            0x88 => self.closed = true,
            0x89 => {}
            _ => {
                let before = if self.within { self.message_bytes } else { 0 };
                self.message_bytes = before + u64::from(length);
                self.within = first & 0x80 == 0;
            }
        }
        let mut bytes = vec![first, 0x80 | length, 0, 0, 0, 0];
        bytes.resize(6 + usize::from(length), 0);
        Shown {
            bytes,
            message_bytes: if first & 0x8 == 0 {
                self.message_bytes
            } else {
                0
            },
            cost,
        }
    }
}

fn filter(
    forwarder: &mut Forwarder,
    side: Side,
    bytes: &[u8],
    allowance: Allowance,
) -> (Vec<u8>, u32, Option<Violation>) {
    let mut buffer = [&[0; HEADROOM][..], bytes].concat();
    let end = buffer.len();
    let filtered = forwarder.filter(side, &mut buffer, end, allowance);
    (
        buffer[filtered.pass].to_vec(),
        filtered.cost,
        filtered.violation,
    )
}

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Some((&[limit, messages, sixteens], steps)) = bytes.split_first_chunk() else {
        return;
    };
    let mut allowance = Allowance {
        cost: u64::from(messages) * u64::from(MESSAGE_COST),
        bytes: match sixteens {
            0 => u64::MAX,
            some => u64::from(some) * 16,
        },
    };
    let limits = allowance;
    let mut forwarder = Forwarder::new(&TunnelLimits {
        message_bytes: Some(limit.into()),
        ..TunnelLimits::default()
    });
    let mut model = Model::default();
    let (mut expected, mut cost, mut first) = (Vec::new(), 0, None);
    let (mut read, mut came, mut went) = (Vec::new(), 0, Vec::new());
    let mut violation = None;
    for step in steps.iter().map(Some).chain([None]) {
        match step.map(|step| (step & 7, step >> 3)) {
            // What has come so far is read, but for the last bytes.
            Some((6, _)) | None => {
                let held = step.map_or(0, |step| usize::from(step >> 3));
                let rest = read.split_off(read.len().saturating_sub(held));
                let (passed, paid, why) = filter(&mut forwarder, Side::Client, &read, allowance);
                allowance.cost -= u64::from(paid);
                allowance.bytes = allowance.bytes.saturating_sub(read.len() as u64);
                assert!(passed.is_empty() || violation.is_none(), "behind the end");
                came += read.len();
                went.extend(passed);
                violation = violation.or(why);
                read = rest;
            }
            // The endpoint's Ping arrives before all that has not been read yet.
            Some((7, _)) if read.is_empty() => {
                filter(
                    &mut forwarder,
                    Side::Endpoint,
                    b"\x89\0",
                    Allowance::UNLIMITED,
                );
                model.pongs_due += 1;
            }
            Some((7, _)) => {}
            Some((kind, length)) => {
                let shown = model.show(kind, length);
                cost += shown.cost;
                first = first.or(if shown.message_bytes > u64::from(limit) {
                    Some(Violation::MessageTooBig)
                } else if shown.cost > 0 && cost > limits.cost {
                    Some(Violation::MessageRate)
                } else {
                    None
                });
                if first.is_none() {
                    expected.extend(&shown.bytes);
                }
                read.extend(shown.bytes);
            }
        }
    }
    assert!(went.len() as u64 <= limits.bytes);
    if came as u64 <= limits.bytes {
        assert_eq!((went, violation), (expected, first));
    } else {
        assert!(expected.starts_with(&went) && violation.is_some());
    }
    if let Some(violation) = violation {
        check_end(&mut forwarder, violation, limits);
    }
}

/// After a violation each side has one Close, and nothing more passes.
fn check_end(forwarder: &mut Forwarder, violation: Violation, limits: Allowance) {
    let closed = forwarder.closed().is_some();
    let told = SIDES.map(|to| forwarder.inject(to, || [7; 4]).is_some());
    if violation != Violation::ByteRate {
        assert_eq!(told[1], !closed, "the endpoint has one Close");
    }
    assert_eq!(told[0], !closed);
    let (passed, ..) = filter(forwarder, Side::Client, b"\x82\x80\0\0\0\0", limits);
    assert!(passed.is_empty());
}

const SIDES: [Side; 2] = [Side::Client, Side::Endpoint];
