//! `tidegate reload`.

use clap::Args;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::reload;
use tidegate::admin::order::Reloaded;
use tidegate::admin::plan::{Change, Part, Plan};

use super::{NOTHING, show_json, tunnels_in_words};
use crate::cli::client::{Failure, Reach};
use crate::cli::table::{Cell, Mood, harmless, table};
use crate::cli::{colour_out, out};

#[derive(Debug, Args)]
pub(in crate::cli) struct Reload {
    /// Only tell what would change, and how many live tunnels that is about
    #[arg(long)]
    plan: bool,
    /// Reload only if at most so many live tunnels have their route or endpoint removed or drained
    /// [default: half of all]
    #[arg(long, value_name = "TUNNELS", conflicts_with_all = ["plan", "force"])]
    displaced_most: Option<u64>,
    /// Reload however many that are
    #[arg(long, conflicts_with = "plan")]
    force: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn reload(verb: &Reload) -> Result<(), Failure> {
    let reach = &verb.reach;
    if verb.plan {
        let answer = reach.ask(Operation::PlanReload, "", NOTHING)?;
        match reach.json {
            true => show_json(&answer),
            false => out(&planned(&reach.read(&answer)?)),
        }
        return Ok(());
    }
    let how = reload::Reload {
        displaced_most: verb.displaced_most,
        force: verb.force,
    };
    let answer = reach.ask(Operation::Reload, "", Some(&how))?;
    if reach.json {
        show_json(&answer);
        return Ok(());
    }
    let done: Reloaded = reach.read(&answer)?;
    for warning in &done.warnings {
        out(&format!("warning: {}\n", harmless(warning)));
    }
    out(match done.certificates_only {
        true => "certificates reloaded; nothing else had changed\n",
        false => "reloaded\n",
    });
    Ok(())
}

fn planned(plan: &Plan) -> String {
    let mut rows = Vec::new();
    let mut part = |kind: &str, name: &str, change: Change, tunnels: u64| {
        rows.push(vec![
            Cell::text(kind),
            Cell::text(name),
            word(change),
            Cell::number(tunnels),
        ]);
    };
    let mut parts = |kind: &str, parts: &[Part]| {
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
        part("file", file, Change::Changed, 0);
    }
    for setting in &plan.settings {
        let wait = if setting.at_next_start {
            " (at the next start)"
        } else {
            ""
        };
        part(
            "setting",
            &format!("{}{wait}", setting.name),
            Change::Changed,
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

fn word(change: Change) -> Cell {
    let (text, mood) = match change {
        Change::Kept => ("kept", Mood::Plain),
        Change::Changed => ("changed", Mood::Plain),
        Change::Added => ("added", Mood::Good),
        Change::Removed => ("removed", Mood::Bad),
        Change::Drained => ("drained", Mood::Doubtful),
        Change::Gone => ("gone already", Mood::Doubtful),
        Change::Unknown => ("to be looked up", Mood::Doubtful),
    };
    Cell::text(text).mood(mood)
}
