//! `tidegate drain`, `undrain` and `weight`.

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate::admin::api::listeners::{self, Listener};
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::steer::{Steered, Weigh, Which};

use super::{show_json, tunnels_in_words};
use crate::cli::client::{Failure, Reach};
use crate::cli::out;
use crate::cli::table::harmless;

/// An endpoint or a listener.
#[derive(Debug, Args)]
pub(in crate::cli) struct Drained {
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

enum Meant {
    Endpoint(Which),
    Listener(listeners::Which),
}

impl Drained {
    fn meant(&self) -> Meant {
        match &self.listener {
            Some(listener) => Meant::Listener(listeners::Which {
                listener: listener.clone(),
            }),
            None => Meant::Endpoint(Which {
                // The command line has seen to it that it is there.
                endpoint: self.endpoint.clone().unwrap_or_default(),
                upstream: self.upstream.clone(),
            }),
        }
    }
}

/// Of older generations, too: what becomes of their tunnels, `on_drain` says there.
fn on_older(reach: &Reach, operation: Operation, which: &Which) -> Result<(), Failure> {
    for older in reach.generations()?.iter().skip(1) {
        // They may have left, or may not have this endpoint.
        let _ = older.ask(operation, "", Some(which));
    }
    Ok(())
}

pub(super) fn drain(verb: &Drained) -> Result<(), Failure> {
    match verb.meant() {
        Meant::Endpoint(which) => drain_endpoint(&verb.reach, &which),
        Meant::Listener(which) => drain_listener(&verb.reach, &which),
    }
}

fn drain_endpoint(reach: &Reach, which: &Which) -> Result<(), Failure> {
    on_older(reach, Operation::DrainEndpoint, which)?;
    let steered = steer(reach, Operation::DrainEndpoint, which)?;
    let Some(Steered { upstream, endpoint }) = steered else {
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
fn drain_listener(reach: &Reach, which: &listeners::Which) -> Result<(), Failure> {
    let Some(Listener { name, tunnels, .. }) = steer(reach, Operation::DrainListener, which)?
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

pub(super) fn undrain(verb: &Drained) -> Result<(), Failure> {
    match verb.meant() {
        Meant::Endpoint(which) => undrain_endpoint(&verb.reach, &which),
        Meant::Listener(which) => undrain_listener(&verb.reach, &which),
    }
}

fn undrain_listener(reach: &Reach, which: &listeners::Which) -> Result<(), Failure> {
    let steered = steer::<Listener>(reach, Operation::UndrainListener, which)?;
    if let Some(Listener {
        name, addresses, ..
    }) = steered
    {
        let (name, addresses) = (harmless(&name), harmless(&addresses.join(" and ")));
        out(&format!("{name} listens again: {addresses}\n"));
    }
    Ok(())
}

fn undrain_endpoint(reach: &Reach, which: &Which) -> Result<(), Failure> {
    on_older(reach, Operation::UndrainEndpoint, which)?;
    let steered = steer(reach, Operation::UndrainEndpoint, which)?;
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

/// What was steered, after the change, unless it was shown as JSON already.
fn steer<T: DeserializeOwned>(
    reach: &Reach,
    operation: Operation,
    body: &impl Serialize,
) -> Result<Option<T>, Failure> {
    let answer = reach.ask(operation, "", Some(body))?;
    if reach.json {
        show_json(&answer);
        return Ok(None);
    }
    reach.read(&answer).map(Some)
}
