//! The verbs that speak to a running tidegate.

mod close;
mod explain;
mod reload;
mod status;
mod steer;
mod tunnels;
mod upgrade;

use std::process::ExitCode;

use bytes::Bytes;
use clap::{Args, Subcommand};
use tidegate::displace::filter::{Clients, Filter, Id, Span};

use super::client::{Failure, Reach};
use super::{ExitStatus, err, out, table};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Tell how a running tidegate is: its upstreams and endpoints, and why one is out
    Status {
        #[command(flatten)]
        reach: Reach,
    },
    /// List live tunnels: who is connected to what, since when, how busy
    Tunnels(tunnels::Tunnels),
    /// Close live tunnels with a Close frame; without --yes, only tell how many that would be
    Close(close::Close),
    /// Take an endpoint or a listener out: it gets nothing new, and its tunnels stay
    Drain(steer::Drained),
    /// Put an endpoint or a listener back
    Undrain(steer::Drained),
    /// Weigh an endpoint until the next reload
    Weight(steer::Weight),
    /// Reload the configuration, or tell what that would change
    Reload(reload::Reload),
    /// Hand over to a new process, whose program may be another: no connection is refused or dropped
    Upgrade(upgrade::Upgrade),
    /// Tell what would become of a request: which route, which endpoint, and why
    Explain(explain::Explain),
}

/// Which tunnels are meant: those for which all of this holds
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which tunnels")]
pub(super) struct Which {
    /// That came by this listener
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// That took this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// That went to this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// That go to this endpoint
    #[arg(long, value_name = "ADDRESS")]
    endpoint: Option<String>,
    /// Of this client, or of this network of them
    #[arg(long, value_name = "ADDRESS|NET")]
    client: Option<Clients>,
    /// That asked for this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// That have been open for so long: 10m
    #[arg(long, value_name = "TIME")]
    older_than: Option<Span>,
    /// That have carried nothing for so long: 30s
    #[arg(long, value_name = "TIME")]
    idle_for: Option<Span>,
}

impl Which {
    fn filter(self, id: Option<Id>) -> Filter {
        Filter {
            id,
            listener: self.listener,
            route: self.route,
            upstream: self.upstream,
            endpoint: self.endpoint,
            client: self.client,
            host: self.host,
            older_than: self.older_than,
            idle_for: self.idle_for,
        }
    }
}

pub(super) fn operate(verb: Verb) -> ExitCode {
    let done = match verb {
        Verb::Status { reach } => status::status(&reach),
        Verb::Tunnels(verb) => tunnels::tunnels(verb),
        Verb::Close(verb) => close::close(verb),
        Verb::Drain(verb) => steer::drain(&verb),
        Verb::Undrain(verb) => steer::undrain(&verb),
        Verb::Weight(verb) => steer::weight(&verb),
        Verb::Reload(verb) => reload::reload(&verb),
        Verb::Upgrade(verb) => upgrade::upgrade(&verb),
        Verb::Explain(verb) => explain::explain(verb),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Lines of others' files may be in it.
            for line in failure.to_string().lines() {
                err(&format!("{}\n", table::harmless(line)));
            }
            match failure {
                Failure::Unreached { .. } => ExitStatus::Unreached.into(),
                Failure::Refused(..) => ExitStatus::Refused.into(),
            }
        }
    }
}

/// Shows an answer as it came.
fn show_json(answer: &Bytes) {
    match serde_json::from_slice::<serde_json::Value>(answer) {
        Ok(value) => out(&format!("{value:#}\n")),
        Err(_) => out(&String::from_utf8_lossy(answer)),
    }
}

/// `1 tunnel`, `2 tunnels`.
fn tunnels_in_words(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} tunnel{plural}")
}

/// Has every generation do something, and shows what each says, under its name if there are several.
/// What an older one refuses, or has left too early for, is no failure of the whole.
fn each_generation(
    reach: &Reach,
    mut ask: impl FnMut(&Reach) -> Result<String, Failure>,
) -> Result<(), Failure> {
    let generations = reach.generations()?;
    let Some((youngest, older)) = generations.split_first() else {
        return Ok(());
    };
    let said = ask(youngest)?;
    if older.is_empty() {
        out(&said);
        return Ok(());
    }
    let name = |reach: &Reach| format!("generation {}", reach.generation.unwrap_or_default());
    out(&format!("{}:\n{said}", name(youngest)));
    for reach in older {
        let said = ask(reach);
        let said =
            said.unwrap_or_else(|failure| format!("{}\n", table::harmless(&failure.to_string())));
        out(&format!("{}, which drains:\n{said}", name(reach)));
    }
    Ok(())
}

/// Nothing to send along.
const NOTHING: Option<&()> = None;
