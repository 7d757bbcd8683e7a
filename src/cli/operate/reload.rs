//! `tidegate reload`.

use clap::Args;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::reload;
use tidegate::admin::closing::TunnelFate;
use tidegate::admin::command::ReloadResponse;
use tidegate::admin::reload_plan::{PlannedChange, PlannedEndpoint, PlannedPart, ReloadPlan};

use super::{NOTHING, show_json};
use crate::cli::argument::whole;
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::screen::Screen;
use crate::cli::table::{Cell, Column, Style, harmless, table};

#[derive(Debug, Args)]
pub(in crate::cli) struct ReloadArgs {
    /// Only show what would change, and how many live tunnels each change affects
    #[arg(long)]
    plan: bool,
    /// Refuse if more live tunnels than this would have their route or endpoint removed or drained
    /// [default: half of all tunnels]
    #[arg(
        long,
        value_name = "TUNNELS",
        conflicts_with_all = ["plan", "force"],
        value_parser = whole::<u64>,
        allow_negative_numbers = true
    )]
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

const COLUMNS: [Column; 5] = [
    Column::kept("WHAT"),
    Column::wrapped("NAME"),
    Column::wrapped("CHANGE"),
    Column::kept("LIVE TUNNELS"),
    Column::wrapped("THEN"),
];

fn planned(plan: &ReloadPlan) -> String {
    let mut rows = Vec::new();
    let mut row = |kind: &str, name: &str, change: PlannedChange, tunnels: u64, then: &str| {
        rows.push(vec![
            Cell::text(kind),
            Cell::text(name),
            word(change),
            Cell::number(tunnels),
            Cell::text(then),
        ]);
    };
    let mut part = |kind: &str, name: &str, change, tunnels| row(kind, name, change, tunnels, "");
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
        row(
            "endpoint",
            &name,
            planned.change,
            planned.tunnels,
            &then(planned),
        );
    }
    for file in &plan.included {
        row("included file", &file.name, file.change, 0, "");
    }
    for file in &plan.files {
        row("file", file, PlannedChange::Changed, 0, "");
    }
    for setting in &plan.settings {
        let wait = if setting.needs_restart {
            " (requires a restart)"
        } else {
            ""
        };
        let name = format!("{}{wait}", setting.name);
        row("setting", &name, PlannedChange::Changed, 0, "");
    }
    let mut text = table(&COLUMNS, &rows, Screen::of_output());
    if rows.is_empty() {
        text.push_str("nothing would change\n");
    }
    for warning in &plan.warnings {
        text.push_str(&format!("warning: {}\n", harmless(warning)));
    }
    text + &summary(plan)
}

fn summary(plan: &ReloadPlan) -> String {
    let (all, closed, displaced) = (plan.tunnels, plan.closed, plan.displaced);
    let mut text = match (closed, displaced) {
        (0, 0) => {
            format!("live tunnels: {all}; all stay open, and keep their route and endpoint\n")
        }
        _ => format!("live tunnels: {all}; to be closed: {closed}; displaced: {displaced}\n"),
    };
    if displaced > 0 {
        text.push_str(
            "displaced: the route or endpoint is removed or drained, or this change closes the tunnel\n",
        );
    }
    let has_changed = |it: &&PlannedPart| it.change == PlannedChange::Changed && it.tunnels > 0;
    if plan.routes.iter().any(|it| has_changed(&it)) {
        text.push_str(
            "live tunnels keep the limits and timeouts that they were opened with
",
        );
    }
    text
}

/// What happens to the tunnels of an endpoint.
fn then(planned: &PlannedEndpoint) -> String {
    let reason = planned.reason.as_deref().unwrap_or_default();
    let mut then = match planned.then {
        _ if planned.tunnels == 0 => String::new(),
        TunnelFate::Stay => "stay open".to_owned(),
        TunnelFate::Close => format!("are closed at once as {}", harmless(reason)),
        TunnelFate::Drain => format!("are closed one by one as {}", harmless(reason)),
        TunnelFate::Unknown => "not known".to_owned(),
    };
    if planned.above_limit > 0 {
        then.push_str(&format!(", {} above `max_tunnels`", planned.above_limit));
    }
    then
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
