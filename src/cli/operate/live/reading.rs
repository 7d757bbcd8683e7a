//! One reading of the admin interface.

use std::collections::BTreeMap;

use tidegate::admin::api::listeners::ListenerInfo;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::status::StatusInfo;
use tidegate::admin::api::traffic::{LinkInfo, TrafficInfo};
use tidegate::admin::api::upstreams::UpstreamInfo;

use crate::cli::client::{AdminClient, ClientError};

/// What is read, and the name of each in the state that the page gets.
const OPERATIONS: [(&str, Operation); 5] = [
    ("status", Operation::Status),
    ("listeners", Operation::Listeners),
    ("upstreams", Operation::Upstreams),
    ("traffic", Operation::Traffic),
    ("certificates", Operation::Certificates),
];

/// What the admin interface says at one moment.
#[derive(Debug, Clone)]
pub(in crate::cli::operate) struct Reading {
    pub(in crate::cli::operate) status: StatusInfo,
    pub(in crate::cli::operate) listeners: Vec<ListenerInfo>,
    pub(in crate::cli::operate) upstreams: Vec<UpstreamInfo>,
    pub(in crate::cli::operate) traffic: TrafficInfo,
    /// The responses themselves, as members of a JSON object: the page gets them unchanged.
    pub(in crate::cli::operate) members: String,
}

impl Reading {
    pub(in crate::cli::operate) async fn of(client: &AdminClient) -> Result<Self, ClientError> {
        let bodies = client
            .look(&OPERATIONS.map(|(_, operation)| operation))
            .await?;
        let body = |number: usize| bodies.get(number).map(|it| &**it).unwrap_or_default();
        let named = OPERATIONS.iter().zip(&bodies);
        let members = named.map(|((name, _), body)| {
            // Between two tokens of JSON, a line break is a space; in an event stream it would end the event.
            let body = String::from_utf8_lossy(body).replace(['\r', '\n'], " ");
            format!("\"{name}\":{body}")
        });
        Ok(Self {
            members: members.collect::<Vec<_>>().join(","),
            status: client.read(body(0))?,
            listeners: client.read(body(1))?,
            upstreams: client.read(body(2))?,
            traffic: client.read(body(3))?,
        })
    }

    /// Whether both are of one process, whose counts continue.
    pub(in crate::cli::operate) fn is_of_same_process(&self, other: &Self) -> bool {
        (self.status.pid, &self.status.started) == (other.status.pid, &other.status.started)
    }

    /// Handshakes since the start, whatever their outcome.
    pub(in crate::cli::operate) fn handshakes(&self) -> u64 {
        self.traffic.handshakes.values().sum()
    }

    /// Messages and bytes since `before`, in both directions. A link that is new since has carried all of its own.
    pub(in crate::cli::operate) fn carried_since(&self, before: &Self) -> (u64, u64) {
        fn named(link: &LinkInfo) -> ([&str; 4], &LinkInfo) {
            let LinkInfo {
                listener,
                route,
                upstream,
                endpoint,
                ..
            } = link;
            ([listener, route, upstream, endpoint], link)
        }
        let before: BTreeMap<_, _> = before.traffic.links.iter().map(named).collect();
        let links = self.traffic.links.iter().map(named);
        links.fold((0, 0), |(messages, bytes), (names, link)| {
            let earlier = before.get(&names);
            (
                messages
                    + link
                        .messages()
                        .saturating_sub(earlier.map_or(0, |it| it.messages())),
                bytes
                    + link
                        .bytes()
                        .saturating_sub(earlier.map_or(0, |it| it.bytes())),
            )
        })
    }

    /// Requests rejected since the start, by reason.
    pub(in crate::cli::operate) fn rejections(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (reason, count) in self.listeners.iter().flat_map(|it| &it.rejections) {
            *sums.entry(reason.clone()).or_default() += count;
        }
        sums
    }
}
