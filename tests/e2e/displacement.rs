//! What a plan says about tunnels, and what happens to them after the reload: the same, for every change.

use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::endpoint::Echo;
use crate::harness::operator::{ADMIN, Operator};
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

fn changes([one, two]: [SocketAddr; 2]) -> Vec<Change> {
    let both = format!("\"{one}\", \"{two}\"");
    let second = format!("\"{two}\"");
    let drained = format!("{{ address = \"{one}\", drain = true }}, \"{two}\"");
    let limited = format!("{{ address = \"{one}\", max_tunnels = 1 }}, \"{two}\"");
    let [removed, on_drain, slowly] = CLOSES;
    let change = |name, before: String, after: String, closed, displaced| Change {
        name,
        before,
        drains: false,
        between: None,
        after,
        closed,
        displaced,
    };
    let of = |endpoints: &str, settings: &str| config("main", endpoints, settings);
    let other_route = |text: String| text.replace("name = \"main\"", "name = \"other\"");
    let other_listener = |text: String| text.replace("listener.main", "listener.other");
    vec![
        change("removed, kept", of(&both, ""), of(&second, ""), [0, 0], 2),
        change(
            "removed, closed",
            of(&both, ""),
            of(&second, removed),
            [2, 0],
            2,
        ),
        change(
            "removed, slowly",
            of(&both, ""),
            of(&second, slowly),
            [2, 0],
            2,
        ),
        // The settings of the new file count, as long as it has the upstream.
        change("no longer", of(&both, removed), of(&second, ""), [0, 0], 2),
        change("drained, kept", of(&both, ""), of(&drained, ""), [0, 0], 2),
        change(
            "drained, closed",
            of(&both, ""),
            of(&drained, on_drain),
            [2, 0],
            2,
        ),
        change(
            "drained before",
            of(&drained, ""),
            of(&drained, on_drain),
            [0, 0],
            0,
        ),
        // A removed upstream has only its old settings.
        change(
            "upstream, kept",
            of(&both, ""),
            config("next", &both, removed),
            [0, 0],
            4,
        ),
        change(
            "upstream, closed",
            of(&both, removed),
            config("next", &both, ""),
            [2, 2],
            4,
        ),
        change(
            "route",
            of(&both, removed),
            other_route(of(&both, removed)),
            [0, 0],
            4,
        ),
        change(
            "listener",
            of(&both, removed),
            other_listener(of(&both, removed)),
            [0, 0],
            0,
        ),
        change(
            "limit",
            of(&both, removed),
            of(&limited, removed),
            [0, 0],
            0,
        ),
        Change {
            drains: true,
            ..change(
                "by an operator",
                of(&both, ""),
                of(&both, on_drain),
                [2, 0],
                2,
            )
        },
        Change {
            between: Some(of(&second, "")),
            ..change("earlier", of(&both, ""), of(&second, removed), [2, 0], 2)
        },
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
    let mut held: Vec<Wire> = Vec::new();
    for _ in 0..4 {
        held.push(proxy.tunnel().await);
    }
    proxy.logged_times("tunnel opened", 4).await;
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
        let changes = changes(echoes.each_ref().map(|it| it.address));
        let Some(change) = changes.into_iter().nth(number) else {
            break;
        };
        checks.push(check(change, echoes));
    }
    assert!(checks.len() > 10, "{}", checks.len());
    join_all(checks).await;
}

/// A lowered limit closes nothing, and the plan says how many tunnels are above it; what was removed has a row
/// in the status as long as it has tunnels.
#[tokio::test]
async fn limits_and_removed_parts_are_shown() {
    let echoes = [Echo::start("one").await, Echo::start("two").await];
    let [one, two] = echoes.each_ref().map(|it| it.address);
    let both = format!("\"{one}\", \"{two}\"");
    let server = "[server]\nworkers = 2\nlog.format = \"json\"\n\
                  upgrade = { settle = \"200ms\", drain = \"off\" }\n";
    let config = |endpoints: &str, settings: &str| {
        let config = config("main", endpoints, settings);
        config.replace("[listener.main]", &format!("{server}[listener.main]"))
    };
    let before = config(&both, "");
    let (proxy, operator) = Operator::start(before.strip_prefix(ADMIN).unwrap()).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(proxy.tunnel().await);
    }
    proxy.logged_times("tunnel opened", 4).await;
    let limited = format!("{{ address = \"{one}\", max_tunnels = 1 }}, \"{two}\"");
    proxy.rewrite(&config(&limited, ""));
    let plan = operator.plan().await;
    let shown = plan["endpoints"].as_array().unwrap().iter();
    let mut shown = shown.filter(|it| it["endpoint"] == one.to_string());
    let shown = shown.next().unwrap();
    assert_eq!(
        (&shown["change"], &shown["then"]),
        (&json!("changed"), &json!("stay"))
    );
    assert_eq!(shown["above_limit"], 1);
    let printed = operator.run(&["reload", "--plan"]).await.out;
    assert!(
        printed.contains("stay open, 1 above `max_tunnels`"),
        "{printed}"
    );

    let second = format!("\"{two}\"");
    let slowly = "on_removed = { action = \"drain\", rate = \"1/m\" }";
    let after = config(&second, slowly)
        .replace("name = \"main\"", "name = \"other\"")
        .replace("listener.main", "listener.other");
    proxy.rewrite(&after);
    let printed = operator.run(&["reload", "--plan"]).await.out;
    let row = "are closed one by one as endpoint-removed";
    assert!(printed.contains(row), "{printed}");
    assert!(
        printed.contains("live tunnels: 4; to be closed: 2; displaced: 4"),
        "{printed}"
    );
    proxy.reload(&after).await;
    proxy.logged("closing the tunnels of an endpoint").await;
    let status = operator.get("/v1/status").await;
    let displaced = status["displaced"].as_array().unwrap();
    let found = |kind: &str| displaced.iter().find(|it| it["kind"] == kind);
    for (kind, name) in [
        ("listener", "main"),
        ("route", "main"),
        ("endpoint", &*one.to_string()),
    ] {
        assert_eq!(found(kind).unwrap()["name"], name, "{status:#}");
    }
    let endpoint = found("endpoint").unwrap();
    assert_eq!(
        (&endpoint["then"], &endpoint["reason"]),
        (&json!("drain"), &json!("endpoint-removed"))
    );
    // The same after an upgrade: the older generation has the tunnels, and the job.
    assert_eq!(operator.post("/v1/upgrade", &json!({})).await.0, 200);
    proxy.successor(1).await;
    let mut older = Value::Null;
    while !older["jobs"][0].is_object() {
        older = operator.get("/v1/status").await["generations"][1].clone();
    }
    assert_eq!(older["jobs"][0]["reason"], "endpoint-removed", "{older:#}");
    let kinds = older["displaced"].as_array().unwrap().iter();
    let kinds: Vec<&Value> = kinds.map(|it| &it["kind"]).collect();
    assert!(kinds.contains(&&json!("endpoint")), "{older:#}");
    let printed = operator.run(&["status"]).await.out;
    for line in ["    job 1: ", &format!("    removed endpoint main {one}: ")] {
        assert!(printed.contains(line), "{printed}");
    }
}
