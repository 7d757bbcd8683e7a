//! Nodes that share a store: which there are, and commands for all of them.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::harness::endpoint::Echo;
use crate::harness::etcd::Etcd;
use crate::harness::operator::{Operator, Printed, write_token};
use crate::harness::proxy::{Proxy, Signal, kill, simple};
use crate::harness::scrape::Scrape;
use crate::harness::{found, free_address, quiet_for, until};

/// A node of a fleet.
struct Node {
    proxy: Proxy,
    operator: Operator,
    config: String,
}

/// The configuration of a node, which others reach at `admin`.
fn config(etcd: &Etcd, node: &str, admin: SocketAddr, echo: &Echo) -> String {
    format!(
        "[admin]\nbind = \"{admin}\"\ntoken_file = \"admin.token\"\nmetrics_bind = \"127.0.0.1:0\"\n\
         {}[fleet]\nnode = \"{node}\"\nshare = [\"members\"]\n\
         admin = {{ url = \"http://{admin}\", networks = [\"127.0.0.1/32\"] }}\n{}",
        etcd.settings(),
        simple(&[echo.address])
    )
}

impl Node {
    async fn start(etcd: &Etcd, node: &str, echo: &Echo) -> Self {
        Self::with(config(etcd, node, free_address(), echo)).await
    }

    async fn with(config: String) -> Self {
        let (proxy, operator) = Operator::start_whole(&config).await;
        Self {
            proxy,
            operator,
            config,
        }
    }

    async fn run(&self, words: &[&str]) -> Printed {
        self.operator.run(words).await
    }

    /// What it knows of the fleet, once that is as wanted.
    async fn knows(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        found(what, 20, async || {
            let fleet = self.operator.get("/v1/fleet").await;
            wanted(&fleet).then_some(fleet)
        })
        .await
    }

    async fn knows_members(&self, count: usize) -> Value {
        self.knows(&format!("{count} members"), |fleet| {
            fleet["members"].as_array().unwrap().len() == count && fleet["name"] == "held"
        })
        .await
    }
}

/// What a process that does not start says.
async fn refused(config: &str) -> String {
    let folder = TempDir::new().unwrap();
    write_token(folder.path());
    let mut proxy = Proxy::spawn(Arc::new(folder), config, |_| {});
    assert_eq!(proxy.exit().await, 3, "{}", proxy.log().text());
    assert!(proxy.log().events("ready").is_empty());
    proxy.log().text()
}

/// The record of a node elsewhere.
fn record(node: &str, admin: &str) -> String {
    json!({ "node": node, "instance": "other", "admin": admin, "place": "elsewhere", "pid": 7 })
        .to_string()
}

#[tokio::test]
async fn a_node_is_listed_as_long_as_it_runs() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let mut node = Node::start(&etcd, "edge-1", &echo).await;
    let stored = etcd.has("/t/members/edge-1", |_| true).await;
    assert_eq!(stored["pid"], node.proxy.pid());
    assert_eq!(stored["generation"], 1);
    assert_eq!(
        stored["admin"],
        format!("http://{}", node.operator.address())
    );
    let fleet = node.knows_members(1).await;
    let member = &fleet["members"][0];
    assert_eq!(
        (&member["node"], &member["is_self"]),
        (&json!("edge-1"), &json!(true))
    );
    assert_eq!(fleet["store"]["read_error"], Value::Null);
    // What an operator does there is there at once.
    let printed = node.run(&["drain", &echo.address.to_string()]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    let drained = format!("endpoint {} of main", echo.address);
    etcd.has("/t/members/edge-1", |it| it["drains"][0] == drained)
        .await;
    node.proxy.signal(Signal::TERM);
    assert_eq!(node.proxy.exit().await, 0);
    // Without waiting for the end of its lease.
    assert_eq!(etcd.get("/t/members/edge-1"), None);
}

#[tokio::test]
async fn commands_go_to_every_node() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let one = Node::start(&etcd, "edge-1", &echo).await;
    let two = Node::start(&etcd, "edge-2", &echo).await;
    one.knows_members(2).await;
    let mut tunnels = [one.proxy.tunnel().await, two.proxy.tunnel().await];
    let printed = one.run(&["status", "--fleet"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    let rows: Vec<Vec<&str>> = printed
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let state = |row: &Vec<&str>| (row[0].to_owned(), row[1].to_owned(), row[5].to_owned());
    let serving = |node: &str| (node.to_owned(), "serving".to_owned(), "1".to_owned());
    assert_eq!(
        rows[1..].iter().map(state).collect::<Vec<_>>(),
        [serving("edge-1"), serving("edge-2")],
        "{}",
        printed.out
    );
    let listed = one.run(&["tunnels", "--fleet", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    for (place, node) in ["edge-1", "edge-2"].into_iter().enumerate() {
        let listed = &listed["nodes"][place];
        assert_eq!(listed["node"], node);
        assert_eq!(listed["response"]["tunnels"].as_array().unwrap().len(), 1);
    }
    let endpoint = echo.address.to_string();
    let printed = one.run(&["drain", &endpoint, "--fleet"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    for node in [&one, &two] {
        let upstreams = node.operator.get("/v1/upstreams").await;
        assert_eq!(upstreams[0]["endpoints"][0]["state"], "drained");
    }
    let printed = two.run(&["undrain", &endpoint, "--fleet"]).await;
    assert_eq!(
        printed.out.matches("is back in rotation").count(),
        2,
        "{}",
        printed.out
    );
    let printed = one.run(&["revoke", "mallory", "--fleet"]).await;
    assert_eq!(
        printed.out.matches("revoked mallory").count(),
        2,
        "{}",
        printed.out
    );
    let printed = one.run(&["close", "--all", "--fleet"]).await;
    assert_eq!(
        printed.out.matches("would close 1 tunnel").count(),
        2,
        "{}",
        printed.out
    );
    let printed = one.run(&["close", "--all", "--yes", "--fleet"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    for tunnel in &mut tunnels {
        tunnel.until_gone().await;
    }
}

#[tokio::test]
async fn a_node_that_does_not_respond_is_named_and_the_others_are_done() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-2", &echo).await;
    let gone = free_address();
    etcd.put(
        "/t/members/edge-1",
        &record("edge-1", &format!("http://{gone}")),
        0,
    );
    etcd.put("/t/members/edge-3", &record("edge-3", ""), 0);
    node.knows_members(3).await;
    let printed = node
        .run(&["drain", &echo.address.to_string(), "--fleet"])
        .await;
    assert_eq!(printed.code, 6, "{}", printed.out);
    assert!(
        printed.err.contains("2 of 3 nodes failed: edge-1, edge-3"),
        "{}",
        printed.err
    );
    assert!(
        printed
            .out
            .contains(&format!("edge-1: no tidegate responds at {gone}")),
        "{}",
        printed.out
    );
    assert!(printed.out.contains("is drained"), "{}", printed.out);
    let printed = node.run(&["status", "--fleet"]).await;
    assert_eq!(printed.code, 6);
    assert!(printed.out.contains("\nedge-2 "), "{}", printed.out);
}

#[tokio::test]
async fn a_change_with_an_old_list_of_nodes_is_done_and_says_so() {
    let (mut etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-1", &echo).await;
    node.knows_members(1).await;
    etcd.stop(0).await;
    node.knows("the store to be away", |it| {
        !it["store"]["read_error"].is_null()
    })
    .await;
    let drain = ["drain", &echo.address.to_string(), "--fleet"];
    let printed = node.run(&drain).await;
    assert_eq!(printed.code, 9, "{}", printed.err);
    assert!(printed.out.contains("is drained"), "{}", printed.out);
    let why = "error: the store cannot be read (";
    assert!(printed.err.starts_with(why), "{}", printed.err);
    let printed = node.run(&[&drain[..], &["--json"]].concat()).await;
    assert_eq!(printed.code, 9, "{}", printed.err);
    let shown: Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(shown["stale"], true, "{shown}");
    // What only looks has shown all that it can.
    let printed = node.run(&["status", "--fleet"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(
        printed.out.starts_with("the store cannot be read ("),
        "{}",
        printed.out
    );
}

#[tokio::test]
async fn an_address_from_the_store_gets_no_token_unless_the_configuration_allows_it() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-1", &echo).await;
    // Somebody who can write to the store, at an address that is not in `networks`.
    let thief = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = thief.local_addr().unwrap();
    etcd.put(
        "/t/members/edge-2",
        &record("edge-2", &format!("http://{address}")),
        0,
    );
    node.knows_members(2).await;
    for words in [
        &["status", "--fleet"][..],
        &["close", "--all", "--yes", "--fleet"],
        &["drain", "--listener", "main", "--fleet"],
    ] {
        let printed = node.run(words).await;
        assert_eq!(printed.code, 6, "{}", printed.out);
        let line = format!("edge-2: not asked: its address http://{address} is neither in");
        assert!(printed.out.contains(&line), "{}", printed.out);
    }
    quiet_for(100, async { thief.accept().await.unwrap().1 }).await;
}

#[tokio::test]
async fn a_name_in_use_is_refused() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let first = Node::start(&etcd, "edge-1", &echo).await;
    first.knows_members(1).await;
    let said = refused(&config(&etcd, "edge-1", free_address(), &echo)).await;
    assert!(
        said.contains("another node has the name `edge-1`"),
        "{said}"
    );
    assert!(
        said.contains(&format!("process {}", first.proxy.pid())),
        "{said}"
    );
    // Elsewhere, a node that lives renews its lease.
    let lease = etcd.lease(30);
    etcd.put(
        "/t/members/edge-9",
        &record("edge-9", "https://10.0.0.9:9900"),
        lease,
    );
    let renewing = found("nothing", 2000, async || {
        etcd.renew(lease);
        None::<()>
    });
    let config = config(&etcd, "edge-9", free_address(), &echo);
    let said = tokio::select! {
        said = refused(&config) => said,
        () = renewing => unreachable!(),
    };
    assert!(said.contains("at https://10.0.0.9:9900"), "{said}");
}

#[tokio::test]
async fn a_node_that_comes_back_has_its_name() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let mut first = Node::start(&etcd, "edge-1", &echo).await;
    first.knows_members(1).await;
    first.proxy.signal(Signal::KILL);
    first.proxy.died().await;
    // Its process is seen to be gone; its lease goes on.
    let again = Node::start(&etcd, "edge-1", &echo).await;
    let pid = again.proxy.pid();
    etcd.has("/t/members/edge-1", |it| it["pid"] == pid).await;
    // One that was elsewhere, such as in another container, is gone when its lease ends.
    let lease = etcd.lease(300);
    etcd.put(
        "/t/members/edge-9",
        &record("edge-9", "https://10.0.0.9:9900"),
        lease,
    );
    let moved = Node::start(&etcd, "edge-9", &echo).await;
    moved
        .proxy
        .logged("another node has the name of this one; this one is not listed until that has gone")
        .await;
    let status = moved.run(&["status"]).await;
    assert!(
        status.out.contains("another node has the name `edge-9`"),
        "{}",
        status.out
    );
    etcd.end_leases();
    let pid = moved.proxy.pid();
    etcd.has("/t/members/edge-9", |it| it["pid"] == pid).await;
}

#[tokio::test]
async fn the_processes_of_an_upgrade_are_one_node() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-1", &echo).await;
    let before = etcd.has("/t/members/edge-1", |_| true).await;
    let mut tunnel = node.proxy.tunnel().await;
    node.proxy.signal(Signal::USR2);
    let pid = node.proxy.successor(1).await;
    let after = etcd
        .has("/t/members/edge-1", |it| it["generation"] == 2)
        .await;
    assert_eq!(
        (&after["pid"], &after["instance"]),
        (&json!(pid), &before["instance"])
    );
    // The old process ends, and does not take the item with it.
    tunnel.echoes().await;
    drop(tunnel);
    node.proxy.logged("stopped").await;
    until("the old process to be over", || {
        crate::harness::proxy::is_over(node.proxy.pid())
    })
    .await;
    assert_eq!(etcd.get("/t/members/edge-1").unwrap()["pid"], pid);
    kill(pid, Signal::TERM);
    until("the item to go", || etcd.get("/t/members/edge-1").is_none()).await;
}

#[tokio::test]
async fn a_reload_moves_the_node_to_another_name() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-1", &echo).await;
    etcd.has("/t/members/edge-1", |_| true).await;
    node.proxy
        .reload(&node.config.replace("\"edge-1\"", "\"edge-7\""))
        .await;
    etcd.has("/t/members/edge-7", |_| true).await;
    until("the old item to go", || {
        etcd.get("/t/members/edge-1").is_none()
    })
    .await;
    let unshared = node.config.replace("share = [\"members\"]", "share = []");
    node.proxy.reload(&unshared).await;
    until("the item to go", || etcd.get("/t/members/edge-7").is_none()).await;
    let fleet = node.operator.get("/v1/fleet").await;
    assert_eq!(fleet["members"], json!([]));
}

/// Its item and its lease are there, as they were before the last change.
#[tokio::test]
async fn a_node_is_listed_as_it_is_after_etcd_was_restored() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-1", &echo).await;
    etcd.has("/t/members/edge-1", |_| true).await;
    let backup = etcd.backup();
    let drain = ["drain", &echo.address.to_string()];
    assert_eq!(node.run(&drain).await.code, 0);
    let is_drained = |it: &Value| !it["drains"][0].is_null();
    etcd.has("/t/members/edge-1", is_drained).await;
    etcd.restore(backup);
    etcd.has("/t/members/edge-1", is_drained).await;
}

#[tokio::test]
async fn without_the_store_a_node_serves_and_catches_up() {
    let (mut etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    etcd.stop(0).await;
    let node = Node::start(&etcd, "edge-1", &echo).await;
    node.proxy.tunnel().await.echoes().await;
    let trouble = node
        .proxy
        .logged("the store cannot be read; it is asked again")
        .await;
    assert_eq!(trouble["effect"], "nothing was read yet");
    etcd.resume(0).await;
    node.knows_members(1).await;
    etcd.put("/t/members/edge-2", &record("edge-2", ""), 0);
    node.knows_members(2).await;
    etcd.stop(0).await;
    let fleet = node
        .knows("the store to be away", |it| {
            !it["store"]["read_error"].is_null()
        })
        .await;
    assert_eq!(fleet["members"].as_array().unwrap().len(), 2, "{fleet}");
    Scrape::until(&node.proxy, "tidegate_store_up", &["access=\"read\""], 0.0).await;
    let status = node.run(&["status"]).await;
    assert!(
        status.out.contains("the store cannot be read since"),
        "{}",
        status.out
    );
    node.proxy.tunnel().await.echoes().await;
    etcd.delete("/t/members/edge-2");
    etcd.put("/t/members/edge-3", &record("edge-3", ""), 0);
    etcd.resume(0).await;
    node.knows("the other member", |it| {
        let members = it["members"].as_array().unwrap().iter();
        members
            .map(|it| it["node"].as_str().unwrap())
            .eq(["edge-1", "edge-3"])
    })
    .await;
    let scrape = Scrape::until(&node.proxy, "tidegate_store_up", &["access=\"read\""], 1.0).await;
    assert_eq!(scrape.sum("tidegate_fleet_members", &[]), 2.0);
    let over = "the store can be read again; everything that changed meanwhile is known";
    node.proxy.logged(over).await;
    assert!(
        node.proxy
            .log()
            .events("the store cannot be read; it is asked again")
            .len()
            <= 2
    );
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_and_one_that_was_compacted_begins_again() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-1", &echo).await;
    node.knows_members(1).await;
    etcd.cut_watches();
    etcd.put("/t/members/edge-2", &record("edge-2", ""), 0);
    node.knows_members(2).await;
    // Read again only if what the watch would begin with is gone.
    etcd.cut_watches();
    etcd.put("/t/members/edge-3", &record("edge-3", ""), 0);
    etcd.delete("/t/members/edge-2");
    etcd.compact();
    node.knows("the members after the compaction", |it| {
        let members = it["members"].as_array().unwrap().iter();
        members
            .map(|it| it["node"].as_str().unwrap())
            .eq(["edge-1", "edge-3"])
    })
    .await;
    // What is not the record of a member is not listed.
    etcd.put("/t/members/edge-4", "no record", 0);
    etcd.put("/t/members/edge-5", &record("edge-6", ""), 0);
    etcd.put("/other/members/edge-7", &record("edge-7", ""), 0);
    etcd.put("/t/members/edge-8", &record("edge-8", ""), 0);
    node.knows_members(3).await;
}

#[tokio::test]
async fn a_watch_that_shows_nothing_any_more_is_noticed() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-1", &echo).await;
    node.knows_members(1).await;
    etcd.set_silent(true);
    etcd.put("/t/members/edge-2", &record("edge-2", ""), 0);
    let watches = etcd.requests("/v3/watch");
    until("another watch", || etcd.requests("/v3/watch") > watches).await;
    node.knows_members(2).await;
}

#[tokio::test]
async fn a_full_store_costs_nothing_but_news() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-1", &echo).await;
    node.knows_members(1).await;
    etcd.set_full(true);
    let endpoint = echo.address.to_string();
    assert_eq!(node.run(&["drain", &endpoint]).await.code, 0);
    let trouble = "the store cannot be written; other nodes do not see what changes here, and it is tried again";
    let logged = node.proxy.logged(trouble).await;
    assert!(
        logged["error"]
            .as_str()
            .unwrap()
            .contains("database space exceeded"),
        "{logged}"
    );
    let fleet = node
        .knows("the trouble", |it| !it["store"]["write_error"].is_null())
        .await;
    assert_eq!(fleet["store"]["read_error"], Value::Null);
    assert_eq!(node.run(&["undrain", &endpoint]).await.code, 0);
    node.proxy.tunnel().await.echoes().await;
    // Until the last change is there, and the trouble is over.
    assert_eq!(node.run(&["drain", &endpoint]).await.code, 0);
    etcd.set_full(false);
    etcd.has("/t/members/edge-1", |it| !it["drains"][0].is_null())
        .await;
    node.proxy.logged("the store can be written again").await;
    assert_eq!(node.proxy.log().events(trouble).len(), 1);
}

#[tokio::test]
async fn writes_do_not_follow_the_number_of_tunnels() {
    let (etcd, echo) = (Etcd::start().await, Echo::start("echo").await);
    let node = Node::start(&etcd, "edge-1", &echo).await;
    node.knows_members(1).await;
    let began = std::time::Instant::now();
    let before = etcd.writes();
    for number in 0..200 {
        let mut tunnel = node.proxy.tunnel().await;
        tunnel.echoes().await;
        if number % 10 == 0 {
            let endpoint = echo.address.to_string();
            node.operator
                .post("/v1/endpoints/drain", &json!({ "endpoint": endpoint }))
                .await;
            node.operator
                .post("/v1/endpoints/undrain", &json!({ "endpoint": endpoint }))
                .await;
        }
    }
    let allowed = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    assert!(
        etcd.writes() - before <= allowed,
        "{} {allowed}",
        etcd.writes() - before
    );
}

#[tokio::test]
async fn another_member_is_asked_when_one_fails_and_a_token_is_renewed() {
    let (mut etcd, echo) = (Etcd::of(3).await, Echo::start("echo").await);
    etcd.renew_tokens();
    let folder = TempDir::new().unwrap();
    write_token(folder.path());
    std::fs::write(folder.path().join("etcd.password"), "secret\n").unwrap();
    let config = config(&etcd, "edge-1", free_address(), &echo).replace(
        "prefix = \"/t/\"",
        "prefix = \"/t/\", user = \"tidegate\", password_file = \"etcd.password\"",
    );
    let proxy = Proxy::start_in(folder, &config).await;
    let operator = Operator::of(&proxy).await;
    let node = Node {
        proxy,
        operator,
        config,
    };
    for member in 0..3 {
        node.knows_members(1 + member).await;
        etcd.renew_tokens();
        etcd.stop(member).await;
        let name = format!("other-{member}");
        etcd.put(&format!("/t/members/{name}"), &record(&name, ""), 0);
        if member < 2 {
            node.knows_members(2 + member).await;
        }
        etcd.resume(member).await;
    }
    node.knows_members(4).await;
}
