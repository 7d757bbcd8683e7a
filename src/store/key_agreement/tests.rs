//! Nodes in simulated time, with clocks that are hours apart, partitions, restarts, pauses and lost responses.

use std::collections::HashMap;
use std::convert::Infallible;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;

const PLAN: KeyPlan = KeyPlan {
    rotate_after: Duration::from_secs(60),
    keep_for: Duration::from_secs(90),
    spread: Duration::from_secs(8),
    beat: Duration::from_secs(3),
    expiry: Duration::from_secs(12),
};

/// A node that has read the store within this time has to accept what others make.
const WINDOW: u64 = 5_000;

/// How long what a node has made is used.
const LIFE: u64 = 75_000;

/// A tick of the simulation; all times in it are in milliseconds.
const TICK: u64 = 100;

fn secret(number: u64) -> Secret {
    Secret::new(Zeroizing::new(number.to_be_bytes().to_vec()))
}

fn key(number: u64) -> impl FnOnce() -> Result<Secret, Infallible> {
    move || Ok(secret(number))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A store with compare-and-swap.
#[derive(Default)]
struct Store {
    set: Option<SharedKeySet>,
    revision: u64,
}

impl Store {
    fn replace(&mut self, revision: u64, set: SharedKeySet) -> bool {
        let is_own = self.revision == revision;
        if is_own {
            self.set = Some(set);
            self.revision += 1;
        }
        is_own
    }
}

struct PendingWrite {
    at: u64,
    revision: u64,
    set: SharedKeySet,
    is_answered: bool,
}

struct Node {
    agreement: KeyAgreement,
    /// Its clock when the simulation began.
    offset: u64,
    /// What its clock shows more or less in 1000.
    drift: i64,
    is_connected: bool,
    paused_until: u64,
    next_poll: u64,
    synced: Option<u64>,
    pending: Option<PendingWrite>,
}

impl Node {
    fn now(&self, time: u64) -> Duration {
        let passed = i64::try_from(time).unwrap();
        let passed = passed + passed * self.drift / 1000;
        Duration::from_millis(self.offset + u64::try_from(passed).unwrap())
    }

    fn is_synced(&self, time: u64) -> bool {
        let is_recent = self.synced.is_some_and(|synced| time - synced <= WINDOW);
        is_recent && time >= self.paused_until
    }

    fn current(&self) -> Option<Secret> {
        self.agreement.known().and_then(|set| set.current.clone())
    }

    fn accepts(&self, secret: &Secret) -> bool {
        let known = self.agreement.known();
        known.is_some_and(|set| set.keys().secrets.contains(secret))
    }
}

struct Simulation {
    random: fastrand::Rng,
    plan: KeyPlan,
    store: Store,
    nodes: Vec<Node>,
    keys: u64,
    /// When a node that was synced has last made something with a key.
    issued: HashMap<Vec<u8>, u64>,
    /// Since when nodes that are synced use different keys.
    apart: Option<u64>,
    processes: u64,
}

impl Simulation {
    fn new(seed: u64, count: usize, plan: KeyPlan) -> Self {
        let mut this = Self {
            random: fastrand::Rng::with_seed(seed),
            plan,
            store: Store::default(),
            nodes: Vec::new(),
            keys: 0,
            issued: HashMap::new(),
            apart: None,
            processes: 0,
        };
        for _ in 0..count {
            let node = this.node(None);
            this.nodes.push(node);
        }
        this
    }

    fn node(&mut self, known: Option<SharedKeySet>) -> Node {
        self.processes += 1;
        Node {
            agreement: KeyAgreement::new(&format!("p{}", self.processes), self.plan, known),
            offset: self.random.u64(0..100 * 3_600_000),
            drift: self.random.i64(-5..=5),
            is_connected: true,
            paused_until: 0,
            next_poll: 0,
            synced: None,
            pending: None,
        }
    }

    fn disturb(&mut self, time: u64) {
        let at = self.random.usize(..self.nodes.len());
        match self.random.u32(..400) {
            0 | 1 => self.nodes[at].is_connected ^= true,
            2 => {
                // A restart, or an upgrade, in which the successor gets what its predecessor knows.
                let known = self.nodes[at].agreement.known().cloned();
                let is_upgrade = self.random.bool();
                self.nodes[at] = self.node(known.filter(|_| is_upgrade));
            }
            3 => self.nodes[at].paused_until = time + self.random.u64(..40_000),
            _ => {}
        }
    }

    fn work(&mut self, time: u64) {
        for at in 0..self.nodes.len() {
            let node = &mut self.nodes[at];
            if time < node.paused_until {
                continue;
            }
            let now = node.now(time);
            if let Some(pending) = node.pending.take_if(|pending| time >= pending.at) {
                let PendingWrite {
                    revision,
                    set,
                    is_answered,
                    ..
                } = pending;
                let is_written = node.is_connected && self.store.replace(revision, set.clone());
                if is_written && is_answered {
                    node.agreement.written(now, set);
                }
            }
            if node.pending.is_some() || time < node.next_poll {
                continue;
            }
            node.next_poll = time + self.random.u64(800..1200);
            if !node.is_connected {
                continue;
            }
            node.synced = Some(time);
            let stored = self.store.set.clone();
            let stored = stored.map_or(StoredSet::Absent, StoredSet::Present);
            self.keys += 1;
            let Ok(write) = node.agreement.step(now, stored, key(self.keys));
            node.pending = write.map(|set| PendingWrite {
                at: time + self.random.u64(..1500),
                revision: self.store.revision,
                set,
                is_answered: self.random.u32(..10) > 0,
            });
        }
    }

    fn check(&mut self, time: u64) -> Result<(), String> {
        let synced = self.nodes.iter().filter(|node| node.is_synced(time));
        let synced: Vec<&Node> = synced.collect();
        for node in &synced {
            if let Some(current) = node.current() {
                self.issued.insert(current.bytes().to_vec(), time);
            }
        }
        self.issued.retain(|_, last| time - *last <= LIFE);
        for key in self.issued.keys() {
            let secret = Secret::new(Zeroizing::new(key.clone()));
            if !synced.iter().all(|node| node.accepts(&secret)) {
                return Err(format!("{time}: a node does not accept {key:?}"));
            }
        }
        let mut current = synced.iter().map(|node| node.current());
        let first = current.next();
        let is_apart = current.any(|current| Some(current) != first);
        match (is_apart, self.apart) {
            (false, _) => self.apart = None,
            (true, None) => self.apart = Some(time),
            (true, Some(since)) if time - since > WINDOW + 3_000 => {
                return Err(format!("{time}: nodes use different keys since {since}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn run(mut self) -> Result<(), String> {
        let (calm, end) = (600_000, 900_000);
        let mut versions: Vec<u64> = Vec::new();
        let mut made = Vec::new();
        for time in (0..end).step_by(TICK as usize) {
            if time < calm {
                self.disturb(time);
            } else {
                for node in &mut self.nodes {
                    node.is_connected = true;
                }
            }
            self.work(time);
            self.check(time)?;
            let version = self.store.set.as_ref().map_or(0, |set| set.version);
            if versions.last().is_some_and(|last| version < *last) {
                return Err(format!("{time}: the version went back"));
            }
            versions.push(version);
            let current = self.store.set.as_ref().and_then(|set| set.current.clone());
            if time > calm + 60_000 && !made.contains(&current) {
                made.push(current);
            }
        }
        // Four minutes with a new key each minute.
        let makers = self.nodes.iter().filter(|node| node.agreement.is_maker());
        match (makers.count(), made.len()) {
            (1, 4..=6) if !made.contains(&None) => Ok(()),
            (makers, keys) => Err(format!("{makers} makers, {keys} keys at the end")),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_a_node_makes_is_accepted_by_all(seed in any::<u64>(), nodes in 1..6usize) {
        let result = Simulation::new(seed, nodes, PLAN).run();
        prop_assert_eq!(result, Ok(()));
    }
}

#[test]
fn the_simulation_finds_a_key_that_is_used_too_early() {
    let hasty = KeyPlan {
        spread: seconds(0),
        ..PLAN
    };
    let short = KeyPlan {
        keep_for: seconds(40),
        ..PLAN
    };
    for plan in [hasty, short] {
        let failed = (0..20).any(|seed| Simulation::new(seed, 4, plan).run().is_err());
        assert!(failed, "{plan:?}");
    }
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
        next: Some(secret(2)),
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

#[test]
fn a_store_that_has_lost_the_keys_gets_them_back() {
    let set = |version, number| SharedKeySet {
        version,
        maker: "b".into(),
        previous: Vec::new(),
        current: Some(secret(number)),
        age: seconds(0),
        next: None,
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
