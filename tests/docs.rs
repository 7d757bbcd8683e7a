//! The documents say what the program does.

#![expect(
    clippy::unwrap_used,
    reason = "a test that fails has nothing to clean up"
)]

#[path = "docs/example.rs"]
mod example;
#[path = "docs/reference.rs"]
mod reference;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tidegate::admin::api::operation::openapi;
use tidegate::config::{self, diagnostic::Code};
use tidegate::protocol::rejection::Rejection;
use tidegate::tunnel::ended::Ended;

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The first cells of the rows of all tables.
fn first_cells(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect()
}

#[test]
fn every_reason_is_documented_with_its_status_and_no_other_is() {
    let text = read("docs/reasons.md");
    let documented = first_cells(&text);
    let rejections = Rejection::ALL.iter().map(|rejection| rejection.token());
    let ended = Ended::ALL.iter().map(|ended| ended.token());
    assert_eq!(documented, rejections.chain(ended).collect::<Vec<_>>());
    for rejection in Rejection::ALL {
        let row = format!(
            "| `{}` | {} |",
            rejection.token(),
            rejection.status().as_u16()
        );
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
fn every_code_is_documented_with_how_bad_it_is_and_no_other_is() {
    let text = read("docs/diagnostics.md");
    let known: Vec<&str> = Code::ALL.iter().map(|code| code.token()).collect();
    assert_eq!(first_cells(&text), known);
    let (errors, warnings) = text.split_once("## Warnings").unwrap();
    assert!(first_cells(errors).iter().all(|code| !warns(code)));
    assert!(first_cells(warnings).iter().all(|code| warns(code)));
}

/// Whether warnings have this code.
fn warns(code: &str) -> bool {
    let mut known = Code::ALL.iter();
    known.any(|known| known.token() == code && known.may_warn())
}

#[test]
fn the_figures_in_the_readme_are_those_of_the_newest_run() {
    let runs = fs::read_dir(root().join("benches/runs")).unwrap();
    let names = runs.map(|run| run.unwrap().file_name().into_string().unwrap());
    // Those of a few lines only are called something besides their date.
    let whole = names.filter(|name| name.len() == "2026-01-01".len());
    let newest = whole.max().unwrap();
    let name = format!("benches/runs/{newest}/README.md");
    let (readme, run) = (read("README.md"), read(&name));
    assert!(readme.contains(&format!("({name})")), "{name}");
    let mut figures = readme
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("–**"));
    assert!(figures.clone().count() > 5);
    assert!(figures.all(|line| run.lines().any(|known| known == line)));
}

#[test]
fn the_schema_that_ships_is_that_of_the_program() {
    let path = root().join("config.schema.json");
    let mut program = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let printed = program.arg("schema").output().unwrap();
    assert!(printed.status.success());
    let current = String::from_utf8(printed.stdout).unwrap();
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        fs::write(&path, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|shipped| shipped == current),
        "config.schema.json is not up to date: run with TIDEGATE_BLESS=1"
    );
}

#[test]
fn the_description_of_the_interface_that_ships_is_that_of_the_program() {
    let path = root().join("docs/openapi.json");
    let current = format!("{:#}\n", openapi());
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        fs::write(&path, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|shipped| shipped == current),
        "docs/openapi.json is not up to date: run with TIDEGATE_BLESS=1"
    );
}

#[test]
fn the_example_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("localhost.pem", made.cert.pem());
    write("localhost.key", made.signing_key.serialize_pem());
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.path().join("localhost.key"), private).unwrap();
    let source = read("examples/hono/tidegate.toml");
    let loaded = config::parse(&source, &folder.path().join("tidegate.toml"), &|_| None).unwrap();
    assert!(
        loaded.warnings.diagnostics().is_empty(),
        "{}",
        loaded.warnings.render(false)
    );
}

#[test]
fn the_reference_is_that_of_the_program() {
    let path = root().join("docs/configuration.md");
    let current = reference::reference();
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        fs::write(&path, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|shipped| shipped == current),
        "docs/configuration.md is not up to date: run with TIDEGATE_BLESS=1"
    );
}

/// What examples do not say themselves, because they are about something else.
const AROUND: &str = r#"
    [listener.public]
    bind = ["127.0.0.1:8443"]
    [[route]]
    [upstream.chat]
    endpoints = ["127.0.0.1:9000"]
"#;

/// Puts `example` over `into`, table by table.
fn merge(into: &mut toml::Table, example: toml::Table) {
    for (name, value) in example {
        match (into.get_mut(&name), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(example)) => merge(into, example),
            (Some(toml::Value::Array(into)), toml::Value::Array(example))
                if into.first().is_some_and(toml::Value::is_table) =>
            {
                for (into, example) in into.iter_mut().zip(example) {
                    if let (Some(into), toml::Value::Table(example)) =
                        (into.as_table_mut(), example)
                    {
                        merge(into, example);
                    }
                }
            }
            (_, value) => {
                into.insert(name, value);
            }
        }
    }
}

/// What a route or listener needs so that the example of one key of its makes sense.
fn complete(table: &mut toml::Table) {
    let certificate = || {
        let pair = toml::Table::from_iter([
            ("cert".to_owned(), "chat.pem".into()),
            ("key".to_owned(), "chat.key".into()),
        ]);
        toml::Value::Array(vec![pair.into()])
    };
    let wants_certificate = table["route"][0].get("client_certificate").is_some();
    let strips = table["route"][0]
        .get("rewrite")
        .is_some_and(|rewrite| rewrite.get("strip_prefix").is_some());
    let listener = table["listener"]["public"].as_table_mut().unwrap();
    if wants_certificate {
        let auth = toml::Table::from_iter([("ca".to_owned(), "clients.pem".into())]);
        let tls = toml::Table::from_iter([("client_auth".to_owned(), auth.into())]);
        listener.insert("tls".to_owned(), tls.into());
    }
    if let Some(tls) = listener.get_mut("tls") {
        let tls = tls.as_table_mut().unwrap();
        tls.entry("certificates").or_insert_with(certificate);
    }
    complete_upstream(table);
    let listener = table["listener"]["public"].as_table_mut().unwrap();
    let redirects = listener.contains_key("redirect_to_https");
    let route = table["route"][0].as_table_mut().unwrap();
    if redirects {
        route.insert("listeners".to_owned(), vec!["public"].into());
    }
    if !route.contains_key("redirect") {
        route.insert("upstream".to_owned(), "chat".into());
    } else {
        table.remove("upstream");
    }
    if strips {
        let route = table["route"][0].as_table_mut().unwrap();
        route.insert("path_prefix".to_owned(), "/socket.io".into());
    }
}

/// What makes an example of an upstream whole.
fn complete_upstream(table: &mut toml::Table) {
    let upstream = table["upstream"]["chat"].as_table_mut().unwrap();
    let elsewhere = ["dns", "srv", "endpoints_file"];
    if elsewhere.iter().any(|key| upstream.contains_key(*key)) {
        upstream.remove("endpoints");
    }
    if upstream.contains_key("queue") {
        let full: toml::Table =
            toml::from_str("x = [{ address = \"127.0.0.1:9000\", max_tunnels = 9 }]").unwrap();
        upstream.insert("endpoints".to_owned(), full["x"].clone());
    }
    if let Some(health) = upstream.get_mut("health") {
        let health = health.as_table_mut().unwrap();
        if !["websocket", "http"]
            .iter()
            .any(|key| health.contains_key(*key))
        {
            health.insert("tcp".to_owned(), toml::Table::new().into());
        }
    }
}

/// A folder with every file that examples name.
fn folder() -> tempfile::TempDir {
    use base64::Engine as _;
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for name in ["chat", "clients", "internal", "tidegate"] {
        let write = |kind, text| fs::write(folder.path().join(format!("{name}.{kind}")), text);
        write("pem", made.cert.pem()).unwrap();
        write("key", made.signing_key.serialize_pem()).unwrap();
    }
    for name in [
        "chat.key",
        "clients.key",
        "internal.key",
        "tidegate.key",
        "tickets.key",
        "sticky.key",
        "admin.token",
    ] {
        let path = folder.path().join(name);
        fs::write(&path, fs::read(&path).unwrap_or_default()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let tickets = base64::engine::general_purpose::STANDARD.encode([7; 80]);
    fs::write(folder.path().join("tickets.key"), tickets).unwrap();
    fs::write(folder.path().join("sticky.key"), [b'7'; 64]).unwrap();
    fs::write(folder.path().join("admin.token"), [b'7'; 64]).unwrap();
    fs::write(folder.path().join("chat.endpoints"), "10.0.0.1:9000\n").unwrap();
    folder
}

/// What `tidegate check` finds in an example, with what it needs around it.
fn found(example: &str, folder: &Path) -> config::Report {
    let example: toml::Table = toml::from_str(example).unwrap();
    let is_whole = ["listener", "route", "upstream"]
        .iter()
        .all(|key| example.contains_key(*key));
    let own_route = example.contains_key("route");
    let mut whole = if is_whole {
        example
    } else {
        let mut around: toml::Table = toml::from_str(AROUND).unwrap();
        merge(&mut around, example);
        complete(&mut around);
        around
    };
    if !own_route {
        let route = whole["route"][0].as_table_mut().unwrap();
        route.insert("origins".to_owned(), vec!["https://example.com"].into());
    }
    // What machines allow is not the examples' business.
    let server = whole.entry("server").or_insert(toml::Table::new().into());
    let server = server.as_table_mut().unwrap().entry("allow_warnings");
    server.or_insert(vec!["descriptors", "source-ports"].into());
    let source = toml::to_string(&whole).unwrap();
    match config::parse(&source, &folder.join("tidegate.toml"), &|_| None) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report,
    }
}

#[test]
fn every_key_has_an_example_that_works() {
    let folder = folder();
    let text = read("docs/configuration.md");
    let mut examples = 0;
    for entry in text.split("\n### ").skip(1) {
        let path = entry.split('`').nth(1).unwrap();
        let Some((_, example)) = entry.split_once("```toml\n") else {
            assert!(
                text.contains(&format!("\n### `{path}.")),
                "{path} has no example"
            );
            continue;
        };
        let example = example.split("```").next().unwrap();
        let name = path.rsplit('.').next().unwrap();
        assert!(
            example.contains(&format!("{name} = ")),
            "{path}:\n{example}"
        );
        let report = found(example, folder.path());
        let later = entry.contains("*Not in effect yet.*");
        let mut diagnostics = report.diagnostics().iter();
        let expected = diagnostics.all(|each| later && each.code == Code::NotInEffect);
        assert!(expected, "{path}:\n{}", report.render(false));
        examples += 1;
    }
    assert!(examples > 140, "{examples}");
}

/// Pages whose configurations are not checked here, and why.
const UNCHECKED: [&str; 2] = [
    "docs/configuration.md", // each key has a test of its own, above
    "docs/systemd.md",       // needs what systemd passes
];

/// README.md and the pages of docs/, by path.
fn pages() -> Vec<String> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> = names
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .chain(["README.md".to_owned()])
        .collect();
    pages.sort();
    assert!(pages.len() > 20, "{pages:?}");
    pages
}

#[test]
fn the_configurations_in_the_documents_work() {
    let folder = folder();
    let mut checked = 0;
    for name in pages() {
        if UNCHECKED.contains(&name.as_str()) {
            continue;
        }
        for example in read(&name).split("```toml\n").skip(1) {
            let example = example.split("```").next().unwrap();
            let report = found(example, folder.path());
            assert!(
                report.diagnostics().is_empty(),
                "{name}:\n{example}{}",
                report.render(false)
            );
            checked += 1;
        }
    }
    assert!(checked > 35, "{checked}");
}

/// The anchor that a heading gets, as code hosting sites make it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

/// `text` without what is in fenced blocks.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let others = ["ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    let mut links = 0;
    for name in pages().into_iter().chain(others.map(str::to_owned)) {
        let text = prose(&read(&name));
        let folder = root().join(&name).parent().unwrap().to_owned();
        for target in text.split("](").skip(1) {
            let target = target.split(')').next().unwrap();
            if target.starts_with("http") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                root().join(&name)
            } else {
                folder.join(file)
            };
            assert!(path.exists(), "{name}: {target}");
            let known = heading.is_empty()
                || prose(&fs::read_to_string(&path).unwrap())
                    .lines()
                    .any(|line| line.starts_with('#') && anchor(line) == heading);
            assert!(known, "{name}: {target} has no such heading");
            links += 1;
        }
    }
    assert!(links > 100, "{links}");
}

#[test]
fn the_index_lists_every_page() {
    let index = read("docs/README.md");
    for name in pages() {
        let name = name.trim_start_matches("docs/");
        assert!(
            name == "README.md" || index.contains(&format!("]({name})")),
            "{name} is not in docs/README.md"
        );
    }
}

/// What docs/kubernetes.md has of a kind.
fn manifest(kind: &str) -> Vec<serde_json::Value> {
    let text = read("docs/kubernetes.md");
    let blocks = text.split("```yaml\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let all = blocks.map(|block| serde_saphyr::from_str(block).unwrap());
    all.filter(|it: &serde_json::Value| it["kind"] == kind)
        .collect()
}

#[test]
fn the_manifests_fit_each_other_and_their_configuration_works() {
    let [config] = &manifest("ConfigMap")[..] else {
        panic!()
    };
    let source = config["data"]["config.toml"].as_str().unwrap();
    let here = [
        ("/etc/tidegate/tls/tls.crt", "chat.pem"),
        ("/etc/tidegate/tls/tls.key", "chat.key"),
        ("/etc/tidegate/keys/", ""),
    ];
    let local = here
        .iter()
        .fold(source.to_owned(), |source, (there, here)| {
            assert!(source.contains(there), "{there}");
            source.replace(there, here)
        });
    let report = found(&local, folder().path());
    assert!(report.diagnostics().is_empty(), "{}", report.render(false));

    let config: toml::Table = source.parse().unwrap();
    let [deployment] = &manifest("Deployment")[..] else {
        panic!()
    };
    let pod = &deployment["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    let seconds = |key: &str| {
        let value = config["server"]["shutdown"][key].as_str().unwrap();
        humantime::parse_duration(value).unwrap().as_secs()
    };
    let readiness = &container["readinessProbe"];
    let number = |of: &serde_json::Value, key: &str| of[key].as_u64().unwrap();
    let noticed = number(readiness, "periodSeconds") * number(readiness, "failureThreshold");
    assert!(noticed < seconds("delay"));
    let killed = number(&pod["spec"], "terminationGracePeriodSeconds");
    assert!(seconds("delay") + seconds("grace") < killed);

    let port = |name: &str| {
        let mut ports = container["ports"].as_array().unwrap().iter();
        let port = ports.find(|port| port["name"] == name).unwrap();
        format!(":{}", port["containerPort"])
    };
    let metrics = config["admin"]["metrics_bind"].as_str().unwrap();
    assert!(metrics.ends_with(&port(readiness["httpGet"]["port"].as_str().unwrap())));
    let services = manifest("Service");
    let (backends, ours): (Vec<_>, Vec<_>) = services
        .iter()
        .partition(|service| service["spec"]["clusterIP"] == "None");
    let [ours, backends] = [&ours[0], &backends[0]];
    let bound = config["listener"]["public"]["bind"][0].as_str().unwrap();
    let target = ours["spec"]["ports"][0]["targetPort"].as_str().unwrap();
    assert!(bound.ends_with(&port(target)));

    let dns = &config["upstream"]["chat"]["dns"];
    let name = backends["metadata"]["name"].as_str().unwrap();
    assert_eq!(dns["name"].as_str().unwrap().split('.').next(), Some(name));
    assert_eq!(
        dns["port"].as_integer().unwrap() as u64,
        number(&backends["spec"]["ports"][0], "port")
    );
    let budget = &manifest("PodDisruptionBudget")[0]["spec"];
    let labels = &pod["metadata"]["labels"];
    assert_eq!(&ours["spec"]["selector"], labels);
    assert_eq!(&budget["selector"]["matchLabels"], labels);
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert!(number(budget, "minAvailable") < number(&deployment["spec"], "replicas"));
}

/// The metrics that docs/metrics.md has, and each one's labels.
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
        // What Prometheus adds itself.
        labels.extend(["job", "instance", "le", ""].map(str::to_owned));
        for name in names {
            metrics.insert(name, labels.clone());
        }
    }
    metrics
}

/// Metrics in an expression that are not documented, and labels that none of its metrics has.
fn unknown_in(expression: &str, metrics: &HashMap<String, Vec<String>>) -> Vec<String> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = expression.split(|character| !is_word(character));
    let ours = |word: &&str| word.starts_with("tidegate_") || word.starts_with("process_");
    let (used, mut unknown): (Vec<&str>, Vec<&str>) = words
        .filter(ours)
        .partition(|word| metrics.contains_key(*word));
    let labels: Vec<&String> = used.iter().flat_map(|name| &metrics[*name]).collect();
    let known = |label: &str| labels.iter().any(|known| *known == label);
    for grouping in ["by (", "without ("] {
        let groups = expression.split(grouping).skip(1);
        let groups = groups.filter_map(|rest| rest.split(')').next());
        unknown.extend(groups.flat_map(|it| it.split(", ")).filter(|it| !known(it)));
    }
    let selectors = expression.split('{').skip(1);
    let selectors = selectors.filter_map(|rest| rest.split('}').next());
    let matchers = selectors.flat_map(|it| it.split(", "));
    let matched = matchers.map(|it| it.split(['=', '!']).next().unwrap_or_default());
    unknown.extend(matched.filter(|it| !known(it)));
    unknown.into_iter().map(str::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_use_metrics_that_there_are() {
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
