//! What do frames cost on their way? Their headers are tracked, and the forwarder decides about them.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use tidegate::config::model::TunnelLimits;
use tidegate::protocol::frame::{Masking, Tracker};
use tidegate::tunnel::forwarder::Forwarder;
use tidegate::tunnel::framing::{Allowance, HEADROOM};
use tidegate::tunnel::side::Side;

/// The size of a worker's read.
const READ: usize = 64 << 10;

/// As many masked binary messages with this payload as fit into one read, at least one.
fn messages(payload: usize) -> (Vec<u8>, usize) {
    let mut one = vec![0x82];
    match payload {
        0..126 => one.push(0x80 | payload as u8),
        126..65_536 => {
            one.push(0x80 | 126);
            one.extend((payload as u16).to_be_bytes());
        }
        _ => {
            one.push(0x80 | 127);
            one.extend((payload as u64).to_be_bytes());
        }
    }
    one.resize(one.len() + 4 + payload, 0);
    let count = (READ / one.len()).max(1);
    (one.repeat(count), count)
}

#[divan::bench(args = [64, 1024, 65_536])]
fn tracker(bencher: Bencher<'_, '_>, payload: usize) {
    let (bytes, count) = messages(payload);
    let mut tracker = Tracker::new(Masking::Required);
    bencher
        .counter(ItemsCount::new(count))
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| {
            let mut at = 0;
            while at < bytes.len() {
                let (length, event) = tracker.step(black_box(&bytes[at..]));
                black_box(event);
                at += length;
            }
        });
}

/// One read, as the relay passes it to the forwarder.
#[divan::bench(args = [64, 1024, 65_536])]
fn forwarder_step(bencher: Bencher<'_, '_>, payload: usize) {
    let (bytes, _) = messages(payload);
    let one = &bytes[..(bytes.len()).min(payload + 8)];
    let mut buffer = [&[0; HEADROOM], one].concat();
    let end = buffer.len();
    let mut forwarder = Forwarder::new(&TunnelLimits {
        message_bytes: Some(1 << 20),
        ..TunnelLimits::default()
    });
    bencher.bench_local(|| {
        black_box(forwarder.filter(
            Side::Client,
            black_box(&mut buffer),
            end,
            Allowance::UNLIMITED,
        ));
        forwarder.next_step(Side::Client)
    });
}
