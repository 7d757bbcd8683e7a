//! Endpoints whose latest connection failed: who is picked instead, and for how long.

use super::*;
use crate::upstream::endpoint::EndpointState;

fn fails(upstream: &Upstream, address: &str, now: Instant) {
    let endpoints = upstream.endpoints();
    let failing = endpoints.iter().find(|it| *it.label == *address).unwrap();
    upstream.connect_failed(failing, "refused", now);
}

#[test]
fn an_endpoint_whose_connection_failed_is_asked_last() {
    let mut backup = endpoint("127.0.0.1:3");
    backup.backup = true;
    let endpoints = vec![endpoint("127.0.0.1:1"), endpoint("127.0.0.1:2"), backup];
    for balance in [
        Balance::LeastConnections,
        Balance::RoundRobin,
        Balance::Random,
    ] {
        let mut settings = settings(endpoints.clone());
        settings.picking.balance = balance;
        let upstream = upstream(&settings);
        let now = Instant::now();
        let pick = |tried: &[u64]| label(upstream.pick(Affinity::default(), tried));
        fails(&upstream, "127.0.0.1:1", now);
        assert!((0..20).all(|_| pick(&[]) == "127.0.0.1:2"));
        // Backups come before it, and it comes before a refusal.
        let ids: Vec<u64> = upstream.endpoints().iter().map(|it| it.id).collect();
        assert_eq!(pick(&ids[1..2]), "127.0.0.1:3");
        assert_eq!(pick(&ids[1..]), "127.0.0.1:1");
        // It has no share that tunnels could be moved for, and does not count as up.
        let members = upstream.members();
        assert!(!members[0].has_share(now) && !members[0].accepts_sessions(now));
        // If all have failed, none is preferred.
        fails(&upstream, "127.0.0.1:2", now);
        fails(&upstream, "127.0.0.1:3", now);
        let picked: std::collections::BTreeSet<String> = (0..50).map(|_| pick(&[])).collect();
        assert_eq!(picked.len(), 2, "{picked:?}");
        // A connection that succeeds ends it.
        assert!(upstream.endpoints()[1].connected());
        assert!((0..20).all(|_| pick(&[]) == "127.0.0.1:2"));
    }
}

#[test]
fn ten_seconds_end_it_and_only_the_latest_failure_counts() {
    let upstream = upstream(&of(&["127.0.0.1:1", "127.0.0.1:2"]));
    let ago = |seconds| {
        Instant::now()
            .checked_sub(Duration::from_secs(seconds))
            .unwrap()
    };
    let first = |upstream: &Upstream| {
        let picks: Vec<Lease> = (0..2)
            .map(|_| upstream.pick(Affinity::default(), &[]).unwrap())
            .collect();
        picks
            .iter()
            .filter(|it| &*it.endpoint().label == "127.0.0.1:1")
            .count()
    };
    fails(&upstream, "127.0.0.1:1", ago(11));
    assert_eq!(first(&upstream), 1);
    // There is still no share to move tunnels for: nothing says that it is back.
    assert!(!upstream.members()[0].has_share(Instant::now()));
    fails(&upstream, "127.0.0.1:1", ago(5));
    assert_eq!(first(&upstream), 0);
}

#[test]
fn a_cookie_and_a_key_lead_elsewhere_while_an_endpoint_is_asked_last() {
    let mut settings = of(&["127.0.0.1:1", "127.0.0.1:2"]);
    settings.sticky = Some(sticky());
    settings.picking.balance = Balance::Hash(model::HashBy {
        key: RequestKey::ClientIp,
        load_factor: 2.0,
    });
    let upstream = upstream(&settings);
    let home = upstream.endpoints()[0].clone();
    let to_home = Affinity {
        sticky: upstream.tag_of(&home),
        ..Affinity::default()
    };
    let keys: Vec<Affinity> = (0..20)
        .map(|key| Affinity {
            hash: Some(key << 59),
            ..Affinity::default()
        })
        .filter(|key| label(upstream.pick(*key, &[])) == *home.label)
        .collect();
    assert!(!keys.is_empty());
    fails(&upstream, &home.label, Instant::now());
    for affinity in keys.iter().chain([&to_home]) {
        assert_eq!(label(upstream.pick(*affinity, &[])), "127.0.0.1:2");
    }
    // They come back with the first connection that succeeds; a cookie does if it was not replaced.
    home.connected();
    for affinity in keys.iter().chain([&to_home]) {
        assert_eq!(label(upstream.pick(*affinity, &[])), *home.label);
    }
}

#[test]
fn where_there_is_ejection_it_decides_as_far_as_it_may() {
    let mut settings = of(&["127.0.0.1:1", "127.0.0.1:2"]);
    settings.ejection = Some(Ejection {
        failures: 2,
        ..EJECTION
    });
    let upstream = upstream(&settings);
    let now = Instant::now();
    let [one, two] = [0, 1].map(|at: usize| upstream.endpoints()[at].clone());
    let fail = |endpoint: &EndpointState| {
        upstream.connect_failed(endpoint, "refused", now);
        upstream.failed(endpoint, SessionFailure::Connect, now)
    };
    let is_asked_last = |endpoint: &EndpointState| endpoint.is_asked_last(micros(now));
    assert!(fail(&one).is_none() && !is_asked_last(&one));
    assert!(fail(&one).is_some());
    // `max_share` leaves no room for the second one.
    assert!(fail(&two).is_none() && !is_asked_last(&two));
    assert!(fail(&two).is_none() && is_asked_last(&two));
}
