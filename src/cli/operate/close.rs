//! `tidegate close`.

use clap::Args;
use tidegate::admin::api::close as api;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::status::Progress;
use tidegate::displace::filter::{Id, Span};

use super::{Which, each_generation, show_json, tunnels_in_words};
use crate::cli::client::{Failure, Reach};
use crate::cli::out;

#[derive(Debug, Args)]
pub(in crate::cli) struct Close {
    /// The tunnel with this id, as in logs and listings
    #[arg(value_name = "ID")]
    id: Option<Id>,
    #[command(flatten)]
    which: Which,
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
    over: Option<Span>,
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
    reach: Reach,
}

pub(super) fn close(verb: Close) -> Result<(), Failure> {
    let Close {
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
        reach,
    } = verb;
    if let Some(job) = stop {
        return stopped(job, &reach);
    }
    let close = api::Close {
        filter: which.filter(id),
        all,
        dry_run: !yes,
        per_second: rate,
        over,
        order: random.then_some(api::First::Random),
        code,
        reason,
    };
    if reach.json {
        show_json(&reach.ask(Operation::CloseTunnels, "", Some(&close))?);
        return Ok(());
    }
    each_generation(&reach, |reach| {
        let answer = reach.ask(Operation::CloseTunnels, "", Some(&close))?;
        Ok(said(&close, &reach.read(&answer)?, reach))
    })
}

fn said(close: &api::Close, closed: &api::Closed, reach: &Reach) -> String {
    let matched = tunnels_in_words(closed.matched as u64);
    let pace = match (close.per_second, close.over) {
        (_, Some(over)) => format!("over {}", humantime::format_duration(over.0)),
        (rate, None) => format!("at {} per second", rate.unwrap_or_default()),
    };
    let of = reach.generation.map(|it| format!(" --generation {it}"));
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

fn stopped(job: u64, reach: &Reach) -> Result<(), Failure> {
    let answer = reach.ask(Operation::StopClosing, "", Some(&api::Stop { job }))?;
    if reach.json {
        show_json(&answer);
        return Ok(());
    }
    let progress: Progress = reach.read(&answer)?;
    let (closed, tunnels) = (progress.closed, progress.tunnels);
    out(&format!(
        "stopped job {job}: {closed} of {tunnels} tunnels are closed\n"
    ));
    Ok(())
}
