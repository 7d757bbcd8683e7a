//! Turns DNS records into addresses and endpoints, and decides when the next lookup is due.
//!
//! Pure: given records and times, it returns values.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::model::{Address, EndpointConfig, is_endpoint_name};

/// The minimum time between two lookups, whatever the TTL.
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum time between two lookups, whatever the TTL: a TTL of a day is usually a mistake, and the
/// proxy would use stale endpoints until it ends.
pub const MAX_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// The maximum time between two lookups while they fail (backoff).
pub const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// The maximum number of endpoints per lookup; further ones are ignored.
pub const MAX_ENDPOINTS: usize = 4096;

/// The maximum number of SRV targets that are looked up; further ones are ignored.
pub const MAX_TARGETS: usize = 1024;

/// The result of one query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupAnswer<T> {
    /// Records, and how long they are valid.
    Records(Vec<T>, Duration),
    /// The name server reports that there are none.
    Nothing,
    /// No usable response, and why.
    Failed(String),
}

/// An SRV record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SrvRecord {
    /// The lowest priority is used first.
    pub priority: u16,
    /// The host name, in lower case and without the dot at the end.
    pub target: Box<str>,
    /// The port of the service.
    pub port: u16,
    /// The share among records of the same priority.
    pub weight: u16,
}

/// The addresses of a host, from the lookups of both families. If the lookup of one family failed, that
/// family keeps the addresses it had `before`: its endpoints need not vanish because of one lost packet.
pub fn addresses(
    before: &[IpAddr],
    v4: LookupAnswer<IpAddr>,
    v6: LookupAnswer<IpAddr>,
) -> LookupAnswer<IpAddr> {
    if let (LookupAnswer::Failed(why), LookupAnswer::Failed(_)) = (&v4, &v6) {
        return LookupAnswer::Failed(why.clone());
    }
    let mut addresses = BTreeSet::new();
    let mut ttl = MAX_INTERVAL;
    for (answer, is_v4) in [(v4, true), (v6, false)] {
        match answer {
            LookupAnswer::Records(records, until) => {
                ttl = ttl.min(until);
                addresses.extend(records);
            }
            LookupAnswer::Nothing => {}
            LookupAnswer::Failed(_) => {
                ttl = ttl.min(MAX_RETRY_INTERVAL);
                addresses.extend(before.iter().filter(|address| address.is_ipv4() == is_v4));
            }
        }
    }
    match addresses.len() {
        0 => LookupAnswer::Nothing,
        _ => LookupAnswer::Records(addresses.into_iter().collect(), ttl),
    }
}

/// The endpoints at the addresses of a host.
pub fn of_host(host: &str, addresses: &[IpAddr], port: u16) -> Vec<EndpointConfig> {
    let sockets = addresses.iter().map(|ip| SocketAddr::new(*ip, port));
    let record = AddressRecord {
        host: host.trim_end_matches('.'),
        is_target: false,
        weight: 1,
        backup: false,
    };
    endpoints(sockets.map(|address| (address, record)))
}

/// The endpoints of SRV records whose targets have addresses. If a target has several addresses, its
/// weight is divided among them.
pub fn of_services(
    services: &[SrvRecord],
    hosts: &BTreeMap<Box<str>, Vec<IpAddr>>,
) -> Vec<EndpointConfig> {
    let has_addresses = |service: &&SrvRecord| {
        hosts
            .get(&service.target)
            .is_some_and(|addresses| !addresses.is_empty())
    };
    // A priority whose targets have no addresses must not turn the next priority into backups.
    let first = services
        .iter()
        .filter(has_addresses)
        .map(|service| service.priority)
        .min();
    let weighted = services.iter().flat_map(|service| {
        let addresses = hosts.get(&service.target).map_or(&[][..], Vec::as_slice);
        let parts = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let weight = u32::from(service.weight).div_ceil(parts);
        let record = AddressRecord {
            host: &service.target,
            is_target: true,
            // A record of weight 0 gets very few connections, not none (RFC 2782).
            weight: weight.max(1),
            backup: Some(service.priority) != first,
        };
        let sockets = addresses
            .iter()
            .map(|ip| SocketAddr::new(*ip, service.port));
        sockets.map(move |address| (address, record))
    });
    endpoints(weighted)
}

/// One record of an address: the name that it belongs to, and how it takes part in balancing.
#[derive(Debug, Clone, Copy)]
struct AddressRecord<'a> {
    host: &'a str,
    /// Whether the name is that of a target, which its endpoints have as well.
    is_target: bool,
    weight: u32,
    backup: bool,
}

/// The endpoints, ordered by address and without duplicates. An address that appears more than once is
/// a backup only if all its records are; the weights of the records that decide this are added up, and it
/// has the first of their names.
fn endpoints<'a>(
    records: impl Iterator<Item = (SocketAddr, AddressRecord<'a>)>,
) -> Vec<EndpointConfig> {
    let mut by_address: BTreeMap<SocketAddr, AddressRecord<'a>> = BTreeMap::new();
    // Port 0 cannot be connected to.
    for (address, record) in records.filter(|(address, _)| address.port() != 0) {
        by_address
            .entry(address)
            .and_modify(|merged| match (merged.backup, record.backup) {
                (true, false) => *merged = record,
                (false, true) => {}
                _ => {
                    merged.weight = merged.weight.saturating_add(record.weight);
                    merged.host = merged.host.min(record.host);
                }
            })
            .or_insert(record);
    }
    by_address
        .into_iter()
        .take(MAX_ENDPOINTS)
        .map(|(address, record)| EndpointConfig {
            host: Some(record.host.into()),
            name: (record.is_target && is_endpoint_name(record.host)).then(|| record.host.into()),
            weight: record.weight,
            backup: record.backup,
            ..EndpointConfig::at(Address::Ip(address))
        })
        .collect()
}

/// The time until the next lookup, after a result that is valid for `ttl`.
pub fn next_after(ttl: Duration) -> Duration {
    ttl.clamp(MIN_INTERVAL, MAX_INTERVAL)
}

/// The time until the next lookup after this number of failures in a row, which is at least 1. It
/// doubles with each failure (backoff).
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
        // The family whose lookup failed keeps its addresses, and is looked up again soon.
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
        // The first priority has no addresses, so the next one is not a backup.
        check(
            &[
                service(20, 2, "c"),
                service(10, 1, "gone"),
                service(30, 1, "a"),
            ],
            &["10.0.0.1:9000 1 backup", "10.0.0.4:9000 2"],
        );
        // The weights of two records for the same address are added up.
        check(
            &[service(10, 3, "a"), service(10, 4, "a")],
            &["10.0.0.1:9000 7"],
        );
        let names = |services: &[SrvRecord]| {
            let endpoints = of_services(services, &hosts).into_iter();
            let names = endpoints.map(|each| each.host.unwrap_or_default().into_string());
            names.collect::<Vec<String>>()
        };
        assert_eq!(
            names(&[service(10, 3, "b"), service(10, 0, "a")]),
            ["a", "b", "b"]
        );
        // They are also the names by which they may be asked for; those of a DNS name have none.
        let mut named = of_services(&[service(10, 3, "b")], &hosts).into_iter();
        assert!(named.all(|each| each.name == each.host));
        let mut unnamed = of_host("b", &ips(&["10.0.0.2"]), 1).into_iter();
        assert!(unnamed.all(|each| each.name.is_none()));
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
        fn the_order_of_records_does_not_matter(
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
