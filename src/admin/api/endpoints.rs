//! Taking endpoints out, putting them back, and weighing them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::upstreams::EndpointInfo;
use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::displace::live::LiveTunnels;
use crate::upstream::group::{Member, Upstream};

/// Which endpoint is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointRequest {
    /// Its address, as it is spelled in the listing.
    pub endpoint: String,
    /// Its upstream; only needed where several have an endpoint at this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

/// What an endpoint is to weigh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightRequest {
    /// Its address, as it is spelled in the listing.
    pub endpoint: String,
    /// Its upstream; only needed where several have an endpoint at this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Its weight until the next reload; as configured without it. With 0 only sticky cookies lead there.
    #[schemars(range(max = 10_000))]
    pub weight: Option<u32>,
}

/// The greatest weight, as in the configuration.
pub const WEIGHT_MOST: u32 = 10_000;

/// An endpoint, after a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EndpointChangeResponse {
    /// Its upstream.
    pub upstream: String,
    /// How it is now.
    pub endpoint: EndpointInfo,
}

/// Takes an endpoint out: it gets nothing new, and its tunnels stay.
///
/// # Errors
/// [`ApiError`].
pub fn drain(view: &View, which: &EndpointRequest) -> Result<EndpointChangeResponse, ApiError> {
    let (upstream, member) = find(view, which)?;
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

/// Puts it back.
///
/// # Errors
/// [`ApiError`].
pub fn undrain(view: &View, which: &EndpointRequest) -> Result<EndpointChangeResponse, ApiError> {
    let (upstream, member) = find(view, which)?;
    let (name, endpoint) = (&*upstream.name, &*member.state.label);
    upstream.set_drained(&member.state, false);
    if member.is_drained {
        return Err(ApiError::conflict(format!(
            "the configuration drains `{endpoint}`: take `drain = true` away there, and reload"
        )));
    }
    tracing::info!(
        upstream = name,
        endpoint,
        "endpoint put back by an operator"
    );
    Ok(steered(view, &upstream, &member))
}

/// Weighs it, until the next reload.
///
/// # Errors
/// [`ApiError`].
pub fn weigh(view: &View, weigh: &WeightRequest) -> Result<EndpointChangeResponse, ApiError> {
    if weigh.weight.is_some_and(|weight| weight > WEIGHT_MOST) {
        return Err(ApiError::bad_request(format!(
            "a weight is at most {WEIGHT_MOST}"
        )));
    }
    let which = EndpointRequest {
        endpoint: weigh.endpoint.clone(),
        upstream: weigh.upstream.clone(),
    };
    let (upstream, member) = find(view, &which)?;
    member.state.set_weight(weigh.weight);
    let (name, endpoint) = (&*upstream.name, &*member.state.label);
    tracing::info!(
        upstream = name,
        endpoint,
        weight = weigh.weight,
        "endpoint weighed by an operator"
    );
    Ok(steered(view, &upstream, &member))
}

fn find(view: &View, which: &EndpointRequest) -> Result<(Arc<Upstream>, Member), ApiError> {
    if view.handing_over.load(Ordering::Relaxed) {
        return Err(ApiError::unavailable(
            "a new process is taking over, and would not hear of it: try again in a moment",
        ));
    }
    let snapshot = view.shared.snapshot.load();
    if let Some(name) = &which.upstream
        && snapshot.upstream(name).is_none()
    {
        let known: Vec<&str> = snapshot.upstreams().iter().map(|it| &*it.name).collect();
        let known = known.join(", ");
        return Err(ApiError::not_found(format!(
            "there is no upstream `{name}`; known: {known}"
        )));
    }
    let wanted = |upstream: &&Arc<Upstream>| {
        let name = which.upstream.as_ref();
        name.is_none_or(|name| *name == *upstream.name)
    };
    let mut found: Vec<(Arc<Upstream>, Member)> = Vec::new();
    for upstream in snapshot.upstreams().iter().filter(wanted) {
        let mut members = upstream.members().into_iter();
        let member = members.find(|member| *member.state.label == *which.endpoint);
        found.extend(member.map(|member| (Arc::clone(upstream), member)));
    }
    match found.as_slice() {
        [] => Err(ApiError::not_found(format!(
            "there is no endpoint `{}`: the listing of upstreams has their addresses",
            which.endpoint
        ))),
        [_] => Ok(found.swap_remove(0)),
        several => {
            let names: Vec<&str> = several.iter().map(|(it, _)| &*it.name).collect();
            Err(ApiError::conflict(format!(
                "several upstreams have `{}`: name one of {}",
                which.endpoint,
                names.join(", ")
            )))
        }
    }
}

fn steered(view: &View, upstream: &Upstream, member: &Member) -> EndpointChangeResponse {
    let live = LiveTunnels::of(&view.workers.counters());
    let members = upstream.members().into_iter();
    // It may have gone meanwhile.
    let now = members.rev().find(|it| it.state.id == member.state.id);
    EndpointChangeResponse {
        upstream: upstream.name.to_string(),
        endpoint: EndpointInfo::of(now.as_ref().unwrap_or(member), &live, Instant::now()),
    }
}
