//! What a process hands to its successor about upstreams. With it, the successor does not send
//! clients to an endpoint that is known to be down, counts the load of the older generation's
//! tunnels, and accepts the sticky cookies that it has issued.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::health::HealthHandover;
use super::report::ReportHandover;
use crate::config::model::{self, Address, Discovery, Secret};

/// The state of all upstreams, as it is handed over.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamsHandover {
    /// State of upstreams.
    pub upstreams: Vec<UpstreamHandover>,
    /// State of endpoints.
    pub endpoints: Vec<EndpointHandover>,
    /// Endpoints that operators have drained, whether they are configured at the moment or not.
    pub drained: Vec<(String, Address)>,
}

/// The state of one upstream, as it is handed over.
#[derive(Debug, Serialize, Deserialize)]
pub struct UpstreamHandover {
    /// The name of the upstream.
    pub name: String,
    /// The secret that sticky cookies are signed with, if it is not configured.
    pub secret: Option<Secret>,
    /// What discovery last found, and how.
    // The name of version 0.1.0.
    #[serde(rename = "found")]
    pub discovered: Option<(Discovery, Vec<model::EndpointConfig>)>,
}

/// The state of one endpoint, as it is handed over.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndpointHandover {
    /// The name of its upstream.
    pub upstream: String,
    /// Where the endpoint listens.
    pub address: Address,
    /// Leases, those of older generations included.
    pub in_flight: usize,
    /// How long ago its slow start began; `None` if it had none.
    pub age: Option<Duration>,
    /// The weight that an operator has set.
    pub weight: Option<u32>,
    /// The state of its checks and its ejection.
    // The name of version 0.1.0.
    #[serde(rename = "condition")]
    pub health: HealthHandover,
    /// The last known addresses of its name, if it has one.
    #[serde(default)]
    pub addresses: Vec<SocketAddr>,
    /// What it has reported of its load, if that is still valid.
    #[serde(default)]
    pub report: Option<ReportHandover>,
}

/// State from a predecessor that no upstream or endpoint has claimed yet.
#[derive(Debug, Default)]
pub(super) struct UnclaimedHandover {
    /// When it was handed over.
    pub(super) at: Option<Instant>,
    upstreams: HashMap<String, UpstreamHandover>,
    endpoints: HashMap<(String, Address), EndpointHandover>,
}

impl UnclaimedHandover {
    pub(super) fn new(upstreams: Vec<UpstreamHandover>, endpoints: Vec<EndpointHandover>) -> Self {
        let upstreams = upstreams.into_iter();
        let endpoints = endpoints.into_iter();
        Self {
            at: Some(Instant::now()),
            upstreams: upstreams
                .map(|upstream| (upstream.name.clone(), upstream))
                .collect(),
            endpoints: endpoints
                .map(|endpoint| {
                    let key = (endpoint.upstream.clone(), endpoint.address.clone());
                    (key, endpoint)
                })
                .collect(),
        }
    }

    pub(super) fn take_upstream(&mut self, name: &str) -> Option<UpstreamHandover> {
        self.upstreams.remove(name)
    }

    pub(super) fn take_endpoint(
        &mut self,
        upstream: &str,
        address: &Address,
    ) -> Option<EndpointHandover> {
        if self.endpoints.is_empty() {
            return None;
        }
        self.endpoints
            .remove(&(upstream.to_owned(), address.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(value: &serde_json::Value) -> Vec<&str> {
        let object = value.as_object();
        let keys = object.into_iter().flat_map(|object| object.keys());
        keys.map(String::as_str).collect()
    }

    /// Processes of other versions read this: a new name for a field must not change the message.
    #[test]
    fn the_message_has_the_names_that_other_versions_use() {
        let upstreams = UpstreamsHandover {
            upstreams: vec![UpstreamHandover {
                name: "chat".to_owned(),
                secret: None,
                discovered: None,
            }],
            endpoints: vec![EndpointHandover {
                upstream: "chat".to_owned(),
                address: Address::Ip("10.0.0.1:9000".parse().unwrap()),
                in_flight: 1,
                age: None,
                weight: None,
                health: HealthHandover::default(),
                addresses: Vec::new(),
                report: None,
            }],
            drained: Vec::new(),
        };
        let value = serde_json::to_value(&upstreams).unwrap();
        assert_eq!(keys(&value), ["drained", "endpoints", "upstreams"]);
        assert_eq!(keys(&value["upstreams"][0]), ["found", "name", "secret"]);
        assert_eq!(
            keys(&value["endpoints"][0]),
            [
                "address",
                "addresses",
                "age",
                "condition",
                "in_flight",
                "report",
                "upstream",
                "weight"
            ]
        );
    }
}
