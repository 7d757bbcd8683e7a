//! A running `tidegate dashboard`, and a browser that has opened its page.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::operator::Operator;
use super::wire::{Head, Wire};
use super::within;

/// A running dashboard; killed when dropped.
pub(crate) struct Dashboard {
    pub(crate) child: Child,
    pub(crate) port: u16,
    /// The path of the printed address.
    pub(crate) entrance: String,
}

/// What a browser has after it has opened the printed address.
pub(crate) struct Browser {
    pub(crate) port: u16,
    pub(crate) cookie: String,
    pub(crate) key: String,
}

impl Dashboard {
    pub(crate) async fn start(operator: &Operator, options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["dashboard", "--json"])
            .args(options)
            .env("TIDEGATE_ADMIN", operator.address())
            .env("TIDEGATE_TOKEN_FILE", operator.token_file())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reading = tokio::task::spawn_blocking(move || lines.next().unwrap().unwrap());
        let printed = within("the address", reading).await.unwrap();
        let printed: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(printed["steer"], options.contains(&"--steer"));
        let url = printed["url"].as_str().unwrap();
        let rest = url.strip_prefix("http://127.0.0.1:").unwrap();
        let (port, path) = rest.split_once('/').unwrap();
        Self {
            child,
            port: port.parse().unwrap(),
            entrance: format!("/{path}"),
        }
    }

    /// The response to a GET with these header fields besides `Host`.
    pub(crate) async fn get(&self, path: &str, fields: &str) -> (Head, String) {
        send(self.port, "GET", path, fields, "").await
    }

    /// Opens the printed address.
    pub(crate) async fn open(&self) -> Browser {
        let (head, body) = self.get(&self.entrance, "").await;
        assert_eq!(head.status(), 200, "{body}");
        let cookie = head.value("set-cookie").unwrap();
        assert!(
            cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"),
            "{cookie}"
        );
        let (_, key) = body.split_once("#key=").unwrap();
        Browser {
            port: self.port,
            cookie: cookie.split(';').next().unwrap().to_owned(),
            key: key.split('"').next().unwrap().to_owned(),
        }
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn send(
    port: u16,
    method: &str,
    path: &str,
    fields: &str,
    body: &str,
) -> (Head, String) {
    let mut wire = Wire::connect(([127, 0, 0, 1], port).into()).await;
    let length = body.len();
    wire.send(format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
    ))
    .await;
    wire.reply().await
}

impl Browser {
    /// The header fields that its requests have.
    pub(crate) fn fields(&self) -> String {
        let Self { cookie, key, .. } = self;
        format!("Cookie: {cookie}\r\nTidegate-Dashboard: {key}\r\n")
    }

    pub(crate) async fn get(&self, path: &str) -> (Head, String) {
        send(self.port, "GET", path, &self.fields(), "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let origin = format!("Origin: http://127.0.0.1:{}\r\n", self.port);
        let fields = self.fields() + &origin;
        let (head, answer) = send(self.port, "POST", path, &fields, &body.to_string()).await;
        (head.status(), serde_json::from_str(&answer).unwrap())
    }

    /// Begins to read the event stream after the event with this id.
    pub(crate) async fn events(&self, last: Option<&str>) -> Events {
        let mut wire = Wire::connect(([127, 0, 0, 1], self.port).into()).await;
        let last = last.map(|id| format!("Last-Event-ID: {id}\r\n"));
        let (port, fields, last) = (self.port, self.fields(), last.unwrap_or_default());
        wire.send(format!(
            "GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{fields}{last}\r\n"
        ))
        .await;
        let head = wire.head().await;
        assert_eq!(head.value("content-type"), Some("text/event-stream"));
        Events(wire)
    }
}

/// An open event stream.
pub(crate) struct Events(Wire);

/// An event of it.
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) data: Value,
}

impl Events {
    pub(crate) async fn next(&mut self) -> Received {
        // The server sends each event as one chunk.
        let chunk = within("an event", self.0.chunk()).await.unwrap();
        let text = String::from_utf8(chunk).unwrap();
        let field = |name: &str| {
            let lines = text.lines();
            let mut values = lines.filter_map(|line| line.strip_prefix(name));
            values.next().unwrap().to_owned()
        };
        assert!(text.ends_with("\n\n"), "{text}");
        Received {
            id: field("id: "),
            data: serde_json::from_str(&field("data: ")).unwrap(),
        }
    }

    /// Waits for a state in which this holds.
    pub(crate) async fn until(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        within(what, async {
            loop {
                let state = self.next().await.data["state"].take();
                if condition(&state) {
                    return state;
                }
            }
        })
        .await
    }
}
