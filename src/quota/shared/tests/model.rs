//! The table against a model: handshakes that come, open and leave in any order.

use proptest::prelude::*;

use super::*;

/// The tunnels that a key may have.
const MOST: usize = 2;

#[derive(Debug, Clone)]
enum Step {
    Shake(u8),
    Open(usize),
    Leave(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (b'a'..b'd').prop_map(Step::Shake),
        (0..20_usize).prop_map(Step::Open),
        (0..20_usize).prop_map(Step::Leave),
    ];
    prop::collection::vec(step, 1..120)
}

/// A tunnel or handshake of the model.
struct Held {
    key: u8,
    session: u64,
    is_open: bool,
    gives_way: Arc<Notify>,
    permit: KeyPermit,
}

/// Whether it was notified since the last call.
fn is_notified(gives_way: &Notify) -> bool {
    use futures_util::FutureExt;
    gives_way.notified().now_or_never().is_some()
}

/// A handshake has to give way. It may open before it learns of that, and counts no more either way.
fn has_given_way(handshake: Held, limit: &SharedLimit, worker: &Arc<ReplacedTunnels>) {
    assert!(is_notified(&handshake.gives_way));
    let before = limit.top(10);
    let session = handshake.session;
    if session.is_multiple_of(2) {
        handshake.permit.opened(place(worker, session));
        assert_eq!(replaced(worker), [session]);
    }
    drop(handshake);
    assert_eq!(limit.top(10), before);
}

/// A handshake becomes a tunnel, for which the oldest ones of its key have to go.
fn opens(held: &mut Vec<Held>, at: usize, (limit, worker): (&SharedLimit, &Arc<ReplacedTunnels>)) {
    // The model has them in the order in which they opened.
    let mut opens = held.remove(at);
    opens.is_open = true;
    let Held { key, session, .. } = opens;
    opens.permit.opened(place(worker, session));
    held.push(opens);
    let open = |it: &&Held| it.key == key && it.is_open;
    let excess = held.iter().filter(open).count().saturating_sub(MOST);
    let oldest = held.iter().filter(open).filter(|it| it.session != session);
    let expected: Vec<u64> = oldest.take(excess).map(|it| it.session).collect();
    assert_eq!(replaced(worker), expected);
    // Their permits live on for a moment, as they do while a tunnel closes: they count no more.
    let before = limit.top(10);
    held.retain(|it| !expected.contains(&it.session));
    assert_eq!(limit.top(10), before);
}

fn agrees_with_the_model(when_full: WhenFull, steps: Vec<Step>) {
    let limit = Arc::<SharedLimit>::default();
    let config = config(MOST as u32, when_full);
    let hasher = key::KeyHasher::default();
    let worker = Arc::<ReplacedTunnels>::default();
    let mut held: Vec<Held> = Vec::new();
    let mut sessions = 0;
    for step in steps {
        match step {
            Step::Shake(key) => {
                let counts = |it: &Held| match when_full {
                    WhenFull::Refuse => it.key == key,
                    WhenFull::CloseOldest => it.key == key && !it.is_open,
                };
                let is_full = held.iter().filter(|it| counts(it)).count() >= MOST;
                let gives_way = Arc::default();
                let part = [key];
                let part = hasher.key(KeySource::Part(&part));
                let admitted = limit.handshake(&part, &config, &gives_way);
                assert_eq!(admitted.is_err(), is_full && when_full == WhenFull::Refuse);
                if let (Ok(permit), true) = (&admitted, is_full) {
                    assert!(permit.is_some());
                    let oldest = held.iter().position(counts).unwrap();
                    has_given_way(held.remove(oldest), &limit, &worker);
                }
                if let Ok(permit) = admitted {
                    sessions += 1;
                    held.push(Held {
                        key,
                        session: sessions,
                        is_open: false,
                        gives_way,
                        permit: permit.expect("the limit has `tunnels`"),
                    });
                }
                assert!(held.iter().all(|it| !is_notified(&it.gives_way)));
            }
            Step::Open(at) if at < held.len() && !held[at].is_open => {
                opens(&mut held, at, (&limit, &worker));
            }
            Step::Leave(at) if at < held.len() => drop(held.remove(at)),
            _ => {}
        }
        for tunnels in limit.top(10).0 {
            let of_key = |it: &&Held| char::from(it.key).to_string() == tunnels.key;
            assert_eq!(held.iter().filter(of_key).count(), tunnels.own as usize);
        }
        assert_eq!(limit.top(10).1, held.len() as u64);
    }
    drop(held);
    limit.sweep();
    assert!(limit.is_empty() && limit.top(10).0.is_empty());
}

proptest! {
    #[test]
    fn counts_agree_with_a_model(
        closes in any::<bool>(),
        steps in steps(),
    ) {
        let when_full = if closes { WhenFull::CloseOldest } else { WhenFull::Refuse };
        agrees_with_the_model(when_full, steps);
    }
}
