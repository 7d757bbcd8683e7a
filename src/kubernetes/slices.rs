//! The EndpointSlices of a Service, and the endpoints that they come to.
//!
//! Pure: given slices, it returns endpoints.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::config::model::{Address, EndpointConfig, EndpointPhase, ServicePort};

/// Slices of a Service that are kept; further ones are ignored. A slice has up to a hundred endpoints, unless the
/// cluster is configured otherwise.
pub const MAX_SLICES: usize = 1024;

/// Endpoints of a Service; further ones are ignored, those that are not ready first.
pub const MAX_ENDPOINTS: usize = 4096;

/// Names of ports that a remark lists.
const MAX_NAMES: usize = 8;

/// An EndpointSlice, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its name, which is unique in its namespace.
    pub name: Box<str>,
    /// What kind of addresses it has.
    pub family: AddressFamily,
    /// Its endpoints; none if they are not IP addresses.
    pub endpoints: Vec<SliceEndpoint>,
    /// Its TCP ports. They are those of each of its endpoints.
    pub ports: Vec<SlicePort>,
}

/// What kind of addresses a slice has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// IP addresses, of one of both families.
    Ip,
    /// Names, or something newer than this program.
    Other,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Where it listens.
    pub address: IpAddr,
    /// What its conditions come to.
    pub phase: EndpointPhase,
    /// The name of its pod.
    pub pod: Option<Box<str>>,
}

/// A TCP port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the port in the Service; empty if it has only one, without a name.
    pub name: Box<str>,
    /// The port on which the endpoints listen; `None` for any.
    pub number: Option<u16>,
}

/// All slices of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SliceSet {
    slices: BTreeMap<Box<str>, EndpointSlice>,
    /// Whether slices were ignored because there are too many.
    is_cut: bool,
}

/// The endpoints that slices come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlicedEndpoints {
    /// Ordered by address and without duplicates.
    pub endpoints: Vec<EndpointConfig>,
    /// What operators should know about them.
    pub remarks: BTreeSet<SliceRemark>,
}

/// What operators should know about the slices of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum SliceRemark {
    /// Some slices have other addresses than IP addresses.
    #[error("EndpointSlices with names instead of IP addresses are ignored")]
    OtherAddresses,
    /// No slice has the port, although there are endpoints.
    #[error("no EndpointSlice has the TCP port that `port` names; they have {0}")]
    NoSuchPort(String),
    /// There are more slices or endpoints than tidegate uses.
    #[error(
        "of more than {MAX_SLICES} EndpointSlices or {MAX_ENDPOINTS} endpoints, the rest is ignored"
    )]
    TooMany,
}

impl SliceSet {
    /// The slices of a list.
    pub fn new(slices: impl IntoIterator<Item = EndpointSlice>) -> Self {
        let mut set = Self::default();
        for slice in slices {
            set.apply(slice);
        }
        set
    }

    /// Adds a slice, or puts it in the place of the one of this name.
    pub fn apply(&mut self, slice: EndpointSlice) {
        if self.slices.len() >= MAX_SLICES && !self.slices.contains_key(&slice.name) {
            self.is_cut = true;
            return;
        }
        self.slices.insert(slice.name.clone(), slice);
    }

    /// Removes the slice of this name.
    pub fn delete(&mut self, name: &str) {
        self.slices.remove(name);
    }

    /// The endpoints at this port. An address that is in several slices, which happens while it moves from one to
    /// another, is in the best of its phases.
    pub fn endpoints(&self, port: &ServicePort) -> SlicedEndpoints {
        let mut found: BTreeMap<SocketAddr, FoundEndpoint<'_>> = BTreeMap::new();
        let mut remarks = BTreeSet::new();
        let mut has_endpoints = false;
        for slice in self.slices.values() {
            if slice.family == AddressFamily::Other {
                remarks.insert(SliceRemark::OtherAddresses);
                continue;
            }
            has_endpoints |= !slice.endpoints.is_empty();
            let Some(number) = slice.number(port) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let one = FoundEndpoint {
                    phase: endpoint.phase,
                    pod: endpoint.pod.as_deref().map(Reverse),
                };
                let address = SocketAddr::new(endpoint.address, number);
                let best = found.entry(address).or_insert(one);
                *best = one.max(*best);
            }
        }
        if found.is_empty() && has_endpoints {
            remarks.insert(SliceRemark::NoSuchPort(self.port_names()));
        }
        if self.is_cut || found.len() > MAX_ENDPOINTS {
            remarks.insert(SliceRemark::TooMany);
        }
        SlicedEndpoints {
            endpoints: of_found(found),
            remarks,
        }
    }

    /// The ports that there are, for people.
    fn port_names(&self) -> String {
        let ports = self.slices.values().flat_map(|slice| &slice.ports);
        let shown = ports.map(|port| match (&*port.name, port.number) {
            ("", Some(number)) => format!("{number} without a name"),
            (name, Some(number)) => format!("`{name}` ({number})"),
            (name, None) => format!("`{name}`"),
        });
        let shown: BTreeSet<String> = shown.collect();
        let shown: Vec<String> = shown.into_iter().take(MAX_NAMES).collect();
        match shown.is_empty() {
            true => "none".to_owned(),
            false => shown.join(", "),
        }
    }
}

impl EndpointSlice {
    /// The port that `port` stands for. Names are unique in a slice.
    fn number(&self, port: &ServicePort) -> Option<u16> {
        let mut numbers = self.ports.iter().filter_map(|own| match port {
            ServicePort::Name(name) => own.number.filter(|_| own.name == *name),
            ServicePort::Number(number) => {
                Some(*number).filter(|number| own.number.is_none_or(|own| own == *number))
            }
        });
        numbers.next()
    }
}

/// An endpoint in a slice. The greater one of the same address counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct FoundEndpoint<'a> {
    phase: EndpointPhase,
    pod: Option<Reverse<&'a str>>,
}

fn of_found(found: BTreeMap<SocketAddr, FoundEndpoint<'_>>) -> Vec<EndpointConfig> {
    let mut found: Vec<_> = found.into_iter().collect();
    if found.len() > MAX_ENDPOINTS {
        found.sort_by_key(|(address, endpoint)| (Reverse(endpoint.phase), *address));
        found.truncate(MAX_ENDPOINTS);
        found.sort_unstable_by_key(|(address, _)| *address);
    }
    let endpoint = |(address, found): (SocketAddr, FoundEndpoint<'_>)| EndpointConfig {
        name: found.pod.map(|Reverse(name)| name.into()),
        phase: found.phase,
        ..EndpointConfig::at(Address::Ip(address))
    };
    found.into_iter().map(endpoint).collect()
}

#[cfg(test)]
mod tests;
