//! What does it cost to look at all tunnels of a worker, or at a slice of them?

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use tidegate::config::model::{MaxAge, PingConfig, TunnelLimits};
use tidegate::tunnel::table::{TableSlot, TunnelTable};
use tokio::time::Instant;

const TUNNELS: [usize; 3] = [10_000, 100_000, 1_000_000];

/// Tunnels on a worker, in the order of a heap that has been in use for a while.
struct Tunnels {
    table: Rc<TunnelTable>,
    _slots: Vec<TableSlot>,
}

fn plain() -> TunnelLimits {
    TunnelLimits {
        idle: Some(Duration::from_secs(600)),
        ..TunnelLimits::default()
    }
}

fn pinged() -> TunnelLimits {
    TunnelLimits {
        max_age: Some(MaxAge {
            age: Duration::from_secs(86_400),
            jitter: 100,
        }),
        ping: Some(PingConfig {
            every: Duration::from_secs(3600),
            pong: Duration::from_secs(20),
            clients: true,
        }),
        ..plain()
    }
}

fn tunnels(count: usize, limits: TunnelLimits) -> Tunnels {
    let table = Rc::<TunnelTable>::default();
    let limits = Arc::new(limits);
    let enter = || table.enter(Arc::clone(&limits), Rc::default());
    let mut slots: Vec<TableSlot> = (0..count).map(|_| enter()).collect();
    // One in two is replaced at random.
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..count / 2 {
        let gone = random.usize(..slots.len());
        slots.swap_remove(gone);
        slots.push(enter());
    }
    Tunnels {
        table,
        _slots: slots,
    }
}

#[divan::bench(args = TUNNELS, sample_count = 10)]
fn all(bencher: Bencher<'_, '_>, count: usize) {
    let tunnels = tunnels(count, plain());
    bencher.bench_local(|| tunnels.table.sweep(Instant::now()));
}

#[divan::bench(args = TUNNELS, sample_count = 10)]
fn all_with_ping(bencher: Bencher<'_, '_>, count: usize) {
    let tunnels = tunnels(count, pinged());
    bencher.bench_local(|| tunnels.table.sweep(Instant::now()));
}

/// What a message may have to wait for.
#[divan::bench(args = TUNNELS, sample_count = 100)]
fn slice_with_ping(bencher: Bencher<'_, '_>, count: usize) {
    let tunnels = tunnels(count, pinged());
    bencher.bench_local(|| tunnels.table.sweep_slice(Instant::now()));
}

/// A page of a listing, or a step of a sum.
#[divan::bench(args = TUNNELS, sample_count = 100)]
fn step(bencher: Bencher<'_, '_>, count: usize) {
    let tunnels = tunnels(count, plain());
    let mut next = 0;
    bencher.bench_local(|| {
        let mut bytes = 0;
        let add = |meter: &tidegate::tunnel::meter::Meter, _: &()| {
            bytes += meter.bytes(tidegate::tunnel::side::Side::Client);
        };
        next = tunnels.table.sum_step(next, 512, add).unwrap_or(0);
        bytes
    });
}
