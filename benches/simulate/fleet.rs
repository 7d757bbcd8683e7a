//! Clients, proxies and endpoints in virtual time: one event after the other.
//!
//! The policies are the code of tidegate itself. Everything else is as simple as possible: a down
//! endpoint is detected at once, and only the lifetimes of tunnels and the reconnects of clients take
//! time.

mod rebalance;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;
use tidegate::displace::rebalance::budget::MoveBudget;
use tidegate::upstream::balance::{Balancer, Candidate, Policy, identity, key_hash};

pub(crate) use self::rebalance::Rebalance;
use crate::lifetime::{Keys, Lifetime, wait};

/// Virtual time in microseconds.
type Time = u64;

/// The time within which a client reconnects after the loss of its endpoint, in seconds.
const RECONNECT_TIME: f64 = 10.0;

/// The time after which a client retries when no endpoint can be picked, in seconds.
const AGAIN_AFTER: f64 = 1.0;

/// A load factor that is never reached, to find the endpoint to which a key belongs.
const UNBOUND: Policy = Policy::Hash { load_factor: 1e9 };

/// A fleet, and what happens to it.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) endpoints: usize,
    /// The number of proxies. Each has its own clients and its own view of the endpoints.
    pub(crate) proxies: usize,
    /// The average number of tunnels: as many open as end.
    pub(crate) tunnels: usize,
    pub(crate) lifetime: Lifetime,
    pub(crate) keys: Keys,
    /// In seconds; 0 for none.
    pub(crate) slow_start: f64,
    /// Whether the excess is rebalanced, and how.
    pub(crate) rebalance: Option<Rebalance>,
    /// The changes of endpoints, each with its time in seconds.
    pub(crate) changes: Vec<(f64, Change)>,
    /// Endpoints that are absent at the beginning.
    pub(crate) absent: Vec<usize>,
    /// In seconds.
    pub(crate) duration: f64,
    /// The interval of samples, in seconds.
    pub(crate) every: f64,
    /// The endpoint that is observed.
    pub(crate) watched: usize,
}

/// What happens to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// It disappears with its tunnels.
    Down(usize),
    /// It appears for the first time or again.
    Up(usize),
}

/// A sample of the fleet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// In seconds.
    pub(crate) at: f64,
    /// The largest number of tunnels on an endpoint, relative to the mean.
    pub(crate) imbalance: f64,
    /// Tunnels on the watched endpoint, relative to the mean.
    pub(crate) watched: f64,
    /// Arrivals at the watched endpoint since the last sample, relative to its fair share.
    pub(crate) arrivals: f64,
    /// Arrivals at the watched endpoint per second.
    pub(crate) arrivals_rate: f64,
    /// The largest number of arrivals at one endpoint per second.
    pub(crate) busiest: f64,
}

/// The results of one run.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) looks: Vec<Look>,
    /// The share of clients that were sent to the endpoint to which their key belongs.
    pub(crate) at_home: f64,
    /// Tunnels that were moved, and those of them whose client had been moved before.
    pub(crate) moved: usize,
    pub(crate) moved_again: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FleetEvent {
    /// A new client.
    Arrival,
    /// The end of a client.
    End(usize),
    /// A client whose endpoint has disappeared, or that got none.
    Back(usize),
    Change(Change),
    Look,
    Rebalance,
}

struct Client {
    ends: Time,
    key: u64,
    /// Proxy and endpoint.
    tunnel: Option<(usize, usize)>,
    /// The time at which it was opened.
    since: Time,
    moves: u32,
}

struct Endpoint {
    identity: u64,
    up: bool,
    /// The time at which the endpoint appeared, unless it was there from the beginning.
    since: Option<Time>,
    live: usize,
    arrivals: u64,
}

struct Proxy {
    balancer: Balancer,
    /// The tunnels of this proxy on each endpoint. It does not know those of others.
    in_flight: Vec<usize>,
}

struct Fleet<'a> {
    world: &'a World,
    now: Time,
    /// Future events. The number keeps simultaneous ones in order.
    events: BinaryHeap<Reverse<(Time, u64, FleetEvent)>>,
    order: u64,
    clients: Vec<Client>,
    free: Vec<usize>,
    endpoints: Vec<Endpoint>,
    proxies: Vec<Proxy>,
    /// The rebalancing of each proxy.
    paces: Vec<MoveBudget>,
    moved: usize,
    moved_again: usize,
    /// The endpoint of each key, for policies with keys.
    homes: Option<Balancer>,
    picks: u64,
    at_home: u64,
    /// Random numbers for arrivals and lifetimes.
    coming: Rng,
    /// Random numbers for the choice of the proxy.
    going: Rng,
    history: Vec<Look>,
}

/// Runs a simulation with this policy. The same seed gives every policy the same clients.
pub(crate) fn run(world: &World, policy: Policy, seed: u64) -> History {
    let mut fleet = Fleet::new(world, policy, seed);
    fleet.fill();
    for (at, change) in &world.changes {
        fleet.schedule(time(*at), FleetEvent::Change(*change));
    }
    fleet.schedule(0, FleetEvent::Arrival);
    fleet.schedule(0, FleetEvent::Look);
    if world.rebalance.is_some() {
        fleet.schedule(0, FleetEvent::Rebalance);
    }
    let end = time(world.duration);
    while let Some(Reverse((at, _, event))) = fleet.events.pop() {
        if at > end {
            break;
        }
        fleet.now = at;
        fleet.handle(event);
    }
    History {
        looks: fleet.history,
        at_home: fleet.at_home as f64 / fleet.picks.max(1) as f64,
        moved: fleet.moved,
        moved_again: fleet.moved_again,
    }
}

impl<'a> Fleet<'a> {
    fn new(world: &'a World, policy: Policy, seed: u64) -> Self {
        let mut chance = Rng::with_seed(seed).fork();
        let mut balancer = |policy| Balancer::new(policy, world.endpoints, chance.u64(..));
        let proxies = (0..world.proxies).map(|_| Proxy {
            balancer: balancer(policy),
            in_flight: vec![0; world.endpoints],
        });
        let proxies = proxies.collect();
        let has_keys = matches!(policy, Policy::Hash { .. });
        let homes = has_keys.then(|| Balancer::new(UNBOUND, world.endpoints, seed));
        let endpoints = (0..world.endpoints).map(|number| Endpoint {
            identity: identity(&format!("endpoint-{number}:9000")),
            up: !world.absent.contains(&number),
            since: None,
            live: 0,
            arrivals: 0,
        });
        Self {
            world,
            now: 0,
            events: BinaryHeap::new(),
            order: 0,
            clients: Vec::new(),
            free: Vec::new(),
            endpoints: endpoints.collect(),
            proxies,
            paces: (0..world.proxies).map(|_| MoveBudget::default()).collect(),
            moved: 0,
            moved_again: 0,
            homes,
            picks: 0,
            at_home: 0,
            coming: Rng::with_seed(seed),
            going: chance,
            history: Vec::new(),
        }
    }

    /// Fills the fleet with tunnels whose remaining lifetimes are those after a long time without
    /// changes. They are placed one by one, as if all had arrived at once.
    fn fill(&mut self) {
        for _ in 0..self.world.tunnels {
            let rest = self.world.lifetime.rest(&mut self.coming);
            self.admit(rest);
        }
        self.forget();
        (self.picks, self.at_home) = (0, 0);
    }

    /// The counts so far.
    fn forget(&mut self) {
        for endpoint in &mut self.endpoints {
            endpoint.arrivals = 0;
        }
    }

    fn handle(&mut self, event: FleetEvent) {
        match event {
            FleetEvent::Arrival => {
                let stay = self.world.lifetime.whole(&mut self.coming);
                self.admit(stay);
                let rate = self.world.tunnels as f64 / self.world.lifetime.mean;
                let next = wait(rate, &mut self.coming);
                self.schedule_in(next, FleetEvent::Arrival);
            }
            FleetEvent::End(number) => {
                self.leave(number);
                self.free.push(number);
            }
            FleetEvent::Back(number) => self.connect(number),
            FleetEvent::Change(Change::Down(endpoint)) => self.take_down(endpoint),
            FleetEvent::Change(Change::Up(endpoint)) => {
                self.endpoints[endpoint].up = true;
                self.endpoints[endpoint].since = Some(self.now);
            }
            FleetEvent::Look => {
                self.look();
                self.schedule_in(self.world.every, FleetEvent::Look);
            }
            FleetEvent::Rebalance => self.rebalance(),
        }
    }

    fn schedule(&mut self, at: Time, event: FleetEvent) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn schedule_in(&mut self, seconds: f64, event: FleetEvent) {
        self.schedule(self.now + time(seconds), event);
    }

    /// A new client with this lifetime.
    fn admit(&mut self, stay: f64) {
        let key = self.world.keys.next(&mut self.coming);
        let client = Client {
            ends: self.now + time(stay),
            key: key_hash(&key.to_be_bytes()),
            tunnel: None,
            since: self.now,
            moves: 0,
        };
        let ends = client.ends;
        let number = match self.free.pop() {
            Some(number) => {
                self.clients[number] = client;
                number
            }
            None => {
                self.clients.push(client);
                self.clients.len() - 1
            }
        };
        self.schedule(ends, FleetEvent::End(number));
        self.connect(number);
    }

    /// Sends a client through a random proxy to the endpoint that the proxy picks.
    fn connect(&mut self, number: usize) {
        let proxy = self.going.usize(..self.proxies.len());
        let key = self.clients[number].key;
        match self.pick(proxy, key) {
            Some(endpoint) => {
                self.clients[number].tunnel = Some((proxy, endpoint));
                self.clients[number].since = self.now;
                self.proxies[proxy].in_flight[endpoint] += 1;
                self.endpoints[endpoint].live += 1;
                self.endpoints[endpoint].arrivals += 1;
            }
            None => self.come_back(number, AGAIN_AFTER),
        }
    }

    fn pick(&mut self, proxy: usize, key: u64) -> Option<usize> {
        let Proxy {
            balancer,
            in_flight,
        } = &mut self.proxies[proxy];
        let (now, slow_start) = (self.now, self.world.slow_start);
        let each = self.endpoints.iter().zip(&*in_flight);
        let candidates = each.map(|(endpoint, &in_flight)| Candidate {
            weight: 1,
            in_flight,
            eligible: endpoint.up,
            warmth: (slow_start > 0.0).then(|| {
                let age = endpoint.since.map(|since| seconds(now - since));
                age.map_or(1.0, |age| (age / slow_start).clamp(0.1, 1.0) as f32)
            }),
            identity: endpoint.identity,
        });
        let picked = balancer.pick(candidates.clone(), Some(key));
        if let Some(homes) = &mut self.homes {
            self.picks += 1;
            self.at_home += u64::from(picked == homes.pick(candidates, Some(key)));
        }
        picked
    }

    fn leave(&mut self, number: usize) {
        if let Some((proxy, endpoint)) = self.clients[number].tunnel.take() {
            self.proxies[proxy].in_flight[endpoint] -= 1;
            self.endpoints[endpoint].live -= 1;
        }
    }

    /// Lets a client retry after this many seconds, unless its lifetime ends before.
    fn come_back(&mut self, number: usize, after: f64) {
        if self.now + time(after) < self.clients[number].ends {
            self.schedule_in(after, FleetEvent::Back(number));
        }
    }

    fn take_down(&mut self, endpoint: usize) {
        self.endpoints[endpoint].up = false;
        for number in 0..self.clients.len() {
            if self.clients[number]
                .tunnel
                .is_some_and(|(_, on)| on == endpoint)
            {
                self.leave(number);
                let after = self.going.f64() * RECONNECT_TIME;
                self.come_back(number, after);
            }
        }
    }

    fn look(&mut self) {
        let up = || self.endpoints.iter().filter(|endpoint| endpoint.up);
        let count = up().count().max(1) as f64;
        let live: usize = up().map(|endpoint| endpoint.live).sum();
        let mean = live.max(1) as f64 / count;
        let most = up().map(|endpoint| endpoint.live).max().unwrap_or(0);
        let arrivals: u64 = up().map(|endpoint| endpoint.arrivals).sum();
        let busiest = up().map(|endpoint| endpoint.arrivals).max().unwrap_or(0);
        let watched = &self.endpoints[self.world.watched];
        let here = watched.arrivals as f64;
        self.history.push(Look {
            at: seconds(self.now),
            imbalance: most as f64 / mean,
            watched: watched.live as f64 / mean,
            arrivals: here * count / (arrivals.max(1) as f64),
            arrivals_rate: here / self.world.every,
            busiest: busiest as f64 / self.world.every,
        });
        self.forget();
    }
}

fn time(seconds: f64) -> Time {
    (seconds * 1e6) as Time
}

fn seconds(time: Time) -> f64 {
    time as f64 / 1e6
}
