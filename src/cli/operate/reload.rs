//! `tidegate reload`.

use clap::Args;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::reload;
use tidegate::admin::command::ReloadResponse;
use tidegate::admin::plan::{PlannedChange, PlannedPart, ReloadPlan};

use super::{NOTHING, show_json, tunnels_in_words};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::table::{Cell, Style, harmless, table};
use crate::cli::{colour_out, out};

#[derive(Debug, Args)]
pub(in crate::cli) struct ReloadArgs {
    /// Only tell what would change, and how many live tunnels that is about
    #[arg(long)]
    plan: bool,
    /// Reload only if at most so many live tunnels have their route or endpoint removed or drained
    /// [default: half of all]
    #[arg(long, value_name = "TUNNELS", conflicts_with_all = ["plan", "force"])]
    max_displaced: Option<u64>,
    /// Reload however many that are
    #[arg(long, conflicts_with = "plan")]
    force: bool,
    #[command(flatten)]
    client: AdminClient,
}

pub(super) fn reload(verb: &ReloadArgs) -> Result<(), ClientError> {
    let client = &verb.client;
    if verb.plan {
        let answer = client.ask(Operation::PlanReload, "", NOTHING)?;
        match client.json {
            true => show_json(&answer),
            false => out(&planned(&client.read(&answer)?)),
        }
        return Ok(());
    }
    let how = reload::ReloadRequest {
        max_displaced: verb.max_displaced,
        force: verb.force,
    };
    let answer = client.ask(Operation::Reload, "", Some(&how))?;
    if client.json {
        show_json(&answer);
        return Ok(());
    }
    let done: ReloadResponse = client.read(&answer)?;
    for warning in &done.warnings {
        out(&format!("warning: {}\n", harmless(warning)));
    }
    out(match done.certificates_only {
        true => "certificates reloaded; nothing else had changed\n",
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
        for it in parts {
            part(kind, &it.name, it.change, it.tunnels);
        }
    };
    parts("listener", &plan.listeners);
    parts("route", &plan.routes);
    parts("upstream", &plan.upstreams);
    for it in &plan.endpoints {
        let name = format!("{} {}", it.upstream, it.endpoint);
        part("endpoint", &name, it.change, it.tunnels);
    }
    for file in &plan.files {
        part("file", file, PlannedChange::Changed, 0);
    }
    for setting in &plan.settings {
        let wait = if setting.needs_restart {
            " (at the next start)"
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
        0 => format!("{all} stay, each with its route and its endpoint; none is closed\n"),
        _ => format!(
            "{all} stay, {displaced} of them without their route or endpoint, or on one that is drained; \
             none is closed\n"
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
        PlannedChange::Gone => ("gone already", Style::Warning),
        PlannedChange::Unknown => ("to be looked up", Style::Warning),
    };
    Cell::text(text).style(style)
}
