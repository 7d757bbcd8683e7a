//! What does not fit together between a listener's addresses, its certificates and its hosts.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{is_behind_something, routes_of};
use crate::config::build::{ListenerPlaces, Places};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Bind, CertificateConfig, Config, HostPattern, ListenerConfig};
use crate::config::sources::Span;

pub(super) fn lint(config: &Config, places: &Places, diagnostics: &mut Vec<Diagnostic>) {
    for (listener, place) in config.listeners.iter().zip(&places.listeners) {
        lint_ports(listener, place, diagnostics);
        lint_certificates(config, places, listener, place, diagnostics);
    }
}

/// A proxy in front may speak plain text on port 443, because it has removed TLS.
fn lint_ports(
    listener: &ListenerConfig,
    place: &ListenerPlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (bind, span) in listener.binds.iter().zip(&place.binds) {
        let Bind::Tcp(address) = bind else {
            continue;
        };
        let (message, hint) = match (address.port(), &listener.tls) {
            (443, None) if !is_behind_something(listener) => (
                "plain text on port 443, where clients expect TLS",
                "add `[listener.NAME.tls]` with `certificates`, or use port 80",
            ),
            (80, Some(_)) => (
                "TLS on port 80, where clients expect plain text",
                "use port 443, and another listener with `redirect_to_https = true` for port 80",
            ),
            _ => continue,
        };
        let message = format!("listener `{}` speaks {message}", listener.name);
        let hint = hint.replace("NAME", &listener.name);
        diagnostics.push(Diagnostic::warning(Code::UsualPort, span.clone(), message).hint(hint));
    }
}

/// Warns about certificates for other hosts, and about hosts without a certificate. A proxy in front that
/// speaks HTTP is the only one to see the certificate, and may not look at its names.
fn lint_certificates(
    config: &Config,
    places: &Places,
    listener: &ListenerConfig,
    place: &ListenerPlaces,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let Some(tls) = &listener.tls else {
        return;
    };
    let trust = &listener.trust;
    if !trust.proxies.is_empty() && !trust.proxy_protocol {
        return;
    }
    let mut hosts: Vec<(&HostPattern, &Span)> = Vec::new();
    let mut seen = HashSet::new();
    let mut takes_any = false;
    for (route, place) in routes_of(config, places, listener) {
        takes_any |= route.hosts.is_empty();
        for (host, span) in route.hosts.iter().zip(&place.hosts) {
            if !is_address(host) && seen.insert(host) {
                hosts.push((host, span));
            }
        }
    }
    let covers = |certificate: &CertificateConfig| {
        let names = &certificate.names;
        names.is_empty() || hosts.iter().any(|(host, _)| covers_any(names, host))
    };
    let mut is_any_useful = false;
    for (certificate, span) in tls.certificates.iter().zip(&place.certificates) {
        if takes_any || hosts.is_empty() || covers(certificate) {
            is_any_useful = true;
            continue;
        }
        let file = certificate.cert.display();
        let name = &listener.name;
        let message = format!("the certificate in `{file}` covers no host of listener `{name}`");
        let named = listed(certificate.names.iter());
        let wanted = listed(hosts.iter().map(|(host, _)| *host));
        let hint = format!("it is for {named}, but the listener's routes are for {wanted}");
        let warning = Diagnostic::warning(Code::CertificateNames, span.clone(), message);
        diagnostics.push(warning.hint(hint));
    }
    if is_any_useful {
        lint_hosts(listener, &tls.certificates, &hosts, diagnostics);
    }
}

fn lint_hosts(
    listener: &ListenerConfig,
    certificates: &[CertificateConfig],
    hosts: &[(&HostPattern, &Span)],
    diagnostics: &mut Vec<Diagnostic>,
) {
    // A certificate without names that we can read may cover anything.
    if certificates.iter().any(|each| each.names.is_empty()) {
        return;
    }
    for (host, span) in hosts {
        let mut names = certificates.iter().map(|each| &each.names);
        if !names.any(|names| covers_any(names, host)) {
            let name = &listener.name;
            let message = format!("no certificate of listener `{name}` covers host `{host}`");
            let all = certificates.iter().flat_map(|each| &each.names);
            let hint = format!(
                "clients will refuse the connection; the certificates are for {}",
                listed(all)
            );
            let span = Span::clone(span);
            let warning = Diagnostic::warning(Code::CertificateNames, span, message);
            diagnostics.push(warning.hint(hint));
        }
    }
}

/// Whether one of the names in a certificate covers `host`, or a part of what it stands for.
fn covers_any(names: &[HostPattern], host: &HostPattern) -> bool {
    names.iter().any(|name| match (name, host) {
        (pattern, HostPattern::Exact(host)) | (HostPattern::Exact(host), pattern) => {
            pattern.fits(host)
        }
        (one, other) => one == other,
    })
}

/// Certificates for addresses are rare, and their addresses are not read.
fn is_address(host: &HostPattern) -> bool {
    match host {
        HostPattern::Exact(host) => host.starts_with('[') || host.parse::<IpAddr>().is_ok(),
        HostPattern::Wildcard(_) => false,
    }
}

/// A few names, and the number of the others.
fn listed<'a>(names: impl Iterator<Item = &'a HostPattern>) -> String {
    /// The number of names that fit into a line.
    const FEW: usize = 3;
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.get(FEW..) {
        Some([_, ..]) => {
            let first: Vec<&str> = names.iter().take(FEW).map(String::as_str).collect();
            format!("{} and {} more", first.join(", "), names.len() - FEW)
        }
        _ => names.join(", "),
    }
}
