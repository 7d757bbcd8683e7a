//! Bytes in both directions, in pieces of any size, with Pings and Closes of tidegate in between: nothing
//! is made up, the order is kept, and without these frames every byte is forwarded.

use tidegate::config::model::TunnelLimits;
use tidegate::tunnel::ended::Ended;
use tidegate::tunnel::forwarder::Forwarder;
use tidegate::tunnel::framing::HEADROOM;
use tidegate::tunnel::side::Side;

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
    let mut came: [Vec<u8>; 2] = Default::default();
    let mut went: [Vec<u8>; 2] = Default::default();
    let mut untouched = limit.is_none();
    while let Some(step) = step(&mut steps) {
        let (side, bytes) = match step {
            Step::From(side, bytes) => (side, bytes),
            what => {
                match what {
                    Step::Ping(side) => forwarder.ping(side, *b"12345678"),
                    _ => forwarder.end(Ended::Idle),
                }
                untouched = false;
                for side in [Side::Client, Side::Endpoint] {
                    forwarder.inject(side, || [1, 2, 3, 4]);
                }
                continue;
            }
        };
        let way = usize::from(side == Side::Endpoint);
        let mut buffer = [&[0; HEADROOM][..], bytes].concat();
        let end = buffer.len();
        let filtered = forwarder.filter(side, &mut buffer, end);
        came[way].extend(bytes);
        went[way].extend_from_slice(&buffer[filtered.pass]);
    }
    for (came, went) in came.iter().zip(&went) {
        if untouched {
            assert_eq!(came, went);
        }
        let mut rest = came.iter();
        assert!(went.iter().all(|byte| rest.any(|other| other == byte)));
    }
}
