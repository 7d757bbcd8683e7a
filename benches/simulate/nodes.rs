//! Many nodes in front of the same endpoints, in virtual time that advances in ticks.
//!
//! Millions of tunnels have to fit into memory, so a client is 8 bytes, and its events are in a list for each
//! tick. Every node has its own balancer and its own view: its own tunnels, and what endpoints report. A view may
//! also be the truth, which is what counts shared by all nodes would be at best.

mod agenda;

use fastrand::Rng;
use tidegate::upstream::balance::{
    Balancer, Candidate, Policy, ReportedTotal, fleet_scale, identity, key_hash,
};

use self::agenda::Agenda;
use crate::lifetime::{Lifetime, wait};

/// Ticks per second.
pub(crate) const TICKS: f64 = 10.0;

/// The time within which a client reconnects after the loss of its tunnel, in seconds.
const RECONNECT_TIME: f64 = 10.0;

/// The time within which a client retries after a refused handshake, in seconds.
const AGAIN_WITHIN: f64 = 4.0;

/// The interval of health checks, in ticks. Each node checks each endpoint at a time of its own.
const CHECK_INTERVAL: usize = 100;

/// The interval at which a node finds out how much of the total is its own, in ticks.
const RESCALE_INTERVAL: u32 = 10;

/// Stands for no endpoint.
const NOWHERE: u16 = u16::MAX;

/// What a node knows of the load of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Its own tunnels.
    Alone,
    /// Reports of endpoints in the responses to health checks.
    Checks,
    /// The same, but a node adds only its own changes since the report: what tidegate does not do.
    Unscaled,
    /// Reports in the responses to health checks, and in the 101 of every handshake.
    Handshakes,
    /// The tunnels of all nodes, at once.
    Truth,
}

/// Nodes and endpoints, and what happens to them.
#[derive(Debug, Clone)]
pub(crate) struct NodesWorld {
    pub(crate) nodes: usize,
    pub(crate) endpoints: usize,
    /// The average number of tunnels: as many open as end.
    pub(crate) tunnels: usize,
    /// The maximum of tunnels on an endpoint, relative to the mean. Beyond it, handshakes are refused.
    pub(crate) max: f64,
    pub(crate) lifetime: Lifetime,
    /// Endpoints that have tunnels of others, which no node knows, and how many.
    pub(crate) others: (usize, u32),
    /// Each with its time in seconds.
    pub(crate) events: Vec<(f64, NodesEvent)>,
    /// In seconds.
    pub(crate) duration: f64,
}

/// What happens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NodesEvent {
    /// Nodes end, and their tunnels with them. The range is `(first, number)`.
    NodesDown((usize, usize)),
    /// Nodes start, and have no tunnels.
    NodesUp((usize, usize)),
    /// Endpoints end, and their tunnels with them.
    EndpointsDown((usize, usize)),
    /// Endpoints start, and have no tunnels.
    EndpointsUp((usize, usize)),
    /// All tunnels end, and their clients reconnect within this many seconds.
    Storm(f64),
}

/// A sample of all endpoints, once a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodesLook {
    /// In seconds.
    pub(crate) at: f64,
    /// The largest number of tunnels on an endpoint that is up, relative to the mean.
    pub(crate) imbalance: f64,
    /// Handshakes since the last sample that were refused.
    pub(crate) refused: usize,
}

#[derive(Clone, Copy)]
struct NodesClient {
    /// In ticks.
    ends: u32,
    node: u16,
    endpoint: u16,
}

struct Node {
    balancer: Balancer,
    up: bool,
    own: Vec<u32>,
    reports: Vec<ReportedTotal>,
    /// From [`fleet_scale`].
    scale: f32,
    /// Endpoints whose 101 this node has got within the tick, with what they had then.
    fresh: Vec<(u16, ReportedTotal)>,
}

struct Site {
    identity: u64,
    up: bool,
    live: u32,
}

/// A run.
pub(crate) struct Nodes<'a> {
    world: &'a NodesWorld,
    view: View,
    has_keys: bool,
    max: u32,
    now: u32,
    agenda: Agenda,
    clients: Vec<NodesClient>,
    free: Vec<u32>,
    nodes: Vec<Node>,
    sites: Vec<Site>,
    /// The nodes that are up.
    serving: Vec<u16>,
    refused: usize,
    coming: Rng,
    going: Rng,
    looks: Vec<NodesLook>,
}

/// Runs a simulation with this policy and this view. The same seed gives the same result.
pub(crate) fn run(world: &NodesWorld, policy: Policy, view: View, seed: u64) -> Vec<NodesLook> {
    let mut nodes = Nodes::new(world, policy, view, seed);
    nodes.fill();
    let mut events = world.events.clone();
    events.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut events = events.into_iter().peekable();
    let rate = world.tunnels as f64 / world.lifetime.mean / TICKS;
    let mut next_arrival = wait(rate, &mut nodes.coming);
    for now in 0..ticks(world.duration) {
        nodes.now = now;
        while let Some((_, event)) = events.next_if(|(at, _)| ticks(*at) <= now) {
            nodes.happen(event);
        }
        for client in nodes.agenda.take_ends(now) {
            nodes.leave(client);
            nodes.free.push(client);
        }
        for client in nodes.agenda.take_returns(now) {
            nodes.connect(client);
        }
        while next_arrival <= f64::from(now) {
            let stay = world.lifetime.whole(&mut nodes.coming);
            nodes.admit(stay);
            next_arrival += wait(rate, &mut nodes.coming);
        }
        nodes.report();
        if now.is_multiple_of(TICKS as u32) {
            nodes.look();
        }
    }
    nodes.looks
}

impl<'a> Nodes<'a> {
    fn new(world: &'a NodesWorld, policy: Policy, view: View, seed: u64) -> Self {
        let mut going = Rng::with_seed(seed).fork();
        let nodes = (0..world.nodes).map(|_| Node {
            balancer: Balancer::new(policy, world.endpoints, going.u64(..)),
            up: true,
            own: vec![0; world.endpoints],
            reports: vec![ReportedTotal::default(); world.endpoints],
            scale: 1.0,
            fresh: Vec::new(),
        });
        let nodes = nodes.collect();
        let sites = (0..world.endpoints).map(|number| Site {
            identity: identity(&format!("endpoint-{number}:9000")),
            up: true,
            live: if number < world.others.0 {
                world.others.1
            } else {
                0
            },
        });
        let mean = world.tunnels as f64 / world.endpoints as f64;
        Self {
            world,
            view,
            has_keys: matches!(policy, Policy::Hash { .. }),
            max: (mean * world.max) as u32,
            now: 0,
            agenda: Agenda::new(ticks(world.duration)),
            clients: Vec::with_capacity(world.tunnels + world.tunnels / 8),
            free: Vec::new(),
            nodes,
            sites: sites.collect(),
            serving: (0..world.nodes as u16).collect(),
            refused: 0,
            coming: Rng::with_seed(seed),
            going,
            looks: Vec::new(),
        }
    }

    /// Fills the endpoints with tunnels whose remaining lifetimes are those after a long time without changes.
    /// Each node has placed its own in turn, as least connections does; and all have every report.
    fn fill(&mut self) {
        let mut turns: Vec<usize> = (0..self.nodes.len())
            .map(|_| self.going.usize(..self.sites.len()))
            .collect();
        for _ in 0..self.world.tunnels {
            let rest = self.world.lifetime.rest(&mut self.coming);
            let number = self.add(rest);
            let node = self.serving[self.going.usize(..self.serving.len())];
            let turn = &mut turns[usize::from(node)];
            *turn = (*turn + 1) % self.sites.len();
            let endpoint = *turn;
            self.open(number, node, endpoint);
        }
        for node in 0..self.nodes.len() {
            (0..self.sites.len()).for_each(|endpoint| self.reports_to(node, endpoint));
        }
    }

    fn happen(&mut self, event: NodesEvent) {
        let range = |(first, number): (usize, usize)| first..first + number;
        match event {
            NodesEvent::NodesDown(which) => {
                range(which).for_each(|node| self.nodes[node].up = false);
                self.choose_serving();
                self.cut(RECONNECT_TIME, |client| {
                    range(which).contains(&usize::from(client.node))
                });
            }
            NodesEvent::NodesUp(which) => {
                for node in range(which) {
                    self.nodes[node].up = true;
                    // Before it serves, a node that checks endpoints has checked all of them.
                    for endpoint in 0..self.sites.len() {
                        self.reports_to(node, endpoint);
                    }
                }
                self.choose_serving();
            }
            NodesEvent::EndpointsDown(which) => {
                range(which).for_each(|endpoint| self.sites[endpoint].up = false);
                self.cut(RECONNECT_TIME, |client| {
                    range(which).contains(&usize::from(client.endpoint))
                });
            }
            NodesEvent::EndpointsUp(which) => {
                for endpoint in range(which) {
                    self.sites[endpoint].up = true;
                    // A node uses it once a check has passed, which has brought a report.
                    (0..self.nodes.len()).for_each(|node| self.reports_to(node, endpoint));
                }
            }
            NodesEvent::Storm(within) => self.cut(within, |_| true),
        }
    }

    fn choose_serving(&mut self) {
        let up = (0..self.nodes.len()).filter(|&node| self.nodes[node].up);
        self.serving = up.map(|node| node as u16).collect();
    }

    /// Ends tunnels; their clients reconnect within this many seconds.
    fn cut(&mut self, within: f64, is_cut: impl Fn(NodesClient) -> bool) {
        for number in 0..self.clients.len() as u32 {
            let client = self.clients[number as usize];
            if client.endpoint != NOWHERE && is_cut(client) {
                self.leave(number);
                self.come_back(number, within);
            }
        }
    }

    /// A new client with this lifetime, in seconds.
    fn admit(&mut self, stay: f64) {
        let number = self.add(stay);
        self.connect(number);
    }

    fn add(&mut self, stay: f64) -> u32 {
        // An end beyond that of the simulation is never reached.
        let stay = (stay * TICKS) as u32;
        let client = NodesClient {
            ends: self.now.saturating_add(stay.max(1)),
            node: 0,
            endpoint: NOWHERE,
        };
        let number = self.free.pop().unwrap_or_else(|| {
            self.clients.push(client);
            self.clients.len() as u32 - 1
        });
        self.clients[number as usize] = client;
        self.agenda.end(number, client.ends);
        number
    }

    /// Sends a client through a random node to the endpoint that the node picks.
    fn connect(&mut self, number: u32) {
        let node = self.serving[self.going.usize(..self.serving.len())];
        let picked = self.pick(usize::from(node), number);
        let room = picked.filter(|&endpoint| self.sites[endpoint].live < self.max);
        let Some(endpoint) = room else {
            self.refused += 1;
            return self.come_back(number, AGAIN_WITHIN);
        };
        self.open(number, node, endpoint);
        if self.view == View::Handshakes {
            let of = &mut self.nodes[usize::from(node)];
            let report = ReportedTotal {
                tunnels: self.sites[endpoint].live,
                own: of.own[endpoint],
            };
            of.fresh.push((endpoint as u16, report));
        }
    }

    fn open(&mut self, number: u32, node: u16, endpoint: usize) {
        self.sites[endpoint].live += 1;
        self.nodes[usize::from(node)].own[endpoint] += 1;
        let client = &mut self.clients[number as usize];
        (client.node, client.endpoint) = (node, endpoint as u16);
    }

    fn pick(&mut self, node: usize, client: u32) -> Option<usize> {
        let Node {
            balancer,
            own,
            reports,
            scale,
            ..
        } = &mut self.nodes[node];
        let (max, scale) = (self.max as usize, *scale);
        // A client keeps its key for its whole life.
        let key = self.has_keys.then(|| key_hash(&client.to_be_bytes()));
        let each = self.sites.iter().zip(&*own).zip(&*reports);
        let candidate = |site: &Site, in_flight, is_full: bool| Candidate {
            weight: 1,
            in_flight,
            eligible: site.up && !is_full,
            warmth: None,
            identity: site.identity,
        };
        // One loop for each view: this is where a simulation spends its time.
        match self.view {
            View::Alone => {
                let each = each.map(|((site, &own), _)| candidate(site, own as usize, false));
                balancer.pick(each, key)
            }
            View::Truth => {
                let each = self.sites.iter();
                let each = each.map(|it| candidate(it, it.live as usize, it.live >= self.max));
                balancer.pick(each, key)
            }
            View::Checks | View::Unscaled | View::Handshakes => {
                let each = each.map(|((site, &own), report)| {
                    let own = own as usize;
                    candidate(site, report.load(own, scale), report.total(own) >= max)
                });
                balancer.pick(each, key)
            }
        }
    }

    fn leave(&mut self, number: u32) {
        let client = &mut self.clients[number as usize];
        if client.endpoint == NOWHERE {
            return;
        }
        let endpoint = usize::from(std::mem::replace(&mut client.endpoint, NOWHERE));
        self.sites[endpoint].live -= 1;
        self.nodes[usize::from(client.node)].own[endpoint] -= 1;
    }

    /// Lets a client reconnect within this many seconds, unless its lifetime ends before.
    fn come_back(&mut self, number: u32, within: f64) {
        let at = self.now + 1 + (self.going.f64() * within * TICKS) as u32;
        if at < self.clients[number as usize].ends {
            self.agenda.come_back(number, at);
        }
    }

    /// Brings the reports of this tick to the nodes.
    fn report(&mut self) {
        if matches!(self.view, View::Alone | View::Truth) {
            return;
        }
        for node in 0..self.nodes.len() {
            let of = &mut self.nodes[node];
            for (endpoint, report) in of.fresh.drain(..) {
                of.reports[usize::from(endpoint)] = report;
            }
            if self.view != View::Unscaled && self.now.is_multiple_of(RESCALE_INTERVAL) {
                let up = of.reports.iter().zip(&self.sites);
                let up = up.filter(|(_, site)| site.up).map(|(report, _)| *report);
                of.scale = fleet_scale(up);
            }
            // The numbers spread the checks of an endpoint, and those of a node, over the interval.
            let first = (self.now as usize + node * 37) % CHECK_INTERVAL;
            for endpoint in (first..self.sites.len()).step_by(CHECK_INTERVAL) {
                self.reports_to(node, endpoint);
            }
        }
    }

    fn reports_to(&mut self, node: usize, endpoint: usize) {
        let site = &self.sites[endpoint];
        let of = &mut self.nodes[node];
        if site.up {
            of.reports[endpoint] = ReportedTotal {
                tunnels: site.live,
                own: of.own[endpoint],
            };
        }
    }

    fn look(&mut self) {
        let up = self.sites.iter().filter(|site| site.up);
        let live = up.map(|site| site.live);
        let (count, sum, most) = live.fold((0, 0, 0), |(count, sum, most), live| {
            (count + 1, sum + u64::from(live), live.max(most))
        });
        // While few are open, one more or less says nothing.
        let usual = self.world.tunnels as f64 / self.world.endpoints as f64;
        let mean = (sum as f64 / f64::from(count.max(1))).max(usual / 2.0);
        self.looks.push(NodesLook {
            at: f64::from(self.now) / TICKS,
            imbalance: f64::from(most) / mean,
            refused: std::mem::take(&mut self.refused),
        });
    }
}

fn ticks(seconds: f64) -> u32 {
    (seconds * TICKS) as u32
}
