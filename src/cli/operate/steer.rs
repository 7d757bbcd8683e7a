//! `tidegate drain`, `undrain` and `weight`.

use clap::Args;
use serde::Serialize;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::steer::{Steered, Weigh, Which};

use super::{show_json, tunnels_in_words};
use crate::cli::client::{Failure, Reach};
use crate::cli::out;
use crate::cli::table::harmless;

#[derive(Debug, Args)]
pub(in crate::cli) struct Endpoint {
    /// Its address, as `tidegate status` spells it
    #[arg(value_name = "ENDPOINT")]
    endpoint: String,
    /// Its upstream; only needed where several have an endpoint at this address
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Weight {
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
    reach: Reach,
}

impl Endpoint {
    fn which(&self) -> Which {
        Which {
            endpoint: self.endpoint.clone(),
            upstream: self.upstream.clone(),
        }
    }
}

/// Of older generations, too: what becomes of their tunnels, `on_drain` says there.
fn on_older(verb: &Endpoint, operation: Operation) -> Result<(), Failure> {
    for older in verb.reach.generations()?.iter().skip(1) {
        // They may have left, or may not have this endpoint.
        let _ = older.ask(operation, "", Some(&verb.which()));
    }
    Ok(())
}

pub(super) fn drain(verb: &Endpoint) -> Result<(), Failure> {
    on_older(verb, Operation::DrainEndpoint)?;
    let Some(Steered { upstream, endpoint }) =
        steer(&verb.reach, Operation::DrainEndpoint, &verb.which())?
    else {
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

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:[]".contains(c);
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

pub(super) fn undrain(verb: &Endpoint) -> Result<(), Failure> {
    on_older(verb, Operation::UndrainEndpoint)?;
    let steered = steer(&verb.reach, Operation::UndrainEndpoint, &verb.which())?;
    if let Some(Steered { upstream, endpoint }) = steered {
        let (name, upstream) = (harmless(&endpoint.endpoint), harmless(&upstream));
        let why = endpoint.why.map(|why| format!(", but {}", harmless(&why)));
        let why = why.unwrap_or_default();
        out(&format!("{name} of {upstream} is back{why}\n"));
    }
    Ok(())
}

pub(super) fn weight(verb: &Weight) -> Result<(), Failure> {
    let weigh = Weigh {
        endpoint: verb.endpoint.clone(),
        upstream: verb.upstream.clone(),
        weight: verb.weight,
    };
    let steered = steer(&verb.reach, Operation::WeighEndpoint, &weigh)?;
    if let Some(Steered { upstream, endpoint }) = steered {
        let (name, upstream) = (harmless(&endpoint.endpoint), harmless(&upstream));
        let until = match endpoint.weight_is_set {
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

/// The endpoint after the change, unless it was shown as JSON already.
fn steer(
    reach: &Reach,
    operation: Operation,
    body: &impl Serialize,
) -> Result<Option<Steered>, Failure> {
    let answer = reach.ask(operation, "", Some(body))?;
    if reach.json {
        show_json(&answer);
        return Ok(None);
    }
    reach.read(&answer).map(Some)
}
