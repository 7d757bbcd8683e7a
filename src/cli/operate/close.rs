//! `tidegate close`.

use clap::Args;
use serde_json::Value;
use tidegate::admin::api::close as api;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::closing::JobInfo;
use tidegate::displace::tunnel_filter::{FilterKind, HumanDuration, TunnelId};

use super::fleet::{FleetArg, NodeWork, each_node, each_node_json};
use super::{
    FilterArgs, each_generation, each_generation_json, in_generations, in_words,
    of_each_generation_json, show_json,
};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::{argument, out};

#[derive(Debug, Args)]
pub(in crate::cli) struct CloseArgs {
    /// Close the tunnel with this id, as shown in logs and by `tidegate tunnels`
    #[arg(value_name = "ID")]
    id: Option<TunnelId>,
    /// Select all tunnels, or all streams with --kind
    #[arg(long, help_heading = "Select tunnels")]
    all: bool,
    /// Actually close them; without it, only print how many would be closed
    #[arg(long, short)]
    yes: bool,
    /// Tunnels to close per second [default: all at once]
    #[arg(
        long,
        value_name = "COUNT",
        conflicts_with = "over",
        value_parser = argument::rate,
        allow_negative_numbers = true
    )]
    rate: Option<f64>,
    /// Close them evenly over this time, e.g. 2m
    #[arg(long, value_name = "TIME")]
    over: Option<HumanDuration>,
    /// Close in random order instead of oldest first
    #[arg(long)]
    random: bool,
    /// Stop the running close job with this number instead; tunnels it has not closed yet stay open
    #[arg(
        long,
        value_name = "JOB",
        conflicts_with_all = ["id", "all", "yes", "rate", "code", "reason", "fleet"],
        value_parser = argument::whole::<u64>
    )]
    stop: Option<u64>,
    /// Code of the Close frame that clients get [default: 1008 with an ID or --client, otherwise 1012]
    #[arg(long, value_name = "CODE", value_parser = argument::whole::<u16>)]
    code: Option<u16>,
    /// Reason text in the Close frame that clients get [default: drain with 1012, otherwise killed]
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    fleet: FleetArg,
    #[command(flatten)]
    client: AdminClient,
    // Last, because its heading applies to everything that follows.
    #[command(flatten)]
    which: FilterArgs,
}

pub(super) fn close(verb: CloseArgs) -> Result<(), ClientError> {
    let CloseArgs {
        id,
        which,
        all,
        yes,
        rate,
        over,
        random,
        stop,
        code,
        reason,
        fleet,
        client,
    } = verb;
    if let Some(job) = stop {
        return stopped(job, &client);
    }
    let close = api::CloseRequest {
        filter: which.filter(id),
        all,
        dry_run: !yes,
        per_second: rate,
        over,
        order: random.then_some(api::ClosingOrder::Random),
        code,
        reason,
    };
    // `--help` names the defaults of this version. The process that is asked may have others.
    let close = close.with_defaults();
    let ask = |client: &AdminClient| client.ask(Operation::CloseTunnels, "", Some(&close));
    let closed = |client: &AdminClient| Ok(summary(&close, &client.read(&ask(client)?)?, client));
    let work = match close.dry_run {
        true => NodeWork::Looks,
        false => NodeWork::Changes,
    };
    match (fleet.fleet, client.json) {
        (false, true) => each_generation_json(&client, ask),
        (false, false) => each_generation(&client, closed),
        (true, true) => each_node_json(&client, work, |node| {
            Ok(Value::Object(of_each_generation_json(node, ask)?))
        }),
        (true, false) => each_node(&client, work, |node| in_generations(node, closed)),
    }
}

fn summary(close: &api::CloseRequest, closed: &api::CloseResponse, client: &AdminClient) -> String {
    let kind = close.filter.kind.unwrap_or_default();
    let matched = in_words(kind, closed.matched as u64);
    // Streams have no Close frame, and no code in it.
    let code = closed.code.filter(|_| kind != FilterKind::Stream);
    let with = code.map(|code| format!(" with {code}"));
    let with = with.unwrap_or_default();
    let pace = match (close.per_second, close.over) {
        (_, Some(over)) => format!("over {}", humantime::format_duration(over.0)),
        (rate, None) => format!("at {} per second", rate.unwrap_or_default()),
    };
    let of = client.generation.map(|it| format!(" --generation {it}"));
    let of = of.unwrap_or_default();
    match &closed.job {
        _ if close.dry_run => {
            let them = if closed.matched == 1 { "it" } else { "them" };
            format!("would close {matched}{with}; add --yes to close {them}\n")
        }
        Some(job) => format!(
            "closing {matched}{with} {pace} as job {job}; `tidegate status` shows its progress, \
             `tidegate close --stop {job}{of}` stops it\n",
            job = job.job
        ),
        None => format!("closed {} of {matched}{with}\n", closed.closed),
    }
}

fn stopped(job: u64, client: &AdminClient) -> Result<(), ClientError> {
    let response = client.ask(
        Operation::StopClosing,
        "",
        Some(&api::StopJobRequest { job }),
    )?;
    if client.json {
        show_json(&response);
        return Ok(());
    }
    let progress: JobInfo = client.read(&response)?;
    let (closed, tunnels) = (progress.closed, progress.tunnels);
    out(&format!(
        "stopped job {job}: it had closed {closed} of {tunnels} tunnels\n"
    ));
    Ok(())
}
