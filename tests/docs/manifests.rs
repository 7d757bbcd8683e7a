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

/// The configuration in the manifests, without errors and warnings.
fn configuration() -> toml::Table {
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
    source.parse().unwrap()
}

#[test]
fn the_manifests_fit_each_other_and_their_configuration_works() {
    let config = configuration();
    let [backend, deployment] = &manifest("Deployment")[..] else {
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

    let upstream = &config["upstream"]["chat"];
    let service = &upstream["kubernetes"];
    assert_eq!(
        service["service"].as_str(),
        backends["metadata"]["name"].as_str()
    );
    assert_eq!(
        service["port"].as_str(),
        backends["spec"]["ports"][0]["name"].as_str()
    );
    let state = service["state"].as_str();
    let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
    assert!(mounts.any(|mount| mount["mountPath"].as_str() == state));
    the_backends_outlive_their_drain(backend, backends, upstream);
    the_permissions_are_those_of_the_account(pod);
    let [scaler] = &manifest("HorizontalPodAutoscaler")[..] else {
        panic!()
    };
    assert_eq!(
        scaler["spec"]["scaleTargetRef"]["name"],
        backend["metadata"]["name"]
    );
    let budget = &manifest("PodDisruptionBudget")[0]["spec"];
    let labels = &pod["metadata"]["labels"];
    assert_eq!(&ours["spec"]["selector"], labels);
    assert_eq!(&budget["selector"]["matchLabels"], labels);
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert!(number(budget, "minAvailable") < number(&deployment["spec"], "replicas"));
}

/// Tunnels are closed before the hook ends, and the hook ends before the pod is killed.
fn the_backends_outlive_their_drain(
    backend: &serde_json::Value,
    service: &serde_json::Value,
    upstream: &toml::Value,
) {
    let pod = &backend["spec"]["template"];
    assert_eq!(service["spec"]["selector"], pod["metadata"]["labels"]);
    assert_eq!(
        backend["spec"]["selector"]["matchLabels"],
        pod["metadata"]["labels"]
    );
    let container = &pod["spec"]["containers"][0];
    let served = &service["spec"]["ports"][0]["port"];
    assert_eq!(&container["ports"][0]["containerPort"], served);
    let hook = container["lifecycle"]["preStop"]["exec"]["command"][1].as_str();
    let hook: u64 = hook.unwrap().parse().unwrap();
    let drain = upstream["on_drain"]["over"].as_str().unwrap();
    let drain = humantime::parse_duration(drain).unwrap().as_secs();
    let killed = pod["spec"]["terminationGracePeriodSeconds"]
        .as_u64()
        .unwrap();
    assert!(drain < hook && hook < killed);
}

fn the_permissions_are_those_of_the_account(pod: &serde_json::Value) {
    let name = &manifest("ServiceAccount")[0]["metadata"]["name"];
    let (role, binding) = (&manifest("Role")[0], &manifest("RoleBinding")[0]);
    assert_eq!(&pod["spec"]["serviceAccountName"], name);
    assert_eq!(&binding["subjects"][0]["name"], name);
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let [rule] = &role["rules"].as_array().unwrap()[..] else {
        panic!()
    };
    let expected = serde_json::json!({
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["get", "list", "watch"],
    });
    assert_eq!(rule, &expected);
}
