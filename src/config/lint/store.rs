//! Warnings about the store and the fleet.

use http::Uri;

use crate::config::build::Places;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Config, EtcdConfig, FleetConfig, StorePlace};
use crate::config::sources::Span;

pub(super) fn lint(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    let mut warn = |code, span: &Option<Span>, message: String, hint: &str| {
        if let Some(span) = span {
            diagnostics.push(Diagnostic::warning(code, span.clone(), message).hint(hint));
        }
    };
    let fleet = config.fleet.as_deref();
    if config.store.is_some() && fleet.is_none_or(|fleet| fleet.share.is_nothing()) {
        warn(
            Code::NoEffect,
            &places.store.table,
            "nothing is shared through the store".to_owned(),
            "add e.g. `[fleet]` with `share = [\"members\"]`",
        );
    }
    if let Some(StorePlace::Etcd(etcd)) = config.store.as_ref().map(|it| &it.place)
        && let Some(member) = plain_member(etcd)
    {
        warn(
            Code::PlainStore,
            &places.store.endpoints,
            format!(
                "what nodes share crosses the network to `{member}` in plain text, passwords included"
            ),
            "use `https` URLs, and `tls.ca` if a CA of your own has issued the certificates of etcd",
        );
    }
    let Some(fleet) = fleet.filter(|fleet| fleet.share.members) else {
        return;
    };
    let shares = places.fleet.shared.iter();
    let members = shares.filter(|(shared, _)| **shared == *"members");
    let members = members.map(|(_, span)| span.clone()).next();
    match &fleet.admin_url {
        None => warn(
            Code::NoEffect,
            &members,
            "commands with `--fleet` on other nodes do not reach this one: its admin interface has no address for them".to_owned(),
            "set `admin.bind` to an address of this node's network, with `admin.tls`, or set `fleet.admin.url`",
        ),
        Some(url) if is_plain(fleet) => warn(
            Code::PlainToken,
            places.fleet.admin_url.as_ref().map_or(&members, |_| &places.fleet.admin_url),
            format!("commands send no token to `{url}`: it would cross the network in plain text"),
            "set `admin.tls`, and use an `https` URL",
        ),
        Some(_) => {}
    }
}

/// A member of etcd that is asked in plain text over a network.
fn plain_member(etcd: &EtcdConfig) -> Option<&Uri> {
    let plain = etcd.members.iter().filter(|_| etcd.tls.is_none());
    let mut plain = plain.filter(|url| !url.host().is_some_and(is_loopback));
    plain.next()
}

/// Whether the URL of the admin interface is one that no command sends a token to.
fn is_plain(fleet: &FleetConfig) -> bool {
    let url = fleet
        .admin_url
        .as_deref()
        .and_then(|url| url.parse::<Uri>().ok());
    url.is_some_and(|url| url.scheme_str() == Some("http") && !url.host().is_some_and(is_loopback))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|it| it.is_loopback())
}
