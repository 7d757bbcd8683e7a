//! What answers of name servers come to: addresses, endpoints, and when to ask again.
//!
//! Pure: sees records and times, returns values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::model::{Address, EndpointConfig};

/// The shortest time between two lookups, whatever the TTL says.
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The longest, likewise: a TTL of a day is a mistake that somebody would have to wait for.
pub const MAX_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The longest time between two tries while lookups fail.
pub const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Endpoints taken from one answer; of more, the first.
pub const MAX_ENDPOINTS: usize = 4096;

/// Targets of SRV records that are looked up; of more, the first.
pub const MAX_TARGETS: usize = 1024;

/// What a lookup came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupAnswer<T> {
    /// These, for so long.
    Records(Vec<T>, Duration),
    /// The name server says that there are none.
    Nothing,
    /// Nobody knows.
    Failed(String),
}

/// An SRV record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SrvRecord {
    /// The lowest goes first.
    pub priority: u16,
    /// Lower case, without the dot at its end.
    pub target: Box<str>,
    /// Where it listens.
    pub port: u16,
    /// Its share among those of its priority.
    pub weight: u16,
}

/// The addresses of a host from both lookups for it. Those of a family whose lookup failed are the
/// ones it had `before`: half of an answer is no reason to lose the other half.
pub fn addresses(
    before: &[IpAddr],
    v4: LookupAnswer<IpAddr>,
    v6: LookupAnswer<IpAddr>,
) -> LookupAnswer<IpAddr> {
    if let (LookupAnswer::Failed(why), LookupAnswer::Failed(_)) = (&v4, &v6) {
        return LookupAnswer::Failed(why.clone());
    }
    let mut all = BTreeSet::new();
    let mut ttl = MAX_INTERVAL;
    for (answer, is_v4) in [(v4, true), (v6, false)] {
        match answer {
            LookupAnswer::Records(found, until) => {
                ttl = ttl.min(until);
                all.extend(found);
            }
            LookupAnswer::Nothing => {}
            LookupAnswer::Failed(_) => {
                ttl = ttl.min(MAX_RETRY_INTERVAL);
                all.extend(before.iter().filter(|address| address.is_ipv4() == is_v4));
            }
        }
    }
    match all.len() {
        0 => LookupAnswer::Nothing,
        _ => LookupAnswer::Records(all.into_iter().collect(), ttl),
    }
}

/// The endpoints at a host's addresses.
pub fn of_host(addresses: &[IpAddr], port: u16) -> Vec<EndpointConfig> {
    let sockets = addresses.iter().map(|ip| SocketAddr::new(*ip, port));
    let shares = sockets.map(|address| (address, Weighting::ALONE));
    endpoints(shares)
}

/// The endpoints of SRV records, as far as their targets have addresses. Of several addresses of one
/// target, each has its part of the weight.
pub fn of_services(
    services: &[SrvRecord],
    hosts: &BTreeMap<Box<str>, Vec<IpAddr>>,
) -> Vec<EndpointConfig> {
    let known = |service: &&SrvRecord| {
        hosts
            .get(&service.target)
            .is_some_and(|all| !all.is_empty())
    };
    // A priority of which nothing is to be had does not make backups of the others.
    let first = services
        .iter()
        .filter(known)
        .map(|each| each.priority)
        .min();
    let shares = services.iter().flat_map(|service| {
        let addresses = hosts.get(&service.target).map_or(&[][..], Vec::as_slice);
        let parts = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let weight = u32::from(service.weight).div_ceil(parts);
        let share = Weighting {
            // Of such a weight is said that it gets very little, not nothing (RFC 2782).
            weight: weight.max(1),
            backup: Some(service.priority) != first,
        };
        let sockets = addresses
            .iter()
            .map(|ip| SocketAddr::new(*ip, service.port));
        sockets.map(move |address| (address, share))
    });
    endpoints(shares)
}

/// What an endpoint gets of the tunnels.
#[derive(Debug, Clone, Copy)]
struct Weighting {
    weight: u32,
    backup: bool,
}

impl Weighting {
    const ALONE: Self = Self {
        weight: 1,
        backup: false,
    };
}

/// In the order of addresses, each once; that of an address which is there more than once is the
/// sum, and it is no backup if it is none once.
fn endpoints(shares: impl Iterator<Item = (SocketAddr, Weighting)>) -> Vec<EndpointConfig> {
    let mut all: BTreeMap<SocketAddr, Weighting> = BTreeMap::new();
    for (address, share) in shares.filter(|(address, _)| address.port() != 0) {
        let known = all.entry(address);
        known
            .and_modify(|known| match (known.backup, share.backup) {
                (true, false) => *known = share,
                (false, true) => {}
                _ => known.weight = known.weight.saturating_add(share.weight),
            })
            .or_insert(share);
    }
    let all = all.into_iter().take(MAX_ENDPOINTS);
    all.map(|(address, share)| EndpointConfig {
        weight: share.weight,
        backup: share.backup,
        ..EndpointConfig::at(Address::Ip(address))
    })
    .collect()
}

/// When to ask again after an answer that holds for `ttl`.
pub fn next_after(ttl: Duration) -> Duration {
    ttl.clamp(MIN_INTERVAL, MAX_INTERVAL)
}

/// When to ask again after so many `failures`, which is at least 1.
pub fn retry_after(failures: u32) -> Duration {
    let doubled = failures.saturating_sub(1).min(16);
    MIN_INTERVAL
        .saturating_mul(1 << doubled)
        .min(MAX_RETRY_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ips(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|each| each.parse().unwrap()).collect()
    }

    fn records(all: &[&str], ttl: u64) -> LookupAnswer<IpAddr> {
        LookupAnswer::Records(ips(all), Duration::from_secs(ttl))
    }

    fn failed() -> LookupAnswer<IpAddr> {
        LookupAnswer::Failed("no answer".into())
    }

    #[test]
    fn a_host_has_the_addresses_of_both_families() {
        let check = |before: &[&str], v4, v6, expected| {
            assert_eq!(addresses(&ips(before), v4, v6), expected);
        };
        check(
            &["10.0.0.9"],
            records(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], 20),
            records(&["::1"], 10),
            records(&["10.0.0.1", "10.0.0.2", "::1"], 10),
        );
        check(
            &["10.0.0.9"],
            records(&["10.0.0.1"], 20),
            LookupAnswer::Nothing,
            records(&["10.0.0.1"], 20),
        );
        check(
            &["10.0.0.9"],
            LookupAnswer::Nothing,
            LookupAnswer::Nothing,
            LookupAnswer::Nothing,
        );
        check(&["10.0.0.9"], failed(), failed(), failed());
        // The family that nobody knows anything about stays, and is asked for soon.
        check(
            &["10.0.0.9", "::9"],
            records(&["10.0.0.1"], 200),
            failed(),
            records(&["10.0.0.1", "::9"], 30),
        );
        check(
            &["::9"],
            failed(),
            LookupAnswer::Nothing,
            LookupAnswer::Nothing,
        );
        check(
            &["10.0.0.9"],
            failed(),
            LookupAnswer::Nothing,
            records(&["10.0.0.9"], 30),
        );
    }

    fn service(priority: u16, weight: u16, target: &str) -> SrvRecord {
        SrvRecord {
            priority,
            weight,
            port: 9000,
            target: target.into(),
        }
    }

    fn shown(endpoints: &[EndpointConfig]) -> Vec<String> {
        let shown = endpoints.iter().map(|each| {
            let backup = if each.backup { " backup" } else { "" };
            format!("{} {}{backup}", each.address, each.weight)
        });
        shown.collect()
    }

    fn hosts(all: &[(&str, &[&str])]) -> BTreeMap<Box<str>, Vec<IpAddr>> {
        let all = all.iter();
        all.map(|(name, addresses)| ((*name).into(), ips(addresses)))
            .collect()
    }

    #[test]
    fn services_become_endpoints_with_weights() {
        let hosts = hosts(&[
            ("a", &["10.0.0.1"]),
            ("b", &["10.0.0.2", "10.0.0.3"]),
            ("c", &["10.0.0.4"]),
            ("gone", &[]),
        ]);
        let check = |services: &[SrvRecord], expected: &[&str]| {
            assert_eq!(shown(&of_services(services, &hosts)), expected);
        };
        check(
            &[service(10, 3, "b"), service(10, 0, "a")],
            &["10.0.0.1:9000 1", "10.0.0.2:9000 2", "10.0.0.3:9000 2"],
        );
        check(
            &[
                service(20, 2, "c"),
                service(10, 1, "a"),
                service(20, 1, "a"),
            ],
            &["10.0.0.1:9000 1", "10.0.0.4:9000 2 backup"],
        );
        // Of the first priority there is nothing: the next is no backup.
        check(
            &[
                service(20, 2, "c"),
                service(10, 1, "gone"),
                service(30, 1, "a"),
            ],
            &["10.0.0.1:9000 1 backup", "10.0.0.4:9000 2"],
        );
        // The second of two records for the same address adds to the first.
        check(
            &[service(10, 3, "a"), service(10, 4, "a")],
            &["10.0.0.1:9000 7"],
        );
        check(&[service(10, 1, "nobody"), service(10, 1, "gone")], &[]);
        check(
            &[SrvRecord {
                port: 0,
                ..service(10, 1, "a")
            }],
            &[],
        );
    }

    #[test]
    fn the_next_lookup_follows_the_ttl_within_bounds() {
        for (ttl, expected) in [(0, 1), (1, 1), (30, 30), (300, 300), (86_400, 300)] {
            assert_eq!(
                next_after(Duration::from_secs(ttl)),
                Duration::from_secs(expected)
            );
        }
        let tries: Vec<u64> = (1..8).map(|n| retry_after(n).as_secs()).collect();
        assert_eq!(tries, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(retry_after(u32::MAX), MAX_RETRY_INTERVAL);
    }

    proptest! {
        #[test]
        fn the_order_of_an_answer_does_not_matter(
            mut services in prop::collection::vec(
                (0..3u16, 0..5u16, 0..4usize).prop_map(|(priority, weight, host)| {
                    service(priority, weight, ["a", "b", "c", "gone"][host])
                }),
                0..12,
            ),
        ) {
            let hosts = hosts(&[
                ("a", &["10.0.0.1"]),
                ("b", &["10.0.0.2", "10.0.0.1"]),
                ("c", &["::1"]),
                ("gone", &[]),
            ]);
            let one = of_services(&services, &hosts);
            services.reverse();
            prop_assert_eq!(&one, &of_services(&services, &hosts));
            let mut addresses: Vec<&Address> = one.iter().map(|each| &each.address).collect();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), one.len());
        }
    }
}
