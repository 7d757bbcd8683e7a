//! Local addresses that connections come from: used in turn, with the ports in use counted.
//!
//! From one local address, there can be as many connections to one endpoint as there are local ports:
//! tens of thousands. A port can be used once for each pair of addresses, so every further local
//! address brings as many again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::endpoint::EndpointState;
use super::group::Upstream;
use crate::config::ports;

/// Destinations in the table before those without connections are first removed.
const SWEEP_AT: usize = 256;

/// The connections of the process, by destination and source.
#[derive(Debug, Default)]
pub struct SourcePorts {
    destinations: Mutex<Destinations>,
}

#[derive(Debug, Default)]
struct Destinations {
    table: HashMap<SocketAddr, DestinationPorts>,
    /// The size at which unused destinations are removed next.
    sweep_at: usize,
}

#[derive(Debug, Default)]
struct DestinationPorts {
    turn: usize,
    /// A handful of sources: a linear search is the fastest.
    used: Vec<(Option<IpAddr>, Arc<PortCount>)>,
}

#[derive(Debug, Default)]
struct PortCount {
    connections: AtomicUsize,
    /// Whether there was no free port the last time.
    is_exhausted: AtomicBool,
}

/// The ports between a source and an endpoint.
#[derive(Debug)]
pub struct PortUsage {
    /// The endpoint.
    pub endpoint: Arc<EndpointState>,
    /// The local address; `None` if the kernel chooses it.
    pub source: Option<IpAddr>,
    /// Connections of this process.
    pub used: usize,
    /// Connections that are still possible, if no other process has any.
    pub free: usize,
}

/// One local port that a connection uses, until it is dropped.
#[derive(Debug)]
pub struct PortPermit(Arc<PortCount>);

impl PortPermit {
    fn of(used: &Arc<PortCount>) -> Self {
        used.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(used))
    }

    /// Records that there was no free port. Returns whether there was one the last time, so that the
    /// caller logs this once.
    pub(super) fn mark_exhausted(&self) -> bool {
        !self.0.is_exhausted.swap(true, Ordering::Relaxed)
    }

    /// Records that there was a free port.
    pub(super) fn mark_connected(&self) {
        self.0.is_exhausted.store(false, Ordering::Relaxed);
    }
}

impl Drop for PortPermit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SourcePorts {
    /// The sources to try for a connection to `to`, in this order. `None` leaves the choice to the
    /// kernel; it stands alone if no configured source has the right address family.
    pub(super) fn candidates_for(&self, to: SocketAddr, sources: &[IpAddr]) -> Vec<Option<IpAddr>> {
        let mut order = candidates(to, sources);
        match order.len() {
            ..2 => {}
            // Each destination has its own turn. With a common one, and endpoints that are picked in
            // turn as well, each endpoint would always be reached from the same source.
            several => order.rotate_left(self.lock().turn(to) % several),
        }
        order
    }

    /// Counts a connection from `from` to `to`. It counts while it is being opened, so that concurrent
    /// attempts are seen.
    pub(super) fn acquire(&self, to: SocketAddr, from: Option<IpAddr>) -> PortPermit {
        let mut destinations = self.lock();
        let destination = destinations.at(to);
        if let Some((_, used)) = destination.used.iter().find(|(source, _)| *source == from) {
            return PortPermit::of(used);
        }
        let used = Arc::<PortCount>::default();
        destination.used.push((from, Arc::clone(&used)));
        PortPermit::of(&used)
    }

    /// Connections from `from` to `to`.
    pub fn used(&self, to: SocketAddr, from: Option<IpAddr>) -> usize {
        let destinations = self.lock();
        let used = destinations.table.get(&to).and_then(|destination| {
            let mut used = destination.used.iter();
            used.find(|(source, _)| *source == from)
        });
        used.map_or(0, |(_, used)| used.connections.load(Ordering::Relaxed))
    }

    /// The ports between every source and endpoint of `upstream`. Unix sockets have none, and neither do
    /// names that have not been resolved.
    pub fn of(&self, upstream: &Upstream) -> Vec<PortUsage> {
        let local = ports::local();
        let mut usages = Vec::new();
        for endpoint in upstream.endpoints() {
            let to = endpoint.destinations();
            let mut sources: Vec<Option<IpAddr>> = Vec::new();
            for source in to
                .iter()
                .flat_map(|to| candidates(*to, &upstream.connecting().sources))
            {
                if !sources.contains(&source) {
                    sources.push(source);
                }
            }
            for source in sources {
                let of_family =
                    |to: &&SocketAddr| source.is_none_or(|source| source.is_ipv4() == to.is_ipv4());
                let reached: Vec<&SocketAddr> = to.iter().filter(of_family).collect();
                let used = reached.iter().map(|to| self.used(**to, source)).sum();
                usages.push(PortUsage {
                    endpoint: Arc::clone(&endpoint),
                    source,
                    used,
                    free: (reached.len() * local).saturating_sub(used),
                });
            }
        }
        usages
    }

    fn lock(&self) -> MutexGuard<'_, Destinations> {
        self.destinations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The `sources` of the same address family as `to`; a single `None` if there are none.
fn candidates(to: SocketAddr, sources: &[IpAddr]) -> Vec<Option<IpAddr>> {
    let mut candidates: Vec<Option<IpAddr>> = sources
        .iter()
        .filter(|source| source.is_ipv4() == to.is_ipv4())
        .map(|source| Some(*source))
        .collect();
    if candidates.is_empty() {
        candidates.push(None);
    }
    candidates
}

impl Destinations {
    fn at(&mut self, to: SocketAddr) -> &mut DestinationPorts {
        if self.table.len() >= self.sweep_at.max(SWEEP_AT) && !self.table.contains_key(&to) {
            self.table.retain(|_, destination| destination.is_used());
            // Twice what is left: amortised, an insertion costs a constant time.
            self.sweep_at = self.table.len() * 2;
        }
        self.table.entry(to).or_default()
    }

    fn turn(&mut self, to: SocketAddr) -> usize {
        let destination = self.at(to);
        let turn = destination.turn;
        destination.turn = turn.wrapping_add(1);
        turn
    }
}

impl DestinationPorts {
    fn is_used(&self) -> bool {
        self.used.iter().any(|(_, used)| {
            // A permit that is just being handed out has no connection counted yet.
            used.connections.load(Ordering::Relaxed) > 0 || Arc::strong_count(used) > 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{self, Address};

    fn to(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn ips(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|each| each.parse().unwrap()).collect()
    }

    #[test]
    fn each_destination_has_its_turn() {
        let sources = SourcePorts::default();
        let own = ips(&["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"]);
        let first = |address| {
            sources.candidates_for(to(address), &own)[0]
                .unwrap()
                .to_string()
        };
        for expected in ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1"] {
            assert_eq!(first("10.0.0.1:1"), expected);
            assert_eq!(first("10.0.0.2:1"), expected);
        }
        let order = sources.candidates_for(to("10.0.0.1:1"), &own);
        let rest: Vec<String> = order.iter().map(|each| each.unwrap().to_string()).collect();
        assert_eq!(rest, ["127.0.0.2", "127.0.0.3", "127.0.0.1"]);
        assert_eq!(first("[::2]:1"), "::1");
        assert_eq!(sources.candidates_for(to("[::2]:1"), &own[..2]), [None]);
        assert_eq!(sources.candidates_for(to("10.0.0.1:1"), &[]), [None]);
    }

    #[test]
    fn connections_count_until_they_are_closed() {
        let sources = SourcePorts::default();
        let [from, other] = [Some(ips(&["127.0.0.1"])[0]), None];
        let there = to("10.0.0.1:1");
        let held = [sources.acquire(there, from), sources.acquire(there, from)];
        let counts = || {
            [
                sources.used(there, from),
                sources.used(there, other),
                sources.used(to("10.0.0.1:2"), from),
            ]
        };
        assert_eq!(counts(), [2, 0, 0]);
        let third = sources.acquire(there, other);
        assert_eq!(counts(), [2, 1, 0]);
        drop(held);
        assert_eq!(counts(), [0, 1, 0]);
        drop(third);
        assert_eq!(counts(), [0, 0, 0]);
    }

    #[test]
    fn the_ports_of_an_upstream_are_listed() {
        let endpoints = ["10.0.0.1:1", "[::2]:1", "unix:/run/a.sock"].map(|address| {
            let address = match address.strip_prefix("unix:") {
                Some(path) => Address::Unix(path.into()),
                None => Address::Ip(to(address)),
            };
            model::EndpointConfig::at(address)
        });
        let mut settings = model::UpstreamConfig::listed("chat", endpoints.into());
        settings.reach.sources = ips(&["127.0.0.1", "127.0.0.2"]).into();
        let upstream = Upstream::new(&settings, &Arc::default()).unwrap();
        let sources = SourcePorts::default();
        let held = sources.acquire(to("10.0.0.1:1"), Some(ips(&["127.0.0.2"])[0]));
        let shown: Vec<String> = sources
            .of(&upstream)
            .iter()
            .map(|ports| {
                let source = ports.source.map_or("any".to_owned(), |ip| ip.to_string());
                assert_eq!(ports.used + ports.free, ports::local());
                format!("{} from {source}: {}", ports.endpoint.label, ports.used)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "10.0.0.1:1 from 127.0.0.1: 0",
                "10.0.0.1:1 from 127.0.0.2: 1",
                "[::2]:1 from any: 0",
            ]
        );
        drop(held);
    }

    #[test]
    fn destinations_without_connections_are_forgotten() {
        let sources = SourcePorts::default();
        let held = sources.acquire(to("10.0.0.1:1"), None);
        for port in 1..2000 {
            drop(sources.acquire(SocketAddr::from(([10, 0, 0, 2], port)), None));
        }
        assert!(sources.lock().table.len() <= SWEEP_AT);
        assert_eq!(sources.used(to("10.0.0.1:1"), None), 1);
        drop(held);
    }

    #[test]
    fn an_exhausted_source_is_reported_once() {
        let sources = SourcePorts::default();
        let share = sources.acquire(to("10.0.0.1:1"), None);
        assert!(share.mark_exhausted());
        assert!(!sources.acquire(to("10.0.0.1:1"), None).mark_exhausted());
        share.mark_connected();
        assert!(share.mark_exhausted());
    }
}
