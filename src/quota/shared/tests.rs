//! The table over threads, when it is full, and across generations.

mod model;

use std::num::NonZeroU32;
use std::thread;

use super::usage::KeyUsage;
use super::*;
use crate::config::model::{MissingKey, RequestKey};

fn config(tunnels: u32, when_full: WhenFull) -> SharedLimitConfig {
    SharedLimitConfig {
        name: "user".into(),
        key: RequestKey::Cookie("sid".into()),
        missing: MissingKey::ClientIp,
        tunnels: NonZeroU32::new(tunnels),
        when_full,
        handshakes: None,
        requests: None,
        keys: 1000,
    }
}

fn slow(burst: u32) -> Option<Rate> {
    Some(Rate {
        per_second: 0.001,
        burst: NonZeroU32::new(burst).unwrap(),
    })
}

fn place(worker: &Arc<ReplacedTunnels>, session: u64) -> TunnelPlace {
    TunnelPlace {
        replaced: Arc::clone(worker),
        place: session as u32,
        session,
    }
}

/// The sessions that were to be closed since the last call.
fn replaced(worker: &ReplacedTunnels) -> Vec<u64> {
    use futures_util::FutureExt;
    let waiting = worker.next().now_or_never().unwrap_or_default();
    waiting.into_iter().map(|(_, session)| session).collect()
}

#[test]
fn a_key_without_tunnels_takes_little_memory() {
    let (usage, permit) = (size_of::<KeyUsage>(), size_of::<KeyPermit>());
    assert!(usage <= 24, "{usage} bytes in addition to 16 for the hash");
    assert!(permit <= 48, "{permit} bytes");
}

/// A handshake that is admitted.
fn permit(
    limit: &Arc<SharedLimit>,
    key: &LimitKey<'_>,
    config: &SharedLimitConfig,
) -> Result<KeyPermit, LimitExceeded> {
    let admitted = limit.handshake(key, config, &Arc::default());
    admitted.map(|permit| permit.expect("the limit has `tunnels`"))
}

#[test]
fn a_limit_is_exact_over_threads() {
    let limit = Arc::<SharedLimit>::default();
    let config = config(5, WhenFull::Refuse);
    let hasher = key::KeyHasher::default();
    let refused = AtomicUsize::new(0);
    let admitted: Vec<KeyPermit> = thread::scope(|scope| {
        let take = || {
            let mut kept = Vec::new();
            for round in 0..2000 {
                match permit(&limit, &hasher.key(KeySource::Part(b"alice")), &config) {
                    // Some leave, so that there is room again and again.
                    Ok(permit) if round % 3 == 0 => kept.push(permit),
                    Ok(_) => {}
                    Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                }
                assert!(limit.top(1).1 <= 5);
            }
            kept
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        let kept = threads.into_iter().map(|it| it.join().unwrap());
        kept.flatten().collect()
    });
    assert_eq!(admitted.len(), 5);
    assert_eq!(limit.top(1).1, 5);
    assert!(refused.into_inner() > 0);
}

#[test]
fn keys_beyond_the_maximum_share_one_count() {
    let limit = Arc::<SharedLimit>::default();
    let hasher = key::KeyHasher::default();
    let config = SharedLimitConfig {
        keys: 2,
        requests: slow(2),
        ..config(1, WhenFull::Refuse)
    };
    let shake = |key: &str| {
        let key = hasher.key(KeySource::Part(key.as_bytes()));
        limit.handshake(&key, &config, &Arc::default())
    };
    let request = |key: &str| limit.request(&hasher.key(KeySource::Part(key.as_bytes())), &config);
    let one = shake("one").unwrap();
    let two = shake("two").unwrap();
    let three = shake("three").unwrap();
    assert_eq!(shake("four").unwrap_err(), LimitExceeded::Tunnels);
    assert!(request("five").is_ok() && request("six").is_ok());
    assert_eq!(request("seven"), Err(LimitExceeded::Rate));
    assert!(
        request("one").is_ok(),
        "a key in the table has its own count"
    );
    let keys: Vec<String> = limit.top(9).0.into_iter().map(|it| it.key).collect();
    assert!(keys.contains(&"(all other keys)".to_owned()), "{keys:?}");
    assert_eq!(limit.len(), 2);
    drop((one, two, three));
    limit.sweep();
    // `one` has used up a part of its rate.
    assert_eq!(limit.len(), 1);
    assert!(shake("four").is_ok());
    assert_eq!(limit.counters.overflowed.load(Ordering::Relaxed), 5);
}

#[test]
fn keys_beyond_the_maximum_close_no_tunnels_of_each_other() {
    let limits = SharedLimits::default();
    let worker = Arc::<ReplacedTunnels>::default();
    let config = SharedLimitConfig {
        keys: 1,
        ..config(2, WhenFull::CloseOldest)
    };
    let limit = limits.running(&config);
    let open = |key: &str| {
        let key = limits.hasher().key(KeySource::Part(key.as_bytes()));
        let permit = permit(&limit, &key, &config)?;
        permit.opened(place(&worker, 1));
        Ok::<_, LimitExceeded>(permit)
    };
    let _own = open("one").unwrap();
    let _others = [open("two").unwrap(), open("three").unwrap()];
    assert_eq!(open("four").unwrap_err(), LimitExceeded::Tunnels);
    let order = OlderToReplace {
        limit: config.name.to_string(),
        key: config.key.to_string(),
        id: KeyId::REST.to_hex(),
        tunnels: 2,
    };
    assert_eq!(limits.replace(&order), Some(0));
    assert!(replaced(&worker).is_empty());
    // The key that is counted by itself replaces its own ones.
    let _more = [open("one").unwrap(), open("one").unwrap()];
    assert_eq!(replaced(&worker), [1]);
}

#[test]
fn a_handshake_that_gave_way_opens_nothing_after_its_key_is_forgotten() {
    let limit = Arc::<SharedLimit>::default();
    let worker = Arc::<ReplacedTunnels>::default();
    let hasher = key::KeyHasher::default();
    let config = config(1, WhenFull::CloseOldest);
    let key = hasher.key(KeySource::Part(b"alice"));
    let late = permit(&limit, &key, &config).unwrap();
    drop(permit(&limit, &key, &config).unwrap());
    limit.sweep();
    assert!(limit.is_empty());
    late.opened(place(&worker, 1));
    assert_eq!(replaced(&worker), [1]);
    drop(late);
    limit.sweep();
    assert!(limit.is_empty());
}

#[test]
fn without_a_maximum_of_tunnels_none_are_counted() {
    let limit = Arc::<SharedLimit>::default();
    let hasher = key::KeyHasher::default();
    let config = SharedLimitConfig {
        tunnels: None,
        handshakes: slow(1),
        ..config(1, WhenFull::CloseOldest)
    };
    let key = hasher.key(KeySource::Part(b"alice"));
    assert!(
        limit
            .handshake(&key, &config, &Arc::default())
            .unwrap()
            .is_none()
    );
    assert_eq!(limit.top(1), (Vec::new(), 0));
    let exceeded = limit.handshake(&key, &config, &Arc::default()).unwrap_err();
    assert_eq!(exceeded, LimitExceeded::Rate);
}

#[test]
fn a_flood_of_keys_takes_bounded_memory() {
    let limit = SharedLimit::default();
    let hasher = key::KeyHasher::default();
    let config = SharedLimitConfig {
        requests: slow(1),
        ..config(1, WhenFull::Refuse)
    };
    for number in 0..50_000_u32 {
        let _ = limit.request(&hasher.key(KeySource::Part(&number.to_be_bytes())), &config);
    }
    assert_eq!(limit.len(), 1000);
    let room: usize = limit
        .shards
        .iter()
        .map(|it| locked(it).keys.capacity())
        .sum();
    assert!(room < 4 * 1000, "room for {room} keys");
}

#[test]
fn a_long_key_takes_no_more_than_a_short_one() {
    let limit = Arc::<SharedLimit>::default();
    let config = config(1, WhenFull::Refuse);
    let long = [b'a'; 100_000];
    let _permit = limit.handshake(
        &key::KeyHasher::default().key(KeySource::Part(&long)),
        &config,
        &Arc::default(),
    );
    let shown = limit.top(1).0.remove(0).key;
    assert_eq!((shown.len(), shown.starts_with('#')), (9, true));
}

#[test]
fn rates_are_those_of_each_key_and_kind() {
    let limit = Arc::<SharedLimit>::default();
    let hasher = key::KeyHasher::default();
    let config = SharedLimitConfig {
        handshakes: slow(2),
        requests: slow(3),
        ..config(100, WhenFull::Refuse)
    };
    for name in ["one", "two"] {
        let key = hasher.key(KeySource::Part(name.as_bytes()));
        let shakes = (0..9).filter(|_| limit.handshake(&key, &config, &Arc::default()).is_ok());
        assert_eq!(shakes.count(), 2);
        assert_eq!(
            (0..9)
                .filter(|_| limit.request(&key, &config).is_ok())
                .count(),
            3
        );
    }
    let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let LimitCounters {
        handshakes,
        requests,
        full,
        ..
    } = &limit.counters;
    assert_eq!([handshakes, requests, full].map(counted), [14, 12, 0]);
}

#[test]
fn counts_continue_under_name_and_key() {
    let limits = SharedLimits::default();
    let first = limits.running(&config(5, WhenFull::Refuse));
    let other_numbers = config(1, WhenFull::CloseOldest);
    assert!(Arc::ptr_eq(&first, &limits.running(&other_numbers)));
    let other_key = SharedLimitConfig {
        key: RequestKey::ClientIp,
        ..other_numbers.clone()
    };
    assert!(!Arc::ptr_eq(&first, &limits.running(&other_key)));
    // A limit that was removed goes on as long as its tunnels do.
    let key = limits.hasher().key(KeySource::Part(b"alice"));
    let permit = first
        .handshake(&key, &other_numbers, &Arc::default())
        .unwrap();
    drop(first);
    assert_eq!(limits.running(&other_numbers).top(1).1, 1);
    drop(permit);
    assert_eq!(limits.running(&other_numbers).top(1).1, 0);
}

#[test]
fn counts_continue_in_a_successor() {
    let config = SharedLimitConfig {
        requests: slow(2),
        ..config(3, WhenFull::Refuse)
    };
    let old = SharedLimits::default();
    let key = |limits: &SharedLimits| limits.hasher().key(KeySource::Part(b"alice"));
    let running = old.running(&config);
    let mut permits: Vec<_> = (0..2)
        .map(|_| {
            running
                .handshake(&key(&old), &config, &Arc::default())
                .unwrap()
        })
        .collect();
    assert!((0..2).all(|_| running.request(&key(&old), &config).is_ok()));
    let text = serde_json::to_string(&old.hand_over()).unwrap();
    let new = SharedLimits::new(serde_json::from_str(&text).unwrap());
    let limit = new.running(&config);
    assert_eq!(
        limit.top(1).0,
        [KeyTunnels {
            key: "alice".to_owned(),
            own: 0,
            older: 2
        }]
    );
    assert!(limit.request(&key(&new), &config).is_err());
    let own = limit
        .handshake(&key(&new), &config, &Arc::default())
        .unwrap();
    assert!(
        limit
            .handshake(&key(&new), &config, &Arc::default())
            .is_err()
    );
    // A tunnel of the older process ends.
    permits.pop();
    new.set_older(old.own_tunnels());
    let another = limit
        .handshake(&key(&new), &config, &Arc::default())
        .unwrap();
    assert!(
        limit
            .handshake(&key(&new), &config, &Arc::default())
            .is_err()
    );
    // The older process is gone.
    new.set_older(Vec::new());
    assert!(
        limit
            .handshake(&key(&new), &config, &Arc::default())
            .is_ok()
    );
    drop((own, another));
    let nothing: LimitsHandover = serde_json::from_str("{}").unwrap();
    assert!(nothing.secret.is_none() && nothing.limits.is_empty());
}

#[test]
fn tunnels_of_older_generations_make_room_first() {
    let config = config(2, WhenFull::CloseOldest);
    let old = SharedLimits::default();
    let worker = Arc::<ReplacedTunnels>::default();
    let key = |limits: &SharedLimits| limits.hasher().key(KeySource::Credential(b"alice"));
    let running = old.running(&config);
    let open = |limits: &SharedLimits, limit: &Arc<SharedLimit>, session| {
        let permit = permit(limit, &key(limits), &config).unwrap();
        permit.opened(place(&worker, session));
        permit
    };
    let _old: Vec<_> = (1..3).map(|number| open(&old, &running, number)).collect();
    let new = SharedLimits::new(old.hand_over());
    let limit = new.running(&config);
    let _first = open(&new, &limit, 10);
    assert!(replaced(&worker).is_empty());
    // A report from before the older process has closed it: it is not counted, and so not closed, twice.
    let reported = old.own_tunnels();
    assert!(!serde_json::to_string(&reported).unwrap().contains("alice"));
    new.set_older(reported);
    assert_eq!(limit.top(1).0[0].older, 1);
    let orders = new.take_older_to_replace();
    let closed: Vec<u32> = orders
        .iter()
        .filter_map(|order| old.replace(order))
        .collect();
    assert_eq!((closed, replaced(&worker)), (vec![1], vec![1]));
    assert!(new.take_older_to_replace().is_empty());
    new.set_older(old.own_tunnels());
    let _more: Vec<_> = (11..13).map(|number| open(&new, &limit, number)).collect();
    assert_eq!(replaced(&worker), [10]);
    for order in new.take_older_to_replace() {
        old.replace(&order);
    }
    assert_eq!(replaced(&worker), [2]);
    assert_eq!(limit.counters.replaced.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_worker_learns_of_tunnels_to_close() {
    let worker = Arc::<ReplacedTunnels>::default();
    let ending = async {
        tokio::task::yield_now().await;
        place(&worker, 7).end();
    };
    let (told, ()) = futures_util::future::join(worker.next(), ending).await;
    assert_eq!(told, [(7, 7)]);
}
