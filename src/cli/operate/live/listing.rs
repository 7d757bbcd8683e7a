//! Lists of tunnels, over all processes.

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::tunnels::{ListTunnelsResponse, TunnelInfo, TunnelSort};

use crate::cli::client::{AdminClient, ClientError};

/// The pause before a process is asked again that measures rates for somebody else. It does that for one at a time.
const MEASURING_PAUSE: Duration = Duration::from_millis(300);

/// How often it is asked: for longer than the page and the terminal view measure, together.
const MEASURING_ATTEMPTS: usize = 12;

/// A tunnel of a list.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli::operate) struct ListedTunnel {
    /// The process from before an upgrade that has it; `None` for the process that serves.
    pub(in crate::cli::operate) generation: Option<u64>,
    pub(in crate::cli::operate) tunnel: TunnelInfo,
}

/// Tunnels of all processes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::cli::operate) struct TunnelListing {
    /// The first ones, in the order that was asked for.
    pub(in crate::cli::operate) tunnels: Vec<ListedTunnel>,
    /// How many match.
    pub(in crate::cli::operate) matched: usize,
}

impl TunnelListing {
    /// The first `limit` tunnels of the process that serves, and of `older` ones.
    pub(in crate::cli::operate) fn merged(
        serving: ListTunnelsResponse,
        older: impl IntoIterator<Item = (u64, ListTunnelsResponse)>,
        sort: TunnelSort,
        limit: usize,
    ) -> Self {
        let older = older.into_iter().map(|(number, list)| (Some(number), list));
        let mut merged = Self::default();
        for (generation, list) in std::iter::once((None, serving)).chain(older) {
            merged.matched += list.matched.unwrap_or(list.tunnels.len());
            let tunnels = list.tunnels.into_iter();
            merged
                .tunnels
                .extend(tunnels.map(|tunnel| ListedTunnel { generation, tunnel }));
        }
        let rank = |it: &ListedTunnel| rank(&it.tunnel, sort);
        merged
            .tunnels
            .sort_by(|one, other| rank(other).total_cmp(&rank(one)));
        merged.tunnels.truncate(limit);
        merged
    }
}

/// What a tunnel is sorted by, descending.
fn rank(tunnel: &TunnelInfo, sort: TunnelSort) -> f64 {
    match (sort, &tunnel.rates) {
        (TunnelSort::Age, _) => tunnel.age_seconds,
        (TunnelSort::Idle, _) => tunnel.idle_seconds as f64,
        (TunnelSort::Bytes, None) => (tunnel.bytes_from_client + tunnel.bytes_from_endpoint) as f64,
        (TunnelSort::Messages, None) => {
            (tunnel.messages_from_client + tunnel.messages_from_endpoint) as f64
        }
        (TunnelSort::Bytes, Some(rates)) => rates.bytes_from_client + rates.bytes_from_endpoint,
        (TunnelSort::Messages, Some(rates)) => {
            rates.messages_from_client + rates.messages_from_endpoint
        }
    }
}

/// Lists the tunnels that match `query`, which names the same order and limit, in the process that serves and in `older`
/// ones.
///
/// # Errors
/// [`ClientError`] of the process that serves. An older one may have ended meanwhile.
pub(in crate::cli::operate) async fn list(
    client: &AdminClient,
    query: &str,
    (sort, limit): (TunnelSort, usize),
    older: &[u64],
) -> Result<TunnelListing, ClientError> {
    let older = older.iter().map(|number| async move {
        let listed = of_process(&client.of_generation(*number), query).await;
        Some((*number, listed.ok()?))
    });
    let (serving, older) = tokio::join!(of_process(client, query), join_all(older));
    let older = older.into_iter().flatten();
    Ok(TunnelListing::merged(serving?, older, sort, limit))
}

async fn of_process(client: &AdminClient, query: &str) -> Result<ListTunnelsResponse, ClientError> {
    let mut attempts = 1;
    loop {
        let listed = client.send(Operation::Tunnels, query, Vec::new()).await;
        match listed {
            Err(ClientError::Refused(_, StatusCode::SERVICE_UNAVAILABLE))
                if attempts < MEASURING_ATTEMPTS => {}
            listed => return client.read(&listed?),
        }
        attempts += 1;
        tokio::time::sleep(MEASURING_PAUSE).await;
    }
}
