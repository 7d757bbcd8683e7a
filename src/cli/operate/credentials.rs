//! `tidegate revoke` and `extend`.

use clap::Args;
use tidegate::admin::api::credentials::{
    ExtendRequest, ExtendResponse, RevokeRequest, RevokeResponse,
};
use tidegate::admin::api::operation::Operation;
use tidegate::displace::tunnel_filter::{HumanDuration, TunnelId};

use super::fleet::{FleetArg, NodeWork, each_node, each_node_json};
use super::{show_json, tunnels_in_words};
use crate::cli::client::{AdminClient, ClientError};
use crate::cli::out;
use crate::cli::table::harmless;

#[derive(Debug, Args)]
pub(in crate::cli) struct RevokeArgs {
    /// The subject: the `sub` of tokens, or the user that a service names
    #[arg(value_name = "SUBJECT")]
    subject: String,
    /// Only as this `[auth.NAME]` knows the subject [default: as any does]
    #[arg(long, value_name = "NAME")]
    auth: Option<String>,
    /// How long credentials from before are refused, at most 31 days; as long as the longest is valid [default: 24h]
    #[arg(long = "for", value_name = "TIME")]
    keep: Option<HumanDuration>,
    #[command(flatten)]
    fleet: FleetArg,
    #[command(flatten)]
    client: AdminClient,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExtendArgs {
    /// The tunnel with this id, as shown in logs and by `tidegate tunnels`
    #[arg(value_name = "ID")]
    id: TunnelId,
    /// The time from now after which its credential expires, e.g. 10m
    #[arg(value_name = "TIME")]
    expires_in: HumanDuration,
    #[command(flatten)]
    client: AdminClient,
}

pub(super) fn revoke(verb: RevokeArgs) -> Result<(), ClientError> {
    let request = RevokeRequest {
        subject: verb.subject,
        auth: verb.auth,
        keep: verb.keep,
    };
    let ask = |client: &AdminClient| client.ask(Operation::Revoke, "", Some(&request));
    let revoked = |client: &AdminClient| {
        let response: RevokeResponse = client.read(&ask(client)?)?;
        let closed = tunnels_in_words(response.closed as u64);
        let subject = harmless(&request.subject);
        Ok(format!("revoked {subject}; closed {closed}\n"))
    };
    let client = &verb.client;
    let work = NodeWork::Changes;
    match (verb.fleet.fleet, client.json) {
        (false, true) => show_json(&ask(client)?),
        (false, false) => out(&revoked(client)?),
        (true, true) => return each_node_json(client, work, |node| node.read(&ask(node)?)),
        (true, false) => return each_node(client, work, revoked),
    }
    Ok(())
}

pub(super) fn extend(verb: &ExtendArgs) -> Result<(), ClientError> {
    let request = ExtendRequest {
        id: verb.id,
        expires_in: verb.expires_in,
    };
    let response = verb
        .client
        .ask(Operation::ExtendTunnel, "", Some(&request))?;
    if verb.client.json {
        show_json(&response);
        return Ok(());
    }
    let response: ExtendResponse = verb.client.read(&response)?;
    let (id, time) = (response.id, request.expires_in);
    out(&format!("tunnel {id} may go on for {time}\n"));
    Ok(())
}
