//! Dashboard and alerts use documented metrics, and all of them.

use std::collections::HashMap;

use super::read;

/// The metrics in docs/metrics.md, with the labels of each.
fn documented_metrics() -> HashMap<String, Vec<String>> {
    let mut metrics = HashMap::new();
    for row in read("docs/metrics.md").lines() {
        let Some((name, rest)) = row
            .strip_prefix("| `")
            .and_then(|row| row.split_once("` | "))
        else {
            continue;
        };
        let (kind, rest) = rest.split_once(" | ").unwrap();
        let labels = rest.split('|').next().unwrap().split(',');
        let mut labels: Vec<String> = labels.map(|label| label.trim().to_owned()).collect();
        let names = match kind {
            "histogram" => ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")),
            _ => [name; 3].map(str::to_owned),
        };
        // Prometheus adds these itself.
        labels.extend(["job", "instance", "le", ""].map(str::to_owned));
        for name in names {
            metrics.insert(name, labels.clone());
        }
    }
    metrics
}

/// Undocumented metrics in an expression, and labels that none of its metrics has.
fn unknown_in(expression: &str, metrics: &HashMap<String, Vec<String>>) -> Vec<String> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = expression.split(|character| !is_word(character));
    let ours = |word: &&str| word.starts_with("tidegate_") || word.starts_with("process_");
    let (used, mut unknown): (Vec<&str>, Vec<&str>) = words
        .filter(ours)
        .partition(|word| metrics.contains_key(*word));
    let labels: Vec<&String> = used.iter().flat_map(|name| &metrics[*name]).collect();
    let is_documented = |name: &str| labels.iter().any(|label| *label == name);
    for grouping in ["by (", "without ("] {
        let groups = expression.split(grouping).skip(1);
        let groups = groups.filter_map(|rest| rest.split(')').next());
        unknown.extend(
            groups
                .flat_map(|group| group.split(", "))
                .filter(|label| !is_documented(label)),
        );
    }
    let selectors = expression.split('{').skip(1);
    let selectors = selectors.filter_map(|rest| rest.split('}').next());
    let matchers = selectors.flat_map(|selector| selector.split(", "));
    let matched = matchers.map(|matcher| matcher.split(['=', '!']).next().unwrap_or_default());
    unknown.extend(matched.filter(|label| !is_documented(label)));
    unknown.into_iter().map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_use_documented_metrics_and_all_of_them() {
    let metrics = documented_metrics();
    let dashboard: serde_json::Value = serde_json::from_str(&read("docs/grafana.json")).unwrap();
    let mut expressions = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    let alerts = read("docs/alerts.yml");
    for rule in alerts.split("expr: ").skip(1) {
        let end = rule
            .find("\n        for:")
            .or_else(|| rule.find("\n        labels:"));
        let lines = rule[..end.unwrap()].lines().map(str::trim);
        let expression = lines.collect::<Vec<_>>().join(" ");
        // `up` is Prometheus' own.
        if !expression.starts_with("up{") {
            expressions.push(expression);
        }
    }
    assert!(expressions.len() > 45, "{}", expressions.len());
    for expression in &expressions {
        let unknown = unknown_in(expression, &metrics);
        assert!(unknown.is_empty(), "{unknown:?} in {expression}");
    }
    let used = expressions.concat();
    let unused = metrics.keys().filter(|name| name.starts_with("tidegate_"));
    let unused: Vec<_> = unused
        .filter(|name| !name.ends_with("_sum") && !name.ends_with("_count"))
        .filter(|name| !used.contains(*name))
        .collect();
    let left_out = [
        "tidegate_build_info",
        "tidegate_last_reload_success_timestamp_seconds",
    ];
    assert!(
        unused.iter().all(|name| left_out.contains(&name.as_str())),
        "neither dashboard nor alerts use {unused:?}"
    );

    let wrong = "sum by (route, nowhere) (tidegate_such{instance=\"a\", odd!=\"b\"}) / \
                 tidegate_tunnels_open";
    assert_eq!(
        unknown_in(wrong, &metrics),
        ["tidegate_such", "nowhere", "odd"]
    );
}
