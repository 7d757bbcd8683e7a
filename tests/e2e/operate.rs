//! The commands that manage a running process.

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::harness::endpoint::{Echo, Endpoint};
use crate::harness::frames::frame;
use crate::harness::operator::{ADMIN, Operator, Printed, command};
use crate::harness::proxy::{Proxy, settings, simple};
use crate::harness::wire::{HANDSHAKE, Wire};
use crate::harness::{not_run, within};

/// The cells of the row with `word`.
fn row<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.contains(word));
    let line = line.unwrap_or_else(|| panic!("no {word} in:\n{text}"));
    line.split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect()
}

/// A process with a tunnel to one of its two endpoints; the other one is down.
struct HalfDown {
    operator: Operator,
    up: SocketAddr,
    down: SocketAddr,
    _running: (Proxy, Echo, Wire),
}

async fn half_down() -> HalfDown {
    let down = Endpoint::bind().await.address;
    let echo = Echo::start("echo").await;
    let config =
        simple(&[echo.address, down]) + "health = { tcp = {}, interval = \"50ms\", fall = 1 }\n";
    let (proxy, operator) = Operator::start(&config).await;
    proxy.logged("endpoint down").await;
    let held = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    HalfDown {
        operator,
        up: echo.address,
        down,
        _running: (proxy, echo, held),
    }
}

#[tokio::test]
async fn status_shows_everything_on_one_page() {
    let fleet = half_down().await;
    let operator = &fleet.operator;
    let printed = operator.run(&["status"]).await;
    assert_eq!((printed.code, &*printed.err), (0, ""));
    assert!(
        printed.out.starts_with(concat!(
            "tidegate ",
            env!("CARGO_PKG_VERSION"),
            " is serving (process "
        )),
        "{}",
        printed.out
    );
    assert!(printed.out.contains("1 live tunnels"), "{}", printed.out);
    let address = fleet.up.to_string();
    let up = row(&printed.out, &address);
    assert_eq!(up, ["main", &address, "up", "1", "1", "1"]);
    let out = row(&printed.out, &fleet.down.to_string());
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
    assert_eq!(
        printed.out,
        "would close 1 tunnel with 1012; add --yes to close it\n"
    );
    assert_eq!(operator.get("/v1/status").await["tunnels"], 1);
    let printed = operator.run(&["close", "--yes"]).await;
    assert_eq!(printed.code, 7);
    assert!(printed.err.contains("all"), "{}", printed.err);
    let printed = operator.run(&["close", "--route", "main", "--yes"]).await;
    assert_eq!(
        (printed.code, &*printed.out),
        (0, "closed 1 of 1 tunnel with 1012\n")
    );
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
        printed
            .out
            .starts_with("closing 1 tunnel with 1012 at 50 per second"),
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
    let origins = "origins = [\"https://a.example\", \"https://b.example\"]";
    let (proxy, operator) = Operator::start(&settings(&[echo.address], "", origins)).await;
    let url = format!("ws://chat.example.com:{}/room", proxy.address().port());
    let words = ["explain", &url, "-H", "Origin: https://a.example"];
    let printed = operator.run(&words).await;
    assert_eq!((printed.code, &*printed.err), (0, ""));
    assert_eq!(row(&printed.out, "route "), ["route", "main"]);
    let origins = ["origins", "https://a.example, https://b.example"];
    assert_eq!(row(&printed.out, "origins "), origins);
    assert!(row(&printed.out, "endpoint ")[1].starts_with(&echo.address.to_string()));
    let host = format!("Host sent chat.example.com:{}\n", proxy.address().port());
    assert!(printed.out.contains(&host), "{}", printed.out);
    let printed = operator.run(&["explain", &url]).await;
    assert!(
        printed.out.contains("depends   on the header `Origin`"),
        "{}",
        printed.out
    );
    // A port and a scheme that no listener has.
    for (url, error) in [
        (
            "wss://chat.example.com/",
            "error: no listener has port 443; ",
        ),
        (
            &*url.replace("ws:", "wss:"),
            "does not use TLS, so that wss://",
        ),
    ] {
        let printed = operator.run(&["explain", url]).await;
        assert_eq!((printed.code, &*printed.out), (7, ""));
        let known = format!("\n  listener `main`: ws, http at {}\n", proxy.address());
        for part in [error, "--listener", &known] {
            assert!(printed.err.contains(part), "{part}: {}", printed.err);
        }
    }
    let printed = operator
        .run(&["explain", "wss://a.example/", "--listener", "main"])
        .await;
    assert_eq!(row(&printed.out, "route "), ["route", "main"]);
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

/// A unix socket needs no token, and one for another process is not sent over it.
#[tokio::test]
async fn a_token_is_sent_over_tcp_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let admin = tokio::net::UnixListener::bind(&path).unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let request = tokio::spawn(async move {
        let (mut socket, _) = admin.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(socket.read_u8().await.unwrap());
        }
        String::from_utf8(request).unwrap()
    });
    let address = format!("unix:{}", path.display());
    let words = ["reload", "--plan"];
    command(&words, &address, Some(&token.display().to_string())).await;
    let request = request.await.unwrap().to_lowercase();
    assert!(
        request.contains("host: localhost") && !request.contains("authorization"),
        "{request}"
    );
}

#[tokio::test]
async fn a_missing_token_gets_a_hint() {
    let echo = Echo::start("echo").await;
    let (_proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    for word in ["reload", "status"] {
        let printed = command(&[word], operator.address(), None).await;
        assert_eq!(printed.code, 7);
        assert!(printed.err.contains("--token-file"), "{}", printed.err);
        let printed = operator.run(&[word]).await;
        assert_eq!(printed.code, 0, "{}", printed.err);
    }
}

/// Commands that name something else than what they are about, and what they should say.
#[tokio::test]
async fn a_wrong_name_is_answered_with_the_right_ones() {
    let (one, other) = (Echo::start("one").await, Echo::start("other").await);
    let config = simple(&[one.address, other.address])
        .replace("upstream = \"main\"", "upstream = \"chat\"")
        .replace("upstream.main", "upstream.chat");
    let (_proxy, operator) = Operator::start(&config).await;
    let endpoints = format!("{}, {}", one.address, other.address);
    let is_upstream = format!("`chat` is an upstream; name one of its endpoints: {endpoints}");
    let unknown = format!("upstream `chat` has no endpoint `127.0.0.1:1`; known: {endpoints}");
    for (words, error) in [
        (&["drain", "chat"][..], &*is_upstream),
        (&["undrain", "chat"], &is_upstream),
        (&["weight", "chat", "3"], &is_upstream),
        (&["drain", "127.0.0.1:1", "--upstream", "chat"], &unknown),
        (
            &["drain", "127.0.0.1:1", "--upstream", "x"],
            "there is no upstream `x`; known: chat",
        ),
        (
            &["drain", "main"],
            "`main` is a listener, not an endpoint; `tidegate drain --listener main` drains it",
        ),
        (
            &["close", "--endpoint", "chat"],
            "`chat` is an upstream, not an endpoint: select it by `upstream` (--upstream)",
        ),
        (
            &["close", "--route", "x"],
            "there is no route `x`; known: main",
        ),
        (
            &["close", "--stop", "7"],
            "no job 7 is running; `tidegate status` lists the jobs",
        ),
    ] {
        let printed = operator.run(words).await;
        assert_eq!(
            (printed.code, printed.err),
            (7, format!("error: {error}\n"))
        );
    }
}

/// No error shows what the program is written in, and none asks about the wrong thing.
#[tokio::test]
async fn mistakes_are_explained_in_plain_words() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let traffic = proxy.address().to_string();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other_address = other.local_addr().unwrap().to_string();
    let greeting = tokio::spawn(async move {
        let (mut socket, _) = other.accept().await.unwrap();
        socket.write_all(b"SSH-2.0-Other\r\n").await.unwrap();
        let mut request = Vec::new();
        let _ = socket.read_to_end(&mut request).await;
    });
    for (words, code, error) in [
        (&["close", "--rate", "x"][..], 2, "use a number from 0.1 to"),
        // This closed all tunnels at once.
        (
            &["close", "--all", "--rate", "nan"],
            2,
            "use a number from 0.1 to",
        ),
        (&["close", "--stop", "x"], 2, "use a whole number"),
        (&["drain"], 2, "<ENDPOINT|--listener <NAME>>"),
        (
            &["undrain", "a", "--listener", "b"],
            2,
            "cannot be used with",
        ),
        (&["weight", "a", "-1"], 2, "use a whole number"),
        (&["tunnels", "--limit", "x"], 2, "use a whole number"),
        (&["status", "--generation", "x"], 2, "use a whole number"),
        (&["status", "--watch=0s"], 2, "use a time of at least 100ms"),
        (
            &["explain", "ws://a/", "--client", "x"],
            2,
            "use an IP address",
        ),
        (&["status", "--admin", "/run/x"], 2, "use unix:/run/x"),
        (
            &["status", "--admin", "x"],
            2,
            "use unix:/path, ADDRESS:PORT or https://HOST:PORT",
        ),
        (
            &["status", "--admin", &traffic],
            6,
            "is not the admin interface of a tidegate: it responded 50",
        ),
        (
            &["status", "--admin", &other_address],
            6,
            "is not the admin interface of a tidegate: its response is not HTTP",
        ),
        (
            &["status", "--admin", "127.0.0.1:1"],
            6,
            "no tidegate responds at 127.0.0.1:1: no process listens there",
        ),
    ] {
        let printed = operator.run(words).await;
        assert_eq!((printed.code, &*printed.out), (code, ""), "{words:?}");
        assert!(printed.err.contains(error), "{words:?}: {}", printed.err);
    }
    let (_, wrong) = operator
        .post("/v1/tunnels/close", &Value::String("all".to_owned()))
        .await;
    assert_eq!(wrong["error"], "the request body must be a JSON object");
    greeting.await.unwrap();
}

#[tokio::test]
async fn a_job_is_shown_in_words_and_as_json() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let _held = proxy.tunnel().await;
    proxy.logged("tunnel opened").await;
    let words = [
        "close", "--route", "main", "--over", "1h", "--yes", "--json",
    ];
    let printed = operator.run(&words).await;
    let closing: Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(closing["job"]["description"], "tunnels of route main");
    let printed = operator.run(&["status"]).await;
    let line =
        "job 1: 0 of 1 tunnels processed, closing with 1012 (drain): tunnels of route main\n";
    assert!(printed.out.contains(line), "{}", printed.out);
    let printed = operator.run(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(status["status"]["jobs"][0], closing["job"]);
    let printed = operator.run(&["close", "--stop", "1", "--json"]).await;
    let stopped: Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(stopped["description"], "tunnels of route main");
    let printed = operator.run(&words[..6]).await;
    let line = "closing 1 tunnel with 1012 over 1h as job 2; `tidegate status` shows its progress, \
                `tidegate close --stop 2` stops it\n";
    assert_eq!(printed.out, line);
}

#[tokio::test]
async fn a_table_without_rows_has_no_header() {
    let echo = Echo::start("echo").await;
    let (_proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let printed = operator.run(&["reload", "--plan"]).await;
    let expected = "nothing would change\n\
                    live tunnels: 0; all stay open, and keep their route and endpoint\n";
    assert_eq!(printed.out, expected);
    let printed = operator.run(&["tunnels"]).await;
    assert_eq!(printed.out, "no live tunnel matches\n");
}

/// Runs a command in a terminal of this width; `None`, and a line that says so, where `script` is missing.
async fn in_terminal(operator: &Operator, words: &str, columns: u32) -> Option<String> {
    let program = env!("CARGO_BIN_EXE_tidegate");
    let line = format!("stty cols {columns} rows 20; {program} {words}");
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .env("TIDEGATE_ADMIN", operator.address())
        .env("TIDEGATE_TOKEN_FILE", operator.token_file())
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    match within("a command in a terminal", command.output()).await {
        Ok(done) => Some(String::from_utf8(done.stdout).unwrap().replace('\r', "")),
        Err(error) => {
            not_run("a test in a terminal", &format!("script: {error}"));
            None
        }
    }
}

#[tokio::test]
async fn tables_fit_the_terminal() {
    let fleet = half_down().await;
    let operator = &fleet.operator;
    for columns in [80, 60] {
        for words in ["status", "tunnels"] {
            let Some(text) = in_terminal(operator, words, columns).await else {
                return;
            };
            // The lines of `status` above its tables are sentences.
            let rows = text
                .lines()
                .skip_while(|line| !line.starts_with("LISTENER") && !line.starts_with("ID "));
            for line in rows {
                let length = line.chars().count() as u32;
                assert!(length <= columns, "{columns}: {text}");
            }
        }
        let text = in_terminal(operator, "tunnels", columns).await.unwrap();
        let header = text.lines().next().unwrap();
        assert!(
            header.starts_with("ID ") && header.contains("CLIENT"),
            "{text}"
        );
        assert!(!header.contains("BYTES OUT"), "{text}");
    }
    // Elsewhere than on a terminal, everything is shown.
    let printed = operator.run(&["tunnels"]).await;
    assert!(
        printed.out.contains("BYTES OUT  HOST AND PATH"),
        "{}",
        printed.out
    );
}

/// The detail of a rejection quotes the cause of its cause once.
#[tokio::test]
async fn a_failed_connection_is_reported_once() {
    let gone = Endpoint::bind().await.address;
    let proxy = Proxy::start(&simple(&[gone])).await;
    let mut wire = proxy.connect().await;
    wire.send(HANDSHAKE).await;
    assert_eq!(wire.head().await.status(), 503);
    let rejected = proxy.logged("rejected").await;
    let detail = format!("{gone}: cannot connect: Connection refused (os error 111)");
    assert_eq!(rejected["detail"], detail);
}
