//! Every configuration in the documents is one that `tidegate check` accepts without a warning.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tidegate::config;

use super::{pages, read};

/// The authority that certificates in examples come from.
const AUTHORITY: &str = r#"
    [acme.letsencrypt]
    directory = "letsencrypt"
    terms_agreed = true
    state = "acme"
"#;

/// The configuration around an example that shows only one key or table.
const AROUND: &str = r#"
    [listener.public]
    bind = ["127.0.0.1:8443"]
    [[route]]
    [upstream.chat]
    endpoints = ["127.0.0.1:9000"]
"#;

/// What an authentication by tokens needs.
const JWT: &str = r#"
    issuer = "https://id.example.com"
    audience = ["chat"]
    jwks_url = "https://id.example.com/keys"
"#;

/// Merges `example` into `into`, table by table.
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

/// Adds what the example of a single key needs to be valid in its route or listener.
fn complete(table: &mut toml::Table) {
    if let Some(shown) = table.get_mut("acme").and_then(|all| all.get_mut("chat")) {
        let shown = shown.as_table_mut().unwrap();
        shown
            .entry("directory")
            .or_insert("letsencrypt".to_owned().into());
        shown.entry("terms_agreed").or_insert(true.into());
    }
    if let Some(admin) = table.get_mut("admin").and_then(|it| it.as_table_mut())
        && admin.contains_key("tls")
    {
        admin.entry("bind").or_insert("127.0.0.1:9900".into());
        admin.entry("token_file").or_insert("admin.token".into());
    }
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
    let is_on_443 = listener["bind"].to_string().contains(":443");
    let needs_tls = is_on_443 && !listener.contains_key("trusted_proxies");
    if needs_tls || listener.contains_key("http2") {
        let tls = listener.entry("tls");
        tls.or_insert_with(|| toml::Table::new().into());
    }
    if let Some(tls) = listener.get_mut("tls") {
        let tls = tls.as_table_mut().unwrap();
        tls.entry("certificates").or_insert_with(certificate);
    }
    complete_upstream(table);
    complete_fleet(table);
    complete_auth(table);
    if table["route"][0].get("endpoint").is_some() {
        name_endpoints(table);
    }
    complete_limits(table);
    let listener = table["listener"]["public"].as_table_mut().unwrap();
    let redirects = listener.contains_key("redirect_to_https");
    let upstreams = table["upstream"].as_table().unwrap().clone();
    let route = table["route"][0].as_table_mut().unwrap();
    if redirects {
        route.insert("listeners".to_owned(), vec!["public"].into());
    }
    let leads_elsewhere = ["redirect", "respond"];
    if route.contains_key("split") || route.contains_key("split_by") {
        complete_split(table);
    } else if !leads_elsewhere.iter().any(|key| route.contains_key(*key)) {
        let own = route.get("upstream").and_then(toml::Value::as_str);
        if !own.is_some_and(|own| upstreams.contains_key(own)) {
            route.insert("upstream".to_owned(), "chat".into());
        }
    } else {
        table.remove("upstream");
    }
    if strips {
        let route = table["route"][0].as_table_mut().unwrap();
        route.insert("path_prefix".to_owned(), "/socket.io".into());
    }
}

/// Adds what the example of a single key needs to be an authentication, and the one that an example refers to.
fn complete_auth(table: &mut toml::Table) {
    let jwt: toml::Table = toml::from_str(JWT).unwrap();
    if let Some(shown) = table.get_mut("auth").and_then(|all| all.get_mut("chat")) {
        let shown = shown.as_table_mut().unwrap();
        if let Some(service) = shown.get_mut("service") {
            let service = service.as_table_mut().unwrap();
            service
                .entry("upstream")
                .or_insert("authelia".to_owned().into());
        } else {
            let shown = shown.entry("jwt").or_insert(jwt.clone().into());
            let shown = shown.as_table_mut().unwrap();
            for (name, value) in jwt.clone() {
                let has_keys = name == "jwks_url"
                    && ["jwks_file", "secret_file"]
                        .iter()
                        .any(|key| shown.contains_key(*key));
                if !has_keys {
                    shown.entry(name).or_insert(value);
                }
            }
        }
        let upstreams = table["upstream"].as_table_mut().unwrap();
        let service = upstreams["chat"].clone();
        upstreams.insert("authelia".to_owned(), service);
    }
    let text = toml::to_string(&table).unwrap();
    let route = table["route"][0].as_table_mut().unwrap();
    if text.contains("claim = ") && !route.contains_key("auth") {
        route.insert("auth".to_owned(), "players".into());
    }
    let name = route.get("auth").and_then(|name| name.as_str());
    if let Some(name) = name.map(str::to_owned) {
        let all = table.entry("auth").or_insert(toml::Table::new().into());
        let players = toml::Table::from_iter([("jwt".to_owned(), jwt.into())]);
        let all = all.as_table_mut().unwrap();
        all.entry(name).or_insert(players.into());
    }
}

/// Adds the store that an example of a fleet needs, and the fleet that one of a store needs.
fn complete_fleet(table: &mut toml::Table) {
    let has_store = table.contains_key("store");
    if !has_store && !table.contains_key("fleet") {
        return;
    }
    let store = table.entry("store").or_insert(toml::Table::new().into());
    let store = store.as_table_mut().unwrap();
    let share = if store.contains_key("files") {
        "keys"
    } else {
        let etcd = store.entry("etcd").or_insert(toml::Table::new().into());
        let etcd = etcd.as_table_mut().unwrap();
        let scheme = if etcd.contains_key("tls") {
            "https"
        } else {
            "http"
        };
        etcd.entry("endpoints")
            .or_insert(vec![format!("{scheme}://127.0.0.1:2379")].into());
        "members"
    };
    let fleet = table.entry("fleet").or_insert(toml::Table::new().into());
    let fleet = fleet.as_table_mut().unwrap();
    fleet.entry("share").or_insert(vec![share].into());
    let admin = fleet.entry("admin").or_insert(toml::Table::new().into());
    let admin = admin.as_table_mut().unwrap();
    admin
        .entry("url")
        .or_insert("https://edge-1.internal:9900".into());
}

/// Adds what the example of a single key needs to be a limit, and the limits that an example refers to.
fn complete_limits(table: &mut toml::Table) {
    let shared = table["route"][0].get("limits");
    let shared = shared.and_then(|limits| limits.get("shared")?.as_array());
    let names = shared.cloned().unwrap_or_default();
    if names.is_empty() && !table.contains_key("limit") {
        return;
    }
    let all = table.entry("limit").or_insert(toml::Table::new().into());
    let all = all.as_table_mut().unwrap();
    for name in &names {
        let name = name.as_str().unwrap().to_owned();
        all.entry(name).or_insert(toml::Table::new().into());
    }
    for (_, limit) in all.iter_mut() {
        let limit = limit.as_table_mut().unwrap();
        limit.entry("key").or_insert("client_ip".into());
        limit.entry("tunnels").or_insert(5.into());
    }
}

/// Adds what the example of a single key needs to be a split between two upstreams.
fn complete_split(table: &mut toml::Table) {
    let upstreams = table["upstream"].as_table_mut().unwrap();
    let other = upstreams["chat"].clone();
    upstreams.insert("next".to_owned(), other);
    let route = table["route"][0].as_table_mut().unwrap();
    let branches = route.entry("split").or_insert(Vec::<String>::new().into());
    let branches = branches.as_array_mut().unwrap();
    for name in ["chat", "next"].into_iter().skip(branches.len()) {
        let branch = toml::Table::from_iter([("upstream".to_owned(), name.into())]);
        branches.push(branch.into());
    }
    let by = route.entry("split_by");
    by.or_insert("client_ip".into());
}

/// Gives a name to the endpoint that stands around an example whose requests name theirs.
fn name_endpoints(table: &mut toml::Table) {
    let endpoints = &mut table["upstream"]["chat"]["endpoints"][0];
    if let Some(address) = endpoints.as_str().map(str::to_owned) {
        let name = ("name".to_owned(), "game-7".into());
        *endpoints = toml::Table::from_iter([("address".to_owned(), address.into()), name]).into();
    }
}

/// Adds what the example of a single key needs to be valid in its upstream.
fn complete_upstream(table: &mut toml::Table) {
    let upstream = table["upstream"]["chat"].as_table_mut().unwrap();
    let elsewhere = ["dns", "srv", "kubernetes", "endpoints_file"];
    if elsewhere.iter().any(|key| upstream.contains_key(*key)) {
        upstream.remove("endpoints");
    }
    if upstream.contains_key("kubernetes") && !upstream.contains_key("on_drain") {
        let closes = toml::Table::from_iter([("action".to_owned(), "close".into())]);
        upstream.insert("on_drain".to_owned(), closes.into());
    }
    if upstream.contains_key("queue") {
        let full: toml::Table =
            toml::from_str("x = [{ address = \"127.0.0.1:9000\", max_tunnels = 9 }]").unwrap();
        upstream.insert("endpoints".to_owned(), full["x"].clone());
    }
    if upstream.contains_key("on_down") && !upstream.contains_key("health") {
        upstream.insert("health".to_owned(), toml::Table::new().into());
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

/// A list that revokes no certificate.
fn revocation_list() -> String {
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2100, 1, 1),
        crl_number: 1_u64.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let authority = rcgen::Issuer::new(
        rcgen::CertificateParams::default(),
        rcgen::KeyPair::generate().unwrap(),
    );
    list.signed_by(&authority).unwrap().pem().unwrap()
}

/// A directory with every file that the examples name.
pub(super) fn folder() -> tempfile::TempDir {
    use base64::Engine as _;
    let folder = tempfile::tempdir().unwrap();
    let hosts = [
        "localhost",
        "chat.example.com",
        "*.chat.example.com",
        "www.example.com",
    ];
    let generated = rcgen::generate_simple_self_signed(hosts.map(str::to_owned)).unwrap();
    for name in ["chat", "clients", "internal", "tidegate"] {
        let write = |kind, text| fs::write(folder.path().join(format!("{name}.{kind}")), text);
        write("pem", generated.cert.pem()).unwrap();
        write("key", generated.signing_key.serialize_pem()).unwrap();
    }
    let list = revocation_list();
    fs::write(folder.path().join("revoked.pem"), list).unwrap();
    for name in [
        "chat.key",
        "clients.key",
        "internal.key",
        "tidegate.key",
        "tickets.key",
        "sticky.key",
        "tokens.key",
        "fleet.key",
        "etcd.password",
        "server.key",
        "collector.headers",
        "admin.token",
        "dashboard.token",
        "deploy.token",
        "chat-app.token",
    ] {
        let path = folder.path().join(name);
        fs::write(&path, fs::read(&path).unwrap_or_default()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let tickets = base64::engine::general_purpose::STANDARD.encode([7; 80]);
    fs::write(folder.path().join("tickets.key"), tickets).unwrap();
    fs::write(folder.path().join("sticky.key"), [b'7'; 64]).unwrap();
    fs::write(folder.path().join("tokens.key"), [b'7'; 64]).unwrap();
    fs::write(folder.path().join("server.key"), [b'7'; 64]).unwrap();
    let headers = "Authorization: Basic YTpi\n";
    fs::write(folder.path().join("collector.headers"), headers).unwrap();
    fs::write(folder.path().join("fleet.key"), [b'7'; 64]).unwrap();
    fs::write(folder.path().join("etcd.password"), "correct horse\n").unwrap();
    fs::write(folder.path().join("rooms.map"), "/red game-7\n").unwrap();
    let x = "A".repeat(43);
    let keys = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#);
    fs::write(folder.path().join("keys.json"), keys).unwrap();
    fs::write(folder.path().join("eab.key"), "NzdhYmM\n").unwrap();
    fs::set_permissions(
        folder.path().join("eab.key"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    for (name, byte) in [
        ("admin", b'7'),
        ("dashboard", b'8'),
        ("deploy", b'9'),
        ("chat-app", b'a'),
    ] {
        fs::write(folder.path().join(format!("{name}.token")), [byte; 64]).unwrap();
    }
    fs::create_dir(folder.path().join("conf.d")).unwrap();
    fs::write(folder.path().join("conf.d/20-chat.toml"), "").unwrap();
    fs::write(folder.path().join("chat.endpoints"), "10.0.0.1:9000\n").unwrap();
    folder
}

/// The report of `tidegate check` on an example, completed if it is not a whole configuration.
pub(super) fn check(example: &str, folder: &Path) -> config::Report {
    let uses_authority = example.contains("acme = \"letsencrypt\"");
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
        if uses_authority {
            let mut authority: toml::Table = toml::from_str(AUTHORITY).unwrap();
            merge(&mut authority, around);
            around = authority;
        }
        complete(&mut around);
        around
    };
    if !own_route {
        let route = whole["route"][0].as_table_mut().unwrap();
        route.insert("origins".to_owned(), vec!["https://example.com"].into());
    }
    // The limits of this machine do not matter for the examples, and most show one setting, not a fleet.
    let server = whole.entry("server").or_insert(toml::Table::new().into());
    let server = server.as_table_mut().unwrap().entry("allow_warnings");
    server.or_insert(
        vec![
            "descriptors",
            "source-ports",
            "unchecked",
            "unused",
            "acme-port",
            "chosen-key",
        ]
        .into(),
    );
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
        let report = check(example, folder.path());
        let found = report.diagnostics();
        assert!(found.is_empty(), "{path}:\n{}", report.render(false));
        examples += 1;
    }
    assert!(examples > 140, "{examples}");
}

/// Pages whose configurations this test skips, and why.
const UNCHECKED: [&str; 2] = [
    "docs/configuration.md", // `every_key_has_an_example_that_works` checks them
    "docs/systemd.md",       // needs sockets and credentials from systemd
];

/// Pages that explain settings, and so have to show some.
const ILLUSTRATED: [&str; 11] = [
    "README.md",
    "docs/logs.md",
    "docs/metrics.md",
    "docs/balancing.md",
    "docs/sticky-sessions.md",
    "docs/health.md",
    "docs/discovery.md",
    "docs/client-identity.md",
    "docs/tls.md",
    "docs/diagnostics.md",
    "docs/migration.md",
];

#[test]
fn the_configurations_in_the_documents_work() {
    let folder = folder();
    let mut checked: Vec<String> = Vec::new();
    for name in pages() {
        if UNCHECKED.contains(&name.as_str()) {
            continue;
        }
        for example in read(&name).split("```toml\n").skip(1) {
            let example = example.split("```").next().unwrap();
            let report = check(example, folder.path());
            assert!(
                report.diagnostics().is_empty(),
                "{name}:\n{example}{}",
                report.render(false)
            );
            checked.push(name.clone());
        }
    }
    assert!(checked.len() > 35, "{checked:?}");
    for name in ILLUSTRATED {
        assert!(checked.iter().any(|page| page == name), "{name}");
    }
}

#[test]
fn the_hono_example_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let generated = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("localhost.pem", generated.cert.pem());
    write("localhost.key", generated.signing_key.serialize_pem());
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
