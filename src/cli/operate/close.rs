//! `tidegate close`.

use clap::Args;
use tidegate::admin::api::close as api;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::status::JobInfo;
use tidegate::displace::filter::{HumanDuration, TunnelId};

use super::{FilterArgs, each_generation, show_json, tunnels_in_words};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;

#[derive(Debug, Args)]
pub(in crate::cli) struct CloseArgs {
    /// The tunnel with this id, as in logs and listings
    #[arg(value_name = "ID")]
    id: Option<TunnelId>,
    #[command(flatten)]
    which: FilterArgs,
    /// All of them
    #[arg(long)]
    all: bool,
    /// Close them: without it, only tell how many that would be
    #[arg(long, short)]
    yes: bool,
    /// So many per second; at once if neither this nor --over is said
    #[arg(long, value_name = "COUNT", conflicts_with = "over")]
    rate: Option<f64>,
    /// Spread evenly over so long: 2m
    #[arg(long, value_name = "TIME")]
    over: Option<HumanDuration>,
    /// Any of them first, and not the oldest
    #[arg(long)]
    random: bool,
    /// Stop a job that closes at a pace, instead
    #[arg(long, value_name = "JOB", conflicts_with_all = ["id", "all", "yes", "rate", "code", "reason"])]
    stop: Option<u64>,
    /// The code of the Close frame for clients [default: 1008]
    #[arg(long, value_name = "CODE")]
    code: Option<u16>,
    /// The reason in it [default: killed]
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    client: AdminClient,
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
    if client.json {
        show_json(&client.ask(Operation::CloseTunnels, "", Some(&close))?);
        return Ok(());
    }
    each_generation(&client, |client| {
        let answer = client.ask(Operation::CloseTunnels, "", Some(&close))?;
        Ok(said(&close, &client.read(&answer)?, client))
    })
}

fn said(close: &api::CloseRequest, closed: &api::CloseResponse, client: &AdminClient) -> String {
    let matched = tunnels_in_words(closed.matched as u64);
    let pace = match (close.per_second, close.over) {
        (_, Some(over)) => format!("over {}", humantime::format_duration(over.0)),
        (rate, None) => format!("at {} per second", rate.unwrap_or_default()),
    };
    let of = client.generation.map(|it| format!(" --generation {it}"));
    let of = of.unwrap_or_default();
    match &closed.job {
        _ if close.dry_run => format!("would close {matched}; --yes does\n"),
        Some(job) => format!(
            "closing {matched} {pace}, as job {job}: `tidegate status` tells how far it is, \
             `tidegate close --stop {job}{of}` ends it\n",
            job = job.job
        ),
        None => format!("closed {} of {matched}\n", closed.closed),
    }
}

fn stopped(job: u64, client: &AdminClient) -> Result<(), ClientError> {
    let answer = client.ask(
        Operation::StopClosing,
        "",
        Some(&api::StopJobRequest { job }),
    )?;
    if client.json {
        show_json(&answer);
        return Ok(());
    }
    let progress: JobInfo = client.read(&answer)?;
    let (closed, tunnels) = (progress.closed, progress.tunnels);
    out(&format!(
        "stopped job {job}: {closed} of {tunnels} tunnels are closed\n"
    ));
    Ok(())
}
