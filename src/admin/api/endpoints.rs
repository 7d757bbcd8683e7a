//! Draining endpoints, putting them back into service, and changing their weight.

use std::sync::Arc;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::upstreams::EndpointInfo;
use crate::admin::error::{ApiError, listed};
use crate::admin::view::View;
use crate::config::endpoints_file::MAX_WEIGHT;
use crate::config::model::is_endpoint_name;
use crate::displace::live_tunnels::LiveTunnels;
use crate::displace::tunnel_filter::TunnelFilter;
use crate::snapshot::Snapshot;
use crate::upstream::group::{Member, Upstream};

/// Which endpoint to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointRequest {
    /// Address or name of the endpoint, as `/v1/upstreams` shows them.
    pub endpoint: String,
    /// Its upstream; only needed if several upstreams have an endpoint with this address or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

/// The new weight of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// Address or name of the endpoint, as `/v1/upstreams` shows them.
    pub endpoint: String,
    /// Its upstream; only needed if several upstreams have an endpoint with this address or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Weight until the next reload; without it, the configured weight is restored. With 0 only sticky
    /// cookies lead to the endpoint.
    #[schemars(range(max = MAX_WEIGHT))]
    pub weight: Option<u32>,
}

/// An endpoint after a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointChangeResponse {
    /// Its upstream.
    pub upstream: String,
    /// Its state after the change.
    pub endpoint: EndpointInfo,
}

/// Drains an endpoint: it gets no new sessions, and its tunnels stay open.
///
/// # Errors
/// [`ApiError`].
pub fn drain(view: &View, request: &EndpointRequest) -> Result<EndpointChangeResponse, ApiError> {
    let (upstream, member) = find(view, request)?;
    upstream.set_drained(&member.state, true);
    let in_flight = member.state.in_flight();
    let (name, endpoint) = (&*upstream.name, &*member.state.label);
    tracing::info!(
        upstream = name,
        endpoint,
        in_flight,
        "endpoint drained by an operator"
    );
    Ok(steered(view, &upstream, &member))
}

/// Puts an endpoint back into service.
///
/// # Errors
/// [`ApiError`].
pub fn undrain(view: &View, request: &EndpointRequest) -> Result<EndpointChangeResponse, ApiError> {
    let (upstream, member) = find(view, request)?;
    let (name, endpoint) = (&*upstream.name, &*member.state.label);
    upstream.set_drained(&member.state, false);
    if member.is_drained {
        return Err(ApiError::conflict(format!(
            "the configuration drains `{endpoint}`; remove `drain = true` there and reload"
        )));
    }
    tracing::info!(
        upstream = name,
        endpoint,
        "endpoint put back into service by an operator"
    );
    Ok(steered(view, &upstream, &member))
}

/// Sets its weight until the next reload.
///
/// # Errors
/// [`ApiError`].
pub fn weigh(view: &View, weigh: &WeightRequest) -> Result<EndpointChangeResponse, ApiError> {
    if weigh.weight.is_some_and(|weight| weight > MAX_WEIGHT) {
        return Err(ApiError::bad_request(format!(
            "`weight` must be at most {MAX_WEIGHT}"
        )));
    }
    let request = EndpointRequest {
        endpoint: weigh.endpoint.clone(),
        upstream: weigh.upstream.clone(),
    };
    let (upstream, member) = find(view, &request)?;
    member.state.set_weight(weigh.weight);
    let (name, endpoint) = (&*upstream.name, &*member.state.label);
    tracing::info!(
        upstream = name,
        endpoint,
        weight = weigh.weight,
        "endpoint weight set by an operator"
    );
    Ok(steered(view, &upstream, &member))
}

fn find(view: &View, request: &EndpointRequest) -> Result<(Arc<Upstream>, Member), ApiError> {
    view.check_stays()?;
    let snapshot = view.shared.snapshot.load();
    if let Some(name) = &request.upstream
        && snapshot.upstream(name).is_none()
    {
        let names = snapshot.upstreams().iter().map(|it| &*it.name);
        return Err(ApiError::unknown("upstream", name, names));
    }
    let wanted = |upstream: &&Arc<Upstream>| {
        let name = request.upstream.as_ref();
        name.is_none_or(|name| *name == *upstream.name)
    };
    let mut matches: Vec<(Arc<Upstream>, Member)> = Vec::new();
    for upstream in snapshot.upstreams().iter().filter(wanted) {
        let members = upstream.members().into_iter();
        let members = members.filter(|member| is_called(member, &request.endpoint));
        matches.extend(members.map(|member| (Arc::clone(upstream), member)));
    }
    match matches.as_slice() {
        [] => Err(unknown(view, &snapshot, request)),
        [_] => Ok(matches.swap_remove(0)),
        several => Err(ambiguous(&request.endpoint, several)),
    }
}

/// Whether `wanted` is the address or the name of an endpoint. No address is a valid name.
fn is_called(member: &Member, wanted: &str) -> bool {
    *member.state.label == *wanted || member.name.as_deref() == Some(wanted)
}

/// The error of an address or a name that several endpoints have.
fn ambiguous(wanted: &str, several: &[(Arc<Upstream>, Member)]) -> ApiError {
    let mut upstreams: Vec<&str> = several.iter().map(|(it, _)| &*it.name).collect();
    upstreams.dedup();
    ApiError::conflict(match upstreams.as_slice() {
        // The targets of SRV records may have several addresses.
        [upstream] => format!(
            "several endpoints of upstream `{upstream}` have the name `{wanted}`: choose one of the addresses {}",
            listed(several.iter().map(|(_, member)| &*member.state.label))
        ),
        _ => format!(
            "several upstreams have an endpoint `{wanted}`: choose one of {} (`upstream`, --upstream)",
            upstreams.join(", ")
        ),
    })
}

/// Replaces the name of an endpoint in `filter` with its upstream and its address, by which tunnels are known.
///
/// # Errors
/// [`ApiError`], if several endpoints have the name.
pub(super) fn resolve_name(view: &View, filter: &mut TunnelFilter) -> Result<(), ApiError> {
    let Some(name) = filter.endpoint.as_deref().filter(|it| is_endpoint_name(it)) else {
        return Ok(());
    };
    let snapshot = view.shared.snapshot.load();
    let upstream = filter.upstream.as_deref();
    let mut matches = Vec::new();
    for upstream in snapshot
        .upstreams()
        .iter()
        .filter(|it| upstream.is_none_or(|name| *name == *it.name))
    {
        let members = upstream.members().into_iter();
        let members = members.filter(|member| member.name.as_deref() == Some(name));
        matches.extend(members.map(|member| (Arc::clone(upstream), member)));
    }
    match matches.as_slice() {
        [] => Ok(()),
        [(upstream, member)] => {
            filter.upstream = Some(upstream.name.to_string());
            filter.endpoint = Some(member.state.label.to_string());
            Ok(())
        }
        several => Err(ambiguous(name, several)),
    }
}

/// The error of an endpoint that does not exist. What it names instead decides about the advice.
fn unknown(view: &View, snapshot: &Snapshot, request: &EndpointRequest) -> ApiError {
    let name = &*request.endpoint;
    let endpoints = |upstream: &Upstream| {
        let endpoints = upstream.endpoints();
        listed(endpoints.iter().map(|it| &*it.label))
    };
    let listening = view.listening.load();
    let error = if let Some(upstream) = snapshot.upstream(name) {
        format!(
            "`{name}` is an upstream; name one of its endpoints: {}",
            endpoints(upstream)
        )
    } else if let Some(upstream) = request
        .upstream
        .as_deref()
        .and_then(|it| snapshot.upstream(it))
    {
        let (of, known) = (&upstream.name, endpoints(upstream));
        format!("upstream `{of}` has no endpoint `{name}`; known: {known}")
    } else if listening.iter().any(|it| *it.name == *name) {
        format!(
            "`{name}` is a listener, not an endpoint; `tidegate drain --listener {name}` drains it"
        )
    } else {
        return ApiError::unknown_endpoint(name);
    };
    ApiError::not_found(error)
}

fn steered(view: &View, upstream: &Upstream, member: &Member) -> EndpointChangeResponse {
    let live = LiveTunnels::of(&view.workers.counters());
    let members = upstream.members().into_iter();
    // It may have been removed meanwhile: then its last known settings are shown.
    let now = members.rev().find(|it| it.state.id == member.state.id);
    EndpointChangeResponse {
        upstream: upstream.name.to_string(),
        endpoint: EndpointInfo::of(
            upstream,
            now.as_ref().unwrap_or(member),
            &live,
            Instant::now(),
        ),
    }
}
