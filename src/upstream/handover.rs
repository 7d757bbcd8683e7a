//! What a process hands over of its upstreams to the one that succeeds it: so that this one neither
//! sends clients to an endpoint that is known to be down, nor forgets what the tunnels of the older
//! one still load, nor sends back whoever has a sticky cookie to somebody else.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::health::HealthHandover;
use crate::config::model::{self, Address, Discovery, Secret};

/// What is handed over.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamsHandover {
    /// What is known of upstreams.
    pub upstreams: Vec<UpstreamHandover>,
    /// What is known of endpoints.
    pub endpoints: Vec<EndpointHandover>,
    /// What operators have taken out, whether it is there or not.
    pub drained: Vec<(String, Address)>,
}

/// What is known of an upstream.
#[derive(Debug, Serialize, Deserialize)]
pub struct UpstreamHandover {
    /// Its name.
    pub name: String,
    /// What its cookies are signed with, if that is a secret of our own.
    pub secret: Option<Secret>,
    /// What was looked up, and what was found.
    pub found: Option<(Discovery, Vec<model::EndpointConfig>)>,
}

/// What is known of an endpoint.
#[derive(Debug, Serialize, Deserialize)]
pub struct EndpointHandover {
    /// Its upstream.
    pub upstream: String,
    /// Where it listens.
    pub address: Address,
    /// Leases out.
    pub in_flight: usize,
    /// How long it has been there; `None` if it always was.
    pub age: Option<Duration>,
    /// What an operator weighs it.
    pub weight: Option<u32>,
    /// What its checks and sessions say.
    pub health: HealthHandover,
}

/// What was handed over and has not been asked for yet.
#[derive(Debug, Default)]
pub(super) struct UnclaimedHandover {
    /// When.
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
            upstreams: upstreams.map(|it| (it.name.clone(), it)).collect(),
            endpoints: endpoints
                .map(|it| ((it.upstream.clone(), it.address.clone()), it))
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
