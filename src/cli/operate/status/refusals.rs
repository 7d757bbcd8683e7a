//! What listeners have refused since the start, by reason.

use std::collections::BTreeMap;

use tidegate::admin::api::listeners::ListenerInfo;
use tidegate::observe::labels::RefusedConnection;

use crate::cli::table::harmless;

/// A line for the connections that each listener closed before a request, and one for the requests that it
/// rejected, where there are any.
pub(super) fn of_refusals(listeners: &[ListenerInfo]) -> String {
    let mut lines = String::new();
    for listener in listeners {
        let name = harmless(&listener.name);
        // A load balancer that looks whether the port is open is not worth a line.
        let mut refused = listener.connections_refused.clone();
        refused.remove(RefusedConnection::Empty.token());
        if !refused.is_empty() {
            let counts = by_reason(&refused, &listener.tls_failures);
            lines += &format!("listener {name} closed connections before a request: {counts}\n");
        }
        if !listener.rejections.is_empty() {
            let counts = by_reason(&listener.rejections, &BTreeMap::new());
            lines += &format!("listener {name} rejected requests: {counts}\n");
        }
    }
    lines
}

/// `tls 12 (certificate-rejected 10, timeout 2), connections 4`: the most frequent first.
fn by_reason(counts: &BTreeMap<String, u64>, of_tls: &BTreeMap<String, u64>) -> String {
    let mut sorted: Vec<(&String, &u64)> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown = sorted.into_iter().map(|(reason, count)| {
        let is_tls = *reason == RefusedConnection::Tls.token();
        let details = match is_tls && !of_tls.is_empty() {
            true => format!(" ({})", by_reason(of_tls, &BTreeMap::new())),
            false => String::new(),
        };
        format!("{} {count}{details}", harmless(reason))
    });
    shown.collect::<Vec<String>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_listed_by_frequency() {
        let counts = |pairs: &[(&str, u64)]| {
            let pairs = pairs
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count));
            pairs.collect::<BTreeMap<String, u64>>()
        };
        let refused = counts(&[("connections", 1), ("empty", 4), ("tls", 12)]);
        let of_tls = counts(&[("certificate-rejected", 10), ("timeout", 2)]);
        assert_eq!(
            by_reason(&refused, &of_tls),
            "tls 12 (certificate-rejected 10, timeout 2), empty 4, connections 1"
        );
    }
}
