//! Commands with `--fleet`: each member is asked at its own admin interface.
//!
//! The list of members comes from the store, which others can write. A token goes only where the configuration of
//! the local node allows it, and only by TLS or within this machine.

use std::thread;
use std::time::Duration;

use clap::Args;
use http::StatusCode;
use serde_json::{Value, json};
use tidegate::admin::api::fleet::{FleetInfo, MemberInfo, StoreInfo};
use tidegate::admin::api::operation::Operation;
use tidegate::admin::error::ErrorResponse;
use tidegate::config::model::{HostPattern, Net, Nets, TrustedMembers};

use super::{NOTHING, in_lines};
use crate::cli::admin_address::AdminAddress;
use crate::cli::client::{AdminClient, ClientError, IncompleteFleet};
use crate::cli::out;
use crate::cli::table::{harmless, short};
use crate::cli::unreached::Unreached;

/// How old the list of members may be. It is compared with the store every ten seconds.
const MAX_AGE_SECONDS: u64 = 30;

/// How long one member may take.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(15);

/// Members that are asked at once.
const MAX_AT_ONCE: usize = 16;

/// Whether a command is for all nodes
#[derive(Debug, Clone, Copy, Default, Args)]
pub(in crate::cli) struct FleetArg {
    /// Do it on every node of the fleet (`[fleet]` in the configuration), by its admin interface
    #[arg(long, conflicts_with = "generation")]
    pub(super) fleet: bool,
}

/// The nodes of the fleet.
pub(super) struct NodeList {
    info: FleetInfo,
    members: Vec<FleetMember>,
}

struct FleetMember {
    node: String,
    /// Why it is not asked, instead of a client of it.
    client: Result<AdminClient, String>,
}

/// What a command does at each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeWork {
    /// It shows something.
    Looks,
    /// It changes something, which must not leave out a node without anybody noticing.
    Changes,
}

/// What each node has responded, by its name.
pub(super) type NodeResponses<T> = Vec<(String, Result<T, String>)>;

/// Why the members are not known; `None` if they are.
fn unknown_members(info: &FleetInfo) -> Option<&'static str> {
    if !info.share.iter().any(|shared| shared == "members") {
        return Some(
            "the nodes do not share the list of members: add \"members\" to `fleet.share`",
        );
    }
    let store = info.store.as_ref();
    store
        .is_some_and(|store| store.read_seconds_ago.is_none())
        .then_some("the list of members is not known: the store was not read yet")
}

impl NodeList {
    /// The fleet that the local node knows.
    pub(super) fn of(client: &AdminClient) -> Result<Self, ClientError> {
        let info: FleetInfo = client.read(&client.ask(Operation::Fleet, "", NOTHING)?)?;
        if let Some(why) = unknown_members(&info) {
            let refusal = ErrorResponse {
                error: why.to_owned(),
                details: Vec::new(),
            };
            return Err(ClientError::Refused(refusal, StatusCode::CONFLICT));
        }
        let trusted = trusted(&info);
        let mut members: Vec<FleetMember> = info
            .members
            .iter()
            .map(|member| FleetMember {
                node: member.node.clone(),
                client: client_of(member, client, &trusted),
            })
            .collect();
        if !info.members.iter().any(|member| member.is_self) {
            // It is a node of the fleet all the same, whatever the store says.
            members.push(FleetMember {
                node: info.node.clone(),
                client: Ok(client.clone()),
            });
        }
        Ok(Self { info, members })
    }

    /// What the local node knows.
    pub(super) fn info(&self) -> &FleetInfo {
        &self.info
    }

    /// Why it may be out of date; `None` if it is not.
    pub(super) fn stale(&self) -> Option<String> {
        self.info.store.as_ref().and_then(of_store)
    }

    /// An error if a node has not done it, or if there may be nodes that were not asked to change something.
    pub(super) fn outcome<T>(
        &self,
        work: NodeWork,
        responses: &NodeResponses<T>,
    ) -> Result<(), ClientError> {
        let stale = self.stale().filter(|_| work == NodeWork::Changes);
        let nodes = responses.len();
        let failed = responses.iter().filter(|(_, response)| response.is_err());
        let failed: Vec<String> = failed.map(|(node, _)| harmless(node)).collect();
        if failed.is_empty() {
            let incomplete = |why| ClientError::Incomplete(IncompleteFleet { why, nodes });
            return stale.map_or(Ok(()), |why| Err(incomplete(why)));
        }
        let failures = failed.len();
        let mut cure = "the lines above say why; it is done on the others".to_owned();
        if let Some(stale) = stale {
            cure += &format!(", and there may be more nodes: {stale}");
        }
        Err(ClientError::Unreached(Unreached {
            why: format!("{failures} of {nodes} nodes failed: {}", failed.join(", ")),
            cure,
        }))
    }

    /// Asks every node, several at once; returns the responses in the order of their names.
    pub(super) fn ask<T: Send>(
        &self,
        ask: impl Fn(&AdminClient) -> Result<T, ClientError> + Sync,
    ) -> NodeResponses<T> {
        let one = |member: &FleetMember| {
            let response = match &member.client {
                Ok(client) => ask(client).map_err(|failure| first_line(&failure)),
                Err(why) => Err(why.clone()),
            };
            (member.node.clone(), response)
        };
        let mut responses = Vec::with_capacity(self.members.len());
        for members in self.members.chunks(MAX_AT_ONCE) {
            thread::scope(|scope| {
                let asked = members
                    .iter()
                    .map(|member| scope.spawn(move || one(member)));
                let asked: Vec<_> = asked.collect();
                responses.extend(asked.into_iter().zip(members).map(|(response, member)| {
                    let lost = || (member.node.clone(), Err("it could not be asked".to_owned()));
                    response.join().unwrap_or_else(|_| lost())
                }));
            });
        }
        responses
    }
}

/// Asks every node, and prints each response under the name of its node.
pub(super) fn each_node(
    client: &AdminClient,
    work: NodeWork,
    ask: impl Fn(&AdminClient) -> Result<String, ClientError> + Sync,
) -> Result<(), ClientError> {
    let fleet = NodeList::of(client)?;
    if work == NodeWork::Looks {
        warn_of_store(&fleet);
    }
    let responses = fleet.ask(ask);
    for (node, response) in &responses {
        let node = harmless(node);
        out(&match response {
            Ok(text) => format!("{node}:\n{}", indented(text)),
            Err(why) => format!("{node}: {}\n", harmless(why)),
        });
    }
    fleet.outcome(work, &responses)
}

/// The same as JSON: an object with a list `nodes`, each of which has a `node`, and a `response` or an `error`, and
/// with `stale`: whether the list may be out of date.
pub(super) fn each_node_json(
    client: &AdminClient,
    work: NodeWork,
    ask: impl Fn(&AdminClient) -> Result<Value, ClientError> + Sync,
) -> Result<(), ClientError> {
    let fleet = NodeList::of(client)?;
    let responses = fleet.ask(ask);
    let nodes = responses.iter().map(|(node, response)| match response {
        Ok(response) => json!({ "node": node, "response": response }),
        Err(why) => json!({ "node": node, "error": why }),
    });
    let nodes: Vec<Value> = nodes.collect();
    let shown = json!({ "nodes": nodes, "stale": fleet.stale().is_some() });
    out(&format!("{shown:#}\n"));
    fleet.outcome(work, &responses)
}

/// Says on top of a listing that the list of nodes may be old.
pub(super) fn warn_of_store(fleet: &NodeList) {
    if let Some(line) = fleet.stale() {
        out(&format!("{line}\n"));
    }
}

/// Why the list of nodes may be out of date; `None` if it is not.
fn of_store(store: &StoreInfo) -> Option<String> {
    let known = match store.read_seconds_ago {
        Some(seconds) => format!("the list of nodes is {} old", short(seconds)),
        None => "no other node is known".to_owned(),
    };
    let is_old = store.read_seconds_ago.is_none_or(|it| it > MAX_AGE_SECONDS);
    match &store.read_error {
        Some(error) => Some(format!(
            "the store cannot be read ({}): {known}",
            harmless(error)
        )),
        None if is_old => Some(format!("the store does not respond: {known}")),
        None => None,
    }
}

/// A client of a member, or why it is not asked.
fn client_of(
    member: &MemberInfo,
    local: &AdminClient,
    trusted: &TrustedMembers,
) -> Result<AdminClient, String> {
    if member.is_self {
        return Ok(local.clone());
    }
    let Some(url) = &member.admin else {
        return Err(
            "its admin interface has no address for other nodes (`fleet.admin.url`)".to_owned(),
        );
    };
    let address = address_of(url, trusted)?;
    Ok(local.at(address, MEMBER_TIMEOUT))
}

/// The address in the URL of a member, if a token may go there.
fn address_of(url: &str, trusted: &TrustedMembers) -> Result<AdminAddress, String> {
    let parsed = AdminAddress::parse(url);
    let (address, is_tls) = match &parsed {
        Ok(AdminAddress::Tls(address)) => (address, true),
        Ok(AdminAddress::Tcp(address)) if url.starts_with("http://") => (address, false),
        _ => return Err(format!("`{url}` is not the URL of an admin interface")),
    };
    let host = address.rsplit_once(':').map_or("", |(host, _)| host);
    if host.contains(['@', '?', '#']) {
        return Err(format!("`{url}` is not the URL of an admin interface"));
    }
    if !is_tls && !is_loopback(host) {
        return Err(format!(
            "not asked: a token would cross the network to {url} in plain text"
        ));
    }
    if !trusted.contain(host) {
        return Err(format!(
            "not asked: its address {url} is neither in `fleet.admin.names` nor in `fleet.admin.networks`"
        ));
    }
    parsed
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<std::net::IpAddr>();
    address.is_ok_and(|address| address.is_loopback())
}

/// The members that the configuration of the local node trusts.
fn trusted(info: &FleetInfo) -> TrustedMembers {
    let names = info
        .trusted_names
        .iter()
        .map(|name| match name.strip_prefix("*.") {
            Some(parent) => HostPattern::Wildcard(parent.into()),
            None => HostPattern::Exact(name.as_str().into()),
        });
    let networks = info.trusted_networks.iter().filter_map(|net| {
        let address = net.parse::<std::net::IpAddr>().map(Into::into);
        net.parse().or(address).ok().map(Net::Ip)
    });
    TrustedMembers {
        names: names.collect(),
        networks: Nets::new(networks.collect()),
    }
}

/// An error in one line.
fn first_line(failure: &ClientError) -> String {
    let text = in_lines(failure);
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(read_error: Option<&str>, read_seconds_ago: u64) -> NodeList {
        let store = StoreInfo {
            kind: "etcd".to_owned(),
            location: String::new(),
            read_error: read_error.map(str::to_owned),
            write_error: None,
            error_since: None,
            read_seconds_ago: Some(read_seconds_ago),
            keys: 0,
            bytes: 0,
        };
        let info = FleetInfo {
            node: "a".to_owned(),
            share: vec!["members".to_owned()],
            name: "held".to_owned(),
            store: Some(store),
            trusted_names: Vec::new(),
            trusted_networks: Vec::new(),
            members: Vec::new(),
        };
        let members = Vec::new();
        NodeList { info, members }
    }

    #[test]
    fn a_change_with_an_old_list_is_incomplete() {
        let done = vec![("a".to_owned(), Ok(()))];
        let failed = vec![
            ("a".to_owned(), Ok(())),
            ("b".to_owned(), Err(String::new())),
        ];
        for (list, is_stale) in [
            (list(None, 12), false),
            (list(None, 31), true),
            (list(Some("no response"), 12), true),
        ] {
            let outcome = |work, responses| match list.outcome(work, responses) {
                Ok(()) => 0,
                Err(ClientError::Unreached(_)) => 6,
                Err(ClientError::Refused(..)) => 7,
                Err(ClientError::Incomplete(_)) => 9,
            };
            let code = if is_stale { 9 } else { 0 };
            assert_eq!(outcome(NodeWork::Changes, &done), code, "{:?}", list.info);
            assert_eq!(outcome(NodeWork::Looks, &done), 0);
            assert_eq!(outcome(NodeWork::Changes, &failed), 6);
            let shown = list
                .outcome(NodeWork::Changes, &failed)
                .unwrap_err()
                .to_string();
            assert_eq!(
                shown.contains("there may be more nodes"),
                is_stale,
                "{shown}"
            );
        }
    }

    #[test]
    fn a_token_goes_only_where_the_configuration_allows_it() {
        let trusted = TrustedMembers {
            names: vec![HostPattern::Wildcard("edge.internal".into())],
            networks: Nets::new(vec![
                Net::Ip("10.0.0.0/24".parse().unwrap()),
                Net::Ip("127.0.0.0/8".parse().unwrap()),
            ]),
        };
        for (url, expected) in [
            (
                "https://a.edge.internal:9900",
                Ok("https://a.edge.internal:9900"),
            ),
            ("https://10.0.0.9:9900", Ok("https://10.0.0.9:9900")),
            ("http://127.0.0.1:9900", Ok("127.0.0.1:9900")),
            ("https://10.0.1.9:9900", Err("not asked: its address")),
            (
                "https://a.edge.internal.evil.example:9900",
                Err("not asked: its address"),
            ),
            ("https://evil.example:9900", Err("not asked: its address")),
            (
                "http://10.0.0.9:9900",
                Err("not asked: a token would cross"),
            ),
            (
                "http://a.edge.internal:9900",
                Err("not asked: a token would cross"),
            ),
            ("http://[::1]:9900", Err("not asked: its address")),
            ("127.0.0.1:9900", Err("`127.0.0.1:9900` is not the URL")),
            (
                "unix:/run/evil.sock",
                Err("`unix:/run/evil.sock` is not the URL"),
            ),
            (
                "https://a.edge.internal@evil.example:9900",
                Err("`https://a.edge.internal@evil"),
            ),
            (
                "https://evil.example?a.edge.internal:9900",
                Err("`https://evil"),
            ),
            (
                "https://evil.example/a.edge.internal:9900",
                Err("`https://evil"),
            ),
            ("", Err("`` is not the URL")),
        ] {
            match (address_of(url, &trusted), expected) {
                (Ok(address), Ok(expected)) => assert_eq!(address.to_string(), expected),
                (Err(why), Err(expected)) => assert!(why.starts_with(expected), "{url}: {why}"),
                (found, _) => panic!("{url}: {found:?}"),
            }
        }
    }
}
