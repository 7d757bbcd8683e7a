//! One reading of the admin interface.

use tidegate::admin::api::listeners::ListenerInfo;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::status::{GenerationInfo, StatusInfo};
use tidegate::admin::api::traffic::TrafficInfo;
use tidegate::admin::api::upstreams::UpstreamInfo;
use tidegate::admin::closing::JobInfo;
use tidegate::handover::identity::Identity;

use super::older::OlderReading;
use crate::cli::client::{AdminClient, ClientError};

/// What is read, and the name of each in the state that the page gets.
const OPERATIONS: [(&str, Operation); 5] = [
    ("status", Operation::Status),
    ("listeners", Operation::Listeners),
    ("upstreams", Operation::Upstreams),
    ("traffic", Operation::Traffic),
    ("certificates", Operation::Certificates),
];

/// What the admin interface says at one moment: the process that serves, and those from before an upgrade.
#[derive(Debug, Clone)]
pub(in crate::cli::operate) struct Reading {
    pub(in crate::cli::operate) status: StatusInfo,
    pub(in crate::cli::operate) listeners: Vec<ListenerInfo>,
    pub(in crate::cli::operate) upstreams: Vec<UpstreamInfo>,
    pub(in crate::cli::operate) traffic: TrafficInfo,
    /// The processes from before an upgrade that still drain, the youngest first.
    pub(in crate::cli::operate) older: Vec<OlderReading>,
    /// The responses themselves, as members of a JSON object: the page gets them unchanged.
    pub(in crate::cli::operate) members: String,
}

impl Reading {
    /// The next one; what was known `before` stands in for an older process that does not respond.
    pub(in crate::cli::operate) async fn of(
        client: &AdminClient,
        before: &[OlderReading],
    ) -> Result<Self, ClientError> {
        let bodies = client
            .look(&OPERATIONS.map(|(_, operation)| operation))
            .await?;
        let body = |number: usize| bodies.get(number).map(|it| &**it).unwrap_or_default();
        let status: StatusInfo = client.read(body(0))?;
        // With --generation, the one that was asked for is shown alone.
        let older = match (client.generation, status.generations.as_slice()) {
            (None, [_, older @ ..]) => OlderReading::of_all(client, older, before).await,
            _ => Vec::new(),
        };
        let named = OPERATIONS.iter().zip(&bodies);
        let members = named.map(|((name, _), body)| {
            // Between two tokens of JSON, a line break is a space; in an event stream it would end the event.
            let body = String::from_utf8_lossy(body).replace(['\r', '\n'], " ");
            format!("\"{name}\":{body}")
        });
        let in_json = serde_json::to_string(&older).unwrap_or_else(|_| "[]".to_owned());
        let members = members.chain([format!("\"older\":{in_json}")]);
        Ok(Self {
            members: members.collect::<Vec<_>>().join(","),
            status,
            listeners: client.read(body(1))?,
            upstreams: client.read(body(2))?,
            traffic: client.read(body(3))?,
            older,
        })
    }

    /// What is known of each process, for when it does not respond the next time.
    pub(in crate::cli::operate) fn processes(&self) -> Vec<OlderReading> {
        let status = &self.status;
        let serving = OlderReading {
            info: GenerationInfo {
                identity: Identity {
                    generation: status.generation,
                    pid: status.pid,
                    version: status.version.clone(),
                    started: status.started.clone(),
                },
                drain_ends: status.drain_ends.clone(),
                connections: status.connections,
                tunnels: status.tunnels,
                streams: status.streams,
                jobs: status.jobs.clone(),
                displaced: status.displaced.clone(),
            },
            upstreams: self.upstreams.clone(),
            traffic: Some(self.traffic.clone()),
        };
        let older = self.older.iter().cloned();
        std::iter::once(serving).chain(older).collect()
    }

    /// Whether both are of one process, whose counts continue.
    pub(in crate::cli::operate) fn is_of_same_process(&self, other: &Self) -> bool {
        (self.status.pid, &self.status.started) == (other.status.pid, &other.status.started)
    }

    /// Whether these are the same processes as before, or an upgrade has added one.
    pub(in crate::cli::operate) fn continues(&self, before: &Self) -> bool {
        self.is_of_same_process(before) || self.status.generation > before.status.generation
    }

    /// Live tunnels in all processes.
    pub(in crate::cli::operate) fn tunnels(&self) -> u64 {
        self.status.tunnels + self.older_tunnels()
    }

    /// Live tunnels in the processes from before an upgrade.
    pub(in crate::cli::operate) fn older_tunnels(&self) -> u64 {
        self.older.iter().map(|it| it.info.tunnels).sum()
    }

    /// Live tunnels of an endpoint in the processes from before an upgrade.
    pub(in crate::cli::operate) fn older_tunnels_of(&self, upstream: &str, endpoint: &str) -> u64 {
        let older = self.older.iter();
        older.map(|it| it.tunnels_of(upstream, endpoint)).sum()
    }

    /// The generation of each process, the process id, and the jobs that it runs.
    pub(in crate::cli::operate) fn jobs(&self) -> impl Iterator<Item = (u64, u32, &[JobInfo])> {
        let serving = (self.status.generation, self.status.pid, &*self.status.jobs);
        let older = self.older.iter();
        let older = older.map(|it| (it.generation(), it.info.identity.pid, &*it.info.jobs));
        std::iter::once(serving).chain(older)
    }
}

#[cfg(test)]
pub(in crate::cli::operate) mod samples;
