//! The Kubernetes manifests fit each other.

use super::configurations::{check, folder};
use super::read;

/// The manifests of a kind in docs/kubernetes.md.
fn manifest(kind: &str) -> Vec<serde_json::Value> {
    let text = read("docs/kubernetes.md");
    let blocks = text.split("```yaml\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let manifests = blocks.map(|block| serde_saphyr::from_str(block).unwrap());
    manifests
        .filter(|manifest: &serde_json::Value| manifest["kind"] == kind)
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
    let report = check(&local, folder().path());
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
