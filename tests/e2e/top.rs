//! `tidegate top` on a terminal of its own: what it shows, and that the terminal is as before however it ends.

use std::fs::{File, read_to_string};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::endpoint::Echo;
use crate::harness::operator::{Operator, command};
use crate::harness::proxy::simple;
use crate::harness::until;

/// Notes how the terminal is before and after, the process id, and the exit code.
const SESSION: &str = "stty rows 24 cols 80; stty -a >before; \
    sh -c 'echo $$ >pid; exec \"$TIDEGATE\" top'; echo $? >code; stty -a >after";

/// A session on a terminal that `script` makes; killed when dropped.
struct TerminalSession {
    child: Child,
    folder: TempDir,
}

impl TerminalSession {
    async fn start(operator: &Operator) -> Self {
        let folder = TempDir::new().unwrap();
        let screen = File::create(folder.path().join("screen")).unwrap();
        let child = Command::new("script")
            .args(["--quiet", "--command", SESSION, "/dev/null"])
            .current_dir(folder.path())
            .env("SHELL", "/bin/sh")
            .env("TERM", "xterm-256color")
            .env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate"))
            .env("TIDEGATE_ADMIN", operator.address())
            .env("TIDEGATE_TOKEN_FILE", operator.token_file())
            .stdin(Stdio::piped())
            .stdout(screen)
            .spawn()
            .unwrap();
        let session = Self { child, folder };
        session.shows("Upstreams]").await;
        session
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        text(&self.path(name))
    }

    /// Waits until this word has been drawn.
    async fn shows(&self, word: &str) {
        let what = format!("`{word}` on the screen");
        until(&what, || self.text("screen").contains(word)).await;
    }

    fn press(&mut self, keys: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = self.text("pid").trim().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits for the end, and compares the terminal.
    async fn ends(self, how: &str) {
        until("the end of the session", || !self.text("after").is_empty()).await;
        assert_eq!(self.text("code").trim(), "0", "{how}");
        assert_eq!(self.text("after"), self.text("before"), "{how}");
        // `script` may write what it has read from the terminal after the end of the command.
        let is_left = || {
            let screen = self.text("screen");
            let (shown, left) = (screen.rfind("\u{1b}[?1049h"), screen.rfind("\u{1b}[?1049l"));
            shown.is_some() && shown < left
        };
        until(&format!("the other screen to be left: {how}"), is_left).await;
    }
}

impl Drop for TerminalSession {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The content of a file that may not be there yet, and may begin in the middle of a character.
fn text(path: &Path) -> String {
    read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn the_terminal_is_as_before_however_it_ends() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let session = TerminalSession::start(&operator).await;
        session.signal(signal);
        session.ends(&format!("{signal:?}")).await;
    }
    for keys in ["q", "\u{3}", "\u{1b}"] {
        let mut session = TerminalSession::start(&operator).await;
        session.press(keys);
        session.ends(&format!("{keys:?}")).await;
    }
    drop(proxy);
}

#[tokio::test]
async fn an_endpoint_is_drained_after_a_question() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let mut session = TerminalSession::start(&operator).await;
    session.press("d");
    session.shows("Confirm").await;
    session.press("y");
    session.shows("drained").await;
    let upstreams = operator.get("/v1/upstreams").await;
    assert_eq!(upstreams[0]["endpoints"][0]["state"], "drained");
    // The proxy goes away; the view stays.
    drop(proxy);
    session.shows("CRITICAL").await;
    session.press("q");
    session.ends("q").await;
}

#[tokio::test]
async fn what_is_not_a_terminal_is_refused() {
    let echo = Echo::start("echo").await;
    let (proxy, operator) = Operator::start(&simple(&[echo.address])).await;
    let printed = operator.run(&["top"]).await;
    assert_eq!((printed.code, &*printed.out), (3, ""));
    assert!(printed.err.contains("needs a terminal"), "{}", printed.err);
    let printed = command(&["top", "--json"], operator.address(), None).await;
    assert_eq!((printed.code, &*printed.out), (2, ""));
    drop(proxy);
}
