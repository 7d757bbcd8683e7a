//! `tidegate tunnels`.

use clap::{Args, ValueEnum};
use tidegate::admin::api::operation::Operation;
use tidegate::admin::api::tunnels::{Layout, Listing, Sort, Tunnel};
use tidegate::displace::filter::{Filter, Id, Span};

use super::{NOTHING, Which, each_generation, show_json};
use crate::cli::client::{Failure, Reach};
use crate::cli::colour_out;
use crate::cli::table::{Cell, table};

#[derive(Debug, Args)]
pub(in crate::cli) struct Tunnels {
    /// Only the tunnel with this id, as in logs
    #[arg(value_name = "ID")]
    id: Option<Id>,
    #[command(flatten)]
    which: Which,
    /// What comes first: the greatest of these
    #[arg(long, value_enum, default_value_t = By::Age)]
    sort: By,
    /// So many at most
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: usize,
    /// Measure rates for so long, up to 10s, and sort by these: finds who floods
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s")]
    rates: Option<Span>,
    #[command(flatten)]
    reach: Reach,
}

/// What tunnels are sorted by.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Age,
    Idle,
    Bytes,
    Messages,
}

pub(super) fn tunnels(verb: Tunnels) -> Result<(), Failure> {
    let Tunnels {
        id,
        which,
        sort,
        limit,
        rates,
        reach,
    } = verb;
    let sort = match sort {
        // Whoever measures rates wants to see them.
        By::Age if rates.is_some() => Sort::Messages,
        By::Age => Sort::Age,
        By::Idle => Sort::Idle,
        By::Bytes => Sort::Bytes,
        By::Messages => Sort::Messages,
    };
    let layout = Layout {
        sort: Some(sort),
        limit: Some(limit),
        after: None,
        over: rates,
    };
    let query = query(&which.filter(id), &layout);
    if reach.json {
        show_json(&reach.ask(Operation::Tunnels, &query, NOTHING)?);
        return Ok(());
    }
    each_generation(&reach, |reach| {
        let answer = reach.ask(Operation::Tunnels, &query, NOTHING)?;
        Ok(shown(&reach.read(&answer)?))
    })
}

fn query(filter: &Filter, layout: &Layout) -> String {
    let pairs = [
        serde_urlencoded::to_string(filter),
        serde_urlencoded::to_string(layout),
    ];
    let pairs: Vec<String> = pairs.into_iter().flatten().collect();
    pairs.join("&")
}

fn shown(listing: &Listing) -> String {
    let measured = listing.tunnels.iter().any(|it| it.rates.is_some());
    let rows: Vec<Vec<Cell>> = listing.tunnels.iter().map(|it| row(it, measured)).collect();
    let (messages, bytes) = match measured {
        true => ("MSG/S IN", "BYTES/S IN"),
        false => ("MSG IN", "BYTES IN"),
    };
    let (messages_out, bytes_out) = match measured {
        true => ("MSG/S OUT", "BYTES/S OUT"),
        false => ("MSG OUT", "BYTES OUT"),
    };
    let header = [
        "ID",
        "CLIENT",
        "ROUTE",
        "ENDPOINT",
        "AGE",
        "IDLE",
        messages,
        messages_out,
        bytes,
        bytes_out,
        "ASKED FOR",
    ];
    let mut text = table(&header, &rows, colour_out());
    let matched = listing.matched.unwrap_or(listing.tunnels.len());
    let more = matched.saturating_sub(listing.tunnels.len());
    if more > 0 {
        text.push_str(&format!("and {more} more: --limit shows more of them\n"));
    }
    text
}

fn row(tunnel: &Tunnel, measured: bool) -> Vec<Cell> {
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
