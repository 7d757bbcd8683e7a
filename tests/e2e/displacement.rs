//! What a plan says about tunnels, and what happens to them after the reload: the same, for every change.

use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::endpoint::Echo;
use crate::harness::operator::{ADMIN, Operator};
use crate::harness::proxy::Proxy;
use crate::harness::wire::Wire;
use crate::harness::{quiet_for, until};

/// Two listeners, two routes, and an upstream of this name with these settings.
fn config(upstream: &str, endpoints: &str, settings: &str) -> String {
    format!(
        "{ADMIN}[listener.main]\nbind = [\"127.0.0.1:0\"]\n\
         [[route]]\nname = \"main\"\nupstream = \"{upstream}\"\n\
         [upstream.{upstream}]\nbalance = \"round_robin\"\nendpoints = [{endpoints}]\n{settings}\n"
    )
}

/// A change of the configuration, and how many tunnels of the first and of the second endpoint it closes.
struct Change {
    name: &'static str,
    before: String,
    /// An operator drains the first endpoint before the change.
    drains: bool,
    /// A configuration in between, for what was removed earlier.
    between: Option<String>,
    after: String,
    closed: [u64; 2],
    displaced: u64,
}

const CLOSES: [&str; 3] = [
    "on_removed = { action = \"close\" }",
    "on_drain = { action = \"close\" }",
    "on_removed = { action = \"drain\", over = \"1s\" }",
];

fn change(
    name: &'static str,
    [before, after]: [String; 2],
    closed: [u64; 2],
    displaced: u64,
) -> Change {
    Change {
        name,
        before,
        drains: false,
        between: None,
        after,
        closed,
        displaced,
    }
}

fn listed(endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|it| format!("\"{it}\"")).collect();
    endpoints.join(", ")
}

/// What happens to the first of two endpoints.
fn changes_of_endpoints([one, two]: [SocketAddr; 2]) -> Vec<Change> {
    let [removed, on_drain, slowly] = CLOSES;
    let both = |settings: &str| config("main", &listed(&[one, two]), settings);
    let second = |settings: &str| config("main", &listed(&[two]), settings);
    let drained = |settings: &str| {
        let endpoints = format!("{{ address = \"{one}\", drain = true }}, \"{two}\"");
        config("main", &endpoints, settings)
    };
    vec![
        change("removed, kept", [both(""), second("")], [0, 0], 2),
        change("removed, closed", [both(""), second(removed)], [2, 0], 2),
        change("removed, slowly", [both(""), second(slowly)], [2, 0], 2),
        // The settings of the new file count, as long as it has the upstream.
        change("no longer", [both(removed), second("")], [0, 0], 2),
        change("drained, kept", [both(""), drained("")], [0, 0], 2),
        change("drained, closed", [both(""), drained(on_drain)], [2, 0], 2),
        change("before", [drained(""), drained(on_drain)], [0, 0], 0),
        Change {
            drains: true,
            ..change("by an operator", [both(""), both(on_drain)], [2, 0], 2)
        },
        Change {
            between: Some(second("")),
            ..change("earlier", [both(""), second(removed)], [2, 0], 2)
        },
    ]
}

/// What happens to other parts of the configuration.
fn changes_of_others([one, two]: [SocketAddr; 2]) -> Vec<Change> {
    let [removed, ..] = CLOSES;
    let both = listed(&[one, two]);
    let of = |upstream: &str, settings: &str| config(upstream, &both, settings);
    let closes = of("main", removed);
    let route = closes.replace("name = \"main\"", "name = \"other\"");
    let listener = closes.replace("listener.main", "listener.other");
    let limited = format!("{{ address = \"{one}\", max_tunnels = 1 }}, \"{two}\"");
    let limit = config("main", &limited, removed);
    vec![
        // A removed upstream has only its old settings.
        change(
            "upstream, kept",
            [of("main", ""), of("next", removed)],
            [0, 0],
            4,
        ),
        change(
            "upstream, closed",
            [closes.clone(), of("next", "")],
            [2, 2],
            4,
        ),
        change("route", [closes.clone(), route], [0, 0], 4),
        change("listener", [closes.clone(), listener], [0, 0], 0),
        change("limit", [closes, limit], [0, 0], 0),
    ]
}

/// The tunnels that a plan would close, of an endpoint in any upstream that has tunnels.
fn planned(plan: &Value, address: SocketAddr) -> u64 {
    let endpoints = plan["endpoints"].as_array().unwrap();
    let closed = endpoints.iter().filter(|it| {
        it["endpoint"] == address.to_string() && (it["then"] == "close" || it["then"] == "drain")
    });
    closed.map(|it| it["tunnels"].as_u64().unwrap()).sum()
}

/// Starts with one configuration, opens two tunnels to each endpoint, plans a change, applies it, and compares
/// what happens with the plan.
async fn check(change: Change, echoes: [Echo; 2]) {
    let (name, addresses) = (change.name, echoes.each_ref().map(|it| it.address));
    let open = || echoes.each_ref().map(|it| it.open() as u64);
    let config = change.before.strip_prefix(ADMIN).unwrap();
    let (proxy, operator) = Operator::start(config).await;
    let _held = four(&proxy).await;
    if change.drains {
        let which = json!({ "endpoint": addresses[0].to_string() });
        assert_eq!(operator.post("/v1/endpoints/drain", &which).await.0, 200);
    }
    if let Some(between) = change.between {
        proxy.reload(&between).await;
    }
    proxy.rewrite(&change.after);
    let plan = operator.plan().await;
    let closed: u64 = change.closed.iter().sum();
    assert_eq!(
        addresses.map(|it| planned(&plan, it)),
        change.closed,
        "{name}: {plan:#}"
    );
    assert_eq!(
        (&plan["closed"], &plan["displaced"]),
        (&json!(closed), &json!(change.displaced)),
        "{name}: {plan:#}"
    );
    let before = open();
    let (status, answer) = operator.post("/v1/reload", &json!({ "force": true })).await;
    assert_eq!(status, 200, "{name}: {answer}");
    let expected = [0, 1].map(|at: usize| before[at] - change.closed[at]);
    until(name, || open() == expected).await;
    // Longer than two evaluations of what to evict.
    let one_more = proxy.logged_times("tunnel ended", closed as usize + 1);
    quiet_for(2500, async { one_more.await.len() }).await;
    assert_eq!(open(), expected, "{name}");
}

#[tokio::test]
async fn what_happens_is_what_the_plan_says() {
    let mut checks = Vec::new();
    for number in 0.. {
        let echoes = [Echo::start("one").await, Echo::start("two").await];
        let addresses = echoes.each_ref().map(|it| it.address);
        let changes = changes_of_endpoints(addresses).into_iter();
        let mut changes = changes.chain(changes_of_others(addresses));
        let Some(change) = changes.nth(number) else {
            break;
        };
        checks.push(check(change, echoes));
    }
    assert!(checks.len() > 10, "{}", checks.len());
    join_all(checks).await;
}

/// Four tunnels, two to each endpoint.
async fn four(proxy: &Proxy) -> Vec<Wire> {
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(proxy.tunnel().await);
    }
    proxy.logged_times("tunnel opened", 4).await;
    held
}

#[tokio::test]
async fn tunnels_above_a_lowered_limit_are_shown() {
    let echoes = [Echo::start("one").await, Echo::start("two").await];
    let [one, two] = echoes.each_ref().map(|it| it.address);
    let before = config("main", &listed(&[one, two]), "");
    let (proxy, operator) = Operator::start(before.strip_prefix(ADMIN).unwrap()).await;
    let _held = four(&proxy).await;
    let limited = format!("{{ address = \"{one}\", max_tunnels = 1 }}, \"{two}\"");
    proxy.rewrite(&config("main", &limited, ""));
    let plan = operator.plan().await;
    let mut shown = plan["endpoints"].as_array().unwrap().iter();
    let shown = shown.find(|it| it["endpoint"] == one.to_string()).unwrap();
    assert_eq!(
        (&shown["change"], &shown["then"], &shown["above_limit"]),
        (&json!("changed"), &json!("stay"), &json!(1))
    );
    let printed = operator.run(&["reload", "--plan"]).await.out;
    let row = "stay open, 1 above `max_tunnels`";
    assert!(printed.contains(row), "{printed}");
}

/// What was removed has a row in the status as long as it has tunnels, after an upgrade, too.
#[tokio::test]
async fn removed_parts_are_shown_as_long_as_they_have_tunnels() {
    let echoes = [Echo::start("one").await, Echo::start("two").await];
    let [one, two] = echoes.each_ref().map(|it| it.address);
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\n\
                  upgrade = { settle = \"200ms\", drain = \"off\" }\n[listener.main]";
    let config = |endpoints: &[SocketAddr], settings: &str| {
        config("main", &listed(endpoints), settings).replace("[listener.main]", server)
    };
    let before = config(&[one, two], "");
    let (proxy, operator) = Operator::start(before.strip_prefix(ADMIN).unwrap()).await;
    let _held = four(&proxy).await;
    let slowly = "on_removed = { action = \"drain\", rate = \"1/m\" }";
    let after = config(&[two], slowly)
        .replace("name = \"main\"", "name = \"other\"")
        .replace("listener.main", "listener.other");
    proxy.rewrite(&after);
    let printed = operator.run(&["reload", "--plan"]).await.out;
    for line in [
        "are closed one by one as endpoint-removed",
        "live tunnels: 4; to be closed: 2; displaced: 4",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    proxy.reload(&after).await;
    proxy.logged("closing the tunnels of an endpoint").await;
    let status = operator.get("/v1/status").await;
    let displaced = status["displaced"].as_array().unwrap();
    let found = |kind: &str| displaced.iter().find(|it| it["kind"] == kind).unwrap();
    let address = one.to_string();
    for (kind, name) in [
        ("listener", "main"),
        ("route", "main"),
        ("endpoint", &address),
    ] {
        assert_eq!(found(kind)["name"], name, "{status:#}");
    }
    let endpoint = found("endpoint");
    assert_eq!(
        (&endpoint["then"], &endpoint["reason"]),
        (&json!("drain"), &json!("endpoint-removed"))
    );
    // The older generation has the tunnels, and the job.
    assert_eq!(operator.post("/v1/upgrade", &json!({})).await.0, 200);
    proxy.successor(1).await;
    let mut older = Value::Null;
    while !older["jobs"][0].is_object() {
        older = operator.get("/v1/status").await["generations"][1].clone();
    }
    assert_eq!(older["jobs"][0]["reason"], "endpoint-removed", "{older:#}");
    let mut kinds = older["displaced"].as_array().unwrap().iter();
    assert!(kinds.any(|it| it["kind"] == "endpoint"), "{older:#}");
    let printed = operator.run(&["status"]).await.out;
    for line in ["    job 1: ", &format!("    removed endpoint main {one}: ")] {
        assert!(printed.contains(line), "{printed}");
    }
}
