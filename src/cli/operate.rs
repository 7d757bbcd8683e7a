//! The verbs that speak to a running tidegate.

mod close;
mod drain;
mod explain;
mod reload;
mod status;
mod tunnels;
mod upgrade;

use std::process::ExitCode;

use bytes::Bytes;
use clap::{Args, Subcommand};
use tidegate::displace::filter::{ClientNet, HumanDuration, TunnelFilter, TunnelId};

use super::client::{AdminClient, ClientError};
use super::{ExitStatus, err, out, table};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Tell how a running tidegate is: its upstreams and endpoints, and why one is out
    Status {
        #[command(flatten)]
        client: AdminClient,
    },
    /// List live tunnels: who is connected to what, since when, how busy
    Tunnels(tunnels::TunnelsArgs),
    /// Close live tunnels with a Close frame; without --yes, only tell how many that would be
    Close(close::CloseArgs),
    /// Take an endpoint or a listener out: it gets nothing new, and its tunnels stay
    Drain(drain::DrainArgs),
    /// Put an endpoint or a listener back
    Undrain(drain::DrainArgs),
    /// Weigh an endpoint until the next reload
    Weight(drain::WeightArgs),
    /// Reload the configuration, or tell what that would change
    Reload(reload::ReloadArgs),
    /// Hand over to a new process, whose program may be another: no connection is refused or dropped
    Upgrade(upgrade::UpgradeArgs),
    /// Tell what would become of a request: which route, which endpoint, and why
    Explain(explain::ExplainArgs),
}

/// Which tunnels are meant: those for which all of this holds
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which tunnels")]
pub(super) struct FilterArgs {
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
    client: Option<ClientNet>,
    /// That asked for this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// That have been open for so long: 10m
    #[arg(long, value_name = "TIME")]
    older_than: Option<HumanDuration>,
    /// That have carried nothing for so long: 30s
    #[arg(long, value_name = "TIME")]
    idle_for: Option<HumanDuration>,
}

impl FilterArgs {
    fn filter(self, id: Option<TunnelId>) -> TunnelFilter {
        TunnelFilter {
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
        Verb::Status { client } => status::status(&client),
        Verb::Tunnels(verb) => tunnels::tunnels(verb),
        Verb::Close(verb) => close::close(verb),
        Verb::Drain(verb) => drain::drain(&verb),
        Verb::Undrain(verb) => drain::undrain(&verb),
        Verb::Weight(verb) => drain::weight(&verb),
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
                ClientError::Unreached { .. } => ExitStatus::Unreached.into(),
                ClientError::Refused(..) => ExitStatus::Refused.into(),
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
    client: &AdminClient,
    mut ask: impl FnMut(&AdminClient) -> Result<String, ClientError>,
) -> Result<(), ClientError> {
    let generations = client.generations()?;
    let Some((youngest, older)) = generations.split_first() else {
        return Ok(());
    };
    let said = ask(youngest)?;
    if older.is_empty() {
        out(&said);
        return Ok(());
    }
    let name =
        |client: &AdminClient| format!("generation {}", client.generation.unwrap_or_default());
    out(&format!("{}:\n{said}", name(youngest)));
    for client in older {
        let said = ask(client);
        let said =
            said.unwrap_or_else(|failure| format!("{}\n", table::harmless(&failure.to_string())));
        out(&format!("{}, which drains:\n{said}", name(client)));
    }
    Ok(())
}

/// Nothing to send along.
const NOTHING: Option<&()> = None;
