//! Those who watch a tidegate: its page, with a browser, and its terminal view.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");

/// Views that are open until this is dropped.
pub(crate) struct Viewers {
    dashboard: Child,
    top: Child,
    /// Bytes of the page's event stream.
    heard: Arc<AtomicUsize>,
}

impl Viewers {
    pub(crate) fn start(admin: &Path) -> Self {
        let admin = format!("unix:{}", admin.display());
        let mut dashboard = Command::new(PROGRAM)
            .args(["dashboard", "--json"])
            .env("TIDEGATE_ADMIN", &admin)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = String::new();
        BufReader::new(dashboard.stdout.take().unwrap())
            .read_line(&mut printed)
            .unwrap();
        let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
        let heard = Arc::new(AtomicUsize::new(0));
        follow(printed["url"].as_str().unwrap(), Arc::clone(&heard));
        // It draws on a terminal only, and ends with it.
        let top = Command::new("script")
            .args(["-qefc", &format!("{PROGRAM} top"), "/dev/null"])
            .env("TIDEGATE_ADMIN", &admin)
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            dashboard,
            top,
            heard,
        }
    }

    /// Panics unless all of them have worked until now.
    pub(crate) fn assert_alive(mut self) {
        assert!(self.heard.load(Ordering::Relaxed) > 0, "no events");
        assert_eq!(self.dashboard.try_wait().unwrap(), None);
        assert_eq!(self.top.try_wait().unwrap(), None);
    }
}

impl Drop for Viewers {
    fn drop(&mut self) {
        for child in [&mut self.dashboard, &mut self.top] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Opens the page as a browser does, and reads its event stream on a thread of its own.
fn follow(url: &str, heard: Arc<AtomicUsize>) {
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let address: SocketAddr = host.parse().unwrap();
    let ask = |path: &str, fields: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let mut entered = String::new();
    let mut entrance = ask(&format!("/{path}"), "Connection: close\r\n");
    entrance.read_to_string(&mut entered).unwrap();
    let between = |from: &str, to: char| {
        let (_, rest) = entered.split_once(from).unwrap();
        rest.split(to).next().unwrap()
    };
    let (cookie, key) = (between("set-cookie: ", ';'), between("/#key=", '"'));
    let fields = format!("Cookie: {cookie}\r\nTidegate-Dashboard: {key}\r\n");
    let mut events = ask("/events", &fields);
    std::thread::spawn(move || {
        let mut buffer = [0; 64 << 10];
        while let Ok(length @ 1..) = events.read(&mut buffer) {
            heard.fetch_add(length, Ordering::Relaxed);
        }
    });
}
