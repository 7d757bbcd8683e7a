//! The steps of single nodes.

use std::convert::Infallible;

use zeroize::Zeroizing;

use super::*;

pub(super) const PLAN: KeyPlan = KeyPlan {
    rotate_after: Duration::from_secs(60),
    keep_for: Duration::from_secs(90),
    spread: Duration::from_secs(8),
    beat: Duration::from_secs(3),
    expiry: Duration::from_secs(12),
};

/// The plan of a node whose cookies live for longer.
pub(super) const LONG: KeyPlan = KeyPlan {
    keep_for: Duration::from_secs(150),
    ..PLAN
};

const DAY: u64 = 24 * 60 * 60;

pub(super) fn secret(number: u64) -> Secret {
    Secret::new(Zeroizing::new(number.to_be_bytes().to_vec()))
}

pub(super) fn key(number: u64) -> impl FnOnce() -> Result<Secret, Infallible> {
    move || Ok(secret(number))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The steps of two nodes, without anything that goes wrong.
#[test]
fn a_key_is_stored_long_before_it_is_used_and_long_after() {
    let mut a = KeyAgreement::new("a", PLAN, None);
    let mut b = KeyAgreement::new("b", PLAN, None);
    let set = a
        .step(seconds(0), StoredSet::Absent, key(1))
        .unwrap()
        .unwrap();
    assert_eq!(
        (set.current.clone(), set.next.clone()),
        (None, Some(secret(1)))
    );
    a.written(seconds(0), set.clone());
    let step = |node: &mut KeyAgreement, at, set: &SharedKeySet, number| {
        let stored = StoredSet::Present(set.clone());
        node.step(seconds(at), stored, key(number)).unwrap()
    };
    // The clock of the other one is hours ahead.
    assert_eq!(step(&mut b, 90_000, &set, 2), None);
    assert_eq!(b.known().unwrap().keys().current, None);
    let beat = step(&mut a, 7, &set, 2).unwrap();
    assert_eq!((beat.version, beat.current.clone()), (2, None));
    a.written(seconds(7), beat.clone());
    let first = step(&mut a, 8, &beat, 2).unwrap();
    assert_eq!(first.current, Some(secret(1)));
    a.written(seconds(8), first.clone());
    assert_eq!(step(&mut b, 90_008, &first, 3), None);
    let mut set = first;
    for at in 9..=68 {
        if let Some(next) = step(&mut a, at, &set, 100 + at) {
            a.written(seconds(at), next.clone());
            set = next;
        }
        assert_eq!(set.next.is_some(), (60..68).contains(&at), "{at}");
    }
    let keys = set.keys();
    assert_eq!(keys.secrets, [secret(1), secret(160)]);
    assert_eq!(keys.current, Some(1));
    for at in 69..200 {
        if let Some(next) = step(&mut a, at, &set, 100 + at) {
            a.written(seconds(at), next.clone());
            set = next;
        }
        let accepts_first = set.keys().secrets.contains(&secret(1));
        assert_eq!(accepts_first, at < 68 + 90, "{at}");
    }
    assert!(a.is_maker() && !b.is_maker());
}

#[test]
fn a_silent_maker_is_followed_by_one_other() {
    let set = SharedKeySet {
        version: 7,
        maker: "dead".into(),
        previous: Vec::new(),
        current: Some(secret(1)),
        age: seconds(100),
        keep_for: 90,
        next: Some(secret(2)),
        next_keep_for: 90,
    };
    let mut node = KeyAgreement::new("a", PLAN, None);
    let stored = || StoredSet::Present(set.clone());
    for at in 0..12 {
        assert_eq!(node.step(seconds(at), stored(), key(9)), Ok(None));
    }
    let taken = node.step(seconds(12), stored(), key(9)).unwrap().unwrap();
    assert_eq!((&*taken.maker, taken.version), ("a", 8));
    // Another one was faster: its write has failed, and it waits again.
    let other = SharedKeySet {
        maker: "b".into(),
        version: 8,
        ..set.clone()
    };
    let other = || StoredSet::Present(other.clone());
    assert_eq!(node.step(seconds(13), other(), key(9)), Ok(None));
    assert_eq!(node.step(seconds(24), other(), key(9)), Ok(None));
    let taken = node.step(seconds(25), other(), key(9)).unwrap().unwrap();
    node.written(seconds(26), taken.clone());
    // It does not know how long the next key has been stored: it waits for the whole time.
    let taken = || StoredSet::Present(taken.clone());
    let beat = node.step(seconds(33), taken(), key(9)).unwrap().unwrap();
    assert_eq!(beat.current, Some(secret(1)));
    let promoted = node.step(seconds(34), taken(), key(9)).unwrap().unwrap();
    assert_eq!(promoted.current, Some(secret(2)));
}

/// Steps a node once a second as long as it is the maker, from `at` on, until the set is as wanted.
fn made_until(
    node: &mut KeyAgreement,
    at: &mut u64,
    mut set: SharedKeySet,
    reached: impl Fn(&SharedKeySet) -> bool,
) -> SharedKeySet {
    for _ in 0..1000 {
        if reached(&set) {
            return set;
        }
        *at += 1;
        let stored = StoredSet::Present(set.clone());
        if let Some(next) = node.step(seconds(*at), stored, key(100 + *at)).unwrap() {
            node.written(seconds(*at), next.clone());
            set = next;
        }
    }
    panic!("not reached");
}

#[test]
fn a_key_is_kept_for_as_long_as_any_node_has_asked() {
    let stored = |set: &SharedKeySet| StoredSet::Present(set.clone());
    let mut short = KeyAgreement::new("short", PLAN, None);
    let mut long = KeyAgreement::new("long", LONG, None);
    let mut at = 0;
    let first = short.step(seconds(0), StoredSet::Absent, key(1)).unwrap();
    let set = first.unwrap();
    short.written(seconds(0), set.clone());
    let set = made_until(&mut short, &mut at, set, |set| set.current.is_some());
    assert_eq!(set.keep_for, 90);
    // The other node needs it for longer, says so, and makes the keys from then on.
    let asked = long
        .step(seconds(50_000), stored(&set), key(2))
        .unwrap()
        .unwrap();
    assert_eq!((asked.keep_for, &*asked.maker), (150, "long"));
    long.written(seconds(50_000), asked.clone());
    assert_eq!(short.step(seconds(at), stored(&asked), key(3)), Ok(None));
    // It is killed. The other nodes need new keys for a shorter time.
    at += 12;
    let taken = short.step(seconds(at), stored(&asked), key(4)).unwrap();
    let taken = taken.unwrap();
    short.written(seconds(at), taken.clone());
    let old = taken.current.clone().unwrap();
    let set = made_until(&mut short, &mut at, taken, |set| {
        set.current.as_ref() != Some(&old)
    });
    assert_eq!((set.previous[0].keep_for, set.keep_for), (150, 90));
    let retired = at;
    made_until(&mut short, &mut at, set, |set| {
        !set.keys().secrets.contains(&old)
    });
    assert_eq!(at - retired, 150);
}

#[test]
fn keys_of_earlier_versions_are_kept_as_long_as_their_maker_is_not_one_of_them() {
    let retired = |number| RetiredKey {
        secret: secret(number),
        age: seconds(100),
        keep_for: 0,
    };
    let set = SharedKeySet {
        version: 7,
        maker: "earlier".into(),
        previous: vec![retired(1)],
        current: Some(secret(2)),
        age: seconds(5),
        keep_for: 0,
        next: Some(secret(3)),
        next_keep_for: 0,
    };
    let mut node = KeyAgreement::new("a", LONG, None);
    let stored = StoredSet::Present(set.clone());
    let taken = node.step(seconds(0), stored, key(9)).unwrap().unwrap();
    let kept = [taken.previous[0].keep_for, taken.keep_for];
    assert_eq!((kept, taken.next_keep_for), ([150, 150], 150));
    assert_eq!((&*taken.maker, taken.keys()), ("a", set.keys()));
}

#[test]
fn keys_that_are_kept_for_longer_change_less_often() {
    const MONTHS: KeyPlan = KeyPlan {
        keep_for: Duration::from_secs(1000),
        ..PLAN
    };
    let mut node = KeyAgreement::new("a", MONTHS, None);
    let mut at = 0;
    let first = node.step(seconds(0), StoredSet::Absent, key(1)).unwrap();
    let mut set = first.unwrap();
    node.written(seconds(0), set.clone());
    for number in 0..12 {
        let before = set.current.clone();
        set = made_until(&mut node, &mut at, set, |set| set.current != before);
        // None is given up because there are too many.
        assert_eq!(set.previous.len(), number.min(4), "{number}");
    }
}

#[test]
fn one_wrong_time_stops_the_rotation_for_fifty_days_at_most() {
    const USUAL: KeyPlan = KeyPlan {
        rotate_after: Duration::from_secs(7 * DAY),
        ..PLAN
    };
    const WRONG: KeyPlan = KeyPlan {
        keep_for: Duration::from_secs(3650 * DAY),
        ..USUAL
    };
    let mut node = KeyAgreement::new("a", USUAL, None);
    let mut at = 0;
    let first = node.step(seconds(0), StoredSet::Absent, key(1)).unwrap();
    let mut set = first.unwrap();
    node.written(seconds(0), set.clone());
    set = made_until(&mut node, &mut at, set, |set| set.current.is_some());
    node.set_plan(WRONG);
    set = made_until(&mut node, &mut at, set, |set| set.keep_for == 3650 * DAY);
    node.set_plan(USUAL);
    for days in [50, 7, 7] {
        let before = set.current.clone();
        let same = |set: &SharedKeySet| set.next.is_none() && set.current == before;
        at += days * DAY - 60;
        let stored = StoredSet::Present(set.clone());
        let beat = node.step(seconds(at), stored, key(at)).unwrap().unwrap();
        assert!(same(&beat), "{days}");
        node.written(seconds(at), beat.clone());
        let begun = at;
        set = made_until(&mut node, &mut at, beat, |set| !same(set));
        set = made_until(&mut node, &mut at, set, |set| set.current != before);
        assert!(at - begun <= 70, "{days}: {at}");
    }
    // A cookie that was issued while the key had the longer time may still be in use.
    assert_eq!(set.previous[0].keep_for, 3650 * DAY);
}

#[test]
fn keys_last_as_long_as_browsers_keep_cookies_whichever_node_makes_them() {
    const LONGEST: u64 = 400 * DAY;
    let mut set = SharedKeySet {
        version: 1,
        maker: "a".into(),
        previous: Vec::new(),
        current: Some(secret(0)),
        age: seconds(0),
        keep_for: LONGEST,
        next: None,
        next_keep_for: 0,
    };
    let mut short = KeyAgreement::new("a", PLAN, None);
    let mut kept = Duration::ZERO;
    for hour in 0..600 * 24 {
        let at = seconds(hour * 60 * 60);
        let stored = StoredSet::Present(set.clone());
        if let Some(next) = short.step(at, stored, key(hour)).unwrap() {
            // The other node asks for each of them, and is started again soon after.
            set = next.kept_for(LONGEST);
            short.written(at, set.clone());
        }
        let oldest = set.previous.first().map(|key| key.age);
        kept = kept.max(oldest.unwrap_or_default());
    }
    assert!(kept > seconds(LONGEST - DAY), "{kept:?}");
}

#[test]
fn a_store_that_has_lost_the_keys_gets_them_back() {
    let set = |version, number| SharedKeySet {
        version,
        maker: "b".into(),
        previous: Vec::new(),
        current: Some(secret(number)),
        age: seconds(0),
        keep_for: 90,
        next: None,
        next_keep_for: 0,
    };
    let mut node = KeyAgreement::new("a", PLAN, None);
    let known = StoredSet::Present(set(50, 5));
    assert_eq!(node.step(seconds(1), known, key(9)), Ok(None));
    for older in [StoredSet::Absent, StoredSet::Present(set(49, 4))] {
        let back = node.step(seconds(2), older, key(9)).unwrap().unwrap();
        assert_eq!((back.version, back.current), (51, Some(secret(5))));
        assert_eq!(node.known().unwrap().version, 50, "it is not written yet");
    }
    // A process that was started with what its predecessor knew does the same.
    let mut next = KeyAgreement::new("c", PLAN, Some(set(50, 5)));
    let older = StoredSet::Present(set(49, 4));
    let back = next.step(seconds(0), older, key(9)).unwrap().unwrap();
    assert_eq!((back.version, back.current), (51, Some(secret(5))));
}

#[test]
fn a_key_that_cannot_be_made_changes_nothing() {
    let mut node = KeyAgreement::new("a", PLAN, None);
    let made = node.step(seconds(0), StoredSet::Absent, || Err("no random bytes"));
    assert_eq!(made, Err("no random bytes"));
    assert_eq!(node.known(), None);
}
