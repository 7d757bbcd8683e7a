//! `tidegate reload`.

use clap::Args;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::reload;
use tidegate::admin::command::ReloadResponse;
use tidegate::admin::reload_plan::{PlannedChange, PlannedPart, ReloadPlan};

use super::{NOTHING, show_json, tunnels_in_words};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::table::{Cell, Style, harmless, table};
use crate::cli::{colour_out, out};

#[derive(Debug, Args)]
pub(in crate::cli) struct ReloadArgs {
    /// Only show what would change, and how many live tunnels each change affects
    #[arg(long)]
    plan: bool,
    /// Refuse if more live tunnels than this would have their route or endpoint removed or drained
    /// [default: half of all tunnels]
    #[arg(long, value_name = "TUNNELS", conflicts_with_all = ["plan", "force"])]
    max_displaced: Option<u64>,
    /// Reload even if most tunnels would have their route or endpoint removed or drained
    #[arg(long, conflicts_with = "plan")]
    force: bool,
    #[command(flatten)]
    client: AdminClient,
}

pub(super) fn reload(verb: &ReloadArgs) -> Result<(), ClientError> {
    let client = &verb.client;
    if verb.plan {
        let response = client.ask(Operation::PlanReload, "", NOTHING)?;
        match client.json {
            true => show_json(&response),
            false => out(&planned(&client.read(&response)?)),
        }
        return Ok(());
    }
    let how = reload::ReloadRequest {
        max_displaced: verb.max_displaced,
        force: verb.force,
    };
    let response = client.ask(Operation::Reload, "", Some(&how))?;
    if client.json {
        show_json(&response);
        return Ok(());
    }
    let done: ReloadResponse = client.read(&response)?;
    for warning in &done.warnings {
        out(&format!("warning: {}\n", harmless(warning)));
    }
    out(match done.certificates_only {
        true => "certificates reloaded; nothing else has changed\n",
        false => "reloaded\n",
    });
    Ok(())
}

fn planned(plan: &ReloadPlan) -> String {
    let mut rows = Vec::new();
    let mut part = |kind: &str, name: &str, change: PlannedChange, tunnels: u64| {
        rows.push(vec![
            Cell::text(kind),
            Cell::text(name),
            word(change),
            Cell::number(tunnels),
        ]);
    };
    let mut parts = |kind: &str, parts: &[PlannedPart]| {
        for planned in parts {
            part(kind, &planned.name, planned.change, planned.tunnels);
        }
    };
    parts("listener", &plan.listeners);
    parts("route", &plan.routes);
    parts("upstream", &plan.upstreams);
    for planned in &plan.endpoints {
        let name = format!("{} {}", planned.upstream, planned.endpoint);
        part("endpoint", &name, planned.change, planned.tunnels);
    }
    for file in &plan.files {
        part("file", file, PlannedChange::Changed, 0);
    }
    for setting in &plan.settings {
        let wait = if setting.needs_restart {
            " (requires a restart)"
        } else {
            ""
        };
        part(
            "setting",
            &format!("{}{wait}", setting.name),
            PlannedChange::Changed,
            0,
        );
    }
    let mut text = table(
        &["WHAT", "NAME", "CHANGE", "LIVE TUNNELS"],
        &rows,
        colour_out(),
    );
    for warning in &plan.warnings {
        text.push_str(&format!("warning: {}\n", harmless(warning)));
    }
    let (all, displaced) = (tunnels_in_words(plan.tunnels), plan.displaced);
    text.push_str(&match displaced {
        0 => format!("{all} stay open, and all keep their route and endpoint\n"),
        _ => format!(
            "{all} stay open; for {displaced} of them the route or endpoint is removed or drained\n"
        ),
    });
    text
}

fn word(change: PlannedChange) -> Cell {
    let (text, style) = match change {
        PlannedChange::Kept => ("kept", Style::Plain),
        PlannedChange::Changed => ("changed", Style::Plain),
        PlannedChange::Added => ("added", Style::Good),
        PlannedChange::Removed => ("removed", Style::Bad),
        PlannedChange::Drained => ("drained", Style::Warning),
        PlannedChange::Gone => ("removed earlier", Style::Warning),
        PlannedChange::Unknown => ("not known before DNS lookup", Style::Warning),
    };
    Cell::text(text).style(style)
}
