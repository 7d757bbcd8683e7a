//! What an operator may change from the terminal view, and the question that is asked before.

use tidegate::admin::api::close::CloseRequest;
use tidegate::admin::api::endpoints::EndpointRequest;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::upstreams::EndpointStatus;
use tidegate::displace::tunnel_filter::{TunnelFilter, TunnelId};

use super::endpoints::EndpointRow;
use crate::cli::operate::live::listing::ListedTunnel;
use crate::cli::operate::tunnels_in_words;
use crate::cli::table::harmless;

/// A change that an operator has asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TopChange {
    /// Drain an endpoint, or put it back; with the number of its tunnels.
    Endpoint {
        drain: bool,
        upstream: String,
        address: String,
        label: String,
        tunnels: u64,
    },
    /// Close a tunnel, of an older process if `generation` says so.
    Close {
        id: TunnelId,
        client: String,
        generation: Option<u64>,
    },
}

impl TopChange {
    /// Drains an endpoint that is in service, and puts a drained one back.
    ///
    /// # Errors
    /// Why that has to be done elsewhere.
    pub(super) fn of_endpoint(row: &EndpointRow) -> Result<Self, String> {
        if row.status == EndpointStatus::DrainedByConfig {
            return Err(format!(
                "{} is drained by the configuration: change `drain` there, and reload",
                row.label()
            ));
        }
        if row.status == EndpointStatus::DrainedByReport {
            return Err(format!(
                "{} is drained by its own report, until it reports something else",
                row.label()
            ));
        }
        Ok(Self::Endpoint {
            drain: row.status != EndpointStatus::Drained,
            upstream: row.upstream.clone(),
            address: row.address.clone(),
            label: row.label().to_owned(),
            tunnels: row.tunnels,
        })
    }

    pub(super) fn of_tunnel(listed: &ListedTunnel) -> Self {
        Self::Close {
            id: listed.tunnel.id,
            client: listed.tunnel.client.clone(),
            generation: listed.generation,
        }
    }

    /// What is asked first, and what the change means.
    pub(super) fn question(&self) -> [String; 2] {
        match self {
            Self::Endpoint {
                drain,
                upstream,
                label,
                tunnels,
                ..
            } => {
                let (label, upstream) = (harmless(label), harmless(upstream));
                let tunnels = tunnels_in_words(*tunnels);
                match drain {
                    true => [
                        format!("Drain endpoint {label} of upstream {upstream}?"),
                        format!(
                            "It gets no new sessions. It has {tunnels}, which stay unless `on_drain` closes them."
                        ),
                    ],
                    false => [
                        format!("Put endpoint {label} of upstream {upstream} back into service?"),
                        "It gets new sessions as soon as it is healthy.".to_owned(),
                    ],
                }
            }
            Self::Close { id, client, .. } => [
                format!("Close tunnel {id} of client {}?", harmless(client)),
                "The client gets a Close frame with code 1008 (policy violation).".to_owned(),
            ],
        }
    }

    /// What is shown once it is done.
    pub(super) fn done(&self) -> String {
        match self {
            Self::Endpoint { drain, label, .. } => match drain {
                true => format!("endpoint {} is drained", harmless(label)),
                false => format!("endpoint {} is back in service", harmless(label)),
            },
            Self::Close { id, .. } => format!("tunnel {id} was closed"),
        }
    }

    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Endpoint { drain: true, .. } => Operation::DrainEndpoint,
            Self::Endpoint { drain: false, .. } => Operation::UndrainEndpoint,
            Self::Close { .. } => Operation::CloseTunnels,
        }
    }

    /// Whether older generations are to do it as well. Those list their own tunnels.
    pub(super) fn is_for_every_generation(&self) -> bool {
        matches!(self, Self::Endpoint { .. })
    }

    /// The older process that is to do it alone.
    pub(super) fn generation(&self) -> Option<u64> {
        match self {
            Self::Endpoint { .. } => None,
            Self::Close { generation, .. } => *generation,
        }
    }

    /// The request body.
    pub(super) fn body(&self) -> Vec<u8> {
        let body = match self {
            Self::Endpoint {
                upstream, address, ..
            } => serde_json::to_vec(&EndpointRequest {
                endpoint: address.clone(),
                upstream: Some(upstream.clone()),
            }),
            Self::Close { id, .. } => {
                let close = CloseRequest {
                    filter: TunnelFilter {
                        id: Some(*id),
                        ..TunnelFilter::default()
                    },
                    all: false,
                    dry_run: false,
                    per_second: None,
                    over: None,
                    order: None,
                    code: None,
                    reason: None,
                };
                serde_json::to_vec(&close.with_defaults())
            }
        };
        body.unwrap_or_default()
    }
}
