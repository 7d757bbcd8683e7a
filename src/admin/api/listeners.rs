//! Listeners and their counts; draining listeners, and putting them back into service.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::command::{self, ControlCommand, SteerListener};
use crate::admin::error::ApiError;
use crate::admin::view::{ListenerState, View};
use crate::displace::live_tunnels::LiveTunnels;
use crate::net::tls_failure::TlsFailure;
use crate::observe::labels::RefusedConnection;
use crate::protocol::rejection::Rejection;

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerInfo {
    /// The name of the listener.
    pub name: String,
    /// The addresses that it accepts connections on; none while it is drained.
    pub addresses: Vec<String>,
    /// Whether an operator has drained it.
    pub drained: bool,
    /// Whether it uses TLS.
    pub tls: bool,
    /// Open client connections, tunnels included.
    pub connections: u64,
    /// Connections accepted since the start.
    #[serde(alias = "connections_taken")] // of version 0.1.0
    pub connections_total: u64,
    /// Live tunnels.
    pub tunnels: u64,
    /// Connections closed before a request since the start, by reason.
    #[serde(default)]
    pub connections_refused: BTreeMap<String, u64>,
    /// Failed TLS handshakes since the start, by reason.
    #[serde(default)]
    pub tls_failures: BTreeMap<String, u64>,
    /// Requests rejected since the start, by reason.
    pub rejections: BTreeMap<String, u64>,
}

/// Which listener to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerRequest {
    /// The name of the listener.
    pub listener: String,
}

/// Drains a listener: it accepts no new connections, open connections are closed after the request in
/// progress, and tunnels stay open.
///
/// # Errors
/// [`ApiError`]; nothing has changed then.
pub async fn drain(view: &View, request: ListenerRequest) -> Result<ListenerInfo, ApiError> {
    steer(view, request, true).await
}

/// Puts a listener back into service.
///
/// # Errors
/// [`ApiError`]; it stays drained then.
pub async fn undrain(view: &View, request: ListenerRequest) -> Result<ListenerInfo, ApiError> {
    steer(view, request, false).await
}

async fn steer(
    view: &View,
    request: ListenerRequest,
    is_drained: bool,
) -> Result<ListenerInfo, ApiError> {
    let ListenerRequest { listener } = request;
    let steer = SteerListener {
        listener: listener.clone(),
        is_drained,
    };
    command::send(&view.commands, |done| ControlCommand::Listener(steer, done)).await?;
    let mut listeners = listeners(view).into_iter();
    let gone = || ApiError::not_found(format!("listener `{listener}` has been removed meanwhile"));
    listeners.find(|it| it.name == listener).ok_or_else(gone)
}

/// Adds to the count of a token; one that has no count is left out.
fn add(counts: &mut BTreeMap<String, u64>, token: &str, count: u64) {
    if count > 0 {
        *counts.entry(token.to_owned()).or_default() += count;
    }
}

/// All listeners.
pub fn listeners(view: &View) -> Vec<ListenerInfo> {
    let counters = view.workers.counters();
    let live = LiveTunnels::of(&counters);
    let all_series: Vec<_> = counters.iter().flat_map(|it| it.listeners.all()).collect();
    let listening = view.listening.load();
    let listener = |listening: &ListenerState| {
        let series = all_series.iter().filter(|it| it.name == listening.name);
        let (mut accepted, mut closed) = (0, 0);
        let (mut connections_refused, mut tls_failures) = (BTreeMap::new(), BTreeMap::new());
        let mut rejections = BTreeMap::new();
        for series in series {
            closed += series.closed.get();
            accepted += series.connections.get();
            for reason in RefusedConnection::ALL {
                let count = series.refused.at(*reason as usize).get();
                add(&mut connections_refused, reason.token(), count);
            }
            for failure in TlsFailure::ALL {
                let count = series.tls_failures.at(failure as usize).get();
                add(&mut tls_failures, failure.token(), count);
            }
            for route in series.every_route() {
                for rejection in Rejection::ALL {
                    let count = route.rejections.at(*rejection as usize).get();
                    add(&mut rejections, rejection.token(), count);
                }
            }
        }
        ListenerInfo {
            name: listening.name.to_string(),
            addresses: match listening.is_drained {
                true => Vec::new(),
                false => listening.addresses.clone(),
            },
            drained: listening.is_drained,
            tls: listening.tls,
            connections: accepted.saturating_sub(closed),
            connections_total: accepted,
            tunnels: live.of_listener(&listening.name),
            connections_refused,
            tls_failures,
            rejections,
        }
    };
    listening.iter().map(listener).collect()
}
