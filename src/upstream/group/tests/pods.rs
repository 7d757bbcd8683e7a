//! Pods that become ready, go, and leave their addresses to others.

use super::*;
use crate::config::model::EndpointPhase::{
    self, NotReady, Ready, Terminating, TerminatingNotReady, Unlisted,
};
use crate::config::model::{EndpointConfig, KubernetesService, ReportsConfig, ServicePort};
use crate::protocol::handshake_response::ResponseHead;
use crate::protocol::load_report::LoadReport;
use crate::upstream::health::HealthStatus;

const SLOW_START: Duration = Duration::from_secs(10);

fn of_service() -> model::UpstreamConfig {
    let mut settings = settings(Vec::new());
    settings.picking.slow_start = Some(SLOW_START);
    settings.discovery = Discovery::Kubernetes(KubernetesService {
        name: "chat".into(),
        port: ServicePort::Number(9000),
        namespace: None,
        api: None,
        token_file: None,
        ca: None,
        state: None,
    });
    settings
}

fn pod(name: &str, address: &str, phase: EndpointPhase) -> EndpointConfig {
    EndpointConfig {
        phase,
        name: Some(name.into()),
        ..endpoint(address)
    }
}

const ONE: &str = "10.0.0.1:9000";
const TWO: &str = "10.0.0.2:9000";

fn state(upstream: &Upstream, label: &str) -> Arc<EndpointState> {
    let endpoints = upstream.endpoints();
    let found = endpoints.iter().find(|it| *it.label == *label);
    Arc::clone(found.unwrap())
}

/// How far it is in its slow start after these seconds.
fn warmth(upstream: &Upstream, label: &str, seconds: u64) -> f32 {
    let now = micros(Instant::now()) + seconds * 1_000_000;
    state(upstream, label).warmth(SLOW_START, now)
}

#[test]
fn a_slow_start_begins_when_a_pod_becomes_ready() {
    // One that has only moved to another slice was ready all the time.
    for (before, other_pod, expected) in [
        (NotReady, false, 0.1),
        (Terminating, false, 0.1),
        (TerminatingNotReady, false, 0.1),
        (Unlisted, false, 1.0),
        (Ready, false, 1.0),
        (Unlisted, true, 0.1),
        (Ready, true, 0.1),
    ] {
        let known = Arc::<Registry>::default();
        let upstream = Upstream::new(&of_service(), &known).unwrap();
        upstream.set_endpoints(&[pod("a", ONE, before)]);
        known.settle();
        assert_eq!(warmth(&upstream, ONE, 0), 1.0, "there from the start");
        upstream.set_endpoints(&[pod("a", ONE, before), pod("b", TWO, NotReady)]);
        assert_eq!(warmth(&upstream, ONE, 0), 1.0);
        let name = if other_pod { "c" } else { "a" };
        upstream.set_endpoints(&[pod(name, ONE, Ready)]);
        assert_eq!(warmth(&upstream, ONE, 0), expected, "{before:?} {name}");
        // A reload does not begin it again.
        let since = warmth(&upstream, ONE, 5);
        let after = Upstream::new(&of_service(), &known).unwrap();
        after.set_endpoints(&[pod(name, ONE, Ready)]);
        assert!(warmth(&after, ONE, 5) >= since);
    }
}

#[test]
fn a_pod_that_becomes_ready_while_it_is_ejected_starts_slowly_at_the_end_of_that() {
    let known = Arc::<Registry>::default();
    let upstream = Upstream::new(&of_service(), &known).unwrap();
    upstream.set_endpoints(&[pod("a", ONE, NotReady)]);
    known.settle();
    let now = Instant::now();
    state(&upstream, ONE).health(now, |health| {
        health.failed(SessionFailure::Connect, &EJECTION, now);
        health.eject(&EJECTION, now);
    });
    upstream.set_endpoints(&[pod("a", ONE, Ready)]);
    assert_eq!(warmth(&upstream, ONE, 10), 0.1);
    assert_eq!(warmth(&upstream, ONE, 21), 1.0);
}

/// The drain and the weight of an endpoint.
fn steered(upstream: &Upstream, label: &str) -> (bool, Option<u32>) {
    let state = state(upstream, label);
    (state.is_drained(), state.weight())
}

fn steer(upstream: &Upstream, label: &str) {
    let state = state(upstream, label);
    upstream.set_drained(&state, true);
    state.set_weight(Some(7));
}

#[test]
fn what_an_operator_has_set_ends_with_the_pod() {
    let known = Arc::<Registry>::default();
    let upstream = Upstream::new(&of_service(), &known).unwrap();
    let both = [pod("a", ONE, Ready), pod("b", TWO, Ready)];
    upstream.set_endpoints(&both);
    known.settle();
    // A tunnel keeps the state of its endpoint.
    let lease = upstream.pick(Affinity::default(), &[]).unwrap();
    let held = lease.endpoint().label.to_string();
    steer(&upstream, ONE);
    steer(&upstream, TWO);
    upstream.set_endpoints(&[pod("a", ONE, Unlisted), pod("b", TWO, NotReady)]);
    upstream.set_endpoints(&both);
    for label in [ONE, TWO] {
        assert_eq!(
            steered(&upstream, label),
            (true, Some(7)),
            "it was never gone"
        );
    }
    upstream.set_endpoints(&[]);
    for label in [ONE, TWO] {
        assert!(!known.is_drained(&upstream.name, &Address::Ip(label.parse().unwrap())));
    }
    upstream.set_endpoints(&both);
    for label in [ONE, TWO] {
        assert_eq!(
            steered(&upstream, label),
            (false, None),
            "{label}, held: {held}"
        );
        assert_eq!(warmth(&upstream, label, 0), 0.1);
    }
    // The address has gone to another pod between two events.
    steer(&upstream, ONE);
    upstream.set_endpoints(&[pod("c", ONE, NotReady), pod("b", TWO, Ready)]);
    assert_eq!(steered(&upstream, ONE), (false, None));
    // A pod of a StatefulSet on the network of its host has kept the address and the name.
    steer(&upstream, TWO);
    for phase in [Terminating, TerminatingNotReady] {
        upstream.set_endpoints(&[pod("b", TWO, phase)]);
        assert_eq!(steered(&upstream, TWO), (true, Some(7)), "{phase:?}");
    }
    upstream.set_endpoints(&[pod("b", TWO, NotReady)]);
    assert_eq!(steered(&upstream, TWO), (false, None));
    drop(lease);
}

#[test]
fn what_was_known_of_a_pod_does_not_count_for_the_next_one_at_its_address() {
    let mut settings = of_service();
    settings.ejection = Some(EJECTION);
    settings.picking.reports = Some(ReportsConfig {
        max_age: 10 * SLOW_START,
    });
    let known = Arc::<Registry>::default();
    let upstream = Upstream::new(&settings, &known).unwrap();
    upstream.set_endpoints(&[pod("a", ONE, Ready)]);
    known.settle();
    // A tunnel keeps the state of its endpoint.
    let lease = upstream.pick(Affinity::default(), &[]).unwrap();
    let fail = || {
        let (state, now) = (state(&upstream, ONE), Instant::now());
        let draining = LoadReport {
            is_draining: true,
            ..LoadReport::default()
        };
        upstream.accept_report(&state, draining, now);
        upstream.connect_failed(&state, "refused", now);
        state.health(now, |health| {
            health.failed(SessionFailure::Connect, &EJECTION, now);
            health.eject(&EJECTION, now);
            health.checked(Err("refused"), &CHECKS, 0.5, now);
        });
    };
    let is_known = || {
        let (state, now) = (state(&upstream, ONE), Instant::now());
        let is_up = state.health(now, |health| health.status(now) == HealthStatus::Up);
        let all = [
            state.reports_drain(now),
            state.report.turn_drain(false).is_some(),
            state.unreached().is_some(),
            state.health(now, |health| health.is_ejected(now)),
            !is_up,
        ];
        assert!(all.iter().all(|it| *it == all[0]), "{all:?}");
        all[0]
    };
    fail();
    for phase in [Unlisted, NotReady, Terminating, TerminatingNotReady] {
        fail();
        upstream.set_endpoints(&[pod("a", ONE, phase)]);
        assert!(is_known(), "{phase:?}");
    }
    // It has the address and the name of one that has ended, has another name, or comes after a while.
    fail();
    upstream.set_endpoints(&[pod("a", ONE, NotReady)]);
    assert!(!is_known());
    fail();
    upstream.set_endpoints(&[pod("b", ONE, Ready)]);
    assert!(!is_known());
    fail();
    upstream.set_endpoints(&[pod("c", TWO, Ready)]);
    let report = LoadReport {
        is_draining: true,
        ..LoadReport::default()
    };
    upstream.accept_report(lease.endpoint(), report, Instant::now());
    upstream.set_endpoints(&[pod("b", ONE, Ready), pod("c", TWO, Ready)]);
    assert!(!is_known());
    assert!(upstream.members().iter().all(Member::is_undrained));
    drop(lease);
}

#[test]
fn a_late_report_of_a_pod_drains_no_other_one_at_its_address() {
    let mut settings = of_service();
    settings.picking.reports = Some(ReportsConfig {
        max_age: 10 * SLOW_START,
    });
    let upstream = upstream(&settings);
    upstream.set_endpoints(&[pod("a", ONE, Ready)]);
    let lease = upstream.pick(Affinity::default(), &[]).unwrap();
    let earlier = lease.endpoint().incarnation();
    upstream.set_endpoints(&[pod("b", ONE, Ready)]);
    let next = upstream.pick(Affinity::default(), &[]).unwrap();
    let later = next.endpoint().incarnation();
    for (incarnation, expected) in [(earlier, false), (later, true)] {
        let response = b"HTTP/1.1 200 OK\r\ntidegate-load: drain\r\n\r\n";
        let (head, _) = ResponseHead::parse(response).unwrap().unwrap();
        upstream.take_report(next.endpoint(), incarnation, &head);
        assert_eq!(
            state(&upstream, ONE).reports_drain(Instant::now()),
            expected
        );
    }
}

#[test]
fn an_address_that_dns_finds_again_stays_drained() {
    let mut settings = of_service();
    settings.discovery = Discovery::Dns {
        name: "chat.svc".into(),
        port: 9000,
        server: None,
    };
    let upstream = upstream(&settings);
    upstream.set_endpoints(&[endpoint(ONE)]);
    steer(&upstream, ONE);
    upstream.set_endpoints(&[endpoint(TWO)]);
    upstream.set_endpoints(&[endpoint(ONE)]);
    assert!(steered(&upstream, ONE).0);
}
