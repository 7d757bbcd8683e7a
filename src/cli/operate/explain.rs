//! `tidegate explain`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::Args;
use tidegate::admin::api::explain::{ExplainRequest, ExplainResponse};
use tidegate::admin::api::operation::Operation;

use super::{show_json, status};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::table::harmless;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExplainArgs {
    /// What is asked for: with ws:// and wss:// a handshake
    #[arg(value_name = "URL")]
    url: String,
    /// The listener that it comes by [default: the first that fits the URL]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The client's address
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// The client shows a certificate
    #[arg(long)]
    certificate: bool,
    /// The method of a plain request
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// A header: may be there several times, for several
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    admin: AdminClient,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(super) fn explain(verb: ExplainArgs) -> Result<(), ClientError> {
    let question = ExplainRequest {
        url: verb.url,
        listener: verb.listener,
        client: verb.client,
        certificate: verb.certificate,
        method: verb.method,
        headers: verb.headers.into_iter().collect::<BTreeMap<_, _>>(),
    };
    let answer = verb.admin.ask(Operation::Explain, "", Some(&question))?;
    if verb.admin.json {
        show_json(&answer);
        return Ok(());
    }
    out(&shown(&verb.admin.read(&answer)?));
    Ok(())
}

fn shown(told: &ExplainResponse) -> String {
    let kind = if told.handshake {
        "handshake"
    } else {
        "plain request"
    };
    let mut lines = vec![
        format!("listener  {}", told.listener),
        format!(
            "asks for  {} {} ({kind})",
            harmless(&told.host),
            harmless(&told.path)
        ),
        format!("route     {}", told.route.as_deref().unwrap_or("none")),
    ];
    for other in &told.other_routes {
        lines.push(format!(
            "          not {}: {}",
            other.route,
            harmless(&other.why)
        ));
    }
    if let Some(answer) = &told.response {
        lines.push(format!(
            "answer    {} {}: {}",
            answer.status,
            answer.reason,
            harmless(&answer.text)
        ));
    }
    for what in &told.depends_on {
        lines.push(format!("depends   on {}", harmless(what)));
    }
    if let (Some(endpoint), Some(why)) = (&told.endpoint, &told.why) {
        lines.push(format!("endpoint  {} ({why})", harmless(endpoint)));
    }
    if let Some(path) = &told.endpoint_path {
        lines.push(format!("it gets   {}", harmless(path)));
    }
    let mut text = lines.join("\n") + "\n";
    if let Some(upstream) = &told.upstream {
        text.push('\n');
        text.push_str(&status::of_upstreams(std::slice::from_ref(upstream)));
    }
    text
}
