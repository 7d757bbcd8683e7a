//! No counter falls when series are forgotten.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::gathered::Gathered;
use super::{auth, endpoints, listeners, routes, tunnels};
use crate::observe::exposition::{Exposition, Format};
use crate::observe::testing::{Churn, churn_steps};

/// The samples of all counters and histograms that are summed over series.
fn counters(churn: &Churn) -> BTreeMap<String, f64> {
    let mut metrics = Exposition::new(Format::Prometheus);
    let gathered = Gathered::from(&churn.workers);
    listeners::write_listeners(&mut metrics, &gathered);
    routes::write_requests(&mut metrics, &gathered);
    auth::write_auth(&mut metrics, &gathered);
    tunnels::write_tunnels(&mut metrics, &gathered);
    tunnels::write_traffic(&mut metrics, &gathered);
    endpoints::write_attempts(&mut metrics, &gathered);
    let page = metrics.finish();
    let mut is_counter = false;
    let mut samples = BTreeMap::new();
    for line in page.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            is_counter = !declared.ends_with(" gauge");
        } else if is_counter && !line.starts_with('#') {
            let (labels, value) = line.rsplit_once(' ').unwrap();
            samples.insert(labels.to_owned(), value.parse().unwrap());
        }
    }
    samples
}

/// Whether a sample is of something that is always configured, and of nothing that comes and goes.
fn stays(sample: &str) -> bool {
    let is_of = |label| sample.contains(&format!("{label}=\""));
    let stays = ["upstream=\"u0\"", "route=\"r0\"", "route=\"\""];
    let is_named = stays.iter().any(|label| sample.contains(label));
    !is_of("endpoint") && (is_named || (is_of("listener") && !is_of("route")))
}

proptest! {
    #[test]
    fn no_counter_falls_when_series_are_forgotten(steps in churn_steps()) {
        let mut churn = Churn::new();
        let mut before: BTreeMap<String, f64> = BTreeMap::new();
        for step in &steps {
            churn.step(step);
            let now = counters(&churn);
            for (sample, value) in &before {
                match now.get(sample) {
                    Some(later) => prop_assert!(later >= value, "{sample}: {value}, then {later}"),
                    None => prop_assert!(!stays(sample), "{sample} is missing"),
                }
            }
            before = now;
        }
    }
}
