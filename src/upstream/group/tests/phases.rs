//! Endpoints that discovery reports to be terminating or not ready.

use super::*;
use crate::config::model::EndpointPhase::{
    self, NotReady, Ready, Terminating, TerminatingNotReady, Unlisted,
};

/// An upstream with endpoints at the ports 1, 2, … in these phases.
fn in_phases(phases: &[EndpointPhase]) -> model::UpstreamConfig {
    let endpoints = phases
        .iter()
        .enumerate()
        .map(|(number, phase)| model::EndpointConfig {
            phase: *phase,
            name: Some(format!("pod-{}", number + 1).into()),
            ..endpoint(&format!("127.0.0.1:{}", number + 1))
        });
    let mut settings = settings(endpoints.collect());
    settings.picking.balance = Balance::RoundRobin;
    settings.sticky = Some(sticky());
    settings
}

/// The ports that four sessions get; 0 for none.
fn ports(upstream: &Upstream, affinity: Affinity) -> Vec<u16> {
    let port = |picked: Result<Lease, PickError>| {
        let label = picked.map(|lease| lease.endpoint().label.to_string());
        label.map_or(0, |label| {
            label.rsplit(':').next().unwrap().parse().unwrap()
        })
    };
    let picked = (0..4).map(|_| port(upstream.pick(affinity, &[])));
    let mut ports: Vec<u16> = picked.collect();
    ports.sort_unstable();
    ports
}

fn check(phases: &[EndpointPhase], expected: [u16; 4], availability: Availability) {
    let upstream = upstream(&in_phases(phases));
    assert_eq!(
        ports(&upstream, Affinity::default()),
        expected,
        "{phases:?}"
    );
    assert_eq!(
        upstream.availability(Affinity::default()),
        availability,
        "{phases:?}"
    );
}

#[test]
fn new_sessions_go_to_ready_endpoints_and_else_to_those_that_still_serve() {
    check(
        &[Ready, Terminating, NotReady],
        [1; 4],
        Availability::Serving,
    );
    check(
        &[Ready, Terminating, Ready],
        [1, 1, 3, 3],
        Availability::Serving,
    );
    check(
        &[Terminating, NotReady, Terminating],
        [1, 1, 3, 3],
        Availability::Serving,
    );
    check(
        &[Ready, Unlisted, TerminatingNotReady],
        [1; 4],
        Availability::Serving,
    );
    // Better than to refuse clients while all endpoints move to another slice.
    check(
        &[Unlisted, NotReady, Unlisted],
        [1, 1, 3, 3],
        Availability::Serving,
    );
    check(&[NotReady, NotReady], [0; 4], Availability::Down);
    check(&[TerminatingNotReady, NotReady], [0; 4], Availability::Down);
    check(&[], [0; 4], Availability::Down);
}

#[test]
fn clients_return_to_an_endpoint_that_still_serves() {
    let phases = [Ready, Terminating, NotReady, TerminatingNotReady, Unlisted];
    let upstream = upstream(&in_phases(&phases));
    let bound = |at: usize| Affinity {
        sticky: upstream.tag_of(&upstream.endpoints()[at]),
        ..Affinity::default()
    };
    let named = |name: &str| Affinity {
        named: upstream.named(name),
        ..Affinity::default()
    };
    assert_eq!(ports(&upstream, bound(1)), [2; 4]);
    assert_eq!(ports(&upstream, bound(2)), [1; 4]);
    assert_eq!(ports(&upstream, bound(3)), [1; 4]);
    assert_eq!(ports(&upstream, bound(4)), [5; 4]);
    assert_eq!(ports(&upstream, named("pod-2")), [2; 4]);
    assert_eq!(ports(&upstream, named("pod-3")), [0; 4]);
    assert_eq!(upstream.availability(named("pod-2")), Availability::Serving);
    assert_eq!(upstream.availability(named("pod-3")), Availability::Down);
    // An operator's drain counts for all.
    upstream.set_drained(&upstream.endpoints()[1], true);
    assert_eq!(ports(&upstream, bound(1)), [1; 4]);
}

#[test]
fn a_full_endpoint_is_ready_and_one_that_is_down_is_not() {
    let mut settings = in_phases(&[Ready, Terminating]);
    settings.endpoints[0].max_tunnels = Some(1);
    let full = upstream(&settings);
    let _held = full.pick(Affinity::default(), &[]).unwrap();
    let picked = full.pick(Affinity::default(), &[]);
    assert_eq!(
        picked.unwrap_err(),
        PickError::Full,
        "it waits for the one that is ready"
    );
    let down = upstream(&in_phases(&[Ready, Terminating]));
    let now = Instant::now();
    down.endpoints()[0].health(now, |health| {
        health.checked(Err("gone"), &CHECKS, 0.5, now);
    });
    assert_eq!(ports(&down, Affinity::default()), [2; 4]);
    assert_eq!(
        down.availability(Affinity::default()),
        Availability::Serving
    );
}

#[test]
fn only_ready_endpoints_have_a_share_and_only_terminating_ones_are_drained() {
    let phases = [Ready, Terminating, NotReady, TerminatingNotReady, Unlisted];
    let upstream = upstream(&in_phases(&phases));
    let now = Instant::now();
    let members = upstream.members();
    let shares: Vec<bool> = members.iter().map(|it| it.has_share(now)).collect();
    let undrained: Vec<bool> = members.iter().map(Member::is_undrained).collect();
    assert_eq!(shares, [true, false, false, false, false]);
    assert_eq!(undrained, [true, false, true, false, true]);
    assert!(!members[2].accepts_sessions(now));
}
