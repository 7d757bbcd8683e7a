//! `tidegate status`.

mod dependencies;
mod limits;
mod nodes;
mod probes;
mod refusals;

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use tidegate::admin::api::listeners::ListenerInfo;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::status::{GenerationInfo, StatusInfo};
use tidegate::admin::api::upstreams::{EndpointInfo, EndpointStatus, ReportInfo, UpstreamInfo};
use tidegate::admin::closing::{DisplacedInfo, JobInfo, RemovedKind, TunnelFate};
use tidegate::displace::tunnel_filter::FilterKind;
use tidegate::handover::identity::Identity;

use self::dependencies::{of_service, of_shared_keys};
use self::limits::of_limits;
use self::probes::of_probes;
use self::refusals::of_refusals;
use super::{NOTHING, in_words, tunnels_in_words, watch};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::screen::Screen;
use crate::cli::table::{Cell, Column, Style, harmless, short, table};
use crate::cli::{argument, out};

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    /// Show it again and again until Ctrl-C, every second or at this interval
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        default_missing_value = "1s",
        value_parser = argument::interval
    )]
    watch: Option<Duration>,
    /// Show all nodes of the fleet (`[fleet]` in the configuration), a line for each
    #[arg(long, conflicts_with_all = ["watch", "generation"])]
    fleet: bool,
    #[command(flatten)]
    client: AdminClient,
}

pub(super) fn status(verb: &StatusArgs) -> Result<(), ClientError> {
    if verb.fleet {
        return nodes::nodes(&verb.client);
    }
    let mut client = verb.client.clone();
    client.timeout = verb.watch.map(watch::patience);
    let client = &client;
    let shown = |screen| StatusPage::of(client)?.text(client, screen);
    match (verb.watch, client.json) {
        // One line each, so that a reader knows where an object ends.
        (Some(interval), true) => watch::watch(interval, false, |_| {
            Ok(format!("{}\n", StatusPage::of(client)?.json(client)?))
        }),
        (Some(interval), false) => watch::watch(interval, true, |screen| {
            let text = shown(screen)?;
            // Elsewhere than on a terminal, an empty line is between two of them.
            Ok(if screen.size.is_some() {
                text
            } else {
                text + "\n"
            })
        }),
        (None, true) => {
            out(&format!("{:#}\n", StatusPage::of(client)?.json(client)?));
            Ok(())
        }
        (None, false) => {
            out(&shown(Screen::of_output())?);
            Ok(())
        }
    }
}

/// The responses that the status consists of.
struct StatusPage {
    status: Bytes,
    listeners: Bytes,
    upstreams: Bytes,
}

impl StatusPage {
    fn of(client: &AdminClient) -> Result<Self, ClientError> {
        let ask = |operation| client.ask(operation, "", NOTHING);
        Ok(Self {
            status: ask(Operation::Status)?,
            listeners: ask(Operation::Listeners)?,
            upstreams: ask(Operation::Upstreams)?,
        })
    }

    fn json(&self, client: &AdminClient) -> Result<Value, ClientError> {
        Ok(json!({
            "status": client.read::<Value>(&self.status)?,
            "listeners": client.read::<Value>(&self.listeners)?,
            "upstreams": client.read::<Value>(&self.upstreams)?,
        }))
    }

    fn text(&self, client: &AdminClient, screen: Screen) -> Result<String, ClientError> {
        let status: StatusInfo = client.read(&self.status)?;
        let listeners: Vec<ListenerInfo> = client.read(&self.listeners)?;
        let upstreams: Vec<UpstreamInfo> = client.read(&self.upstreams)?;
        let mut text = overview(&status);
        for part in [
            of_listeners(&listeners, screen),
            of_refusals(&listeners),
            of_upstreams(&upstreams, screen),
        ] {
            if !part.is_empty() {
                text = text + "\n" + &part;
            }
        }
        Ok(text + &of_discovery(&upstreams) + &of_excess(&upstreams))
    }
}

/// Upstreams whose endpoints are not up to date, a line for each.
fn of_discovery(upstreams: &[UpstreamInfo]) -> String {
    let mut lines = String::new();
    for upstream in upstreams {
        let Some(error) = &upstream.discovery_error else {
            continue;
        };
        let known = match upstream.discovered_seconds {
            Some(seconds) => format!("as of {} ago", short(seconds)),
            None => "of another process, or unknown".to_owned(),
        };
        let (name, error) = (harmless(&upstream.name), harmless(error));
        lines += &format!("\nendpoints of {name} are {known}: {error}\n");
    }
    lines
}

/// What `rebalance` moves from overloaded endpoints, a line per upstream.
fn of_excess(upstreams: &[UpstreamInfo]) -> String {
    let mut lines = String::new();
    for upstream in upstreams {
        let Some(it) = upstream.rebalance.as_ref().filter(|it| it.excess > 0) else {
            continue;
        };
        let then = match (it.dry_run, it.waits_for_slow_start) {
            (true, _) => "would be moved (dry run)",
            (false, true) => "will be moved once an endpoint has finished its slow start",
            (false, false) => "are to be moved, each once it reaches `min_age`",
        };
        let name = harmless(&upstream.name);
        lines += &format!("\nrebalance of {name}: {} tunnels {then}\n", it.excess);
    }
    lines
}

fn overview(status: &StatusInfo) -> String {
    let mut lines = vec![
        format!(
            "tidegate {} is {} (process {}, up {})",
            status.version,
            status.state,
            status.pid,
            short(status.uptime_seconds)
        ),
        format!(
            "{} of at most {} connections, {} live tunnels ({} since the start), {} requests{}, {} rejected",
            status.connections,
            status.max_connections,
            status.tunnels,
            status.tunnels_opened,
            status.requests,
            open_streams(status.streams),
            status.rejections
        ),
        format!(
            "configuration {}, loaded at {}; {} reloads applied, {} failed",
            harmless(&status.config),
            status.config_loaded,
            status.reloads,
            status.failed_reloads
        ),
    ];
    if !status.reload_errors.is_empty() {
        lines
            .push("the last reload failed; the previous configuration stays in effect:".to_owned());
        lines.extend(
            status
                .reload_errors
                .iter()
                .map(|it| format!("  {}", harmless(it))),
        );
    }
    if !status.needs_restart.is_empty() {
        let keys = status.needs_restart.join(", ");
        lines.push(format!("changed, but requires a restart: {keys}"));
    }
    let problems = status.certificate_problems.iter();
    lines.extend(problems.map(|it| harmless(it)));
    lines.extend(status.fleet_problems.iter().map(|it| harmless(it)));
    lines.extend(status.shared_keys.iter().map(of_shared_keys));
    lines.extend(status.services.iter().filter_map(of_service));
    lines.extend(of_probes(&status.probes));
    lines.extend(of_limits(&status.limits));
    lines.extend(in_progress(status));
    let dropped = status.log_dropped + status.access_log_dropped;
    if dropped > 0 {
        lines.push(format!(
            "{dropped} log lines dropped: the reader of the log is too slow"
        ));
    }
    lines.join("\n") + "\n"
}

/// How many of the requests are open streams, if any.
fn open_streams(streams: u64) -> String {
    match streams {
        0 => String::new(),
        _ => format!(" ({})", in_words(FilterKind::Stream, streams)),
    }
}

/// What is in progress: older generations that drain, and close jobs.
fn in_progress(status: &StatusInfo) -> Vec<String> {
    let mut lines = Vec::new();
    if let [_, older @ ..] = status.generations.as_slice()
        && !older.is_empty()
    {
        lines.push(format!(
            "this is generation {}; older generations still drain:",
            status.generation
        ));
        for older in older {
            lines.push(generation(older));
            let closing = closing(&older.jobs, &older.displaced);
            lines.extend(closing.iter().map(|line| format!("    {line}")));
        }
    }
    lines.extend(closing(&status.jobs, &status.displaced));
    lines
}

/// A line for each close job, and for each listener, route or endpoint that was removed while it had tunnels.
fn closing(jobs: &[JobInfo], displaced: &[DisplacedInfo]) -> Vec<String> {
    let job = |job: &JobInfo| {
        // An older generation may report the token alone.
        let with = match (job.code, &job.close_reason) {
            (Some(code), Some(reason)) => format!("with {code} ({})", harmless(reason)),
            _ => format!("as {}", harmless(&job.reason)),
        };
        format!(
            "job {}: {} of {} tunnels processed, closing {with}: {}",
            job.job,
            job.done,
            job.tunnels,
            harmless(&job.description)
        )
    };
    let removed = |it: &DisplacedInfo| {
        let kind = match it.kind {
            RemovedKind::Listener => "listener".to_owned(),
            RemovedKind::Route => "route".to_owned(),
            RemovedKind::Endpoint => {
                let upstream = it.upstream.as_deref().unwrap_or_default();
                format!("endpoint {}", harmless(upstream))
            }
        };
        let then = match (it.then, &it.reason) {
            (TunnelFate::Close | TunnelFate::Drain, Some(reason)) => {
                format!("closing as {}", harmless(reason))
            }
            _ => "open until they end".to_owned(),
        };
        let (name, tunnels) = (harmless(&it.name), tunnels_in_words(it.tunnels));
        format!("removed {kind} {name}: {tunnels}, {then}")
    };
    jobs.iter()
        .map(job)
        .chain(displaced.iter().map(removed))
        .collect()
}

fn generation(older: &GenerationInfo) -> String {
    let Identity {
        generation,
        pid,
        version,
        ..
    } = &older.identity;
    let mut open = tunnels_in_words(older.tunnels);
    if older.streams > 0 {
        open += &format!(", {}", in_words(FilterKind::Stream, older.streams));
    }
    let until = older.drain_ends.as_ref();
    let until = until.map(|until| format!("; drains until {}", harmless(until)));
    format!(
        "  generation {generation}: process {pid}, tidegate {}, {open} and {} connections left{}",
        harmless(version),
        older.connections,
        until.unwrap_or_default()
    )
}

const LISTENER_COLUMNS: [Column; 5] = [
    Column::kept("LISTENER"),
    Column::wrapped("ADDRESSES"),
    Column::dropped("TLS", 2),
    Column::dropped("CONNECTIONS", 1),
    Column::kept("TUNNELS"),
];

fn of_listeners(listeners: &[ListenerInfo], screen: Screen) -> String {
    let rows: Vec<Vec<Cell>> = listeners
        .iter()
        .map(|it| {
            vec![
                Cell::text(&it.name),
                match it.drained {
                    true => Cell::text("drained by an operator").style(Style::Warning),
                    false => Cell::text(&it.addresses.join(" ")),
                },
                Cell::text(if it.tls { "yes" } else { "no" }),
                Cell::number(it.connections),
                Cell::number(it.tunnels),
            ]
        })
        .collect();
    table(&LISTENER_COLUMNS, &rows, screen)
}

const UPSTREAM_COLUMNS: [Column; 7] = [
    Column::kept("UPSTREAM"),
    Column::kept("ENDPOINT"),
    Column::kept("STATE"),
    Column::kept("TUNNELS"),
    Column::dropped("IN FLIGHT", 2),
    Column::dropped("WEIGHT", 1),
    Column::wrapped("WHY"),
];

/// The place of the column of names, which is only there if an endpoint has one.
const NAME_COLUMN: usize = 2;

pub(super) fn of_upstreams(upstreams: &[UpstreamInfo], screen: Screen) -> String {
    let mut endpoints = upstreams.iter().flat_map(|upstream| &upstream.endpoints);
    let has_names = endpoints.any(|endpoint| endpoint.name.is_some());
    let mut columns = UPSTREAM_COLUMNS.to_vec();
    if has_names {
        columns.insert(NAME_COLUMN, Column::kept("NAME"));
    }
    let mut rows = Vec::new();
    for upstream in upstreams {
        for endpoint in &upstream.endpoints {
            let mut row = row(upstream, endpoint);
            if has_names {
                row.insert(
                    NAME_COLUMN,
                    Cell::text(endpoint.name.as_deref().unwrap_or("-")),
                );
            }
            rows.push(row);
        }
        if upstream.endpoints.is_empty() {
            let none = Cell::text("none").style(Style::Bad);
            let mut row = vec![Cell::text(&upstream.name), Cell::text("-"), none];
            if has_names {
                row.insert(NAME_COLUMN, Cell::text("-"));
            }
            rows.push(row);
        }
    }
    table(&columns, &rows, screen)
}

fn row(upstream: &UpstreamInfo, endpoint: &EndpointInfo) -> Vec<Cell> {
    let style = match endpoint.state {
        EndpointStatus::Up if !endpoint.takes_new() => Style::Warning,
        EndpointStatus::Up => Style::Good,
        EndpointStatus::Down | EndpointStatus::Ejected | EndpointStatus::Unreachable => Style::Bad,
        EndpointStatus::Drained
        | EndpointStatus::DrainedByConfig
        | EndpointStatus::Terminating
        | EndpointStatus::NotReady
        | EndpointStatus::DrainedByReport
        | EndpointStatus::Full => Style::Warning,
    };
    let set = if endpoint.weight_overridden { "*" } else { "" };
    vec![
        Cell::text(&upstream.name),
        Cell::text(&endpoint.endpoint),
        Cell::text(endpoint.state.token()).style(style),
        Cell::number(endpoint.tunnels),
        Cell::number(endpoint.in_flight),
        Cell::number(format!("{}{set}", endpoint.weight)),
        Cell::text(&why(endpoint)),
    ]
}

/// What an endpoint reports of its load.
fn reported(report: &ReportInfo) -> String {
    let parts = [
        report.tunnels.map(|it| format!("tunnels={it}")),
        report.max.map(|it| format!("max={it}")),
        report.weight.map(|it| format!("weight={it}")),
        report.drain.then(|| "drain".to_owned()),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let age = short(report.age_seconds);
    format!("reports {} ({age} ago)", parts.join(" "))
}

fn why(endpoint: &EndpointInfo) -> String {
    let mut parts: Vec<String> = endpoint.why.iter().cloned().collect();
    if endpoint.weight_overridden {
        parts.push("* weight set by an operator until the next reload".to_owned());
    }
    if let Some(seconds) = endpoint.down_seconds {
        parts.push(format!("for {}", short(seconds)));
    }
    if let Some(seconds) = endpoint.back_in_seconds {
        parts.push(format!("back in {}", short(seconds)));
    }
    if endpoint.state == EndpointStatus::Up
        && let Some(fault) = &endpoint.check_error
    {
        parts.push(format!("latest health check failed: {fault}"));
    }
    if endpoint.state == EndpointStatus::Up
        && let Some(error) = &endpoint.connect_error
    {
        parts.push(format!("latest connection failed: {error}"));
    }
    if endpoint.backup {
        parts.push("backup".to_owned());
    }
    parts.extend(endpoint.report.as_ref().map(reported));
    parts.join(", ")
}
