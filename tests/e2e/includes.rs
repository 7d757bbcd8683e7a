//! `include`: a configuration in several files.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::certificates::Authority;
use crate::harness::endpoint::Echo;
use crate::harness::operator::{ADMIN, Operator, write_token};
use crate::harness::proxy::{Proxy, Signal};
use crate::harness::wire::{HANDSHAKE, Wire};

const RESTORED: &str = "the files are as in effect again; the reload that failed is not needed";
const FAILED: &str = "reload failed; the previous configuration stays in effect";

/// A main file without a route.
fn main_file(watch: &str) -> String {
    format!(
        "include = [\"conf.d/*.toml\"]\n\
         [server]\nworkers = 2\nlog.format = \"json\"\nwatch = \"{watch}\"\nupgrade.settle = \"200ms\"\n\
         {ADMIN}[listener.main]\nbind = [\"127.0.0.1:0\"]\n"
    )
}

/// A route for one path, and its upstream.
fn part(name: &str, endpoint: SocketAddr) -> String {
    format!(
        "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\nupstream = \"{name}\"\n\
         [upstream.{name}]\nendpoints = [\"{endpoint}\"]\n"
    )
}

/// A folder with a token and included files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    write_token(folder.path());
    fs::create_dir(folder.path().join("conf.d")).unwrap();
    for (name, text) in files {
        put(folder.path(), name, text);
    }
    folder
}

/// Writes a file by a rename, so that no half of it is read.
fn put(folder: &Path, name: &str, text: &str) {
    let aside = folder.join("conf.d/.new.toml.swp");
    fs::write(&aside, text).unwrap();
    fs::rename(aside, folder.join(name)).unwrap();
}

fn remove(folder: &Path, name: &str) {
    fs::remove_file(folder.join(name)).unwrap();
}

/// A handshake with this path: the status, and the connection.
async fn open(proxy: &Proxy, path: &str) -> (u16, Wire) {
    let mut wire = proxy.connect().await;
    wire.send(HANDSHAKE.replacen("/chat", path, 1)).await;
    (wire.head().await.status(), wire)
}

async fn status(proxy: &Proxy, path: &str) -> u16 {
    open(proxy, path).await.0
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|each| each["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn files_that_come_change_and_go_are_applied_if_all_files_are_watched() {
    let echo = Echo::start("echo").await;
    let folder = folder(&[("conf.d/10-a.toml", &part("a", echo.address))]);
    let proxy = Proxy::start_in(folder, &main_file("all")).await;
    assert_eq!(status(&proxy, "/a").await, 101);
    assert_eq!(status(&proxy, "/b").await, 404);

    // A new file.
    put(proxy.folder(), "conf.d/20-b.toml", &part("b", echo.address));
    let reloads = proxy.logged_times("configuration reloaded", 1).await;
    assert_eq!(reloads[0]["included"], 2);
    let (code, mut held) = open(&proxy, "/b").await;
    assert_eq!(code, 101);
    held.echoes().await;

    // A changed one.
    put(proxy.folder(), "conf.d/10-a.toml", &part("c", echo.address));
    proxy.logged_times("configuration reloaded", 2).await;
    assert_eq!(status(&proxy, "/a").await, 404);
    assert_eq!(status(&proxy, "/c").await, 101);

    // One with a mistake: everything stays as it is.
    put(
        proxy.folder(),
        "conf.d/30-d.toml",
        "[[route]]\nupstream = 3\n",
    );
    let failed = proxy.logged(FAILED).await;
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("conf.d/30-d.toml:2: "), "{error}");
    assert_eq!(status(&proxy, "/c").await, 101);
    assert_eq!(status(&proxy, "/b").await, 101);

    // Two files go, and what they had goes with them; tunnels do not.
    remove(proxy.folder(), "conf.d/30-d.toml");
    remove(proxy.folder(), "conf.d/20-b.toml");
    let reloads = proxy.logged_times("configuration reloaded", 3).await;
    assert_eq!(reloads[2]["included"], 1);
    assert_eq!(status(&proxy, "/b").await, 404);
    assert_eq!(status(&proxy, "/c").await, 101);
    held.echoes().await;
}

#[tokio::test]
async fn a_folder_that_was_empty_is_watched_as_well() {
    let echo = Echo::start("echo").await;
    let main = main_file("all") + &part("a", echo.address);
    let proxy = Proxy::start_in(folder(&[]), &main).await;
    let warned = proxy.log().text();
    assert!(warned.contains("no file matches `"), "{warned}");
    put(proxy.folder(), "conf.d/b.toml", &part("b", echo.address));
    proxy.logged("configuration reloaded").await;
    assert_eq!(status(&proxy, "/b").await, 101);
}

/// It may be a file system that is not mounted: only an operator knows.
#[tokio::test]
async fn a_folder_that_is_gone_is_not_applied_unless_an_operator_asks_for_it() {
    const GONE: &str = "there is no folder";
    let echo = Echo::start("echo").await;
    let folder = folder(&[
        ("conf.d/a.toml", &part("a", echo.address)),
        ("conf.d/b.toml", &part("b", echo.address)),
    ]);
    let main = main_file("all").replace("log.format", "log.level = \"debug\"\nlog.format");
    let main = main + &part("main", echo.address);
    let proxy = Proxy::start_in(folder, &main).await;
    let operator = Operator::of(&proxy).await;
    let (conf, aside) = (proxy.folder().join("conf.d"), proxy.folder().join("aside"));
    fs::rename(&conf, &aside).unwrap();
    let failed = proxy.logged(FAILED).await;
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains(GONE) && error.contains("2 of"), "{error}");
    assert_eq!(status(&proxy, "/a").await, 101);
    // Each edit is a reason to try again, also of another file.
    let edited = main.replace("workers = 2", "workers = 2\nreason_header = false");
    proxy.rewrite(&edited);
    proxy.logged_times(FAILED, 2).await;
    proxy.rewrite(&edited);
    proxy
        .logged("reload failed again; no file has changed since")
        .await;
    assert_eq!(proxy.log().events(FAILED).len(), 2);
    assert_eq!(status(&proxy, "/b").await, 101);
    assert_ne!(operator.get("/v1/status").await["reload_errors"], json!([]));

    // The folder is back, as it was: the failure is no trouble any more.
    proxy.rewrite(&main);
    fs::rename(&aside, &conf).unwrap();
    proxy.logged(RESTORED).await;
    assert_eq!(operator.get("/v1/status").await["reload_errors"], json!([]));
    put(proxy.folder(), "conf.d/c.toml", &part("c", echo.address));
    proxy.logged("configuration reloaded").await;
    assert_eq!(status(&proxy, "/c").await, 101);

    fs::rename(&conf, &aside).unwrap();
    proxy.logged_times(FAILED, 3).await;
    assert_eq!(operator.post("/v1/reload", &json!({})).await.0, 200);
    assert_eq!(status(&proxy, "/a").await, 404);
    assert_eq!(status(&proxy, "/main").await, 101);
    fs::rename(&aside, &conf).unwrap();
    let reloads = proxy.logged_times("configuration reloaded", 3).await;
    assert_eq!(reloads[2]["included"], 3);
}

#[tokio::test]
async fn certificates_are_renewed_while_a_folder_is_gone() {
    let echo = Echo::start("echo").await;
    let names = ["chat.example.com"];
    let secure = "[listener.secure]\nbind = [\"127.0.0.1:0\"]\n\
                  tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    // What is left is a configuration of its own, or it has no route.
    for left in [part("main", echo.address), String::new()] {
        let folder = folder(&[("conf.d/a.toml", &part("a", echo.address))]);
        let (first, second) = (Authority::new(), Authority::new());
        first.issue(folder.path(), "chat", &names);
        let proxy = Proxy::start_in(folder, &(main_file("all") + secure + &left)).await;
        let operator = Operator::of(&proxy).await;
        let (conf, aside) = (proxy.folder().join("conf.d"), proxy.folder().join("aside"));
        fs::rename(&conf, &aside).unwrap();
        proxy.logged(FAILED).await;
        second.issue(proxy.folder(), "chat", &names);
        proxy.logged("certificates reloaded").await;
        let client = second.client();
        let mut wire = proxy.connect_tls_at("secure", client, names[0]).await;
        wire.send(HANDSHAKE.replacen("/chat", "/a", 1)).await;
        assert_eq!(wire.head().await.status(), 101);
        // What else has changed is still not applied.
        proxy.logged_times(FAILED, 2).await;
        let status = operator.get("/v1/status").await;
        assert_ne!(status["reload_errors"], json!([]));
        fs::rename(&aside, &conf).unwrap();
        proxy.logged(RESTORED).await;
    }
}

#[tokio::test]
async fn a_plan_shows_which_files_and_routes_change() {
    let echo = Echo::start("echo").await;
    let text = |name| part(name, echo.address);
    let folder = folder(&[
        ("conf.d/10.toml", &text("a")),
        ("conf.d/20.toml", &text("b")),
        ("conf.d/9.toml", &text("c")),
    ]);
    let proxy = Proxy::start_in(folder, &main_file("certificates")).await;
    let operator = Operator::of(&proxy).await;
    let running = operator.get("/v1/config").await;
    assert_eq!(names(&running["config"]["route"]), ["a", "b", "c"]);
    let files = running["files"].as_array().unwrap();
    let file = |name: &str| proxy.folder().join(name).display().to_string();
    let expected = [
        "config.toml",
        "conf.d/10.toml",
        "conf.d/20.toml",
        "conf.d/9.toml",
    ];
    assert_eq!(files[..4], expected.map(|name| json!(file(name))));

    put(proxy.folder(), "conf.d/15.toml", &text("d"));
    put(
        proxy.folder(),
        "conf.d/9.toml",
        &(text("c") + "timeouts.connect = \"1s\"\n"),
    );
    remove(proxy.folder(), "conf.d/20.toml");
    let plan = operator.plan().await;
    let change = |name: &str, change| json!({ "name": file(name), "change": change });
    let expected = json!([
        change("conf.d/15.toml", "added"),
        change("conf.d/20.toml", "removed"),
        change("conf.d/9.toml", "changed"),
    ]);
    assert_eq!(plan["included"], expected);
    assert_eq!(plan["files"], json!([]));
    assert_eq!(names(&plan["routes"]), ["b", "d"]);
    assert_eq!(names(&plan["upstreams"]), ["b", "c", "d"]);
    let printed = operator.run(&["reload", "--plan"]).await;
    assert!(printed.out.contains("included file"), "{}", printed.out);

    // One bad file keeps all that ran, and the answer says which.
    put(
        proxy.folder(),
        "conf.d/30.toml",
        "\n[upstream.a]\nendpoints = [\"127.0.0.1:1\"]\n",
    );
    let printed = operator.run(&["reload"]).await;
    assert_ne!(printed.code, 0);
    let expected = format!(
        "{}:2: `[upstream.a]` is defined twice (the first one is at {}:5)",
        file("conf.d/30.toml"),
        file("conf.d/10.toml"),
    );
    assert!(printed.err.contains(&expected), "{}", printed.err);
    let running = operator.get("/v1/config").await;
    assert_eq!(names(&running["config"]["route"]), ["a", "b", "c"]);

    remove(proxy.folder(), "conf.d/30.toml");
    let printed = operator.run(&["reload"]).await;
    assert_eq!(printed.code, 0, "{}", printed.err);
    let running = operator.get("/v1/config").await;
    assert_eq!(names(&running["config"]["route"]), ["a", "d", "c"]);
}

/// The certificate is next to the included file that names it.
#[tokio::test]
async fn a_renewed_certificate_does_not_apply_edited_files() {
    let echo = Echo::start("echo").await;
    let secured = "[listener.secure]\nbind = [\"127.0.0.1:0\"]\n\
                   tls.certificates = [{ cert = \"chat.pem\", key = \"chat.key\" }]\n";
    let folder = folder(&[
        ("conf.d/a.toml", &(part("a", echo.address) + secured)),
        ("conf.d/b.toml", &part("b", echo.address)),
    ]);
    let authority = Authority::new();
    let renew =
        |folder: &Path| authority.issue(&folder.join("conf.d"), "chat", &["chat.example.com"]);
    renew(folder.path());
    let proxy = Proxy::start_in(folder, &main_file("certificates")).await;
    let client = authority.client();
    let mut wire = proxy
        .connect_tls_at("secure", client, "chat.example.com")
        .await;
    wire.send(HANDSHAKE.replacen("/chat", "/a", 1)).await;
    assert_eq!(wire.head().await.status(), 101);

    put(proxy.folder(), "conf.d/c.toml", &part("c", echo.address));
    put(proxy.folder(), "conf.d/b.toml", "broken");
    renew(proxy.folder());
    proxy.logged("certificates reloaded").await;
    assert_eq!(status(&proxy, "/c").await, 404);
    assert_eq!(status(&proxy, "/b").await, 101);

    remove(proxy.folder(), "conf.d/b.toml");
    proxy.signal(Signal::HUP);
    proxy.logged("configuration reloaded").await;
    assert_eq!(status(&proxy, "/c").await, 101);
    assert_eq!(status(&proxy, "/b").await, 404);
}

#[tokio::test]
async fn an_upgraded_process_reads_the_files_again() {
    let echo = Echo::start("echo").await;
    let folder = folder(&[("conf.d/a.toml", &part("a", echo.address))]);
    let proxy = Proxy::start_in(folder, &main_file("certificates")).await;
    put(proxy.folder(), "conf.d/b.toml", &part("b", echo.address));
    proxy.signal(Signal::USR2);
    proxy.successor(1).await;
    assert_eq!(status(&proxy, "/a").await, 101);
    assert_eq!(status(&proxy, "/b").await, 101);
}

fn check(folder: &Path, arguments: &[&str], input: &str) -> Output {
    fs::write(folder.join("input"), input).unwrap();
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("check")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::from(fs::File::open(folder.join("input")).unwrap()))
        .output()
        .unwrap()
}

#[test]
fn errors_are_shown_in_the_file_where_they_are() {
    let address = "127.0.0.1:9000".parse().unwrap();
    let folder = folder(&[
        ("conf.d/a.toml", &part("a", address)),
        (
            "conf.d/b.toml",
            "# a comment\n\n[upstream.b\nendpoints = [\"127.0.0.1:1\"]\n",
        ),
        (
            "conf.d/c.toml",
            "\n[upstream.a] # again\nendpoints = [\"127.0.0.1:1\"]\n[server]\n",
        ),
        ("conf.d/d.toml", "include = \"more.toml\"\n"),
    ]);
    fs::write(folder.path().join("config.toml"), main_file("off")).unwrap();
    let output = check(folder.path(), &["config.toml"], "");
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "conf.d/b.toml:3:12",
        "[upstream.b",
        "conf.d/c.toml:2:11",
        "[upstream.a] # again",
        "conf.d/a.toml:5",
        "the first one",
        "`[server]` is not allowed in an included file",
        "move it to `config.toml`",
        "an included file cannot include others",
        "config.toml: 4 errors",
    ] {
        assert!(shown.contains(expected), "{expected} in:\n{shown}");
    }
    let output = check(folder.path(), &["--json", "config.toml"], "");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let places = answer["diagnostics"].as_array().unwrap().iter();
    let places: Vec<(&str, u64)> = places
        .map(|each| {
            (
                each["file"].as_str().unwrap(),
                each["line"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("conf.d/b.toml", 3),
        ("conf.d/c.toml", 2),
        ("conf.d/c.toml", 4),
        ("conf.d/d.toml", 1),
    ];
    assert_eq!(places, expected);
    assert_eq!(answer["diagnostics"][1]["first"], "conf.d/a.toml:5");
}

#[test]
fn a_file_from_standard_input_includes_files_of_the_current_folder() {
    let address = "127.0.0.1:9000".parse().unwrap();
    let folder = folder(&[("conf.d/a.toml", &part("a", address))]);
    let output = check(folder.path(), &["-"], &main_file("off"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{err}");
    let expected = "<stdin>: ok, 1 listener, 1 route, 1 upstream, 1 included file\n";
    assert_eq!(out, expected);
    remove(folder.path(), "conf.d/a.toml");
    let output = check(
        folder.path(),
        &["-"],
        &(main_file("off") + &part("b", address)),
    );
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(
        err.contains("warning[empty-include]: no file matches `conf.d/*.toml`"),
        "{err}"
    );
    let one = main_file("off").replace("*", "a");
    let output = check(folder.path(), &["-"], &one);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains("cannot read `conf.d/a.toml`: No such file"),
        "{err}"
    );
}
