//! `tidegate status --fleet`.

use serde_json::{Value, json};
use tidegate::admin::api::fleet::{FleetInfo, MemberInfo};
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::status::StatusInfo;

use super::super::NOTHING;
use super::super::fleet::{NodeList, NodeResponses, NodeWork, warn_of_store};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::screen::Screen;
use crate::cli::table::{Cell, Column, Style, harmless, short, table};

/// A row for each node, and a line for each that does not respond.
pub(super) fn nodes(client: &AdminClient) -> Result<(), ClientError> {
    let fleet = NodeList::of(client)?;
    let status = |node: &AdminClient| node.ask(Operation::Status, "", NOTHING);
    if client.json {
        let responses = fleet.ask(|node| node.read::<Value>(&status(node)?));
        let nodes = responses.iter().map(|(node, response)| match response {
            Ok(status) => json!({ "node": node, "status": status }),
            Err(why) => json!({ "node": node, "error": why }),
        });
        let nodes: Vec<Value> = nodes.collect();
        let stale = fleet.stale().is_some();
        let shown = json!({ "fleet": fleet.info(), "nodes": nodes, "stale": stale });
        out(&format!("{shown:#}\n"));
        return fleet.outcome(NodeWork::Looks, &responses);
    }
    warn_of_store(&fleet);
    let responses = fleet.ask(|node| node.read::<StatusInfo>(&status(node)?));
    out(&shown(fleet.info(), &responses, Screen::of_output()));
    fleet.outcome(NodeWork::Looks, &responses)
}

const COLUMNS: [Column; 8] = [
    Column::kept("NODE"),
    Column::kept("STATE"),
    Column::dropped("VERSION", 2),
    Column::dropped("UP", 4),
    Column::dropped("CONNECTIONS", 3),
    Column::kept("TUNNELS"),
    Column::kept("ENDPOINTS UP"),
    Column::dropped("DRAINED", 1),
];

fn shown(info: &FleetInfo, responses: &NodeResponses<StatusInfo>, screen: Screen) -> String {
    let mut rows = Vec::new();
    let mut failures = String::new();
    for (node, response) in responses {
        let known = info.members.iter().find(|member| member.node == *node);
        match response {
            Ok(status) => rows.push(row(node, status, known)),
            Err(why) => {
                let last = known.map_or_else(String::new, last_known);
                failures += &format!("{}: {}{last}\n", harmless(node), harmless(why));
            }
        }
    }
    let mut text = String::new();
    if !rows.is_empty() {
        text += &table(&COLUMNS, &rows, screen);
    }
    text + &failures
}

fn row(node: &str, status: &StatusInfo, known: Option<&MemberInfo>) -> Vec<Cell> {
    let state = match status.state.as_str() {
        "serving" => Cell::text(&status.state),
        _ => Cell::text(&status.state).style(Style::Warning),
    };
    let are_all_up = status.endpoints_up == status.endpoints;
    let endpoints = Cell::number(format!("{}/{}", status.endpoints_up, status.endpoints));
    let drained = known.map_or(0, |member| member.drains.len() + member.more_drains);
    vec![
        Cell::text(node),
        state,
        Cell::text(&status.version),
        Cell::time(status.uptime_seconds),
        Cell::number(status.connections),
        Cell::number(status.tunnels),
        match are_all_up {
            true => endpoints,
            false => endpoints.style(Style::Warning),
        },
        Cell::number(drained),
    ]
}

/// What was last known of a node that does not respond.
fn last_known(member: &MemberInfo) -> String {
    format!(
        " ({} with {} tunnels when it last reported, {} ago)",
        harmless(&member.state),
        member.tunnels,
        short(member.age_seconds)
    )
}
