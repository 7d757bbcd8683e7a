//! What users and the public host are given as files: examples that fit the program, and workflows that only call
//! scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::configurations::{check, folder};
use super::source::root;
use super::{pages, read};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All documents of a YAML file.
fn yaml(name: &str) -> Vec<Value> {
    let text = read(name);
    let documents = text.split("\n---\n");
    documents
        .map(|text| serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}")))
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn workflows() -> Vec<(String, Value)> {
    let entries = fs::read_dir(root().join(".github/workflows")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.map(|name| format!(".github/workflows/{name}"));
    names
        .map(|name| (name.clone(), yaml(&name).remove(0)))
        .collect()
}

/// What is wrong with a step.
fn fault(step: &Value) -> Option<String> {
    if let Some(action) = step["uses"].as_str() {
        // By its commit: a tag can move.
        let (name, commit) = action.split_once('@').unwrap_or_default();
        let is_commit = commit.len() == 40 && commit.bytes().all(|it| it.is_ascii_hexdigit());
        let is_known = ["checkout", "upload-artifact", "download-artifact"]
            .iter()
            .any(|known| name.strip_prefix("actions/") == Some(known));
        return (!is_known || !is_commit).then(|| format!("unknown action {action}"));
    }
    let run = step["run"].as_str().unwrap_or_default();
    let command = run.strip_prefix("bash ").unwrap_or(run);
    let mut words = command.split(' ');
    let script = words.next().filter(|script| script.starts_with(".ci/"));
    let Some(script) = script else {
        return Some(format!("`{run}` is not a script of .ci"));
    };
    if !words.all(|word| word.starts_with("--")) || run.contains(['\n', ';', '&', '|']) {
        return Some(format!("`{run}` has logic of its own"));
    }
    let metadata = fs::metadata(root().join(script));
    let runs = metadata.is_ok_and(|it| it.permissions().mode() & 0o111 != 0);
    (!runs && command == run).then(|| format!("{script} cannot be run"))
}

#[test]
fn workflows_only_call_scripts() {
    let workflows = workflows();
    assert!(workflows.len() >= 2);
    for (name, workflow) in &workflows {
        assert_eq!(workflow["permissions"]["contents"], "read", "{name}");
        for job in workflow["jobs"].as_object().unwrap().values() {
            assert!(job["timeout-minutes"].is_number(), "{name}");
            let faults: Vec<String> = list(&job["steps"]).filter_map(fault).collect();
            assert!(faults.is_empty(), "{name}: {faults:?}");
        }
    }
    for wrong in [
        serde_json::json!({ "uses": "somebody/something@11bd71901bbe5b1630ceea73d27597364c9af683" }),
        serde_json::json!({ "uses": "actions/checkout@v4" }),
        serde_json::json!({ "run": "cargo test" }),
        serde_json::json!({ "run": ".ci/run && .ci/deb" }),
        serde_json::json!({ "run": ".ci/missing" }),
    ] {
        assert!(fault(&wrong).is_some(), "{wrong}");
    }
}

/// The errors and warnings of a configuration that an example has.
fn diagnostics(text: &str) -> String {
    let report = check(text, folder().path());
    report.render(false)
}

#[test]
fn the_compose_file_fits_its_configuration() {
    let compose = yaml("examples/compose/compose.yaml").remove(0);
    let services = compose["services"].as_object().unwrap();
    let tidegate = &services["tidegate"];
    assert_eq!(tidegate["image"], format!("tidegate:{VERSION}"));
    let text = read("examples/compose/config/config.toml");
    assert_eq!(diagnostics(&text), "");
    let config: toml::Table = text.parse().unwrap();
    let endpoints = config["upstream"]["app"]["endpoints"].as_array().unwrap();
    for endpoint in endpoints {
        let (service, port) = endpoint.as_str().unwrap().split_once(':').unwrap();
        assert_eq!(
            (services[service]["build"].as_str(), port),
            (Some("backend"), "9000")
        );
    }
    assert_eq!(endpoints.len(), services.len() - 1);
    let bound = config["listener"]["public"]["bind"][0].as_str().unwrap();
    let published = tidegate["ports"][0].as_str().unwrap();
    assert_eq!(bound.rsplit(':').next(), published.split(':').nth(1));
    for volume in list(&tidegate["volumes"]) {
        let source = volume.as_str().unwrap().split(':').next().unwrap();
        assert!(
            root().join("examples/compose").join(source).exists(),
            "{source}"
        );
    }
    let seconds = |text: &str| humantime::parse_duration(text).unwrap().as_secs();
    let grace = config["server"]["shutdown"]["grace"].as_str().unwrap();
    assert!(seconds(tidegate["stop_grace_period"].as_str().unwrap()) > seconds(grace));
}

/// The manifest of this kind that is tidegate's own.
fn of_kind<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    let mut fitting = manifests.iter().filter(|manifest| manifest["kind"] == kind);
    fitting
        .find(|manifest| manifest["metadata"]["name"] == "tidegate")
        .unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn the_kubernetes_base_is_the_one_of_the_page_without_extras() {
    let kustomization = yaml("examples/kubernetes/kustomization.yaml").remove(0);
    assert_eq!(kustomization["images"][0]["newTag"], VERSION);
    let mut base = Vec::new();
    for name in list(&kustomization["resources"]) {
        base.extend(yaml(&format!(
            "examples/kubernetes/{}",
            name.as_str().unwrap()
        )));
    }
    let config = read("examples/kubernetes/config.toml");
    let local = config.replace("/etc/tidegate/tls/tls.crt", "chat.pem");
    assert_eq!(
        diagnostics(&local.replace("/etc/tidegate/tls/tls.key", "chat.key")),
        ""
    );

    let page = read("docs/kubernetes.md");
    let parsed = |text: &str| text.parse::<toml::Table>().unwrap();
    let blocks = page.split("```yaml\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let documents = blocks.flat_map(|block| block.split("\n---\n"));
    let page: Vec<Value> = documents
        .filter_map(|text| serde_saphyr::from_str(text).ok())
        .collect();
    let theirs = &of_kind(&page, "ConfigMap")["data"]["config.toml"];
    let (ours, mut theirs) = (parsed(&config), parsed(theirs.as_str().unwrap()));
    // Tickets work without shared keys, with one more round trip on another pod.
    let tls = &mut theirs["listener"]["public"]["tls"];
    assert!(
        tls.as_table_mut()
            .unwrap()
            .remove("ticket_keys_file")
            .is_some()
    );
    assert_eq!(ours, theirs);

    let [ours, theirs] = [&base[..], &page[..]].map(|all| of_kind(all, "Deployment"));
    let spec = |deployment: &Value| deployment["spec"]["template"]["spec"].clone();
    let (ours, theirs) = (spec(ours), spec(theirs));
    assert_eq!(ours["securityContext"], theirs["securityContext"]);
    assert_eq!(
        ours["terminationGracePeriodSeconds"],
        theirs["terminationGracePeriodSeconds"]
    );
    let [ours, theirs] = [ours, theirs].map(|spec| spec["containers"][0].clone());
    for key in [
        "ports",
        "readinessProbe",
        "livenessProbe",
        "securityContext",
    ] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    let [ours, theirs] = [&base[..], &page[..]].map(|all| of_kind(all, "PodDisruptionBudget"));
    assert_eq!(ours["spec"], theirs["spec"]);
    let account = &of_kind(&base, "ServiceAccount")["metadata"]["name"];
    let binding = of_kind(&base, "RoleBinding");
    assert_eq!(&binding["subjects"][0]["name"], account);
    assert_eq!(
        &of_kind(&base, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"],
        account
    );
    assert_eq!(
        of_kind(&base, "Role")["rules"],
        of_kind(&page, "Role")["rules"]
    );
}

#[test]
fn the_service_from_the_archive_has_a_configuration_that_is_good() {
    assert_eq!(diagnostics(&read("examples/systemd/config.toml")), "");
    let install = read("examples/systemd/install");
    let unit = read("systemd/tidegate.service");
    let program = unit.split("ExecStart=").nth(1).unwrap();
    let program = program.split(' ').next().unwrap();
    assert!(install.contains(&format!("$to{program}\"")), "{program}");
}

/// The pages of examples are read where they are, and their links have to lead somewhere there.
#[test]
fn the_pages_of_examples_have_links_that_lead_somewhere() {
    for example in ["compose", "kubernetes", "systemd", "hono"] {
        let folder = root().join("examples").join(example);
        let text = fs::read_to_string(folder.join("README.md")).unwrap();
        for target in text.split("](").skip(1) {
            let target = target.split([')', '#']).next().unwrap();
            let is_there = target.starts_with("http") || folder.join(target).exists();
            assert!(is_there, "{example}: {target}");
        }
    }
}

/// Everything that names the version of a release names that of Cargo.toml.
#[test]
fn examples_name_this_version() {
    let mut named = 0;
    let texts = [
        "examples/compose/README.md",
        "examples/kubernetes/README.md",
    ];
    for name in texts.map(str::to_owned).into_iter().chain(pages()) {
        for (before, after) in [
            ("tidegate-", "-x86_64"),
            ("tidegate_", "-1_amd64"),
            ("tidegate:", "\n"),
        ] {
            let text = read(&name);
            let parts = text.split(before).skip(1);
            let versions =
                parts.filter_map(|part| part.split_once(after).map(|(version, _)| version));
            let is_version = |text: &&str| text.split('.').count() == 3 && text.len() < 9;
            for version in versions.filter(is_version) {
                assert_eq!(version, VERSION, "{name}");
                named += 1;
            }
        }
    }
    assert!(named > 2, "{named}");
}
