//! Picking an endpoint, the lease and its return included.

use std::num::NonZeroU32;
use std::time::Duration;

use divan::Bencher;
use tidegate::config::model::{self, Address, Balance, UpstreamTimeouts};
use tidegate::upstream::endpoint::{Known, Lease, Upstream};

/// Leases that are out while one more is picked: tunnels.
const HELD_EACH: usize = 3;

fn upstream(balance: Balance, endpoints: usize) -> Upstream {
    let second = Duration::from_secs(1);
    let settings = model::Upstream {
        name: "chat".into(),
        endpoints: (0..endpoints)
            .map(|number| model::Endpoint {
                address: Address::Ip(
                    ([10, 0, (number / 250) as u8, (number % 250) as u8], 9000).into(),
                ),
                max_tunnels: None,
                weight: NonZeroU32::new(1 + number as u32 % 2).unwrap(),
            })
            .collect(),
        balance,
        tries: NonZeroU32::MIN,
        tls: None,
        send_proxy: model::SendProxy::Off,
        timeouts: UpstreamTimeouts {
            connect: second,
            handshake: second,
            response: second,
        },
    };
    Upstream::new(&settings, &mut Known::default()).unwrap()
}

fn measure(bencher: Bencher<'_, '_>, balance: Balance, endpoints: usize) {
    let upstream = upstream(balance, endpoints);
    let held: Vec<Lease> = (0..endpoints * HELD_EACH)
        .map(|_| upstream.pick(&[]).unwrap())
        .collect();
    bencher.bench_local(|| upstream.pick(&[]).unwrap());
    drop(held);
}

#[divan::bench(args = [3, 100, 1000])]
fn least_connections(bencher: Bencher<'_, '_>, endpoints: usize) {
    measure(bencher, Balance::LeastConnections, endpoints);
}

#[divan::bench(args = [3, 100, 1000])]
fn round_robin(bencher: Bencher<'_, '_>, endpoints: usize) {
    measure(bencher, Balance::RoundRobin, endpoints);
}
