//! `tidegate dashboard` after an upgrade: the tunnels that the previous process still has are on its page.

use serde_json::{Value, json};

use crate::harness::dashboard::Dashboard;
use crate::harness::endpoint::Echo;
use crate::harness::operator::{Operator, upgradable};
use crate::harness::proxy::simple;

fn config(drain: &str, echo: &Echo) -> String {
    let server = format!("upgrade = {{ settle = \"200ms\", drain = \"{drain}\" }}");
    upgradable(&server, &simple(&[echo.address]))
}

/// The tunnels of the endpoint in the process that serves and in the one before.
fn tunnels(state: &Value) -> [&Value; 2] {
    [
        &state["upstreams"][0]["endpoints"][0]["tunnels"],
        &state["older"][0]["upstreams"][0]["endpoints"][0]["tunnels"],
    ]
}

#[tokio::test]
async fn tunnels_of_the_process_before_an_upgrade_stay_on_the_page() {
    let echo = Echo::start("echo").await;
    let (mut proxy, operator) = Operator::start_whole(&config("1h", &echo)).await;
    let mut old = [proxy.tunnel().await, proxy.tunnel().await];
    let first = proxy.pid();
    let dashboard = Dashboard::start(&operator, &["--steer"]).await;
    let browser = dashboard.open().await;
    let mut events = browser.events(None).await;
    let two = |it: &Value| it["status"]["tunnels"] == 2;
    let state = events.until("two tunnels", two).await;
    assert_eq!(state["older"], json!([]));

    let (status, answer) = operator.post("/v1/upgrade", &json!({})).await;
    assert_eq!(status, 200, "{answer}");
    proxy.successor(1).await;
    let mut new = proxy.tunnel().await;
    let all = |it: &Value| tunnels(it) == [&json!(1), &json!(2)];
    let state = events.until("three tunnels", all).await;
    let older = &state["older"][0];
    assert_eq!(
        (&older["pid"], &older["tunnels"]),
        (&json!(first), &json!(2))
    );
    assert_eq!(older["generation"], 1);
    let printed = operator.run(&["status"]).await.out;
    let until = format!("; drains until {}\n", older["drain_ends"].as_str().unwrap());
    assert!(printed.contains(&until), "{printed}");
    // No point has less than all of them, and the messages of both processes count.
    for wire in old.iter_mut().chain([&mut new]) {
        wire.echoes().await;
    }
    let messages = |it: &Value| {
        let links = [&it["traffic"], &it["older"][0]["traffic"]];
        let counts = links.map(|it| &it["links"][0]["messages_from_client"]);
        counts == [&json!(1), &json!(2)]
    };
    events.until("the messages of all", messages).await;
    let mut history = browser.events(None).await;
    let points = history.next().await.data["points"].take();
    let points = points.as_array().unwrap();
    let counts = points.iter().filter_map(|it| it["tunnels"].as_u64());
    assert!(
        counts.skip_while(|it| *it < 2).all(|it| it >= 2),
        "{points:?}"
    );
    assert_eq!(points.last().unwrap()["tunnels"], 3);
    let seconds = |it: &Value| it["messages"].as_f64().unwrap_or_default();
    assert!(points.iter().map(seconds).sum::<f64>() > 0.0, "{points:?}");

    let close = "/v1/tunnels/close?generation=1";
    let (status, closed) = browser.post(close, &json!({ "all": true })).await;
    assert_eq!((status, &closed["closed"]), (200, &json!(2)));
    drop(old);
    assert_eq!(proxy.exit().await, 0);
    let alone = |it: &Value| it["older"] == json!([]);
    let state = events.until("the end of the previous process", alone).await;
    assert_eq!(state["status"]["tunnels"], 1);
}

#[tokio::test]
async fn a_job_of_the_process_before_goes_on() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start_whole(&config("off", &echo)).await;
    let old = [proxy.tunnel().await, proxy.tunnel().await];
    let dashboard = Dashboard::start(&operator, &["--steer"]).await;
    let browser = dashboard.open().await;
    let mut events = browser.events(None).await;
    let hour = json!({ "all": true, "over": "1h" });
    let (status, closing) = browser.post("/v1/tunnels/close", &hour).await;
    assert_eq!(status, 200, "{closing}");
    let begun = |it: &Value| !it["status"]["jobs"].as_array().unwrap().is_empty();
    events.until("the job", begun).await;
    operator.post("/v1/upgrade", &json!({})).await;
    proxy.successor(1).await;
    let goes_on = |it: &Value| it["older"][0]["jobs"][0]["job"] == closing["job"]["job"];
    let state = events
        .until("the job in the previous process", goes_on)
        .await;
    assert_eq!(state["older"][0]["drain_ends"], Value::Null);
    let history = browser.events(None).await.next().await;
    let said = history.data["events"].as_array().unwrap().iter();
    let jobs = said.filter(|it| it["text"].as_str().unwrap().starts_with("job "));
    let jobs: Vec<&Value> = jobs.map(|it| &it["text"]).collect();
    assert_eq!(jobs.len(), 1, "it begins, and is not over: {jobs:?}");
    drop(old);
}
