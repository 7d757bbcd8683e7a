//! What reports of endpoints do to picks.

use super::*;
use crate::config::model::ReportsConfig;
use crate::protocol::load_report::LoadReport;

const MAX_AGE: Duration = Duration::from_secs(30);

const ADDRESSES: [&str; 2] = ["127.0.0.1:1", "127.0.0.1:2"];

fn reporting() -> model::UpstreamConfig {
    let mut settings = of(&ADDRESSES);
    settings.picking.reports = Some(ReportsConfig { max_age: MAX_AGE });
    settings
}

fn report(upstream: &Upstream, at: usize, text: &str) {
    let report = LoadReport::parse([text.as_bytes()].into_iter()).unwrap();
    upstream.accept_report(&upstream.endpoints()[at], report, Instant::now());
}

/// The endpoints of this many picks whose leases are held.
fn held(upstream: &Upstream, count: usize) -> Vec<Lease> {
    let picks = (0..count).map(|_| upstream.pick(Affinity::default(), &[]).unwrap());
    picks.collect()
}

fn on_second(leases: &[Lease]) -> usize {
    let second = leases.iter();
    second
        .filter(|lease| &*lease.endpoint().label == ADDRESSES[1])
        .count()
}

#[test]
fn the_reported_total_counts_in_place_of_own_leases() {
    let upstream = upstream(&reporting());
    report(&upstream, 0, "tunnels=5");
    report(&upstream, 1, "tunnels=0");
    let leases = held(&upstream, 2);
    assert_eq!(on_second(&leases), 1, "the second, and then they are even");
    report(&upstream, 0, "tunnels=9");
    report(&upstream, 1, "tunnels=1");
    locked(&upstream.group).rescale(micros(Instant::now()));
    // Two of ten tunnels are its own: each one more stands for five. The second has 1, 6, 11.
    let more = held(&upstream, 3);
    let seconds: Vec<usize> = more.chunks(1).map(on_second).collect();
    assert_eq!(seconds, [1, 1, 0]);
}

#[test]
fn reports_are_ignored_unless_they_are_configured() {
    let known = Arc::<Registry>::default();
    let upstream = Upstream::new(&reporting(), &known).unwrap();
    report(&upstream, 0, "drain");
    let off = Upstream::new(&of(&ADDRESSES), &known).unwrap();
    let leases = held(&off, 4);
    assert_eq!(on_second(&leases), 2);
    report(&off, 1, "drain");
    drop(leases);
    assert!(off.members().iter().all(Member::is_undrained));
    // The report has outlived the reload.
    let on = Upstream::new(&reporting(), &known).unwrap();
    let drained: Vec<_> = on
        .members()
        .iter()
        .map(Member::is_drained_by_report)
        .collect();
    assert_eq!(drained, [true, false]);
}

#[test]
fn the_smaller_maximum_bounds_new_tunnels() {
    let mut settings = reporting();
    settings.endpoints[0].max_tunnels = Some(2);
    settings.endpoints[1].max_tunnels = Some(5);
    let upstream = upstream(&settings);
    report(&upstream, 0, "max=10");
    report(&upstream, 1, "tunnels=7, max=10");
    // Two by the configuration, and three by the report.
    let leases = held(&upstream, 5);
    assert_eq!(on_second(&leases), 3);
    let full = upstream.pick(Affinity::default(), &[]);
    assert_eq!(full.unwrap_err(), PickError::Full);
    assert!(upstream.members()[1].is_full_by_report());
    // Others have left.
    report(&upstream, 1, "tunnels=8, max=10");
    let picked = upstream.pick(Affinity::default(), &[]);
    assert_eq!(label(picked), ADDRESSES[1]);
    report(&upstream, 0, "max=0");
    assert!(upstream.members()[0].is_full_by_report());
}

#[test]
fn a_reported_drain_is_one_until_the_next_report() {
    let upstream = upstream(&reporting());
    report(&upstream, 0, "drain");
    assert!(!upstream.members()[0].is_undrained());
    assert_eq!(on_second(&held(&upstream, 3)), 3);
    report(&upstream, 1, "drain");
    let picked = upstream.pick(Affinity::default(), &[]);
    assert_eq!(picked.unwrap_err(), PickError::NotReady);
    assert_eq!(
        upstream.availability(Affinity::default()),
        Availability::Down
    );
    report(&upstream, 0, "");
    let picked = upstream.pick(Affinity::default(), &[]);
    assert_eq!(label(picked), ADDRESSES[0]);
}

#[test]
fn a_reported_weight_multiplies_the_configured_one_and_not_an_operators() {
    let mut settings = reporting();
    settings.picking.balance = Balance::RoundRobin;
    settings.endpoints[1].weight = 2;
    let upstream = upstream(&settings);
    assert_eq!(on_second(&held(&upstream, 9)), 6);
    report(&upstream, 1, "weight=0.25");
    assert_eq!(on_second(&held(&upstream, 9)), 3);
    report(&upstream, 1, "weight=0");
    assert_eq!(on_second(&held(&upstream, 9)), 0);
    upstream.endpoints()[1].set_weight(Some(2));
    assert_eq!(on_second(&held(&upstream, 9)), 6);
}

#[test]
fn an_old_report_does_not_count() {
    let upstream = upstream(&reporting());
    let Some(before) = Instant::now().checked_sub(MAX_AGE) else {
        return;
    };
    let report = LoadReport {
        is_draining: true,
        ..LoadReport::default()
    };
    upstream.accept_report(&upstream.endpoints()[0], report, before);
    assert!(upstream.members()[0].is_undrained());
    assert_eq!(on_second(&held(&upstream, 4)), 2);
}

#[test]
fn a_reported_drain_that_ends_just_after_an_upgrade_ends_once() {
    const SLOW_START: Duration = Duration::from_secs(60);
    let mut settings = reporting();
    settings.picking.slow_start = Some(SLOW_START);
    let known = Arc::<Registry>::default();
    let before = Upstream::new(&settings, &known).unwrap();
    report(&before, 0, "drain");
    let handed = known.hand_over(Instant::now());
    let after = Upstream::new(&settings, &Arc::new(Registry::from_predecessor(handed))).unwrap();
    let [endpoint, other] = &after.endpoints()[..] else {
        panic!("two endpoints");
    };
    let now = Instant::now();
    assert!(endpoint.reports_drain(now));
    // The first look comes after its end.
    let end = now + MAX_AGE;
    for endpoint in [endpoint, other] {
        assert_eq!(after.report_ends(endpoint, end), None);
    }
    let warmth = |endpoint: &EndpointState, at| endpoint.warmth(SLOW_START, micros(at));
    assert_eq!((warmth(endpoint, end), warmth(other, end)), (0.1, 1.0));
    // The slow start does not begin again with the next report.
    let later = end + SLOW_START;
    after.accept_report(endpoint, LoadReport::default(), later);
    assert_eq!(warmth(endpoint, later), 1.0);
    assert_eq!(after.report_ends(endpoint, later), None);
}
