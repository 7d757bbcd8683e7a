//! `tidegate tunnels`.

mod keys;

use clap::{Args, ValueEnum};
use serde_json::Value;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::tunnels::{
    ListTunnelsRequest, ListTunnelsResponse, TunnelInfo, TunnelSort,
};
use tidegate::displace::tunnel_filter::{
    FilterKind, HumanDuration, SessionKind, TunnelFilter, TunnelId,
};

use super::fleet::{FleetArg, NodeWork, each_node, each_node_json};
use super::{
    FilterArgs, NOTHING, each_generation, each_generation_json, in_generations,
    of_each_generation_json,
};
use crate::cli::argument::whole;
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::screen::Screen;
use crate::cli::table::{Cell, Column, table};

#[derive(Debug, Args)]
pub(in crate::cli) struct TunnelsArgs {
    /// Show only the tunnel or stream with this id, as shown in logs
    #[arg(value_name = "ID")]
    id: Option<TunnelId>,
    /// Sort by this column, descending
    #[arg(long, value_enum, default_value_t = SortArg::Age)]
    sort: SortArg,
    /// Maximum number of tunnels to list
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = whole::<usize>)]
    limit: usize,
    /// Measure traffic rates for this long, up to 10s, and sort by them: shows the busiest clients
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s")]
    rates: Option<HumanDuration>,
    /// Show the keys of this shared limit that have the most tunnels, instead of the tunnels
    #[arg(long, value_name = "LIMIT", conflicts_with_all = ["id", "sort", "limit", "rates", "fleet", "FilterArgs"])]
    by: Option<String>,
    #[command(flatten)]
    fleet: FleetArg,
    #[command(flatten)]
    client: AdminClient,
    // Last, because its heading applies to everything that follows.
    #[command(flatten)]
    which: FilterArgs,
}

/// The column that tunnels are sorted by.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SortArg {
    Age,
    Idle,
    Bytes,
    Messages,
}

pub(super) fn tunnels(verb: TunnelsArgs) -> Result<(), ClientError> {
    let TunnelsArgs {
        id,
        which,
        sort,
        limit,
        rates,
        by,
        fleet,
        client,
    } = verb;
    if let Some(limit) = by {
        return keys::keys(&client, &limit);
    }
    let sort = match sort {
        // With rates, the default order is by rate: the busiest tunnels are what --rates is for.
        SortArg::Age if rates.is_some() => TunnelSort::Messages,
        SortArg::Age => TunnelSort::Age,
        SortArg::Idle => TunnelSort::Idle,
        SortArg::Bytes => TunnelSort::Bytes,
        SortArg::Messages => TunnelSort::Messages,
    };
    let layout = ListTunnelsRequest {
        sort: Some(sort),
        limit: Some(limit),
        after: None,
        rate_window: rates,
    };
    let filter = which.filter(id);
    let kind = filter.kind.unwrap_or_default();
    let query = query(&filter, &layout);
    let ask = |client: &AdminClient| client.ask(Operation::Tunnels, &query, NOTHING);
    let listed = |client: &AdminClient| Ok(shown(&client.read(&ask(client)?)?, (kind, sort)));
    match (fleet.fleet, client.json) {
        (false, true) => each_generation_json(&client, ask),
        (false, false) => each_generation(&client, listed),
        (true, true) => each_node_json(&client, NodeWork::Looks, |node| {
            Ok(Value::Object(of_each_generation_json(node, ask)?))
        }),
        (true, false) => each_node(&client, NodeWork::Looks, |node| {
            in_generations(node, listed)
        }),
    }
}

/// The query parameters of a listing.
pub(super) fn query(filter: &TunnelFilter, layout: &ListTunnelsRequest) -> String {
    let pairs = [
        serde_urlencoded::to_string(filter),
        serde_urlencoded::to_string(layout),
    ];
    let pairs: Vec<String> = pairs.into_iter().flatten().collect();
    pairs.join("&")
}

/// The columns. On a narrow terminal, those stay that the listing is sorted by.
fn columns(sort: TunnelSort, measured: bool) -> [Column; 11] {
    let [messages, messages_out, bytes, bytes_out] = match measured {
        true => ["MSG/S IN", "MSG/S OUT", "BYTES/S IN", "BYTES/S OUT"],
        false => ["MSG IN", "MSG OUT", "BYTES IN", "BYTES OUT"],
    };
    let unless = |sorted_by: TunnelSort, title, turn| match sort == sorted_by {
        true => Column::kept(title),
        false => Column::dropped(title, turn),
    };
    [
        Column::kept("ID"),
        Column::kept("CLIENT"),
        Column::dropped("ROUTE", 4),
        Column::dropped("ENDPOINT", 1),
        unless(TunnelSort::Age, "AGE", 2),
        unless(TunnelSort::Idle, "IDLE", 3),
        unless(TunnelSort::Messages, messages, 5),
        unless(TunnelSort::Messages, messages_out, 5),
        unless(TunnelSort::Bytes, bytes, 6),
        unless(TunnelSort::Bytes, bytes_out, 6),
        Column::cut("HOST AND PATH"),
    ]
}

/// The place of the column of endpoints' names, which is only there if an endpoint has one.
const NAME_COLUMN: usize = 4;

/// The place of the column of kinds, which is only there if streams are listed.
const KIND_COLUMN: usize = 1;

fn shown(listing: &ListTunnelsResponse, (kind, sort): (FilterKind, TunnelSort)) -> String {
    let measured = listing.tunnels.iter().any(|it| it.rates.is_some());
    let mut rows: Vec<Vec<Cell>> = listing.tunnels.iter().map(|it| row(it, measured)).collect();
    if rows.is_empty() {
        return match kind {
            FilterKind::Tunnel => "no live tunnel matches\n".to_owned(),
            FilterKind::Stream => "no stream matches\n".to_owned(),
            FilterKind::All => "no live tunnel and no stream matches\n".to_owned(),
        };
    }
    let mut columns = columns(sort, measured).to_vec();
    if listing.tunnels.iter().any(|it| it.endpoint_name.is_some()) {
        columns.insert(NAME_COLUMN, Column::dropped("NAME", 1));
        for (row, tunnel) in rows.iter_mut().zip(&listing.tunnels) {
            let name = tunnel.endpoint_name.as_deref().unwrap_or("-");
            row.insert(NAME_COLUMN, Cell::text(name));
        }
    }
    if kind != FilterKind::Tunnel {
        columns.insert(KIND_COLUMN, Column::kept("KIND"));
        for (row, tunnel) in rows.iter_mut().zip(&listing.tunnels) {
            row.insert(KIND_COLUMN, Cell::text(kind_in_words(tunnel.kind)));
        }
    }
    let mut text = table(&columns, &rows, Screen::of_output());
    let matched = listing.matched.unwrap_or(listing.tunnels.len());
    let more = matched.saturating_sub(listing.tunnels.len());
    if more > 0 {
        text.push_str(&format!(
            "{more} more {} match; raise --limit to list them\n",
            kind.plural()
        ));
    }
    text
}

fn kind_in_words(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Tunnel => "tunnel",
        SessionKind::Stream => "stream",
    }
}

fn row(tunnel: &TunnelInfo, measured: bool) -> Vec<Cell> {
    let [messages_in, messages_out, bytes_in, bytes_out] = match &tunnel.rates {
        Some(rates) if measured => [
            Cell::number(format!("{:.1}", rates.messages_from_client)),
            Cell::number(format!("{:.1}", rates.messages_from_endpoint)),
            Cell::bytes(rates.bytes_from_client),
            Cell::bytes(rates.bytes_from_endpoint),
        ],
        _ => [
            Cell::number(tunnel.messages_from_client),
            Cell::number(tunnel.messages_from_endpoint),
            Cell::bytes(tunnel.bytes_from_client as f64),
            Cell::bytes(tunnel.bytes_from_endpoint as f64),
        ],
    };
    let ending = tunnel
        .ending
        .as_ref()
        .map(|why| format!(" (closing: {why})"));
    let asked_for = format!(
        "{}{}{}",
        tunnel.host,
        tunnel.path,
        ending.unwrap_or_default()
    );
    vec![
        Cell::text(&tunnel.id.to_string()),
        Cell::text(&tunnel.client),
        Cell::text(&tunnel.route),
        Cell::text(&tunnel.endpoint),
        Cell::time(tunnel.age_seconds as u64),
        Cell::time(tunnel.idle_seconds),
        messages_in,
        messages_out,
        bytes_in,
        bytes_out,
        Cell::text(&asked_for),
    ]
}
