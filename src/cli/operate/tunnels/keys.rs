//! `tidegate tunnels --by LIMIT`.

use http::StatusCode;
use tidegate::admin::api::limits::LimitInfo;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::error::ErrorResponse;

use super::NOTHING;
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::screen::Screen;
use crate::cli::table::{Cell, Column, table};

/// Prints the keys of a limit that have the most tunnels.
pub(super) fn keys(client: &AdminClient, name: &str) -> Result<(), ClientError> {
    let response = client.ask(Operation::Limits, "", NOTHING)?;
    let limits: Vec<LimitInfo> = client.read(&response)?;
    let limit = limits.iter().find(|limit| limit.name == name);
    let limit = limit.ok_or_else(|| unknown(name, &limits))?;
    out(&match client.json {
        true => format!("{:#}\n", serde_json::to_value(limit).unwrap_or_default()),
        false => shown(limit),
    });
    Ok(())
}

fn unknown(name: &str, limits: &[LimitInfo]) -> ClientError {
    let names: Vec<&str> = limits.iter().map(|limit| &*limit.name).collect();
    let known = match names.as_slice() {
        [] => "the configuration has no `[limit.NAME]`".to_owned(),
        names => format!("known: {}", names.join(", ")),
    };
    let refusal = ErrorResponse {
        error: format!("there is no limit `{name}`; {known}"),
        details: Vec::new(),
    };
    ClientError::Refused(refusal, StatusCode::NOT_FOUND)
}

fn shown(limit: &LimitInfo) -> String {
    if limit.top.is_empty() {
        return "no key has a tunnel\n".to_owned();
    }
    let older = limit.top.iter().any(|key| key.older_tunnels > 0);
    let mut columns = vec![Column::kept("TUNNELS"), Column::cut("KEY")];
    if older {
        columns.insert(1, Column::kept("OLDER"));
    }
    let rows: Vec<Vec<Cell>> = limit
        .top
        .iter()
        .map(|key| {
            let mut row = vec![Cell::number(u64::from(key.tunnels)), Cell::text(&key.key)];
            if older {
                row.insert(1, Cell::number(u64::from(key.older_tunnels)));
            }
            row
        })
        .collect();
    let listed: u64 = limit.top.iter().map(|key| u64::from(key.tunnels)).sum();
    let mut text = table(&columns, &rows, Screen::of_output());
    if limit.tunnels > listed {
        let more = limit.tunnels - listed;
        text.push_str(&format!("other keys have {more} tunnels\n"));
    }
    text
}
