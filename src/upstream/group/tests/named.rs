//! Picks of requests that name their endpoint.

use super::*;

/// `127.0.0.1:1` and so on, which are called `game-1` and so on.
fn games(count: u16) -> Vec<model::EndpointConfig> {
    let game = |number| model::EndpointConfig {
        name: Some(format!("game-{number}").into()),
        ..endpoint(&format!("127.0.0.1:{number}"))
    };
    (1..=count).map(game).collect()
}

fn named(upstream: &Upstream, name: &str) -> Affinity {
    Affinity {
        named: Some(upstream.named(name).unwrap()),
        ..Affinity::default()
    }
}

#[test]
fn the_named_endpoint_is_picked_and_no_other() {
    let mut endpoints = games(3);
    endpoints[0].weight = 0;
    endpoints[1].backup = true;
    let upstream = upstream(&settings(endpoints));
    assert_eq!(upstream.named("game-4"), None);
    assert_eq!(upstream.named("127.0.0.1:1"), None);
    for number in 1..=3 {
        let affinity = named(&upstream, &format!("game-{number}"));
        let expected = format!("127.0.0.1:{number}");
        // Whatever its weight, also as a backup, and again if it was tried.
        let tried: Vec<u64> = upstream.endpoints().iter().map(|it| it.id).collect();
        for tried in [&[][..], &tried] {
            assert_eq!(label(upstream.pick(affinity, tried)), expected);
        }
        assert_eq!(upstream.availability(affinity), Availability::Serving);
    }
    // Neither a cookie nor a connection of the client's own leads away from it.
    let affinity = Affinity {
        reserved: Some(upstream.endpoints()[1].id),
        hash: Some(7),
        ..named(&upstream, "game-3")
    };
    assert_eq!(label(upstream.pick(affinity, &[])), "127.0.0.1:3");
}

#[test]
fn a_named_endpoint_that_cannot_serve_is_not_replaced() {
    let mut endpoints = games(2);
    endpoints[0].max_tunnels = Some(1);
    let mut settings = settings(endpoints);
    settings.health = Some(CHECKS);
    let upstream = upstream(&settings);
    let affinity = named(&upstream, "game-1");
    let lease = upstream.pick(affinity, &[]).unwrap();
    assert_eq!(upstream.pick(affinity, &[]).unwrap_err(), PickError::Full);
    // Full is not down.
    assert_eq!(upstream.availability(affinity), Availability::Serving);
    drop(lease);
    let one = upstream.endpoints()[0].clone();
    upstream.set_drained(&one, true);
    let refused = upstream.pick(affinity, &[]).unwrap_err();
    assert_eq!(refused, PickError::NotReady);
    assert_eq!(upstream.availability(affinity), Availability::Down);
    upstream.set_drained(&one, false);
    let now = Instant::now();
    one.health(now, |health| {
        health.checked(Err("it is gone"), &CHECKS, 0.5, now)
    });
    let refused = upstream.pick(affinity, &[]).unwrap_err();
    assert_eq!(refused, PickError::NotReady);
    assert_eq!(
        label(upstream.pick(named(&upstream, "game-2"), &[])),
        "127.0.0.1:2"
    );
}

/// The latest connection failed: others are asked first, but a request that names it has no others.
#[test]
fn a_named_endpoint_that_is_asked_last_is_asked() {
    let upstream = upstream(&settings(games(2)));
    let one = upstream.endpoints()[0].clone();
    upstream.connect_failed(&one, "refused", Instant::now());
    assert_eq!(
        label(upstream.pick(Affinity::default(), &[])),
        "127.0.0.1:2"
    );
    assert_eq!(
        label(upstream.pick(named(&upstream, "game-1"), &[])),
        "127.0.0.1:1"
    );
}

/// As the addresses of one target of SRV records do.
#[test]
fn endpoints_that_share_a_name_share_its_requests() {
    let mut endpoints = games(3);
    endpoints[1].name = Some("game-1".into());
    let upstream = upstream(&settings(endpoints));
    let affinity = named(&upstream, "game-1");
    let mut leases: Vec<Lease> = (0..4)
        .map(|_| upstream.pick(affinity, &[]).unwrap())
        .collect();
    assert_eq!(
        [0, 1, 2].map(|at| upstream.endpoints()[at].in_flight()),
        [2, 2, 0]
    );
    let tried = leases.remove(0).endpoint().id;
    let other = upstream.pick(affinity, &[tried]).unwrap();
    assert_ne!(other.endpoint().id, tried);
}
