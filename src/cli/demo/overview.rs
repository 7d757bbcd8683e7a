//! What the page shows: the state of tidegate as its admin interface reports it, and of the backends.

use std::net::SocketAddr;

use serde::Serialize;
use tidegate::admin::api::operation::{GENERATION, Operation};
use tidegate::admin::api::status::{GenerationInfo, StatusInfo};
use tidegate::admin::api::tunnels::{ListTunnelsResponse, TunnelInfo};
use tidegate::admin::api::upstreams::{EndpointStatus, UpstreamInfo};

use super::admin::{DemoAdmin, OperationFailure};
use super::crowd::{Crowd, ObservedClose};
use super::fleet::DemoFleet;

/// Most tunnels of one generation that the page shows.
const MAX_TUNNELS: usize = 500;

/// Everything that the page shows, but for its own sockets and the chat.
#[derive(Debug, Serialize)]
pub(super) struct Overview {
    /// The balancing policy.
    balance: String,
    /// The youngest first.
    generations: Vec<GenerationOverview>,
    backends: Vec<BackendOverview>,
    tunnels: Vec<TunnelOverview>,
    /// What happened to the simulated clients.
    closes: Vec<ObservedClose>,
}

#[derive(Debug, Serialize)]
struct GenerationOverview {
    generation: u64,
    pid: u32,
    tunnels: usize,
}

#[derive(Debug, Serialize)]
struct BackendOverview {
    number: usize,
    address: SocketAddr,
    /// Whether it runs.
    running: bool,
    /// Messages that it has received.
    messages: u64,
    /// Whether tidegate gives it new sessions, and why not.
    state: Option<EndpointStatus>,
    why: Option<String>,
}

#[derive(Debug, Serialize)]
struct TunnelOverview {
    /// The name that the client has put into the path.
    client: String,
    /// The path before it: `echo` or `chat`.
    kind: String,
    backend: usize,
    generation: u64,
}

impl Overview {
    /// The state now, with the closes after number `since`.
    pub(super) async fn of(
        admin: &DemoAdmin,
        fleet: &DemoFleet,
        crowd: &Crowd,
        since: u64,
    ) -> Result<Self, OperationFailure> {
        let status: StatusInfo = admin.ask(Operation::Status, "", None).await?;
        let upstreams: Vec<UpstreamInfo> = admin.ask(Operation::Upstreams, "", None).await?;
        let upstream = upstreams
            .iter()
            .find(|upstream| upstream.name == "backends");
        let (mut generations, mut tunnels) = (Vec::new(), Vec::new());
        for GenerationInfo { identity, .. } in status.generations {
            let generation = identity.generation;
            // An older generation may have exited since.
            let listed = list_tunnels(admin, generation).await.unwrap_or_default();
            let shown = listed.iter();
            let shown: Vec<_> = shown
                .filter_map(|tunnel| TunnelOverview::of(tunnel, generation, fleet))
                .collect();
            generations.push(GenerationOverview {
                generation,
                pid: identity.pid,
                tunnels: shown.len(),
            });
            tunnels.extend(shown);
        }
        Ok(Self {
            balance: upstream.map(|it| it.balance.clone()).unwrap_or_default(),
            generations,
            backends: backends(fleet, upstream),
            tunnels,
            closes: crowd.closes(since),
        })
    }
}

async fn list_tunnels(
    admin: &DemoAdmin,
    generation: u64,
) -> Result<Vec<TunnelInfo>, OperationFailure> {
    let query = format!("limit={MAX_TUNNELS}&{GENERATION}={generation}");
    let response: ListTunnelsResponse = admin.ask(Operation::Tunnels, &query, None).await?;
    Ok(response.tunnels)
}

fn backends(fleet: &DemoFleet, upstream: Option<&UpstreamInfo>) -> Vec<BackendOverview> {
    let backends = fleet.backends().iter().map(|backend| {
        let label = backend.address.to_string();
        let endpoints = upstream.into_iter().flat_map(|it| &it.endpoints);
        let endpoint = endpoints.clone().find(|it| it.endpoint == label);
        BackendOverview {
            number: backend.state.number,
            address: backend.address,
            running: backend.is_running(),
            messages: backend.state.messages(),
            state: endpoint.map(|it| it.state),
            why: endpoint.and_then(|it| it.why.clone()),
        }
    });
    backends.collect()
}

impl TunnelOverview {
    /// `None` for a tunnel to something else than a backend.
    fn of(tunnel: &TunnelInfo, generation: u64, fleet: &DemoFleet) -> Option<Self> {
        let mut backends = fleet.backends().iter();
        let backend = backends.find(|it| it.address.to_string() == tunnel.endpoint)?;
        let path = tunnel.path.trim_start_matches('/');
        let (kind, client) = path.split_once('/').unwrap_or((path, ""));
        Some(Self {
            client: client.to_owned(),
            kind: kind.to_owned(),
            backend: backend.state.number,
            generation,
        })
    }
}
