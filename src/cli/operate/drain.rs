//! `tidegate drain`, `undrain` and `weight`.

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate::admin::api::endpoints::{EndpointChangeResponse, EndpointRequest, WeightRequest};
use tidegate::admin::api::listeners::{self, ListenerInfo};
use tidegate::admin::api::operation::Operation;

use super::{show_json, tunnels_in_words};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::table::harmless;

/// An endpoint or a listener.
#[derive(Debug, Args)]
pub(in crate::cli) struct DrainArgs {
    /// An endpoint's address, as `tidegate status` spells it
    #[arg(value_name = "ENDPOINT", required_unless_present = "listener")]
    endpoint: Option<String>,
    /// Its upstream; only needed where several have an endpoint at this address
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    upstream: Option<String>,
    /// A listener instead
    #[arg(long, value_name = "NAME", conflicts_with = "endpoint")]
    listener: Option<String>,
    #[command(flatten)]
    client: AdminClient,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WeightArgs {
    /// Its address, as `tidegate status` spells it
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// Its weight; with 0 only sticky cookies lead there. As configured without it
    #[arg(value_name = "WEIGHT")]
    weight: Option<u32>,
    /// Its upstream; only needed where several have an endpoint at this address
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    #[command(flatten)]
    client: AdminClient,
}

enum DrainTarget {
    Endpoint(EndpointRequest),
    ListenerInfo(listeners::ListenerRequest),
}

impl DrainArgs {
    fn meant(&self) -> DrainTarget {
        match &self.listener {
            Some(listener) => DrainTarget::ListenerInfo(listeners::ListenerRequest {
                listener: listener.clone(),
            }),
            None => DrainTarget::Endpoint(EndpointRequest {
                // The command line has seen to it that it is there.
                endpoint: self.endpoint.clone().unwrap_or_default(),
                upstream: self.upstream.clone(),
            }),
        }
    }
}

/// Of older generations, too: what becomes of their tunnels, `on_drain` says there.
fn on_older(
    client: &AdminClient,
    operation: Operation,
    which: &EndpointRequest,
) -> Result<(), ClientError> {
    for older in client.generations()?.iter().skip(1) {
        // They may have left, or may not have this endpoint.
        let _ = older.ask(operation, "", Some(which));
    }
    Ok(())
}

pub(super) fn drain(verb: &DrainArgs) -> Result<(), ClientError> {
    match verb.meant() {
        DrainTarget::Endpoint(which) => drain_endpoint(&verb.client, &which),
        DrainTarget::ListenerInfo(which) => drain_listener(&verb.client, &which),
    }
}

fn drain_endpoint(client: &AdminClient, which: &EndpointRequest) -> Result<(), ClientError> {
    on_older(client, Operation::DrainEndpoint, which)?;
    let steered = steer(client, Operation::DrainEndpoint, which)?;
    let Some(EndpointChangeResponse { upstream, endpoint }) = steered else {
        return Ok(());
    };
    let (name, upstream) = (harmless(&endpoint.endpoint), harmless(&upstream));
    let tunnels = tunnels_in_words(endpoint.tunnels);
    out(&format!(
        "{name} of {upstream} gets nothing new; {tunnels} on it for now\n"
    ));
    if endpoint.tunnels > 0 {
        out(&format!(
            "to move them away: tidegate close --upstream {upstream} --endpoint {} --code 1012 \
             --reason drain --rate 50 --yes\n",
            quoted(&name)
        ));
    }
    Ok(())
}

/// Older generations accept nothing as it is.
fn drain_listener(
    client: &AdminClient,
    which: &listeners::ListenerRequest,
) -> Result<(), ClientError> {
    let Some(ListenerInfo { name, tunnels, .. }) = steer(client, Operation::DrainListener, which)?
    else {
        return Ok(());
    };
    let (name, held) = (harmless(&name), tunnels_in_words(tunnels));
    out(&format!("{name} listens no more; it has {held} for now\n"));
    if tunnels > 0 {
        out(&format!(
            "to move them away: tidegate close --listener {} --code 1012 --reason drain --rate 50 --yes\n",
            quoted(&name)
        ));
    }
    Ok(())
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:[]".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

pub(super) fn undrain(verb: &DrainArgs) -> Result<(), ClientError> {
    match verb.meant() {
        DrainTarget::Endpoint(which) => undrain_endpoint(&verb.client, &which),
        DrainTarget::ListenerInfo(which) => undrain_listener(&verb.client, &which),
    }
}

fn undrain_listener(
    client: &AdminClient,
    which: &listeners::ListenerRequest,
) -> Result<(), ClientError> {
    let steered = steer::<ListenerInfo>(client, Operation::UndrainListener, which)?;
    if let Some(ListenerInfo {
        name, addresses, ..
    }) = steered
    {
        let (name, addresses) = (harmless(&name), harmless(&addresses.join(" and ")));
        out(&format!("{name} listens again: {addresses}\n"));
    }
    Ok(())
}

fn undrain_endpoint(client: &AdminClient, which: &EndpointRequest) -> Result<(), ClientError> {
    on_older(client, Operation::UndrainEndpoint, which)?;
    let steered = steer(client, Operation::UndrainEndpoint, which)?;
    if let Some(EndpointChangeResponse { upstream, endpoint }) = steered {
        let (name, upstream) = (harmless(&endpoint.endpoint), harmless(&upstream));
        let why = endpoint.why.map(|why| format!(", but {}", harmless(&why)));
        let why = why.unwrap_or_default();
        out(&format!("{name} of {upstream} is back{why}\n"));
    }
    Ok(())
}

pub(super) fn weight(verb: &WeightArgs) -> Result<(), ClientError> {
    let weigh = WeightRequest {
        endpoint: verb.endpoint.clone(),
        upstream: verb.upstream.clone(),
        weight: verb.weight,
    };
    let steered = steer(&verb.client, Operation::WeighEndpoint, &weigh)?;
    if let Some(EndpointChangeResponse { upstream, endpoint }) = steered {
        let (name, upstream) = (harmless(&endpoint.endpoint), harmless(&upstream));
        let until = match endpoint.weight_overridden {
            true => " until the next reload",
            false => ", as configured",
        };
        out(&format!(
            "{name} of {upstream} weighs {}{until}\n",
            endpoint.weight
        ));
    }
    Ok(())
}

/// What was steered, after the change, unless it was shown as JSON already.
fn steer<T: DeserializeOwned>(
    client: &AdminClient,
    operation: Operation,
    body: &impl Serialize,
) -> Result<Option<T>, ClientError> {
    let answer = client.ask(operation, "", Some(body))?;
    if client.json {
        show_json(&answer);
        return Ok(None);
    }
    client.read(&answer).map(Some)
}
