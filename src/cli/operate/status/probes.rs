//! The probes of routes, in `tidegate status`.

use tidegate::admin::api::probes::ProbeInfo;

use crate::cli::table::harmless;

/// A line for each route whose latest probe failed, and one for all that passed.
pub(super) fn of_probes(probes: &[ProbeInfo]) -> Vec<String> {
    let mut lines = Vec::new();
    for probe in probes.iter().filter(|probe| !probe.ok) {
        let endpoint = probe.endpoint.as_deref();
        let at = endpoint.map(|endpoint| format!(" at endpoint {}", harmless(endpoint)));
        let times = match probe.failures_in_row {
            1 => "once".to_owned(),
            times => format!("{times} times in a row"),
        };
        lines.push(format!(
            "probes of route {} fail{}: {} ({times}, latest at {})",
            harmless(&probe.route),
            at.unwrap_or_default(),
            harmless(probe.error.as_deref().unwrap_or_default()),
            probe.at
        ));
    }
    let passed = probes.iter().filter(|probe| probe.ok).count();
    match passed {
        0 => {}
        1 => lines.push("probes of 1 route pass".to_owned()),
        more => lines.push(format!("probes of {more} routes pass")),
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_stand_alone_and_successes_together() {
        let probe = |route: &str, error: Option<&str>| ProbeInfo {
            route: route.to_owned(),
            ok: error.is_none(),
            at: "2026-11-29T06:00:00Z".to_owned(),
            seconds: 0.1,
            endpoint: Some("10.0.0.11:9000".to_owned()),
            error: error.map(str::to_owned),
            failures_in_row: 3,
        };
        let probes = [
            probe("chat", Some("connection closed without a Pong")),
            probe("lobby", None),
            probe("game", None),
        ];
        assert_eq!(
            of_probes(&probes),
            [
                "probes of route chat fail at endpoint 10.0.0.11:9000: connection closed without a \
                 Pong (3 times in a row, latest at 2026-11-29T06:00:00Z)",
                "probes of 2 routes pass"
            ]
        );
        assert!(of_probes(&[]).is_empty());
    }
}
