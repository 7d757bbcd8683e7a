//! The commands that manage a running process.

use serde_json::Value;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::frame;
use crate::harness::operator::{ADMIN, Operator, Printed, command};
use crate::harness::proxy::simple;
use crate::harness::wire::HANDSHAKE;

/// The cells of the row with `word`.
fn row<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.contains(word));
    let line = line.unwrap_or_else(|| panic!("no {word} in:\n{text}"));
    line.split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect()
}

#[tokio::test]
async fn status_shows_everything_on_one_page() {
    let down = Endpoint::bind().await.address;
    let echo = Echo::start("echo").await;
    let config =
        simple(&[echo.address, down]) + "health = { tcp = {}, interval = \"50ms\", fall = 1 }\n";
    let (proxy, operator) = Operator::start(&config).await;
    proxy.logged("endpoint down").await;
    let _held = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    let printed = operator.run(&["status"]).await;
    assert_eq!((printed.code, &*printed.err), (0, ""));
    assert!(
        printed
            .out
            .starts_with("tidegate 0.1.0 is serving (process "),
        "{}",
        printed.out
    );
    assert!(printed.out.contains("1 live tunnels"), "{}", printed.out);
    let up = row(&printed.out, &echo.address.to_string());
    assert_eq!(up, ["main", &echo.address.to_string(), "up", "1", "1", "1"]);
    let out = row(&printed.out, &down.to_string());
    assert_eq!(out[2], "down");
    assert!(out[6].starts_with("health checks fail: "), "{out:?}");
    // No colours, because this is not a terminal.
    assert!(!printed.out.contains('\u{1b}'));
    let json = operator.run(&["status", "--json"]).await;
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["upstreams"][0]["endpoints"][1]["state"], "down");
}

#[tokio::test]
async fn the_busiest_tunnel_is_found_by_rates() {
    let endpoint = Endpoint::bind().await;
    let (proxy, operator) = Operator::start(&simple(&[endpoint.address])).await;
    let mut quiet = proxy.connect().await;
    quiet.send(HANDSHAKE).await;
    let _quiet_end = endpoint.tunnel().await;
    let mut loud = proxy.connect().await;
    loud.send(HANDSHAKE.replace("/chat", "/flood")).await;
    let mut loud_end = endpoint.tunnel().await;
    assert_eq!(
        (quiet.head().await.status(), loud.head().await.status()),
        (101, 101)
    );
    proxy.logged_times("tunnel opened", 2).await;
    let message = frame(0x81, Some([0; 4]), b"x");
    let flood = async {
        loop {
            loud.send(&message).await;
            loud_end.exactly(message.len()).await;
        }
    };
    let printed = tokio::select! {
        printed = operator.run(&["tunnels", "--rates=300ms"]) => printed,
        () = flood => unreachable!("it goes on"),
    };
    assert_eq!((printed.code, &*printed.err), (0, ""));
    let first = printed.out.lines().nth(1).unwrap();
    assert!(first.contains("/flood"), "{}", printed.out);
    let rate: f64 = row(&printed.out, "/flood")[6].parse().unwrap();
    assert!(rate > 0.0, "{}", printed.out);
    assert_eq!(row(&printed.out, "/chat")[6], "0.0");
}

#[tokio::test]
async fn nothing_is_closed_without_yes() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let mut held = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    let printed = operator.run(&["close", "--route", "main"]).await;
    assert_eq!(printed.out, "would close 1 tunnel; add --yes to close it\n");
    assert_eq!(operator.get("/v1/status").await["tunnels"], 1);
    let printed = operator.run(&["close", "--yes"]).await;
    assert_eq!(printed.code, 7);
    assert!(printed.err.contains("all"), "{}", printed.err);
    let printed = operator
        .run(&["close", "--route", "main", "--code", "1012", "--yes"])
        .await;
    assert_eq!((printed.code, &*printed.out), (0, "closed 1 of 1 tunnel\n"));
    assert_eq!(held.exactly(4).await[2..], 1012_u16.to_be_bytes());
}

/// Runs the command that a line recommends.
async fn followed(operator: &Operator, advice: &str) -> Printed {
    let words = advice.split_once("tidegate ").unwrap().1;
    let words: Vec<&str> = words.split(' ').collect();
    operator.run(&words).await
}

#[tokio::test]
async fn an_endpoint_is_drained_and_undrained() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let _held = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    let address = echo.address.to_string();
    let printed = operator.run(&["drain", &address]).await;
    assert_eq!(printed.code, 0);
    let first = printed.out.lines().next().unwrap();
    assert_eq!(
        first,
        format!(
            "endpoint {address} of upstream main is drained: it gets no new sessions and still has 1 tunnel"
        )
    );
    // The recommended command works.
    let printed = followed(&operator, printed.out.lines().nth(1).unwrap()).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    assert!(
        printed.out.starts_with("closing 1 tunnel at 50 per second"),
        "{}",
        printed.out
    );
    proxy.logged("tunnel ended").await;
    let printed = operator.run(&["undrain", &address]).await;
    assert_eq!(
        printed.out,
        format!("endpoint {address} of upstream main is back in rotation\n")
    );
    let printed = operator.run(&["weight", &address, "5"]).await;
    assert_eq!(
        printed.out,
        format!("endpoint {address} of upstream main now has weight 5 until the next reload\n")
    );
    let printed = operator.run(&["drain", "127.0.0.1:1"]).await;
    assert_eq!(
        (printed.code, printed.err.contains("no endpoint")),
        (7, true),
        "{}",
        printed.err
    );
}

#[tokio::test]
async fn a_listener_is_drained_and_undrained() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let _held = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    let printed = operator.run(&["drain", "--listener", "main"]).await;
    let mut lines = printed.out.lines();
    assert_eq!(
        (printed.code, lines.next()),
        (
            0,
            Some("listener main is drained: it accepts no new connections and still has 1 tunnel")
        )
    );
    // The recommended command works.
    assert_eq!(followed(&operator, lines.next().unwrap()).await.code, 0);
    proxy.logged("tunnel ended").await;
    let printed = operator.run(&["status"]).await;
    let line = printed.out.lines().find(|it| it.starts_with("main  "));
    assert!(line.unwrap().contains("drained by an operator"));
    let printed = operator.run(&["undrain", "--listener", "main"]).await;
    proxy.logged_times("listening", 2).await;
    let again = format!(
        "listener main accepts connections again on {}\n",
        proxy.address()
    );
    assert_eq!((printed.code, printed.out), (0, again));
    proxy.tunnel().await;
    for wrong in [
        &["drain"][..],
        &["drain", "127.0.0.1:1", "--listener", "main"],
    ] {
        assert_eq!(operator.run(wrong).await.code, 2);
    }
}

#[tokio::test]
async fn a_reload_is_planned_and_then_done() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let (proxy, operator) = Operator::start(&simple(&[one.address])).await;
    let _held = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    proxy.rewrite(&(ADMIN.to_owned() + &simple(&[other.address])));
    let printed = operator.run(&["reload", "--plan"]).await;
    let removed = format!("main {}", one.address);
    assert_eq!(
        row(&printed.out, &removed),
        ["endpoint", &removed, "removed", "1", "stay open"]
    );
    assert!(
        printed
            .out
            .contains("live tunnels: 1; to be closed: 0; displaced: 1"),
        "{}",
        printed.out
    );
    let printed = operator.run(&["reload"]).await;
    assert_eq!(printed.code, 7);
    assert!(
        printed.err.contains("not reloaded: 1 of 1 live tunnels"),
        "{}",
        printed.err
    );
    let printed = operator.run(&["reload", "--force"]).await;
    assert_eq!((printed.code, &*printed.out), (0, "reloaded\n"));
    proxy.rewrite(&(ADMIN.to_owned() + "[listener.main]\nbind = [\"nonsense\"]\n"));
    let printed = operator.run(&["reload"]).await;
    assert_eq!(printed.code, 7);
    assert!(printed.err.contains("config.toml:"), "{}", printed.err);
}

#[tokio::test]
async fn a_request_is_explained() {
    let echo = Echo::start("echo").await;
    let (_proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let words = [
        "explain",
        "ws://chat.example.com/room",
        "-H",
        "Origin: https://a.example",
    ];
    let printed = operator.run(&words).await;
    assert_eq!((printed.code, &*printed.err), (0, ""));
    assert_eq!(row(&printed.out, "route "), ["route", "main"]);
    assert!(row(&printed.out, "endpoint ")[1].starts_with(&echo.address.to_string()));
}

#[tokio::test]
async fn an_unreachable_process_gets_a_hint_about_the_address() {
    let printed = command(&["status"], "unix:/nonexistent/admin.sock", None).await;
    assert_eq!((printed.code, &*printed.out), (6, ""));
    for hint in [
        "unix:/nonexistent/admin.sock",
        "--admin",
        "TIDEGATE_ADMIN",
        "admin.bind",
    ] {
        assert!(printed.err.contains(hint), "{}", printed.err);
    }
    let printed = command(&["tunnels", "--client", "10.0.0"], "127.0.0.1:1", None).await;
    assert_eq!(printed.code, 2, "{}", printed.err);
}

#[tokio::test]
async fn a_missing_token_gets_a_hint() {
    let echo = Echo::start("echo").await;
    let (_proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let printed = command(&["reload"], operator.address(), None).await;
    assert_eq!(printed.code, 7);
    assert!(printed.err.contains("--token-file"), "{}", printed.err);
    let printed = command(&["status"], operator.address(), None).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
}
