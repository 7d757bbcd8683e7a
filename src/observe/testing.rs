//! Workers that count at random while routes and endpoints come and go: for tests that sums never fall.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use proptest::prelude::*;

use super::counters::{self, Counters};
use super::labelled::FORGET_AFTER;
use super::labels::{AuthResult, HandshakeOutcome, Http2Reset};
use super::series::{AuthSeries, EndpointSeries};
use crate::config;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::opcode::{FrameCounts, Opcode};
use crate::protocol::rejection::Rejection;
use crate::snapshot::Snapshot;
use crate::tunnel::ended::Ended;
use crate::tunnel::meter::Meter;
use crate::tunnel::side::Side;
use crate::upstream::endpoint::EndpointState;

/// What there is of each kind. The first route and the first upstream are always configured.
const EACH: usize = 3;

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum ChurnStep {
    /// A worker counts something of everything, by listener, route, upstream and endpoint.
    Count(usize, [usize; 4], u64),
    /// The same, by a tunnel that lives on.
    Hold(usize, [usize; 4], u64),
    /// One of the tunnels ends.
    Release(usize),
    /// A reload: each bit says whether a route or an endpoint is configured.
    Reload(usize),
    /// Time passes.
    Pass(u32),
}

/// Steps in any order.
pub(crate) fn churn_steps() -> impl Strategy<Value = Vec<ChurnStep>> {
    let place = || {
        (
            0..2_usize,
            [0..2_usize, 0..EACH, 0..EACH, 0..EACH],
            1..9_u64,
        )
    };
    let step = prop_oneof![
        6 => place().prop_map(|(worker, at, count)| ChurnStep::Count(worker, at, count)),
        2 => place().prop_map(|(worker, at, count)| ChurnStep::Hold(worker, at, count)),
        2 => (0..9_usize).prop_map(ChurnStep::Release),
        2 => (0..SNAPSHOTS).prop_map(ChurnStep::Reload),
        4 => prop_oneof![1..FORGET_AFTER, Just(FORGET_AFTER + 1)].prop_map(ChurnStep::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

/// The configurations that are reloaded to.
const SNAPSHOTS: usize = 8;

/// The first of them has everything.
static CONFIGURED: LazyLock<Vec<Arc<Snapshot>>> = LazyLock::new(|| {
    let sets = [
        !0,
        0,
        0b110_0001_0101,
        0b010_1100_1010,
        0b100_1111_0000,
        0b110_0110_1100,
        0b010_1000_0011,
        0b100_0000_0001,
    ];
    sets.map(configured).into()
});

fn configured(set: u32) -> Arc<Snapshot> {
    let has = |bit: usize| (set >> bit) & 1 == 1;
    let mut text = "[listener.main]\nbind = [\"127.0.0.1:0\"]\n".to_owned();
    let is_there = |upstream: usize| upstream == 0 || has(8 + upstream);
    for upstream in (0..EACH).filter(|it| is_there(*it)) {
        // The endpoint 0 comes and goes with its upstream.
        let listed = (0..EACH).filter(|it| *it == 0 || has(upstream * 2 + it - 1));
        let listed = listed.map(|it| format!("\"127.0.0.1:{}\"", 1 + it));
        let listed = listed.collect::<Vec<_>>().join(", ");
        text += &format!("[upstream.u{upstream}]\nendpoints = [{listed}]\n");
    }
    for route in (0..EACH).filter(|it| *it == 0 || has(5 + it)) {
        // Every other configuration has the upstreams the other way round.
        let upstream = if set.is_multiple_of(2) {
            route
        } else {
            EACH - 1 - route
        };
        let upstream = if is_there(upstream) { upstream } else { 0 };
        text += &format!(
            "[[route]]\nname = \"r{route}\"\npath_prefix = \"/{route}\"\nupstream = \"u{upstream}\"\n"
        );
    }
    let loaded = match config::parse(&text, Path::new("config.toml"), &|_| None) {
        Ok(loaded) => loaded,
        Err(report) => panic!("{}", report.render(false)),
    };
    Arc::new(Snapshot::new(&loaded.config, None).unwrap())
}

fn endpoint(upstream: usize, number: usize) -> Arc<EndpointState> {
    let all = CONFIGURED[0].upstreams()[upstream].endpoints();
    Arc::clone(&all.into_iter().nth(number).unwrap())
}

/// Two workers, their tunnels, and the configuration.
pub(crate) struct Churn {
    pub(crate) workers: Vec<Arc<Counters>>,
    held: Vec<(Arc<EndpointSeries>, Arc<AuthSeries>)>,
    snapshot: Arc<Snapshot>,
}

impl Churn {
    pub(crate) fn new() -> Self {
        Self {
            workers: vec![Arc::default(), Arc::default()],
            held: Vec::new(),
            snapshot: Arc::clone(&CONFIGURED[0]),
        }
    }

    pub(crate) fn step(&mut self, step: &ChurnStep) {
        match *step {
            ChurnStep::Count(worker, at, count) => drop(self.count(worker, at, count)),
            ChurnStep::Hold(worker, at, count) => {
                let held = self.count(worker, at, count);
                self.held.push(held);
            }
            ChurnStep::Release(at) if at < self.held.len() => drop(self.held.remove(at)),
            ChurnStep::Release(_) => {}
            ChurnStep::Reload(to) => self.snapshot = Arc::clone(&CONFIGURED[to]),
            ChurnStep::Pass(sweeps) => {
                for _ in 0..sweeps {
                    counters::sweep(&self.workers, &self.snapshot);
                }
            }
        }
    }

    /// Something of everything that is exported with a route, an upstream or an endpoint.
    fn count(
        &self,
        worker: usize,
        [listener, route, upstream, number]: [usize; 4],
        count: u64,
    ) -> (Arc<EndpointSeries>, Arc<AuthSeries>) {
        let counters = &self.workers[worker];
        let time = Duration::from_millis(count);
        let listener = counters.listener(&format!("l{listener}").into());
        listener.connections.add(count);
        listener.count_http2_reset(Http2Reset::ALL[0]);
        let unmatched = listener.route("");
        unmatched.rejections.at(Rejection::NoRoute as usize).add(1);
        let route = listener.route(&format!("r{route}"));
        let opened = route.handshakes(HandshakeOutcome::Opened, ClientProtocol::Http1);
        opened.add(count);
        route.excused.add(count);
        route
            .rejections
            .at(Rejection::NoEndpoint as usize)
            .add(count);
        route.handshake_seconds.observe(time);
        route.tunnel_seconds.observe(time);
        route.ping_rtt(Side::Client).observe(time);
        route.ended.add(count);
        route.unframed.add(1);
        let mut frames = FrameCounts::default();
        frames.add(Opcode::Text);
        route.count_frames(Side::Client, &frames);
        route.count_response(200);
        let series = route.endpoint(&endpoint(upstream, number));
        series.opened.add(count);
        series.ended.at(Ended::ClientReset as usize).add(count);
        series.count_close(Side::Client, 1000);
        series.connect_seconds.observe(time);
        series.connect_failures.at(0).add(count);
        series.streams_ended.at(0).add(count);
        series.retried.add(count);
        series.retries_refused.add(count);
        let meter = Meter::default();
        meter.count(Side::Client, count as usize);
        series.traffic.add_ended(&meter);
        for series in counters.endpoint_series() {
            series.traffic.begin_sum();
            series.traffic.publish();
        }
        let auth = counters.auth(&Arc::from("login"));
        auth.count(AuthResult::ALL[0]);
        auth.seconds.observe(time);
        (series, auth)
    }
}
