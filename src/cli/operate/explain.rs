//! `tidegate explain`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::Args;
use tidegate::admin::api::explain::{BranchState, ExplainRequest, ExplainResponse, ExplainedSplit};
use tidegate::admin::api::operation::Operation;

use super::{show_json, status};
use crate::cli::argument::address;
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::screen::Screen;
use crate::cli::table::harmless;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExplainArgs {
    /// URL of the request; ws:// and wss:// mean a WebSocket handshake
    #[arg(value_name = "URL")]
    url: String,
    /// Listener that receives the request [default: the first with the port and the scheme of the URL]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Address of the client
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    client: Option<IpAddr>,
    /// Assume that the client presents a certificate
    #[arg(long)]
    certificate: bool,
    /// Method of a plain HTTP request [default: GET]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// A request header; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    admin: AdminClient,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("use NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(super) fn explain(verb: ExplainArgs) -> Result<(), ClientError> {
    let request = ExplainRequest {
        url: verb.url,
        listener: verb.listener,
        client: verb.client,
        certificate: verb.certificate,
        method: verb.method,
        headers: verb.headers.into_iter().collect::<BTreeMap<_, _>>(),
    };
    let response = verb.admin.ask(Operation::Explain, "", Some(&request))?;
    if verb.admin.json {
        show_json(&response);
        return Ok(());
    }
    out(&shown(&verb.admin.read(&response)?));
    Ok(())
}

fn shown(explained: &ExplainResponse) -> String {
    let kind = if explained.handshake {
        "handshake"
    } else {
        "plain request"
    };
    let mut lines = vec![
        format!("listener  {}", explained.listener),
        format!("request   {} {} ({kind})", explained.host, explained.path),
        format!("route     {}", explained.route.as_deref().unwrap_or("none")),
    ];
    for other in &explained.other_routes {
        lines.push(format!("          not {}: {}", other.route, other.why));
    }
    if explained.more_routes > 0 {
        lines.push(format!("          nor {} others", explained.more_routes));
    }
    for (title, names) in [
        ("allow", &explained.allow),
        ("deny", &explained.deny),
        ("origins", &explained.origins),
    ] {
        if !names.is_empty() {
            lines.push(format!("{title:<10}{}", names.join(", ")));
        }
    }
    if let Some(response) = &explained.response {
        lines.push(format!(
            "response  {} {}: {}",
            response.status, response.reason, response.text
        ));
    }
    for what in &explained.depends_on {
        lines.push(format!("depends   on {what}"));
    }
    if let Some(split) = &explained.split {
        lines.extend(split_lines(split));
    }
    if let (Some(endpoint), Some(why)) = (&explained.endpoint, &explained.why) {
        lines.push(format!("endpoint  {endpoint} ({why})"));
    }
    if let Some(path) = &explained.endpoint_path {
        lines.push(format!("path sent {path}"));
    }
    if let Some(host) = &explained.endpoint_host {
        lines.push(format!("Host sent {host}"));
    }
    if let Some(prefix) = &explained.restored_prefix {
        lines.push(format!(
            "response  gets {prefix} back in Location and cookie paths"
        ));
    }
    // Some of it comes from the request, and all of it from another process.
    let mut text: String = lines.iter().map(|line| harmless(line) + "\n").collect();
    if let Some(upstream) = &explained.upstream {
        text.push('\n');
        text.push_str(&status::of_upstreams(
            std::slice::from_ref(upstream),
            Screen::of_output(),
        ));
    }
    text
}

/// The upstreams of a split, the one that is tried first at the top.
fn split_lines(split: &ExplainedSplit) -> Vec<String> {
    let mut lines = Vec::new();
    for (position, branch) in split.upstreams.iter().enumerate() {
        let state = match branch.state {
            BranchState::Up => "",
            BranchState::Doubtful => ", doubtful",
            BranchState::Down => ", down",
        };
        let weight = format!("weight {}{state}", branch.weight);
        lines.push(match position {
            0 => format!("split     {} ({weight}): {}", branch.upstream, split.why),
            _ => format!("          then {} ({weight})", branch.upstream),
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_controls_the_terminal() {
        let odd = "a\u{1b}[2Jb\n";
        let explained = serde_json::json!({
            "listener": odd, "handshake": true, "host": odd, "path": odd, "route": odd,
            "other_routes": [{"route": odd, "why": odd}],
            "origins": [odd],
            "response": {"status": 400, "reason": odd, "text": odd},
            "depends_on": [odd],
            "endpoint_path": odd, "endpoint_host": odd, "restored_prefix": odd, "endpoint": odd, "why": odd,
            "split": {
                "why": odd,
                "upstreams": [
                    {"upstream": odd, "weight": 1, "state": "up"},
                    {"upstream": odd, "weight": 1, "state": "down"},
                ],
            },
        });
        let text = shown(&serde_json::from_value(explained).unwrap());
        assert_eq!(text.lines().count(), 13, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(text.contains(r"not a\u{1b}[2Jb\n: a\u{1b}[2Jb\n"), "{text}");
    }
}
