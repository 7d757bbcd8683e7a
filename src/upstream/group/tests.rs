//! Who is picked, over reloads and changes of the endpoints.

use std::time::Duration;

use super::*;
use crate::config::model::{
    Address, AllDown, Discovery, Ejection, Health, Probe, QueueConfig, SameSite, Sticky,
};
use crate::upstream::health::SessionFailure;

const CHECKS: Health = Health {
    probe: Probe::Tcp,
    interval: Duration::from_secs(5),
    timeout: Duration::from_secs(5),
    rise: 1,
    fall: 1,
};

const EJECTION: Ejection = Ejection {
    failures: 1,
    window: Duration::from_secs(10),
    base: Duration::from_secs(10),
    ceiling: Duration::from_secs(10),
    max_share: 0.5,
};

fn endpoint(address: &str) -> model::EndpointConfig {
    model::EndpointConfig::at(Address::Ip(address.parse().unwrap()))
}

fn settings(endpoints: Vec<model::EndpointConfig>) -> model::UpstreamConfig {
    model::UpstreamConfig::listed("chat", endpoints)
}

fn of(addresses: &[&str]) -> model::UpstreamConfig {
    settings(addresses.iter().map(|address| endpoint(address)).collect())
}

fn upstream(settings: &model::UpstreamConfig) -> Upstream {
    Upstream::new(settings, &Arc::default()).unwrap()
}

fn sticky() -> Sticky {
    Sticky {
        cookie: "tidegate".into(),
        ttl: Duration::from_secs(60),
        domain: None,
        path: "/".into(),
        same_site: SameSite::Lax,
        partitioned: false,
        secret: None,
    }
}

fn label(picked: Result<Lease, PickError>) -> String {
    picked.unwrap().endpoint().label.to_string()
}

#[test]
fn a_lease_counts_from_the_pick_until_it_is_dropped() {
    let upstream = upstream(&of(&["127.0.0.1:1", "127.0.0.1:2"]));
    let first = upstream.pick(Affinity::default(), &[]).unwrap();
    let second = upstream.pick(Affinity::default(), &[]).unwrap();
    assert_ne!(first.endpoint().id, second.endpoint().id);
    assert_eq!(first.endpoint().in_flight(), 1);
    let state = Arc::clone(first.endpoint());
    drop(first);
    assert_eq!(state.in_flight(), 0);
    let tried: Vec<u64> = upstream.endpoints().iter().map(|state| state.id).collect();
    let picked = upstream.pick(Affinity::default(), &tried);
    assert_eq!(picked.unwrap_err(), PickError::NotReady);
}

#[test]
fn counts_survive_a_reload() {
    let known = Arc::<Registry>::default();
    let before = Upstream::new(&of(&["127.0.0.1:1"]), &known).unwrap();
    let held = before.pick(Affinity::default(), &[]).unwrap();
    drop(before);
    // The endpoint is missing from the configuration for a while.
    let between = Upstream::new(&of(&["127.0.0.1:3"]), &known).unwrap();
    let after = Upstream::new(&of(&["127.0.0.1:1", "127.0.0.1:2"]), &known).unwrap();
    drop(between);
    let counts: Vec<usize> = after.endpoints().iter().map(|it| it.in_flight()).collect();
    assert_eq!(counts, [1, 0]);
    assert_eq!(label(after.pick(Affinity::default(), &[])), "127.0.0.1:2");
    drop(held);
    assert_eq!(after.endpoints()[0].in_flight(), 0);
    drop(after);
    assert_eq!(known.living(), 0);
}

#[test]
fn replaced_endpoints_keep_the_state_of_those_that_stay() {
    let mut settings = of(&["127.0.0.1:1"]);
    settings.discovery = Discovery::Srv {
        name: "chat".into(),
        server: None,
    };
    let known = Arc::<Registry>::default();
    let upstream = Upstream::new(&settings, &known).unwrap();
    let held = upstream.pick(Affinity::default(), &[]).unwrap();
    upstream.set_endpoints(&[endpoint("127.0.0.1:2"), endpoint("127.0.0.1:1")]);
    assert_eq!(upstream.endpoints()[1].id, held.endpoint().id);
    assert_eq!(
        label(upstream.pick(Affinity::default(), &[])),
        "127.0.0.1:2"
    );
    // A reload keeps what discovery has found.
    let after = Upstream::new(&settings, &known).unwrap();
    assert_eq!(after.endpoints().len(), 2);
    settings.discovery = Discovery::Listed;
    let listed = Upstream::new(&settings, &known).unwrap();
    assert_eq!(listed.endpoints().len(), 1);
}

#[test]
fn backups_serve_if_no_other_can_and_drained_endpoints_never() {
    let backup = model::EndpointConfig {
        backup: true,
        ..endpoint("127.0.0.1:2")
    };
    let draining = model::EndpointConfig {
        drain: true,
        ..endpoint("127.0.0.1:3")
    };
    let first = model::EndpointConfig {
        max_tunnels: Some(2),
        ..endpoint("127.0.0.1:1")
    };
    let upstream = upstream(&settings(vec![backup, draining, first]));
    let leases: Vec<Lease> = (0..4)
        .map(|_| upstream.pick(Affinity::default(), &[]).unwrap())
        .collect();
    let ports: Vec<&str> = leases
        .iter()
        .map(|lease| lease.endpoint().label.rsplit(':').next().unwrap())
        .collect();
    assert_eq!(ports, ["1", "1", "2", "2"]);
}

#[test]
fn a_cookie_leads_back_whatever_the_weight_but_not_to_a_drained_endpoint() {
    let mut settings = of(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    settings.sticky = Some(sticky());
    settings.endpoints[1].weight = 0;
    settings.endpoints[2].drain = true;
    let known = Arc::<Registry>::default();
    let upstream = Upstream::new(&settings, &known).unwrap();
    let affinity = |upstream: &Upstream, at: usize| Affinity {
        sticky: upstream.tag_of(&upstream.endpoints()[at]),
        ..Affinity::default()
    };
    assert_eq!(
        label(upstream.pick(affinity(&upstream, 1), &[])),
        "127.0.0.1:2"
    );
    assert_eq!(
        label(upstream.pick(affinity(&upstream, 2), &[])),
        "127.0.0.1:1"
    );
    assert_eq!(
        label(upstream.pick(Affinity::default(), &[])),
        "127.0.0.1:1"
    );
    // The generated secret outlives a reload.
    let cookie = affinity(&upstream, 1);
    let after = Upstream::new(&settings, &known).unwrap();
    assert_eq!(label(after.pick(cookie, &[])), "127.0.0.1:2");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_gets_the_lease_that_is_released() {
    let mut settings = of(&["127.0.0.1:1"]);
    settings.endpoints[0].max_tunnels = Some(1);
    settings.picking.queue = Some(QueueConfig {
        size: 1,
        timeout: Duration::from_secs(5),
    });
    let upstream = upstream(&settings);
    let affinity = Affinity::default();
    let held = upstream.pick_in_turn(affinity, &[]).await.unwrap();
    let mut waits = Box::pin(upstream.pick_in_turn(affinity, &[]));
    assert!(futures_util::poll!(&mut waits).is_pending());
    let second = upstream.pick_in_turn(affinity, &[]).await;
    assert_eq!(second.unwrap_err(), PickError::Full, "one may wait");
    drop(held);
    let lease = waits.await.unwrap();
    let late = upstream.pick_in_turn(affinity, &[]).await;
    assert_eq!(
        late.unwrap_err(),
        PickError::Full,
        "it has waited long enough"
    );
    drop(lease);
}

#[test]
fn only_endpoints_that_appear_later_start_slowly() {
    let mut settings = of(&["127.0.0.1:1"]);
    let ramp = Duration::from_secs(10);
    settings.picking.slow_start = Some(ramp);
    let known = Arc::<Registry>::default();
    let upstream = Upstream::new(&settings, &known).unwrap();
    let warmth = |upstream: &Upstream, at: usize, seconds: u64| {
        let now = micros(Instant::now()) + seconds * 1_000_000;
        upstream.endpoints()[at].warmth(ramp, now)
    };
    assert_eq!(warmth(&upstream, 0, 0), 1.0, "there from the start");
    known.settle();
    settings.endpoints.push(endpoint("127.0.0.1:2"));
    let after = Upstream::new(&settings, &known).unwrap();
    assert_eq!(warmth(&after, 0, 0), 1.0);
    assert_eq!(warmth(&after, 1, 0), 0.1, "never below a tenth");
    let half = warmth(&after, 1, 5);
    assert!((0.5..0.6).contains(&half), "{half}");
    assert_eq!(warmth(&after, 1, 11), 1.0);
}

#[test]
fn an_endpoint_out_of_rotation_is_picked_only_if_all_are_and_any_may_be_tried() {
    let mut settings = of(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    settings.endpoints[2].drain = true;
    settings.picking.balance = Balance::RoundRobin;
    let known = Arc::<Registry>::default();
    let upstream = Upstream::new(&settings, &known).unwrap();
    settings.picking.all_down = AllDown::TryAny;
    let any = Upstream::new(&settings, &known).unwrap();
    let ports = |upstream: &Upstream| -> Vec<String> {
        let picked = (0..4).filter_map(|_| upstream.pick(Affinity::default(), &[]).ok());
        let mut ports: Vec<String> = picked
            .map(|lease| lease.endpoint().label.rsplit(':').next().unwrap().into())
            .collect();
        ports.sort_unstable();
        ports
    };
    let turn = |at: usize, down: bool| {
        let result = if down { Err("gone") } else { Ok(()) };
        let now = Instant::now();
        upstream.endpoints()[at].health(now, |health| {
            health.checked(result, &CHECKS, 0.5, now);
        });
    };
    turn(0, true);
    assert_eq!(ports(&upstream), ["2", "2", "2", "2"]);
    assert_eq!(ports(&any), ["2", "2", "2", "2"]);
    turn(1, true);
    let picked = upstream.pick(Affinity::default(), &[]);
    assert_eq!(picked.unwrap_err(), PickError::NotReady);
    assert_eq!(ports(&any), ["1", "1", "2", "2"]);
    turn(0, false);
    assert_eq!(ports(&any), ["1", "1", "1", "1"]);
}

#[test]
fn endpoints_back_in_rotation_start_slowly() {
    let ramp = Duration::from_secs(10);
    let upstream = upstream(&of(&["127.0.0.1:1"]));
    let endpoint = &upstream.endpoints()[0];
    let began = Instant::now();
    let at = |seconds: u64| began + Duration::from_secs(seconds);
    let warmth = |seconds| endpoint.warmth(ramp, micros(at(seconds)));
    let checked = |result, seconds| {
        endpoint.health(at(seconds), |health| {
            health.checked(result, &CHECKS, 0.5, at(seconds));
        });
    };
    checked(Ok(()), 0);
    assert_eq!(warmth(1), 1.0);
    checked(Err("gone"), 20);
    checked(Ok(()), 30);
    assert_eq!((warmth(30), warmth(41)), (0.1, 1.0));
    // No event marks the end of an ejection.
    endpoint.health(at(50), |health| {
        health.failed(SessionFailure::Connect, &EJECTION, at(50));
        health.eject(&EJECTION, at(50));
    });
    assert!(endpoint.is_out(micros(at(59))) && !endpoint.is_out(micros(at(60))));
    assert_eq!((warmth(61), warmth(71)), (0.1, 1.0));
    assert!(!endpoint.ejection_has_ended(at(59)));
    assert!(endpoint.ejection_has_ended(at(60)) && !endpoint.ejection_has_ended(at(60)));
    // A passing check ends an ejection early; an endpoint that is down stays down.
    endpoint.health(at(80), |health| health.eject(&EJECTION, at(80)));
    checked(Ok(()), 85);
    assert_eq!((warmth(85), warmth(96)), (0.1, 1.0));
}

/// The limit holds whatever workers do at once, and whatever endpoints a reload removes.
#[test]
fn no_more_than_the_maximum_share_is_ejected() {
    let addresses: Vec<String> = (1..=9).map(|port| format!("127.0.0.1:{port}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(|address| &**address).collect();
    let mut settings = of(&addresses);
    settings.ejection = Some(EJECTION);
    let known = Arc::<Registry>::default();
    let upstream = Upstream::new(&settings, &known).unwrap();
    let now = Instant::now();
    std::thread::scope(|scope| {
        for first in 0..9 {
            let upstream = &upstream;
            scope.spawn(move || {
                let mut endpoints = upstream.endpoints();
                endpoints.rotate_left(first);
                for endpoint in endpoints {
                    upstream.failed(&endpoint, SessionFailure::Handshake, now);
                }
            });
        }
    });
    let out = |upstream: &Upstream| -> usize {
        let endpoints = upstream.endpoints();
        let out = endpoints.iter().filter(|it| it.is_out(micros(now)));
        out.count()
    };
    assert_eq!(out(&upstream), 4);
    let left = settings.endpoints.iter().zip(upstream.endpoints());
    let left = left.filter(|(_, state)| state.is_out(micros(now)));
    let left: Vec<model::EndpointConfig> = left.map(|(endpoint, _)| endpoint.clone()).collect();
    settings.endpoints = left;
    let after = Upstream::new(&settings, &known).unwrap();
    assert_eq!((after.endpoints().len(), out(&after)), (4, 2));
    // An endpoint that is no longer configured does not count.
    let gone = upstream.endpoints();
    let gone = gone.iter().find(|it| !it.is_out(micros(now))).unwrap();
    assert_eq!(after.failed(gone, SessionFailure::Handshake, now), None);
}

#[test]
fn a_preview_changes_no_turn() {
    let mut settings = of(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    settings.picking.balance = Balance::RoundRobin;
    let upstream = upstream(&settings);
    let mut held = Vec::new();
    for _ in 0..6 {
        let looked = upstream.preview(Affinity::default()).unwrap();
        let again = upstream.preview(Affinity::default()).unwrap();
        let lease = upstream.pick(Affinity::default(), &[]).unwrap();
        assert_eq!((looked.id, again.id), (lease.endpoint().id, looked.id));
        held.push(lease);
    }
    assert!(upstream.endpoints().iter().all(|it| it.in_flight() == 2));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_drained_by_an_operator_gets_no_new_session_in_any_way() {
    let mut settings = of(&["127.0.0.1:1", "127.0.0.1:2"]);
    settings.picking.all_down = AllDown::TryAny;
    settings.picking.slow_start = Some(Duration::from_secs(100));
    settings.picking.queue = Some(QueueConfig {
        size: 5,
        timeout: Duration::from_secs(5),
    });
    settings.sticky = Some(sticky());
    let upstream = upstream(&settings);
    let [one, other] = &upstream.endpoints()[..] else {
        panic!("two")
    };
    let back = Affinity {
        sticky: upstream.tag_of(one),
        ..Affinity::default()
    };
    assert_eq!(label(upstream.pick(back, &[])), "127.0.0.1:1");
    upstream.set_drained(one, true);
    assert_eq!(label(upstream.pick(back, &[])), "127.0.0.1:2");
    upstream.set_drained(other, true);
    // `try_any` is for endpoints that health keeps out, and a request does not queue for a drained one.
    assert_eq!(upstream.pick(back, &[]).unwrap_err(), PickError::NotReady);
    let picked = upstream.pick_in_turn(back, &[]).await;
    assert_eq!(picked.unwrap_err(), PickError::NotReady);
    upstream.set_drained(one, false);
    assert_eq!(
        label(upstream.pick(Affinity::default(), &[])),
        "127.0.0.1:1"
    );
    let warmth = one.warmth(Duration::from_secs(100), micros(Instant::now()));
    assert!(warmth < 0.5, "it comes back slowly");
}

/// Of four, three are drained: the one that serves is not ejected.
#[test]
fn the_maximum_share_is_of_the_endpoints_that_serve() {
    let addresses: Vec<String> = (1..=4).map(|port| format!("127.0.0.1:{port}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(|address| &**address).collect();
    let mut settings = of(&addresses);
    settings.ejection = Some(EJECTION);
    settings.endpoints[1].drain = true;
    let upstream = upstream(&settings);
    let endpoints = upstream.endpoints();
    let now = Instant::now();
    assert!(
        upstream
            .failed(&endpoints[0], SessionFailure::Connect, now)
            .is_some()
    );
    // One of three serving endpoints may be ejected; of two it would be half, of one too many.
    upstream.set_drained(&endpoints[2], true);
    assert!(endpoints[0].is_out(micros(now)));
    upstream.set_drained(&endpoints[3], true);
    assert!(!endpoints[0].is_out(micros(now)), "it comes back");
    assert_eq!(
        upstream.failed(&endpoints[0], SessionFailure::Connect, now),
        None
    );
}

mod asked_last;
mod shared_keys;
mod named;
mod phases;
mod pods;
mod reports;
