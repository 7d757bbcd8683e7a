//! `tidegate drain`, `undrain` and `weight`.

use clap::{ArgGroup, Args};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate::admin::api::endpoints::{EndpointChangeResponse, EndpointRequest, WeightRequest};
use tidegate::admin::api::listeners::{self, ListenerInfo};
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::upstreams::EndpointInfo;

use super::fleet::{FleetArg, NodeWork, each_node, each_node_json};
use super::{of_each_generation_json, show_json, tunnels_in_words};
use crate::cli::argument::whole;
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::table::harmless;

/// An endpoint or a listener to drain or put back.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("target").required(true).args(["endpoint", "listener"])))]
pub(in crate::cli) struct DrainArgs {
    /// Address or name of the endpoint, as shown by `tidegate status`
    #[arg(value_name = "ENDPOINT")]
    endpoint: Option<String>,
    /// Upstream of the endpoint; only needed if several upstreams have an endpoint with this address or name
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    upstream: Option<String>,
    /// Name of a listener, instead of an endpoint
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    #[command(flatten)]
    fleet: FleetArg,
    #[command(flatten)]
    client: AdminClient,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WeightArgs {
    /// Address or name of the endpoint, as shown by `tidegate status`
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// New weight; with 0 only sticky cookies lead there [default: the configured weight]
    #[arg(value_name = "WEIGHT", value_parser = whole::<u32>, allow_negative_numbers = true)]
    weight: Option<u32>,
    /// Upstream of the endpoint; only needed if several upstreams have an endpoint with this address or name
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    #[command(flatten)]
    client: AdminClient,
}

enum DrainTarget {
    Endpoint(EndpointRequest),
    Listener(listeners::ListenerRequest),
}

impl DrainArgs {
    fn meant(&self) -> DrainTarget {
        match &self.listener {
            Some(listener) => DrainTarget::Listener(listeners::ListenerRequest {
                listener: listener.clone(),
            }),
            None => DrainTarget::Endpoint(EndpointRequest {
                // clap requires it where there is no --listener.
                endpoint: self.endpoint.clone().unwrap_or_default(),
                upstream: self.upstream.clone(),
            }),
        }
    }
}

/// Changes the endpoint in older generations: their `on_drain` decides about their own tunnels. Returns a line
/// for each that has tunnels to it.
fn on_older(
    client: &AdminClient,
    operation: Operation,
    which: &EndpointRequest,
) -> Result<String, ClientError> {
    let mut lines = String::new();
    for older in client.generations()?.iter().skip(1) {
        // It may have exited, or may not know this endpoint: neither is an error here.
        let response = older.ask(operation, "", Some(which));
        let changed = response.and_then(|response| older.read::<EndpointChangeResponse>(&response));
        let tunnels = changed.map_or(0, |changed| changed.endpoint.tunnels);
        if tunnels > 0 {
            let (generation, tunnels) = (
                older.generation.unwrap_or_default(),
                tunnels_in_words(tunnels),
            );
            lines.push_str(&format!(
                "generation {generation} (draining) has {tunnels} to it\n"
            ));
        }
    }
    Ok(lines)
}

pub(super) fn drain(verb: &DrainArgs) -> Result<(), ClientError> {
    match verb.meant() {
        DrainTarget::Endpoint(which) => {
            let how = (Operation::DrainEndpoint, drained_endpoint as Said);
            steer_endpoint(verb, &which, how)
        }
        DrainTarget::Listener(which) => {
            steer_listener(verb, &which, Operation::DrainListener, drained_listener)
        }
    }
}

/// What is printed about a changed endpoint, given what was done to older generations.
type Said = fn(&EndpointChangeResponse, &str) -> String;

/// Drains an endpoint or puts it back: here, or on every node.
fn steer_endpoint(
    verb: &DrainArgs,
    which: &EndpointRequest,
    (operation, said): (Operation, Said),
) -> Result<(), ClientError> {
    let client = &verb.client;
    let document = |client: &AdminClient| {
        of_each_generation_json(client, |client| client.ask(operation, "", Some(which)))
    };
    let change = |client: &AdminClient| {
        let older = on_older(client, operation, which)?;
        let changed = client.read(&client.ask(operation, "", Some(which))?)?;
        Ok(said(&changed, &older))
    };
    match (verb.fleet.fleet, client.json) {
        (false, true) => {
            let document = serde_json::Value::Object(document(client)?);
            out(&format!("{document:#}\n"));
        }
        (false, false) => out(&change(client)?),
        (true, true) => {
            return each_node_json(client, NodeWork::Changes, |node| {
                Ok(serde_json::Value::Object(document(node)?))
            });
        }
        (true, false) => return each_node(client, NodeWork::Changes, change),
    }
    Ok(())
}

/// Drains a listener or puts it back: here, or on every node. Older generations do not accept connections anyway.
fn steer_listener(
    verb: &DrainArgs,
    which: &listeners::ListenerRequest,
    operation: Operation,
    said: fn(&ListenerInfo) -> String,
) -> Result<(), ClientError> {
    let client = &verb.client;
    let ask = |client: &AdminClient| client.ask(operation, "", Some(which));
    let change = |client: &AdminClient| Ok(said(&client.read(&ask(client)?)?));
    match (verb.fleet.fleet, client.json) {
        (false, true) => show_json(&ask(client)?),
        (false, false) => out(&change(client)?),
        (true, true) => {
            return each_node_json(client, NodeWork::Changes, |node| node.read(&ask(node)?));
        }
        (true, false) => return each_node(client, NodeWork::Changes, change),
    }
    Ok(())
}

fn drained_endpoint(changed: &EndpointChangeResponse, older: &str) -> String {
    let EndpointChangeResponse { upstream, endpoint } = changed;
    let (name, upstream) = (harmless(&endpoint.endpoint), harmless(upstream));
    let tunnels = tunnels_in_words(endpoint.tunnels);
    let mut text = format!(
        "endpoint {} of upstream {upstream} is drained: it gets no new sessions and still has {tunnels}\n{older}",
        shown(endpoint)
    );
    if endpoint.tunnels > 0 {
        text += &format!(
            "to close them: tidegate close --upstream {upstream} --endpoint {} --rate 50 --yes\n",
            quoted(&name)
        );
    }
    text
}

/// The address of an endpoint, and its name if it has one.
fn shown(endpoint: &EndpointInfo) -> String {
    let address = harmless(&endpoint.endpoint);
    match &endpoint.name {
        Some(name) => format!("{address} ({})", harmless(name)),
        None => address,
    }
}

fn drained_listener(listener: &ListenerInfo) -> String {
    let ListenerInfo { name, tunnels, .. } = listener;
    let (name, held) = (harmless(name), tunnels_in_words(*tunnels));
    let mut text =
        format!("listener {name} is drained: it accepts no new connections and still has {held}\n");
    if *tunnels > 0 {
        text += &format!(
            "to close them: tidegate close --listener {} --rate 50 --yes\n",
            quoted(&name)
        );
    }
    text
}

/// `word`, quoted if a shell would not take it as one plain word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:[]".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

pub(super) fn undrain(verb: &DrainArgs) -> Result<(), ClientError> {
    match verb.meant() {
        DrainTarget::Endpoint(which) => {
            let how = (Operation::UndrainEndpoint, undrained_endpoint as Said);
            steer_endpoint(verb, &which, how)
        }
        DrainTarget::Listener(which) => {
            steer_listener(verb, &which, Operation::UndrainListener, undrained_listener)
        }
    }
}

fn undrained_listener(listener: &ListenerInfo) -> String {
    let addresses = harmless(&listener.addresses.join(" and "));
    let name = harmless(&listener.name);
    format!("listener {name} accepts connections again on {addresses}\n")
}

fn undrained_endpoint(changed: &EndpointChangeResponse, _: &str) -> String {
    let EndpointChangeResponse { upstream, endpoint } = changed;
    let (name, upstream) = (shown(endpoint), harmless(upstream));
    let why = endpoint.why.as_deref();
    let why = why.map(|why| format!(", but {}", harmless(why)));
    let why = why.unwrap_or_default();
    format!("endpoint {name} of upstream {upstream} is back in rotation{why}\n")
}

pub(super) fn weight(verb: &WeightArgs) -> Result<(), ClientError> {
    let weigh = WeightRequest {
        endpoint: verb.endpoint.clone(),
        upstream: verb.upstream.clone(),
        weight: verb.weight,
    };
    let steered = steer(&verb.client, Operation::WeighEndpoint, &weigh)?;
    if let Some(EndpointChangeResponse { upstream, endpoint }) = steered {
        let (name, upstream) = (shown(&endpoint), harmless(&upstream));
        let until = match endpoint.weight_overridden {
            true => " until the next reload",
            false => ", as configured",
        };
        out(&format!(
            "endpoint {name} of upstream {upstream} now has weight {}{until}\n",
            endpoint.weight
        ));
    }
    Ok(())
}

/// Sends the change and returns the changed object, or prints it and returns `None` with --json.
fn steer<T: DeserializeOwned>(
    client: &AdminClient,
    operation: Operation,
    body: &impl Serialize,
) -> Result<Option<T>, ClientError> {
    let response = client.ask(operation, "", Some(body))?;
    if client.json {
        show_json(&response);
        return Ok(None);
    }
    client.read(&response).map(Some)
}
