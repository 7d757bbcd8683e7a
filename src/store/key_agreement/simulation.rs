//! Nodes in simulated time, with clocks that are hours apart, partitions, restarts, pauses and lost responses.

use std::collections::HashMap;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::tests::{LONG, PLAN, key};
use super::*;

/// A node that has read the store within this time has to accept what others make.
const WINDOW: u64 = 5_000;

/// How much sooner what a node has made is not used any more than it needs the key: what it makes until it knows the
/// next one.
const MARGIN: u64 = 15_000;

/// A tick of the simulation; all times in it are in milliseconds.
const TICK: u64 = 100;

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
    plan: KeyPlan,
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

    /// How long what it makes now is used; `None` if it has not been able to say yet how long it needs the key.
    fn life(&self) -> Option<u64> {
        let needed = self.plan.keep_for.as_secs();
        let known = self.agreement.known()?;
        (known.keep_for >= needed).then_some(needed * 1000 - MARGIN)
    }

    fn accepts(&self, secret: &Secret) -> bool {
        let known = self.agreement.known();
        known.is_some_and(|set| set.keys().secrets.contains(secret))
    }
}

struct Simulation {
    random: fastrand::Rng,
    /// Nodes have these plans in turn.
    plans: &'static [KeyPlan],
    store: Store,
    nodes: Vec<Node>,
    keys: u64,
    /// Until when something is used that a node which was synced has made with a key.
    issued: HashMap<Vec<u8>, u64>,
    /// Since when nodes that are synced use different keys.
    apart: Option<u64>,
    processes: u64,
    /// Whether each maker keeps keys for as long as it needs them itself.
    is_selfish: bool,
}

impl Simulation {
    fn new(seed: u64, count: usize, plans: &'static [KeyPlan]) -> Self {
        let mut this = Self {
            random: fastrand::Rng::with_seed(seed),
            plans,
            store: Store::default(),
            nodes: Vec::new(),
            keys: 0,
            issued: HashMap::new(),
            apart: None,
            processes: 0,
            is_selfish: false,
        };
        for at in 0..count {
            let node = this.node(at, None);
            this.nodes.push(node);
        }
        this
    }

    fn node(&mut self, at: usize, known: Option<SharedKeySet>) -> Node {
        self.processes += 1;
        let plan = self.plans[at % self.plans.len()];
        Node {
            agreement: KeyAgreement::new(&format!("p{}", self.processes), plan, known),
            plan,
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
                self.nodes[at] = self.node(at, known.filter(|_| is_upgrade));
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
            let Ok(mut write) = node.agreement.step(now, stored, key(self.keys));
            if let Some(set) = write.as_mut().filter(|_| self.is_selfish) {
                let own = node.plan.keep_for.as_secs();
                let retired = set.previous.iter_mut().map(|key| &mut key.keep_for);
                for keep_for in retired.chain([&mut set.keep_for]) {
                    *keep_for = own;
                }
            }
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
            if let (Some(current), Some(life)) = (node.current(), node.life()) {
                let until = self.issued.entry(current.bytes().to_vec()).or_default();
                *until = (time + life).max(*until);
            }
        }
        self.issued.retain(|_, until| time <= *until);
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
        let result = Simulation::new(seed, nodes, &[PLAN]).run();
        prop_assert_eq!(result, Ok(()));
    }

    #[test]
    fn nodes_that_need_keys_for_different_times_agree(seed in any::<u64>(), nodes in 2..6usize) {
        let result = Simulation::new(seed, nodes, &[PLAN, LONG, PLAN]).run();
        prop_assert_eq!(result, Ok(()));
    }
}

#[test]
fn the_simulation_finds_a_key_that_is_used_too_early_or_not_kept() {
    const HASTY: KeyPlan = KeyPlan {
        spread: Duration::ZERO,
        ..PLAN
    };
    let failed = (0..20).any(|seed| Simulation::new(seed, 4, &[HASTY]).run().is_err());
    assert!(failed);
    let failed = (0..20).any(|seed| {
        let mut simulation = Simulation::new(seed, 4, &[PLAN, LONG]);
        simulation.is_selfish = true;
        let failure = simulation.run().err();
        failure.is_some_and(|failure| failure.contains("does not accept"))
    });
    assert!(failed);
}
