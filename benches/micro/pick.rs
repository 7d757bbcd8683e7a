//! What does a pick cost? The lease and its return are included.

use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use tidegate::config::model::{self, Address, Balance, HashBy, ReportsConfig, RequestKey};
use tidegate::protocol::handshake_response::ResponseHead;
use tidegate::upstream::endpoint::Lease;
use tidegate::upstream::group::{Affinity, Upstream};

/// Leases held during the measurement, as by tunnels.
const HELD_EACH: usize = 3;

fn settings(balance: Balance, endpoints: usize) -> model::UpstreamConfig {
    let endpoints = (0..endpoints).map(|number| model::EndpointConfig {
        weight: 1 + number as u32 % 2,
        ..model::EndpointConfig::at(Address::Ip(
            ([10, 0, (number / 250) as u8, (number % 250) as u8], 9000).into(),
        ))
    });
    let mut settings = model::UpstreamConfig::listed("chat", endpoints.collect());
    settings.picking.balance = balance;
    settings
}

fn measure(bencher: Bencher<'_, '_>, balance: Balance, endpoints: usize) {
    let upstream = Upstream::new(&settings(balance, endpoints), &Arc::default()).unwrap();
    measure_in(bencher, &upstream, endpoints);
}

fn measure_in(bencher: Bencher<'_, '_>, upstream: &Upstream, endpoints: usize) {
    let affinity = Affinity {
        hash: Some(7),
        ..Affinity::default()
    };
    let held: Vec<Lease> = (0..endpoints * HELD_EACH)
        .map(|_| upstream.pick(Affinity::default(), &[]).unwrap())
        .collect();
    bencher.bench_local(|| upstream.pick(affinity, &[]).unwrap());
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

#[divan::bench(args = [3, 100, 1000])]
fn power_of_two(bencher: Bencher<'_, '_>, endpoints: usize) {
    measure(bencher, Balance::PowerOfTwo, endpoints);
}

#[divan::bench(args = [3, 100, 1000])]
fn hash(bencher: Bencher<'_, '_>, endpoints: usize) {
    let by = HashBy {
        key: RequestKey::Path,
        load_factor: 1.25,
    };
    measure(bencher, Balance::Hash(by), endpoints);
}

/// Every endpoint has reported its load.
#[divan::bench(args = [3, 100, 1000])]
fn least_connections_by_reports(bencher: Bencher<'_, '_>, endpoints: usize) {
    let mut settings = settings(Balance::LeastConnections, endpoints);
    settings.picking.reports = Some(ReportsConfig {
        max_age: Duration::from_secs(3600),
    });
    let upstream = Upstream::new(&settings, &Arc::default()).unwrap();
    let response = "HTTP/1.1 200 OK\r\ntidegate-load: tunnels=300, max=1000, weight=2\r\n\r\n";
    let (head, _) = ResponseHead::parse(response.as_bytes()).unwrap().unwrap();
    for endpoint in upstream.endpoints() {
        upstream.take_report(&endpoint, endpoint.incarnation(), &head);
    }
    measure_in(bencher, &upstream, endpoints);
}
