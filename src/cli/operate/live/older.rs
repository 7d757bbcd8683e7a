//! What the processes from before an upgrade still do: the tunnels that they have left are as much in service as those
//! of the process that serves.

use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::status::{GenerationInfo, StatusInfo};
use tidegate::admin::api::traffic::TrafficInfo;
use tidegate::admin::api::upstreams::UpstreamInfo;

use crate::cli::client::{AdminClient, ClientError};

/// How long the responses of older processes may take: one that hangs must not delay what the others do.
const OLDER_TIMEOUT: Duration = Duration::from_secs(1);

/// What is read of each.
const OPERATIONS: [Operation; 3] = [Operation::Status, Operation::Upstreams, Operation::Traffic];

/// What a process from before an upgrade says at one moment.
#[derive(Debug, Clone, Serialize)]
pub(in crate::cli::operate) struct OlderReading {
    #[serde(flatten)]
    pub(in crate::cli::operate) info: GenerationInfo,
    pub(in crate::cli::operate) upstreams: Vec<UpstreamInfo>,
    /// `None` if it has never responded: its tunnels are as the process that serves knows them.
    pub(in crate::cli::operate) traffic: Option<TrafficInfo>,
}

impl OlderReading {
    /// All of these at one moment. One that does not respond is as it was in `before`.
    pub(in crate::cli::operate) async fn of_all(
        client: &AdminClient,
        generations: &[GenerationInfo],
        before: &[Self],
    ) -> Vec<Self> {
        let each = generations.iter().map(|info| async move {
            let asked = tokio::time::timeout(OLDER_TIMEOUT, Self::of(client, info)).await;
            if let Ok(Ok(reading)) = asked {
                return reading;
            }
            let generation = info.identity.generation;
            let known = before.iter();
            let mut known = known.filter(|it| it.info.identity.generation == generation);
            known.next().cloned().unwrap_or_else(|| Self {
                info: info.clone(),
                upstreams: Vec::new(),
                traffic: None,
            })
        });
        join_all(each).await
    }

    async fn of(client: &AdminClient, info: &GenerationInfo) -> Result<Self, ClientError> {
        let client = client.of_generation(info.identity.generation);
        let bodies = client.look(&OPERATIONS).await?;
        let body = |number: usize| bodies.get(number).map(|it| &**it).unwrap_or_default();
        let status: StatusInfo = client.read(body(0))?;
        Ok(Self {
            upstreams: client.read(body(1))?,
            traffic: Some(client.read(body(2))?),
            // What the process that serves knows of it may be a second old, or missing just after an upgrade.
            info: GenerationInfo {
                identity: info.identity.clone(),
                drain_ends: status.drain_ends,
                connections: status.connections,
                tunnels: status.tunnels,
                streams: status.streams,
                jobs: status.jobs,
                displaced: status.displaced,
            },
        })
    }

    pub(in crate::cli::operate) fn generation(&self) -> u64 {
        self.info.identity.generation
    }

    /// Its tunnels to an endpoint.
    pub(in crate::cli::operate) fn tunnels_of(&self, upstream: &str, endpoint: &str) -> u64 {
        let upstreams = self.upstreams.iter().filter(|it| it.name == upstream);
        let endpoints = upstreams.flat_map(|it| &it.endpoints);
        let endpoints = endpoints.filter(|it| it.endpoint == endpoint);
        endpoints.map(|it| it.tunnels).sum()
    }
}
