//! Any bytes both ways, in any pieces, with a Ping or a Close of ours in between: nothing is invented,
//! what does go on is in order, and without anything of ours all of it goes on.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tidegate::tunnel::ended::Ended;
use tidegate::tunnel::forwarder::{Forwarder, Side};
use tidegate::tunnel::framing::HEADROOM;

#[derive(Debug, Arbitrary)]
enum Step {
    FromClient(Vec<u8>),
    FromEndpoint(Vec<u8>),
    End,
}

fuzz_target!(|input: (Option<u16>, Vec<Step>)| {
    let (limit, steps) = input;
    let mut forwarder = Forwarder::new(limit.map(u64::from));
    let mut came = [Vec::new(), Vec::new()];
    let mut went = [Vec::new(), Vec::new()];
    let mut untouched = limit.is_none();
    for step in steps {
        let (side, bytes) = match step {
            Step::FromClient(bytes) => (Side::Client, bytes),
            Step::FromEndpoint(bytes) => (Side::Endpoint, bytes),
            Step::End => {
                forwarder.end(Ended::Idle);
                untouched = false;
                for side in [Side::Client, Side::Endpoint] {
                    forwarder.inject(side, || [1, 2, 3, 4]);
                }
                continue;
            }
        };
        let way = usize::from(side == Side::Endpoint);
        let mut buffer = [&[0; HEADROOM][..], &bytes].concat();
        let end = buffer.len();
        let taken = forwarder.take(side, &mut buffer, end);
        came[way].extend(bytes);
        went[way].extend_from_slice(&buffer[taken.pass]);
    }
    for (came, went) in came.iter().zip(&went) {
        if untouched {
            assert_eq!(came, went);
        }
        let mut rest = came.iter();
        assert!(went.iter().all(|byte| rest.any(|other| other == byte)));
    }
});
