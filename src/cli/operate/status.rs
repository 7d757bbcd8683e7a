//! `tidegate status`.

use serde_json::json;
use tidegate::admin::api::listeners::ListenerInfo;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::status::{GenerationInfo, StatusInfo};
use tidegate::admin::api::upstreams::{EndpointInfo, EndpointStatus, UpstreamInfo};
use tidegate::handover::identity::Identity;

use super::{NOTHING, tunnels_in_words};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::table::{Cell, Style, harmless, short, table};
use crate::cli::{colour_out, out};

/// Days before its end from which a certificate is worth a word.
const EXPIRES_SOON: i64 = 14;

pub(super) fn status(client: &AdminClient) -> Result<(), ClientError> {
    let ask = |operation| client.ask(operation, "", NOTHING);
    let (status, listeners) = (ask(Operation::Status)?, ask(Operation::Listeners)?);
    let upstreams = ask(Operation::Upstreams)?;
    if client.json {
        let value = |bytes: &[u8]| client.read::<serde_json::Value>(bytes);
        let all = json!({
            "status": value(&status)?,
            "listeners": value(&listeners)?,
            "upstreams": value(&upstreams)?,
        });
        out(&format!("{all:#}\n"));
        return Ok(());
    }
    let status: StatusInfo = client.read(&status)?;
    out(&overview(&status));
    out(&format!(
        "\n{}",
        of_listeners(&client.read::<Vec<ListenerInfo>>(&listeners)?)
    ));
    let upstreams: Vec<UpstreamInfo> = client.read(&upstreams)?;
    out(&format!("\n{}", of_upstreams(&upstreams)));
    out(&of_excess(&upstreams));
    Ok(())
}

/// What is to be moved from one endpoint to another, if anything.
fn of_excess(upstreams: &[UpstreamInfo]) -> String {
    let mut lines = String::new();
    for upstream in upstreams {
        let Some(it) = upstream.rebalance.as_ref().filter(|it| it.excess > 0) else {
            continue;
        };
        let then = match (it.dry_run, it.waits_for_slow_start) {
            (true, _) => "would be moved: this is a dry run",
            (false, true) => "are moved after the slow start of an endpoint",
            (false, false) => "are being moved, as they are old enough",
        };
        let name = harmless(&upstream.name);
        lines += &format!("\nrebalance of {name}: {} tunnels {then}\n", it.excess);
    }
    lines
}

fn overview(status: &StatusInfo) -> String {
    let mut lines = vec![
        format!(
            "tidegate {} is {}, process {}, for {}",
            status.version,
            status.state,
            status.pid,
            short(status.uptime_seconds)
        ),
        format!(
            "{} of {} connections, {} live tunnels ({} since the start), {} requests, {} refused",
            status.connections,
            status.max_connections,
            status.tunnels,
            status.tunnels_opened,
            status.requests,
            status.rejections
        ),
        format!(
            "configuration {}, taken {}; {} reloads taken, {} failed",
            harmless(&status.config),
            status.config_loaded,
            status.reloads,
            status.failed_reloads
        ),
    ];
    if !status.reload_errors.is_empty() {
        lines.push("the last reload failed, and what ran before runs on:".to_owned());
        lines.extend(
            status
                .reload_errors
                .iter()
                .map(|it| format!("  {}", harmless(it))),
        );
    }
    if !status.needs_restart.is_empty() {
        let keys = status.needs_restart.join(", ");
        lines.push(format!(
            "changed, but only in effect from the next start on: {keys}"
        ));
    }
    for certificate in &status.certificates {
        if certificate.days_left < EXPIRES_SOON {
            let (file, days) = (harmless(&certificate.file), certificate.days_left);
            lines.push(match days {
                ..0 => format!("certificate {file} has expired on {}", certificate.expires),
                _ => format!("certificate {file} expires in {days} days"),
            });
        }
    }
    lines.extend(in_progress(status));
    let dropped = status.log_dropped + status.access_log_dropped;
    if dropped > 0 {
        lines.push(format!(
            "{dropped} lines of logs were dropped: nobody reads them fast enough"
        ));
    }
    lines.join("\n") + "\n"
}

/// What takes its time: older generations that drain, jobs.
fn in_progress(status: &StatusInfo) -> Vec<String> {
    let mut lines = Vec::new();
    if let [_, older @ ..] = status.generations.as_slice()
        && !older.is_empty()
    {
        lines.push(format!(
            "generation {}; older ones that drain:",
            status.generation
        ));
        lines.extend(older.iter().map(generation));
    }
    for job in &status.jobs {
        lines.push(format!(
            "closing tunnels, job {}: {} of {}; {}, {}",
            job.job,
            job.done,
            job.tunnels,
            job.reason,
            harmless(&job.description)
        ));
    }
    lines
}

fn generation(older: &GenerationInfo) -> String {
    let Identity {
        generation,
        pid,
        version,
        ..
    } = &older.identity;
    format!(
        "  generation {generation}: process {pid}, tidegate {}, {} left on {} connections",
        harmless(version),
        tunnels_in_words(older.tunnels),
        older.connections
    )
}

fn of_listeners(listeners: &[ListenerInfo]) -> String {
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
    let header = ["LISTENER", "ADDRESSES", "TLS", "CONNECTIONS", "TUNNELS"];
    table(&header, &rows, colour_out())
}

pub(super) fn of_upstreams(upstreams: &[UpstreamInfo]) -> String {
    let mut rows = Vec::new();
    for upstream in upstreams {
        for endpoint in &upstream.endpoints {
            rows.push(row(upstream, endpoint));
        }
        if upstream.endpoints.is_empty() {
            let none = Cell::text("none").style(Style::Bad);
            rows.push(vec![Cell::text(&upstream.name), Cell::text("-"), none]);
        }
    }
    let header = [
        "UPSTREAM",
        "ENDPOINT",
        "STATE",
        "TUNNELS",
        "IN FLIGHT",
        "WEIGHT",
        "WHY",
    ];
    table(&header, &rows, colour_out())
}

fn row(upstream: &UpstreamInfo, endpoint: &EndpointInfo) -> Vec<Cell> {
    let style = match endpoint.state {
        EndpointStatus::Up if !endpoint.takes_new() => Style::Warning,
        EndpointStatus::Up => Style::Good,
        EndpointStatus::Down | EndpointStatus::Ejected => Style::Bad,
        EndpointStatus::Drained | EndpointStatus::DrainedByConfig | EndpointStatus::Full => {
            Style::Warning
        }
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

fn why(endpoint: &EndpointInfo) -> String {
    let mut parts: Vec<String> = endpoint.why.iter().cloned().collect();
    if endpoint.weight_overridden {
        parts.push("* weighed by an operator, until the next reload".to_owned());
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
        parts.push(format!("its latest check failed: {fault}"));
    }
    if endpoint.backup {
        parts.push("backup".to_owned());
    }
    parts.join(", ")
}
