//! What does not fit together between a listener's addresses, its certificates and its hosts.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{is_behind_something, routes_of};
use crate::config::build::{ListenerPlaces, Places};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Bind, Config, HostPattern, ListenerCertificate, ListenerConfig};
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
                "add `tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]` with your files to the listener, or use port 80",
            ),
            (80, Some(_)) => (
                "TLS on port 80, where clients expect plain text",
                "use port 443, and another listener with `redirect_to_https = true` for port 80",
            ),
            _ => continue,
        };
        let message = format!("listener `{}` speaks {message}", listener.name);
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
    let wanted = PatternSet::new(hosts.iter().map(|(host, _)| *host));
    let covers =
        |names: &[HostPattern]| names.is_empty() || names.iter().any(|name| wanted.meets(name));
    let mut is_any_useful = false;
    for (certificate, place) in tls.certificates.iter().zip(&place.certificates) {
        let names = certificate.names();
        let is_useful = takes_any || hosts.is_empty() || covers(names);
        is_any_useful |= is_useful;
        let name = &listener.name;
        match certificate {
            ListenerCertificate::Files(files) if !is_useful => {
                let file = files.cert.display();
                let message =
                    format!("the certificate in `{file}` covers no host of listener `{name}`");
                let names: Vec<&HostPattern> = names.iter().collect();
                let hint = format!(
                    "it is for {}, but the listener's routes are for {}",
                    listed(&names),
                    listed(&wanted.in_order)
                );
                let span = place.certificate.clone();
                let warning = Diagnostic::warning(Code::CertificateNames, span, message);
                diagnostics.push(warning.hint(hint));
            }
            ListenerCertificate::Managed(_) if !takes_any && !hosts.is_empty() => {
                for (host, span) in names.iter().zip(&place.names) {
                    if !wanted.meets(host) {
                        let message = format!("no route of listener `{name}` serves `{host}`");
                        let hint =
                            format!("the listener's routes are for {}", listed(&wanted.in_order));
                        let warning =
                            Diagnostic::warning(Code::CertificateNames, span.clone(), message);
                        diagnostics.push(warning.hint(hint));
                    }
                }
            }
            _ => {}
        }
    }
    if is_any_useful {
        lint_hosts(listener, &tls.certificates, &hosts, diagnostics);
    }
}

fn lint_hosts(
    listener: &ListenerConfig,
    certificates: &[ListenerCertificate],
    hosts: &[(&HostPattern, &Span)],
    diagnostics: &mut Vec<Diagnostic>,
) {
    // A certificate without names that we can read may cover anything.
    if certificates.iter().any(|each| each.names().is_empty()) {
        return;
    }
    let names = PatternSet::new(certificates.iter().flat_map(ListenerCertificate::names));
    for (host, span) in hosts {
        if !names.meets(host) {
            let name = &listener.name;
            let message = format!("no certificate of listener `{name}` covers host `{host}`");
            let hint = format!(
                "clients will refuse the connection; the certificates are for {}",
                listed(&names.in_order)
            );
            let span = Span::clone(span);
            let warning = Diagnostic::warning(Code::CertificateNames, span, message);
            diagnostics.push(warning.hint(hint));
        }
    }
}

/// Hosts, or the names in certificates, to hold others against.
struct PatternSet<'a> {
    in_order: Vec<&'a HostPattern>,
    exact: HashSet<&'a str>,
    wildcards: HashSet<&'a str>,
    /// The parents of those in `exact`.
    parents: HashSet<&'a str>,
}

impl<'a> PatternSet<'a> {
    fn new(patterns: impl Iterator<Item = &'a HostPattern>) -> Self {
        let in_order: Vec<&HostPattern> = patterns.collect();
        let exact = in_order.iter().filter_map(|pattern| match pattern {
            HostPattern::Exact(host) => Some(&**host),
            HostPattern::Wildcard(_) => None,
        });
        let exact: HashSet<&str> = exact.collect();
        let wildcards = in_order.iter().filter_map(|pattern| match pattern {
            HostPattern::Exact(_) => None,
            HostPattern::Wildcard(parent) => Some(&**parent),
        });
        Self {
            parents: exact
                .iter()
                .filter_map(|host| HostPattern::parent(host))
                .collect(),
            wildcards: wildcards.collect(),
            exact,
            in_order,
        }
    }

    /// Whether one of the patterns covers `other`, or a part of what it stands for.
    fn meets(&self, other: &HostPattern) -> bool {
        match other {
            HostPattern::Exact(host) => {
                let parent = HostPattern::parent(host);
                self.exact.contains(&**host)
                    || parent.is_some_and(|parent| self.wildcards.contains(parent))
            }
            HostPattern::Wildcard(parent) => {
                self.wildcards.contains(&**parent) || self.parents.contains(&**parent)
            }
        }
    }
}

/// Certificates for addresses are rare, and their addresses are not read.
fn is_address(host: &HostPattern) -> bool {
    match host {
        HostPattern::Exact(host) => host.starts_with('[') || host.parse::<IpAddr>().is_ok(),
        HostPattern::Wildcard(_) => false,
    }
}

/// A few names, and the number of the others.
fn listed(names: &[&HostPattern]) -> String {
    /// The number of names that fit into a line.
    const FEW: usize = 3;
    let first = names.iter().take(FEW).map(|name| format!("`{name}`"));
    let first = first.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(FEW) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_meet_where_one_covers_a_part_of_the_other() {
        let check = |pattern: &str, other: &str, expected| {
            let [one, other] =
                [pattern, other].map(|text| crate::config::value::host(text).unwrap());
            let [forth, back] = [(&one, &other), (&other, &one)]
                .map(|(one, other)| PatternSet::new([one].into_iter()).meets(other));
            assert_eq!((forth, back), (expected, expected), "{one} {other}");
        };
        check("a.example.com", "a.example.com", true);
        check("*.example.com", "a.example.com", true);
        check("*.example.com", "*.example.com", true);
        check("a.example.com", "b.example.com", false);
        check("*.example.com", "example.com", false);
        check("*.example.com", "a.b.example.com", false);
        check("*.example.com", "*.b.example.com", false);
        check("*.com", "*.example.com", false);
    }

    #[test]
    fn few_names_are_listed() {
        let hosts = ["a", "b", "c", "d", "e"].map(|host| HostPattern::Exact(host.into()));
        let hosts: Vec<&HostPattern> = hosts.iter().collect();
        for (count, expected) in [
            (0, ""),
            (1, "`a`"),
            (3, "`a`, `b`, `c`"),
            (5, "`a`, `b`, `c` and 2 more"),
        ] {
            assert_eq!(listed(&hosts[..count]), expected);
        }
    }
}
