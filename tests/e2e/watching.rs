//! `tidegate status --watch`.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::harness::endpoint::Echo;
use crate::harness::operator::{Operator, command};
use crate::harness::proxy::{Signal, simple};
use crate::harness::within;

#[tokio::test]
async fn a_status_is_watched_until_its_reader_goes_away() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let watch = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(words)
            .env("TIDEGATE_ADMIN", operator.address())
            .env("TIDEGATE_TOKEN_FILE", operator.token_file());
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    };
    let (mut child, mut lines) = watch(&["status", "--watch", "100ms"]);
    let mut shown = Vec::new();
    while shown
        .iter()
        .filter(|line: &&String| line.is_empty())
        .count()
        < 6
    {
        let line = within("a status", lines.next_line()).await.unwrap();
        shown.push(line.unwrap());
    }
    let starts = shown.iter().filter(|line| {
        line.starts_with(concat!(
            "tidegate ",
            env!("CARGO_PKG_VERSION"),
            " is serving"
        ))
    });
    assert!(starts.count() >= 2, "{shown:?}");
    assert!(
        shown.iter().all(|line| !line.contains('\u{1b}')),
        "{shown:?}"
    );
    drop(lines);
    let ended = within("the end of the command", child.wait()).await;
    assert_eq!(ended.unwrap().code(), Some(0));

    // As JSON, each status is a line.
    let (_child, mut lines) = watch(&["status", "--watch=100ms", "--json"]);
    for _ in 0..2 {
        let line = within("a status", lines.next_line())
            .await
            .unwrap()
            .unwrap();
        let status: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(status["status"]["state"], "serving");
    }
    let printed = command(&["status", "--watch"], "unix:/nonexistent/admin.sock", None).await;
    assert_eq!((printed.code, &*printed.out), (6, ""));
    drop(proxy);
}

/// A process that hangs is noticed soon, and watched until it responds again.
#[tokio::test]
async fn a_process_that_hangs_is_watched() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let mut watching = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["status", "--watch=100ms"])
        .env("TIDEGATE_ADMIN", operator.address())
        .env("TIDEGATE_TOKEN_FILE", operator.token_file())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut errors = BufReader::new(watching.stderr.take().unwrap()).lines();
    within("a status", lines.next_line()).await.unwrap();
    proxy.signal(Signal::STOP);
    let read = async {
        tokio::select! {
            error = errors.next_line() => error,
            () = async { while let Ok(Some(_)) = lines.next_line().await {} } => Ok(None),
        }
    };
    let error = within("an error", read).await.unwrap().unwrap();
    assert!(error.ends_with("no response in time"), "{error}");
    proxy.signal(Signal::CONT);
    let serves = async {
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("is serving") {
                return;
            }
        }
        panic!("the command has ended");
    };
    within("a status after that", serves).await;
}
