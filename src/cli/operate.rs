//! The verbs that operate a running tidegate through its admin socket.

mod certificates;
mod close;
mod credentials;
mod dashboard;
mod drain;
mod explain;
mod fleet;
mod live;
mod reload;
mod status;
#[cfg(feature = "top")]
mod top;
mod tunnels;
mod upgrade;
mod watch;

use std::process::ExitCode;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};
use tidegate::displace::tunnel_filter::{
    ClientNet, FilterKind, HumanDuration, TunnelFilter, TunnelId,
};

use super::client::{AdminClient, ClientError};
use super::{ExitStatus, err, out, table};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Show the status of a running tidegate, and why any endpoint is out of rotation
    Status(status::StatusArgs),
    /// Open a page that shows a running tidegate live, on a port of this machine, until Ctrl-C
    Dashboard(dashboard::DashboardArgs),
    /// Show a running tidegate live in this terminal: endpoints, the busiest tunnels, problems; drain and close there
    #[cfg(feature = "top")]
    Top(top::TopArgs),
    /// List live tunnels: client, route, endpoint, age and traffic of each
    Tunnels(tunnels::TunnelsArgs),
    /// Close live tunnels with a Close frame; without --yes, only print how many would be closed
    Close(close::CloseArgs),
    /// End the tunnels of a subject, and refuse its credentials that were issued until now
    Revoke(credentials::RevokeArgs),
    /// Move the time at which the credential of a tunnel expires, and with it the tunnel's end
    Extend(credentials::ExtendArgs),
    /// Drain an endpoint or a listener: it accepts nothing new, and its tunnels stay open unless `on_drain` closes them
    Drain(drain::DrainArgs),
    /// Put a drained endpoint or listener back into service
    Undrain(drain::DrainArgs),
    /// Set an endpoint's weight until the next reload
    Weight(drain::WeightArgs),
    /// List the certificates of listeners, until when they are valid, and when tidegate renews them
    Certificates(certificates::CertificatesArgs),
    /// Reload the configuration, or show what a reload would change
    Reload(reload::ReloadArgs),
    /// Hand over to a new process without refusing or dropping a connection
    Upgrade(upgrade::UpgradeArgs),
    /// Explain where a request would go: which route, which endpoint, and why
    Explain(explain::ExplainArgs),
}

/// The kinds that `--kind` names
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    /// WebSocket tunnels
    Tunnel,
    /// Plain requests that last: event streams, long polls, long uploads and downloads
    Stream,
    /// Both
    All,
}

impl From<KindArg> for FilterKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Tunnel => Self::Tunnel,
            KindArg::Stream => Self::Stream,
            KindArg::All => Self::All,
        }
    }
}

/// Which tunnels to select: those that match all of these
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Select tunnels")]
pub(super) struct FilterArgs {
    /// Select streams instead of tunnels, or both [default: tunnel]
    #[arg(long, value_enum)]
    kind: Option<KindArg>,
    /// Tunnels that this listener accepted
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Tunnels of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Tunnels of this upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Tunnels to this endpoint
    #[arg(long, value_name = "ADDRESS|NAME")]
    endpoint: Option<String>,
    /// Tunnels of this client address or network
    #[arg(long, value_name = "ADDRESS|NET")]
    client: Option<ClientNet>,
    /// Tunnels of the clients that `auth` knows under this name
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Tunnels whose request named this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Tunnels that have been open for at least this long, e.g. 10m
    #[arg(long, value_name = "TIME")]
    older_than: Option<HumanDuration>,
    /// Tunnels that have carried no data for at least this long, e.g. 30s
    #[arg(long, value_name = "TIME")]
    idle_for: Option<HumanDuration>,
}

impl FilterArgs {
    fn filter(self, id: Option<TunnelId>) -> TunnelFilter {
        TunnelFilter {
            kind: self.kind.map(Into::into),
            with_young_streams: false,
            id,
            listener: self.listener,
            route: self.route,
            upstream: self.upstream,
            endpoint: self.endpoint,
            client: self.client,
            subject: self.subject,
            subject_tags: Vec::new(),
            certificates: None,
            host: self.host,
            older_than: self.older_than,
            idle_for: self.idle_for,
        }
    }
}

pub(super) fn operate(verb: Verb) -> ExitCode {
    let done = match verb {
        Verb::Status(verb) => status::status(&verb),
        Verb::Tunnels(verb) => tunnels::tunnels(verb),
        Verb::Close(verb) => close::close(verb),
        Verb::Revoke(verb) => credentials::revoke(verb),
        Verb::Extend(verb) => credentials::extend(&verb),
        Verb::Drain(verb) => drain::drain(&verb),
        Verb::Undrain(verb) => drain::undrain(&verb),
        Verb::Weight(verb) => drain::weight(&verb),
        Verb::Certificates(verb) => certificates::certificates(&verb),
        Verb::Reload(verb) => reload::reload(&verb),
        Verb::Upgrade(verb) => upgrade::upgrade(&verb),
        Verb::Explain(verb) => explain::explain(verb),
        Verb::Dashboard(verb) => return dashboard::dashboard(&verb),
        #[cfg(feature = "top")]
        Verb::Top(verb) => return top::top(&verb),
    };
    done.map_or_else(|failure| failed(&failure), |()| ExitCode::SUCCESS)
}

/// Reports a failure, and returns the exit code for it.
fn failed(failure: &ClientError) -> ExitCode {
    err(&in_lines(failure));
    match failure {
        ClientError::Unreached(_) => ExitStatus::Unreached.into(),
        ClientError::Refused(..) => ExitStatus::Refused.into(),
        ClientError::Incomplete(_) => ExitStatus::Incomplete.into(),
    }
}

/// An error in its lines, which may quote files that other people can write.
fn in_lines(failure: &ClientError) -> String {
    let lines = failure.to_string();
    let lines = lines.lines().map(|line| table::harmless(line) + "\n");
    lines.collect()
}

/// Prints the response as JSON, unchanged but for its layout.
fn show_json(response: &Bytes) {
    match serde_json::from_slice::<Value>(response) {
        Ok(value) => out(&format!("{value:#}\n")),
        Err(_) => out(&String::from_utf8_lossy(response)),
    }
}

/// `1 tunnel`, `2 tunnels`.
fn tunnels_in_words(count: u64) -> String {
    in_words(FilterKind::Tunnel, count)
}

/// `1 stream`, `2 streams`.
fn in_words(kind: FilterKind, count: u64) -> String {
    match (kind, count) {
        (FilterKind::Tunnel, 1) => "1 tunnel".to_owned(),
        (FilterKind::Stream, 1) => "1 stream".to_owned(),
        _ => format!("{count} {}", kind.plural()),
    }
}

/// The response of one generation, and the client that asked it.
type GenerationResponse<T> = (AdminClient, Result<T, ClientError>);

/// The response of each generation, the serving one first. An older one may refuse, or exit before it can respond.
///
/// # Errors
/// That of the serving generation, unless it only lacks a name that an older one knows.
fn of_each_generation<T>(
    client: &AdminClient,
    mut ask: impl FnMut(&AdminClient) -> Result<T, ClientError>,
) -> Result<Vec<GenerationResponse<T>>, ClientError> {
    let mut generations = client.generations()?.into_iter();
    let Some(serving) = generations.next() else {
        return Ok(Vec::new());
    };
    let first = match ask(&serving) {
        Err(failure) if !failure.is_not_found() => return Err(failure),
        first => first,
    };
    let older = generations.map(|client| {
        let response = ask(&client);
        (client, response)
    });
    let older: Vec<_> = older.collect();
    match first {
        Err(failure) if !older.iter().any(|(_, response)| response.is_ok()) => Err(failure),
        first => Ok(std::iter::once((serving, first)).chain(older).collect()),
    }
}

/// Asks every generation and prints each response, under a heading if there are several.
fn each_generation(
    client: &AdminClient,
    ask: impl FnMut(&AdminClient) -> Result<String, ClientError>,
) -> Result<(), ClientError> {
    out(&in_generations(client, ask)?);
    Ok(())
}

/// The response of every generation, under a heading if there are several.
fn in_generations(
    client: &AdminClient,
    ask: impl FnMut(&AdminClient) -> Result<String, ClientError>,
) -> Result<String, ClientError> {
    let responses = of_each_generation(client, ask)?;
    let is_alone = responses.len() == 1;
    let mut all = String::new();
    for (position, (client, response)) in responses.into_iter().enumerate() {
        let text = response.unwrap_or_else(|failure| in_lines(&failure));
        let generation = client.generation.unwrap_or_default();
        all += &match position {
            _ if is_alone => text,
            0 => format!("generation {generation}:\n{text}"),
            _ => format!("generation {generation} (draining):\n{text}"),
        };
    }
    Ok(all)
}

/// Asks every generation and prints the response of the serving one, an object, with those of the older ones as
/// `older_generations`. Each of these has its `generation`, and the same fields or an `error`. With --generation
/// there is only that one's response.
fn each_generation_json(
    client: &AdminClient,
    ask: impl FnMut(&AdminClient) -> Result<Bytes, ClientError>,
) -> Result<(), ClientError> {
    let document = of_each_generation_json(client, ask)?;
    if !document.is_empty() {
        out(&format!("{:#}\n", Value::Object(document)));
    }
    Ok(())
}

/// That object; empty if no generation responds.
fn of_each_generation_json(
    client: &AdminClient,
    mut ask: impl FnMut(&AdminClient) -> Result<Bytes, ClientError>,
) -> Result<Map<String, Value>, ClientError> {
    let read = |client: &AdminClient| client.read::<Map<String, Value>>(&ask(client)?);
    let responses = of_each_generation(client, read)?.into_iter();
    let mut entries = responses.map(|(client, response)| {
        let entry = response.unwrap_or_else(|failure| {
            Map::from_iter([("error".to_owned(), failure.to_string().into())])
        });
        (client.generation, entry)
    });
    let Some((_, mut document)) = entries.next() else {
        return Ok(Map::new());
    };
    if client.generation.is_none() {
        let older = entries.map(|(generation, mut entry)| {
            entry.insert("generation".to_owned(), generation.into());
            Value::Object(entry)
        });
        document.insert("older_generations".to_owned(), older.collect());
    }
    Ok(document)
}

/// An empty request body.
const NOTHING: Option<&()> = None;
